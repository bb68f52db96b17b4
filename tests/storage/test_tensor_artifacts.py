"""safetensors artifacts: round trip, equal bytes, and every way to be another file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from injection import Calls
from safetensors.torch import load_file, save, save_file

from deepme.errors import ArtifactError, EnvironmentFault
from deepme.storage import tensors as storage
from deepme.storage.header import Header, canonical
from deepme.storage.tensors import (
    _TYPES,
    read_plain,
    read_tensors,
    tensors_digest,
    write_tensors,
)

HEADER = Header(
    kind="try", schema_version=1, settings={"seed": 3}, made_from={"a": "b"}
)
TENSORS = {
    "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "flag": torch.tensor([True, False, True]),
    "count": torch.tensor(7),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "empty": torch.zeros(0, 3),
    "special": torch.tensor([float("nan"), float("inf"), -0.0]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "try.safetensors"


def read_both(path: Path) -> None:
    """The two readers; the second one does not read the tensors."""
    read_tensors(path, "try", 1)
    tensors_digest(path)


def forge(path: Path, metadata: Any) -> None:
    """Write tensors under any metadata."""
    text = metadata if isinstance(metadata, str) else canonical(metadata).decode()
    path.write_bytes(save(TENSORS, metadata={"deepme": text}))


class TestRoundTrip:
    def test_of_header_tensors_and_digest(self, path: Path):
        digest = write_tensors(path, HEADER, TENSORS)
        header, tensors, sha256 = read_tensors(path, "try", 1)
        assert (header, sha256) == (HEADER, digest)
        assert tensors.keys() == TENSORS.keys()
        for name, tensor in tensors.items():
            expected = TENSORS[name]
            assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0, equal_nan=True)
        assert tensors_digest(path) == digest

    def test_of_no_tensors(self, path: Path):
        write_tensors(path, HEADER, {})
        assert read_tensors(path, "try", 1)[1] == {}

    def test_of_views_and_parameters(self, path: Path):
        base = torch.arange(12.0).reshape(3, 4)
        views = {
            "transposed": base.T,
            "slice": base[:, 1],
            "expanded": torch.ones(1).expand(3),
            "parameter": torch.nn.Parameter(base),
        }
        write_tensors(path, HEADER, views)
        for name, tensor in read_tensors(path, "try", 1)[1].items():
            assert torch.equal(tensor, views[name])

    def test_of_a_random_state_among_others(self, path: Path):
        state = torch.Generator().manual_seed(3).get_state()
        write_tensors(path, HEADER, {"a": torch.zeros(3), "b": state})
        read = read_tensors(path, "try", 1)[1]["b"]
        again = torch.Generator().set_state(read)
        expected = torch.rand(4, generator=torch.Generator().manual_seed(3))
        assert torch.equal(torch.rand(4, generator=again), expected)

    def test_plain_safetensors_opens_it(self, path: Path):
        write_tensors(path, HEADER, TENSORS)
        assert torch.equal(load_file(path)["weight"], TENSORS["weight"])

    def test_rewritten_is_the_same_byte_for_byte(self, path: Path):
        write_tensors(path, HEADER, TENSORS)
        first = path.read_bytes()
        write_tensors(path, HEADER, dict(reversed(TENSORS.items())))
        assert path.read_bytes() == first

    @pytest.mark.parametrize(
        "other",
        [
            TENSORS | {"weight": TENSORS["weight"] + 1},
            TENSORS | {"weight": TENSORS["weight"].reshape(4, 3)},
            TENSORS | {"weight": TENSORS["weight"].view(torch.int32)},
            TENSORS | {"special": torch.tensor([float("nan"), float("inf"), 0.0])},
            TENSORS | {"more": torch.zeros(0)},
            {"renamed" if k == "half" else k: v for k, v in TENSORS.items()},
        ],
        ids=["values", "shape", "dtype", "sign of zero", "one more", "name"],
    )
    def test_digest_covers(self, path: Path, other: dict[str, torch.Tensor]):
        digest = write_tensors(path, HEADER, TENSORS)
        assert write_tensors(path, HEADER, other) != digest


def lay_out(**offsets: tuple[list[int], list[int]]) -> bytes:
    """A safetensors file of eight bytes with these shapes and offsets."""
    head = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": places}
        for name, (shape, places) in offsets.items()
    }
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


class TestPlain:
    def read(self, path: Path, raw: bytes) -> dict[str, torch.Tensor]:
        path.write_bytes(raw)
        with path.open("rb") as file:
            return read_plain(file)[1]

    @pytest.mark.parametrize("dtype", [*_TYPES.values()], ids=str)
    def test_every_type_as_safetensors_writes_it(self, path: Path, dtype):
        tensors = {
            "a": torch.tensor([[0, 1, 1]]).to(dtype),
            "b": torch.zeros(0, 2, dtype=dtype),
            "c": torch.ones((), dtype=dtype),
        }
        for name, found in self.read(path, save(tensors)).items():
            assert found.dtype == dtype
            assert found.shape == tensors[name].shape
            raw = [t.reshape(-1).view(torch.uint8) for t in (found, tensors[name])]
            assert torch.equal(*raw)

    @pytest.mark.parametrize(
        "raw",
        [
            lay_out(a=([1], [0, 4])),
            lay_out(a=([2], [4, 12])),
            lay_out(a=([2], [0, 8]), b=([1], [4, 8])),
            lay_out(a=([3], [0, 12])),
            lay_out(a=([3], [0, 8])),
            lay_out(a=([-2], [0, 8])),
            lay_out(a=([-1, -2], [0, 8])),
            lay_out(a=([2], [8, 0])),
            lay_out(a=([2.0], [0, 8])),
            lay_out(a=([True, 2], [0, 8])),
            lay_out(a=([2], [0, 8, 8])),
            lay_out(a=("2", [0, 8])),
            lay_out(a=([2**40], [0, 2**42])),
            lay_out(a=([2], [0, 8])) + b"more",
            lay_out(a=([2], [0, 8]))[:-1],
            lay_out(a=([2], [0, 8])).replace(b"F32", b"F99"),
            lay_out(a=([2], [0, 8])).replace(b"shape", b"shapf"),
        ],
    )
    def test_a_layout_that_is_none(self, path: Path, raw: bytes):
        with pytest.raises(ValueError, match=r"^its (head|tensors) "):
            self.read(path, raw)


class TestWrongFile:
    def test_missing(self, path: Path):
        with pytest.raises(ArtifactError, match="is missing; run the command"):
            read_tensors(path, "try", 1)
        with pytest.raises(ArtifactError, match="is missing; run the command"):
            tensors_digest(path)

    @pytest.mark.timeout(5)
    def test_pipe_folder_and_device(self, path: Path, tmp_path: Path):
        pipe, device = tmp_path / "pipe", tmp_path / "device"
        os.mkfifo(pipe)
        device.symlink_to("/dev/zero")
        path.mkdir()
        for wrong in (pipe, device, path):
            with pytest.raises(ArtifactError, match="it is not a regular file"):
                read_both(wrong)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"\0" * 8,
            b"\xff" * 64,
            (2).to_bytes(8, "little") + b"{}",
            (2).to_bytes(8, "little") + b"[]",
            (2**40).to_bytes(8, "little") + b"{}",
            (50_000).to_bytes(8, "little") + b"[" * 50_000,
            b"PK\x03\x04 a zip file, as torch.save writes",
        ],
    )
    def test_anything_else_is_one_error(self, path: Path, raw: bytes):
        path.write_bytes(raw)
        for read in (
            lambda: read_tensors(path, "try", 1),
            lambda: tensors_digest(path),
        ):
            with pytest.raises(ArtifactError, match="corrupt: no deepme tensors"):
                read()

    def test_of_plain_safetensors(self, path: Path):
        for metadata in (None, {"format": "pt"}):
            save_file(TENSORS, path, metadata=metadata)
            with pytest.raises(ArtifactError, match="corrupt: no deepme tensors"):
                read_both(path)

    @pytest.mark.parametrize(
        "metadata",
        [
            "",
            "{",
            "null",
            "[]",
            "[" * 50_000 + "]" * 50_000,
            '{"header": NaN, "sha256": ""}',
            '{"header":{}, "sha256":""}',
            '{"sha256":""}',
            '{"header":{}}',
        ],
    )
    def test_with_metadata_that_is_none(self, path: Path, metadata: str):
        forge(path, metadata)
        with pytest.raises(ArtifactError, match="corrupt: no deepme tensors"):
            read_both(path)

    def test_with_another_digest(self, path: Path):
        forge(path, {"header": HEADER.to_dict(), "sha256": "0" * 64})
        with pytest.raises(ArtifactError, match="does not match its sha256"):
            read_tensors(path, "try", 1)

    @pytest.mark.parametrize("header", [None, [], {}, {"kind": 3}, "header"])
    def test_with_a_header_that_is_none(self, path: Path, header: Any):
        forge(path, {"header": header, "sha256": storage._digest(header, TENSORS)})
        with pytest.raises(ArtifactError, match="is corrupt: "):
            read_tensors(path, "try", 1)

    def test_with_changed_tensors(self, path: Path):
        write_tensors(path, HEADER, TENSORS)
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        with pytest.raises(ArtifactError, match="does not match its sha256"):
            read_tensors(path, "try", 1)

    def test_of_another_kind_or_layout(self, path: Path):
        write_tensors(path, HEADER, TENSORS)
        with pytest.raises(ArtifactError, match="holds try, expected weights"):
            read_tensors(path, "weights", 1)
        with pytest.raises(ArtifactError, match="has layout 1 of try, this deepme"):
            read_tensors(path, "try", 2)

    def test_unreadable(self, path: Path):
        write_tensors(path, HEADER, TENSORS)

        def refuse() -> None:
            raise PermissionError(13, "Permission denied")

        with (
            Calls("stat", at=(1,), action=refuse),
            pytest.raises(EnvironmentFault, match=r"cannot read .*: Permission denied"),
        ):
            read_tensors(path, "try", 1)

    def test_that_may_not_be_opened(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        write_tensors(path, HEADER, TENSORS)

        def refuse(self: Path, *_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(
            EnvironmentFault, match=r"cannot read .*: Permission denied"
        ):
            read_both(path)

    def test_header_is_written_as_sorted_json(self, path: Path):
        digest = write_tensors(path, HEADER, TENSORS)
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        metadata = json.loads(raw[8 : 8 + length])["__metadata__"]
        assert metadata.keys() == {"deepme"}
        expected = {"header": HEADER.to_dict(), "sha256": digest}
        assert metadata["deepme"] == canonical(expected).decode()
