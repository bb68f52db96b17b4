"""HDF5 artifacts: round trip, the seal in front, and every way to be another file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from injection import Calls

from deepme.errors import ArtifactError, EnvironmentFault
from deepme.storage import hdf5
from deepme.storage.hdf5 import (
    Block,
    dataset,
    hdf5_digest,
    hdf5_header,
    open_hdf5,
    read_strings,
    unpack_strings,
    write_hdf5,
    write_strings,
)
from deepme.storage.header import Header

HEADER = Header(
    kind="try", schema_version=1, settings={"seed": 3}, made_from={"a": "b"}
)
VARIABLE = h5py.string_dtype()
MATRIX = np.arange(600, dtype=np.float32).reshape(60, 10)


def fill(file: h5py.File) -> None:
    file["matrix"] = MATRIX
    file["count"] = np.int64(7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "try.h5"


def reseal(path: Path) -> None:
    """Give a changed file a seal that fits, as only deepme would."""
    with path.open("r+b", buffering=0) as raw:
        hdf5._seal_file(raw)


class TestRoundTrip:
    def test_of_header_arrays_and_digest(self, path: Path):
        digest = write_hdf5(path, HEADER, fill)
        with open_hdf5(path, "try", 1) as (header, file, sha256):
            assert (header, sha256) == (HEADER, digest)
            np.testing.assert_array_equal(file["matrix"][()], MATRIX)
        assert hdf5_header(path) == (HEADER, digest)
        assert hdf5_digest(path) == digest

    def test_digest_is_the_sha256_of_all_behind_the_block(self, path: Path):
        digest = write_hdf5(path, HEADER, fill)
        raw = path.read_bytes()
        assert digest == hashlib.sha256(raw[512:]).hexdigest()
        line, sha256 = raw[:512].split(b"\n")[:2]
        assert json.loads(line) == {"sha256": digest, "size": len(raw)}
        assert sha256.decode() == hashlib.sha256(line + b"\n").hexdigest()

    def test_plain_h5py_opens_it(self, path: Path):
        write_hdf5(path, HEADER, fill)
        with h5py.File(path) as file:
            assert json.loads(file.attrs["deepme"]) == HEADER.to_dict()
            assert file.userblock_size == 512

    def test_rewritten_is_the_same_byte_for_byte(self, path: Path):
        write_hdf5(path, HEADER, fill)
        first = path.read_bytes()
        write_hdf5(path, HEADER, fill)
        assert path.read_bytes() == first

    def test_of_streamed_blocks(self, path: Path):
        def stream(file: h5py.File) -> Iterator[Block]:
            rows = file.create_dataset("rows", MATRIX.shape, np.float32)
            parts = (slice(at, at + 7) for at in range(0, 60, 7))
            return ((rows, part, MATRIX[part]) for part in parts)

        write_hdf5(path, HEADER, stream)
        with open_hdf5(path, "try", 1) as (_, file, _sha256):
            np.testing.assert_array_equal(file["rows"][()], MATRIX)

    def test_of_strings(self, path: Path):
        strings = ["n02084071", "", "naïve Θ", "a\nb", "\udc80 not UTF-8"]
        write_hdf5(path, HEADER, lambda file: write_strings(file, "s", strings))
        with open_hdf5(path, "try", 1) as (_, file, _sha256):
            assert read_strings(file, "s") == strings
            assert read_strings(file, "s", 5) == strings
            with pytest.raises(ArtifactError, match=r"s_end: int64 \(5,\), not s_end"):
                read_strings(file, "s", 4)

    def test_of_no_strings(self, path: Path):
        write_hdf5(path, HEADER, lambda file: write_strings(file, "s", []))
        with open_hdf5(path, "try", 1) as (_, file, _sha256):
            assert read_strings(file, "s") == []

    def test_unpacking(self):
        assert unpack_strings("aébc".encode(), np.array([1, 3, 3, 5])) == [
            *("a", "é", "", "bc")
        ]

    def test_survives_a_writer_that_replaces_the_file(self, path: Path):
        write_hdf5(path, HEADER, fill)
        with open_hdf5(path, "try", 1) as (_, file, _sha256):
            write_hdf5(path, HEADER, lambda new: write_strings(new, "s", ["other"]))
            np.testing.assert_array_equal(file["matrix"][()], MATRIX)


class TestWrongFile:
    @pytest.mark.parametrize("read", [hdf5_header, hdf5_digest])
    def test_missing(self, path: Path, read: Any):
        with pytest.raises(ArtifactError, match=r"try\.h5 is missing; run the command"):
            read(path)

    @pytest.mark.timeout(5)
    @pytest.mark.parametrize("read", [hdf5_header, hdf5_digest])
    def test_pipe_folder_and_device(self, path: Path, tmp_path: Path, read: Any):
        pipe, device = tmp_path / "pipe.h5", tmp_path / "device.h5"
        os.mkfifo(pipe)
        device.symlink_to("/dev/zero")
        path.mkdir()
        for wrong in (pipe, device, path):
            with pytest.raises(ArtifactError, match="it is not a regular file"):
                read(wrong)

    @pytest.mark.parametrize("read", [hdf5_header, hdf5_digest])
    @pytest.mark.parametrize(
        "raw",
        [b"", b"\0" * 512, b"{}\n", b"[1]\n", b'{"sha256": 1, "size": "x"}\n', b"\xff"],
    )
    def test_without_a_seal(self, path: Path, raw: bytes, read: Any):
        path.write_bytes(raw)
        with pytest.raises(ArtifactError, match="does not begin with deepme's seal"):
            read(path)

    def test_of_plain_h5py(self, path: Path):
        with h5py.File(path, "w") as file:
            fill(file)
        with pytest.raises(ArtifactError, match="does not begin with deepme's seal"):
            hdf5_header(path)

    @pytest.mark.parametrize("read", [hdf5_header, hdf5_digest])
    def test_with_a_changed_seal(self, path: Path, read: Any):
        write_hdf5(path, HEADER, fill)
        raw = bytearray(path.read_bytes())
        raw[500] = 1
        path.write_bytes(raw)
        with pytest.raises(ArtifactError, match="its seal was changed"):
            read(path)

    @pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\0"])
    def test_of_another_length(self, path: Path, change: Any):
        write_hdf5(path, HEADER, fill)
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(ArtifactError, match="cut short or lengthened"):
            hdf5_header(path)

    def test_with_changed_content(self, path: Path):
        write_hdf5(path, HEADER, fill)
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        with pytest.raises(ArtifactError, match="does not match its sha256"):
            hdf5_header(path)

    def test_sealed_but_no_hdf5(self, path: Path):
        path.write_bytes(b"\0" * 512 + b"hello")
        reseal(path)
        with pytest.raises(ArtifactError, match="no HDF5 behind the seal"):
            hdf5_header(path)

    def test_sealed_but_without_header(self, path: Path):
        with h5py.File(path, "w", userblock_size=512) as file:
            fill(file)
        reseal(path)
        with pytest.raises(ArtifactError, match="is corrupt: "):
            hdf5_header(path)

    @pytest.mark.parametrize("header", ["", "{", "[]", "3", '{"kind": "try"}'])
    def test_sealed_with_a_header_that_is_none(self, path: Path, header: str):
        with h5py.File(path, "w", userblock_size=512) as file:
            file.attrs["deepme"] = header
        reseal(path)
        with pytest.raises(ArtifactError, match="is corrupt: "):
            hdf5_header(path)

    def test_of_another_kind_or_layout(self, path: Path):
        write_hdf5(path, HEADER, fill)
        with (
            pytest.raises(ArtifactError, match="holds try, expected groups"),
            open_hdf5(path, "groups", 1),
        ):
            pass
        with (
            pytest.raises(ArtifactError, match="has layout 1 of try, this deepme"),
            open_hdf5(path, "try", 2),
        ):
            pass

    def test_unreadable(self, path: Path):
        write_hdf5(path, HEADER, fill)

        def refuse() -> None:
            raise PermissionError(13, "Permission denied")

        with (
            Calls("stat", at=(1,), action=refuse),
            pytest.raises(EnvironmentFault, match=r"cannot read .*: Permission denied"),
        ):
            hdf5_header(path)


def elsewhere(file: h5py.File) -> None:
    """A matrix whose numbers lie in another file."""
    space = h5py.h5s.create_simple((60, 10))
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_external(b"/etc/passwd", 0, 2400)
    h5py.h5d.create(file.id, b"matrix", h5py.h5t.IEEE_F32LE, space, made)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((60, 10), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "matrix", (60, 10))
    file.create_virtual_dataset("matrix", layout)


def strange_filter(file: h5py.File) -> None:
    space = h5py.h5s.create_simple((60, 10))
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((60, 10))
    made.set_filter(h5py.h5z.FILTER_SCALEOFFSET, h5py.h5z.FLAG_OPTIONAL, (2, 0))
    h5py.h5d.create(file.id, b"matrix", h5py.h5t.STD_I32LE, space, made)


def linked(link: Any) -> Any:
    def fill(file: h5py.File) -> None:
        file["other"] = MATRIX
        file["matrix"] = link

    return fill


def bomb(file: h5py.File) -> None:
    file.create_dataset("matrix", (2**20, 2**20), np.float32, chunks=(64, 64))


HOSTILE: dict[str, tuple[Any, str]] = {
    "external link": (linked(h5py.ExternalLink("/etc/x.h5", "matrix")), "is a link"),
    "soft link": (linked(h5py.SoftLink("/other")), "is a link to elsewhere"),
    "soft link to itself": (linked(h5py.SoftLink("/matrix")), "is a link"),
    "external storage": (elsewhere, "lies in other files"),
    "virtual": (virtual, "lies in other files"),
    "of exabytes": (bomb, "declares 4,398,046,511,104 bytes and stores hardly"),
    "another filter": (strange_filter, "needs the HDF5 filter 6"),
    "texts of any length": (
        lambda file: (
            file.create_dataset("matrix", data=["a"], dtype=h5py.string_dtype())
            and None
        ),
        "holds object, no plain numbers",
    ),
    "records with texts of any length": (
        lambda file: (
            file.create_dataset("matrix", (1,), [("a", "i4"), ("b", VARIABLE, (2,))])
            and None
        ),
        "no plain numbers",
    ),
    "records with references in records": (
        lambda file: (
            file.create_dataset("matrix", (1,), [("a", [("b", h5py.ref_dtype)])])
            and None
        ),
        "no plain numbers",
    ),
    "references": (
        lambda file: file.create_dataset("matrix", (1,), h5py.ref_dtype) and None,
        "holds object, no plain numbers",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_dataset_that_is_not_what_it_seems_is_refused(path: Path, name: str):
    """Sealed as by deepme: whoever can write to a workspace can seal."""
    fill, message = HOSTILE[name]
    write_hdf5(path, HEADER, fill)
    with (
        open_hdf5(path, "try", 1) as (_, file, _sha256),
        pytest.raises(ArtifactError, match=message),
    ):
        dataset(file, "matrix", np.float32, (60, 10))


class TestDataset:
    @pytest.fixture
    def file(self, path: Path) -> Iterator[h5py.File]:
        write_hdf5(path, HEADER, fill)
        with open_hdf5(path, "try", 1) as (_, file, _sha256):
            yield file

    @pytest.mark.parametrize("shape", [(60, 10), (None, 10), (60, None), (None, None)])
    def test_of_the_expected_shape(self, file: h5py.File, shape: Any):
        assert dataset(file, "matrix", np.float32, shape).shape == (60, 10)

    @pytest.mark.parametrize("shape", [(60,), (61, 10), (None, 9), (60, 10, 1), ()])
    def test_of_another_shape(self, file: h5py.File, shape: Any):
        with pytest.raises(ArtifactError, match=r"found matrix: float32 \(60, 10\)"):
            dataset(file, "matrix", np.float32, shape)

    @pytest.mark.parametrize("dtype", [np.float64, np.int32, ">f4"])
    def test_of_another_type(self, file: h5py.File, dtype: Any):
        with pytest.raises(ArtifactError, match="found matrix: float32"):
            dataset(file, "matrix", dtype, (60, 10))

    def test_that_is_absent_or_a_group(self, path: Path):
        write_hdf5(path, HEADER, lambda file: file.create_group("group") and None)
        with open_hdf5(path, "try", 1) as (_, file, _sha256):
            for name in ("absent", "group"):
                with pytest.raises(ArtifactError, match=f"lacks {name}: float32"):
                    dataset(file, name, np.float32, (1,))
