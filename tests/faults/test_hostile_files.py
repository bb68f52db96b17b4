"""Checkpoints, HDF5 and JSON of a stranger: refused, and nothing else happens."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hostile import misdeeds, peak_of, watched
from tally import Tally, one_error
from world import World, link

from deepme.storage import hdf5

TIER = "hostile checkpoints, HDF5 and JSON"
GIGABYTES = 2**32


class Runs:
    """Unpickled, it would call a function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def touch(folder: Path) -> str:
    return f"touch {folder / 'executed'}"


def saved(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def zipped(pickled: bytes, *, compressed: bool = False) -> bytes:
    """As torch lays out a checkpoint."""
    file = io.BytesIO()
    way = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", way) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def old_tar(folder: Path) -> bytes:
    """The form of torch 0.1: pickles in a tar file."""
    import os

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("pickle", "storages", "tensors"):
            raw = pickle.dumps(Runs(os.system, touch(folder)))
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return file.getvalue()


def chain(folder: Path) -> bytes:
    """A pickle that finds `eval` by getattr, written by hand."""
    code = f"__import__('os').system({touch(folder)!r})"
    return (
        b"\x80\x02cbuiltins\ngetattr\ncbuiltins\n__dict__\nX\x04\x00\x00\x00eval\x86R"
        + b"X" + struct.pack("<I", len(code)) + code.encode() + b"\x85R."
    )  # fmt: skip


def overlapping(values: int) -> bytes:
    """Sparse indices beyond the tensor."""
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[values]]), torch.ones(1), (values + 1,), check_invariants=False
    )
    raw = saved({"0.weight": sparse})
    return raw.replace(struct.pack("<q", values), struct.pack("<q", 2**62))


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), file)
    return file.getvalue()


def checkpoints(folder: Path) -> dict[str, bytes]:
    import os

    runs, marker = Runs(os.system, touch(folder)), folder / "executed"
    wide = torch.zeros(1).expand(2**40)
    return {
        "os.system": saved(runs),
        "os.system in a value": saved({"0.weight": runs}),
        "eval": saved(Runs(eval, f"open({str(marker)!r}, 'w')")),
        "exec in a nested list": saved({"a": [[Runs(exec, "import os")]]}),
        "getattr to eval": zipped(chain(folder)),
        "before zip files": saved(runs, _use_new_zipfile_serialization=False),
        "tar of pickles": old_tar(folder),
        "zip bomb": zipped(b"\0" * 2**28, compressed=True),
        "sparse, beyond the end": overlapping(4_702_111_234_474_983_745 % 997),
        "one number seen as 2^40": saved({"0.weight": wide}),
        "TorchScript": scripted(),
        "numpy objects": saved({"0.weight": np.array([runs], dtype=object)}),
        "safetensors, a header of 2^63": struct.pack("<Q", 2**63) + b"{}",
    }


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_checkpoints(world: World, tally: Tally, tmp_path: Path) -> None:
    link(world.finished, tmp_path / "workspace")
    for number, (name, raw) in enumerate(checkpoints(tmp_path).items()):
        suffix = "safetensors" if "safetensors" in name else "pth"
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(raw)
        refused(tally, name, tmp_path, *world.arguments("train-expert"),
                "--weights", path)  # fmt: skip
    tally.figures["checkpoints"] = number + 1


def refused(tally: Tally, name: str, folder: Path, *arguments: object) -> None:
    """A command on a hostile file: exit 2, one line, no deed, little memory."""
    end = watched(*arguments, "-w", folder / "workspace", inside=folder)
    marker = folder / "executed"
    tally.case(
        name,
        one_error(end, 2),
        misdeeds(end),
        "it was executed" if marker.exists() else "",
        output=end.output,
    )
    marker.unlink(missing_ok=True)
    peak = peak_of(end) / 1024
    tally.figures["peak_mb"] = round(max(peak, tally.figures.get("peak_mb", 0)))


def raw_dataset(file: h5py.File, name: str, set_up: Any, kind: Any = None) -> None:
    """A dataset made below h5py's own interface."""
    space = h5py.h5s.create_simple((6, 6))
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    set_up(made)
    h5py.h5d.create(file.id, name.encode(), kind or h5py.h5t.IEEE_F64LE, space, made)


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((6, 6), float)
    layout[:] = h5py.VirtualSource("other.h5", "x", (6, 6))
    file.create_virtual_dataset(name, layout)


def compressed_bomb(file: h5py.File, name: str) -> None:
    made = file.create_dataset(name, (2**16, 2**16), "f8", chunks=(2**10, 2**10),
                               compression="gzip")  # fmt: skip
    made[:1024, :1024] = 0


def cycle(file: h5py.File, name: str) -> None:
    group = file.create_group(name)
    group["again"] = group


def chunked(made: Any, *filters: int) -> None:
    made.set_chunk((6, 6))
    for number in filters:
        made.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (2, 0))


HDF5: dict[str, Callable[[h5py.File, str], Any]] = {
    "external link": lambda f, n: f.__setitem__(n, h5py.ExternalLink("o.h5", "x")),
    "external link, absolute": lambda f, n: f.__setitem__(
        n, h5py.ExternalLink("/etc/passwd", "/x")
    ),
    "external storage": lambda f, n: raw_dataset(
        f, n, lambda made: made.set_external(b"/etc/passwd", 0, 288)
    ),
    "virtual dataset": virtual,
    "soft link to itself": lambda f, n: f.__setitem__(n, h5py.SoftLink(f"/{n}")),
    "soft link to nothing": lambda f, n: f.__setitem__(n, h5py.SoftLink("/nothing")),
    "group that holds itself": cycle,
    "terabytes, empty": lambda f, n: f.create_dataset(
        n, (2**20, 2**20), "f8", chunks=(64, 64)
    ),
    "compressed bomb": compressed_bomb,
    "object references": lambda f, n: f.create_dataset(n, (6, 6), h5py.ref_dtype),
    "region references": lambda f, n: f.create_dataset(n, (6, 6), h5py.regionref_dtype),
    "texts of any length": lambda f, n: f.create_dataset(
        n, (6, 6), h5py.string_dtype()
    ),
    "a filter nobody has": lambda f, n: raw_dataset(
        f, n, lambda made: chunked(made, h5py.h5z.FILTER_SCALEOFFSET)
    ),
    "committed type of pairs": lambda f, n: f.create_dataset(
        n, (6, 6), np.dtype([("a", "f8"), ("b", "f8")])
    ),
    "numbers the other way round, of another shape": lambda f, n: f.create_dataset(
        n, (5, 7), ">f8"
    ),
    "an attribute of 60 KiB in place of it": lambda f, n: f.attrs.__setitem__(
        n, "x" * 60_000
    ),
}


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_hdf5(world: World, tally: Tally, tmp_path: Path) -> None:
    """As a user's own matrix, and as an artifact with a seal that fits."""
    root = tmp_path / "workspace"
    link(world.finished, root)
    whole = (root / "similarity.h5").read_bytes()
    with h5py.File(tmp_path / "o.h5", "w") as other:
        other["x"] = np.eye(6)
    for name, make in HDF5.items():
        own = tmp_path / "own.h5"
        with h5py.File(own, "w") as file:
            file["label"] = [f"class {number}" for number in range(6)]
            make(file, "similarity")
        refused(tally, f"matrix: {name}", tmp_path, "similarity", "--matrix", own)
        path = root / "similarity.h5"
        path.unlink()
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            del file["path_length"]
            make(file, "path_length")
        with path.open("r+b", buffering=0) as raw:
            hdf5._seal_file(raw)
        refused(tally, f"sealed: {name}", tmp_path, *world.arguments("cluster"))
    tally.figures["HDF5"] = 2 * len(HDF5)


JSON: dict[str, bytes] = {
    "NaN": b'{"a": 0, "b": NaN}',
    "Infinity": b'{"a": 0, "b": Infinity}',
    "1e999": b'{"a": 0, "b": 1e999}',
    "a key twice": b'{"a": 0, "a": 1}',
    "100,000 deep": b'{"a":' * 100_000,
    "a list 100,000 deep": b"[" * 100_000,
    "5,000 digits": b'{"a": 0, "b": ' + b"1" * 5_000 + b"}",
    "a lone surrogate": b'{"a": 0, "\\ud800": 1}',
    "a list at the top": b'["a", "b"]',
    "not UTF-8": b'{"a": 0, "\xff": 1}',
    "a gibibyte of text": b"",
    "a byte order mark twice": b"\xef\xbb\xbf\xef\xbb\xbf{}",
}


@pytest.mark.timeout(600)
def test_json(world: World, tally: Tally, tmp_path: Path) -> None:
    """As a class map, and in place of an artifact."""
    root = tmp_path / "workspace"
    link(world.finished, root)
    for name, raw in JSON.items():
        for path in (tmp_path / "map.json", root / "groups.json"):
            path.unlink(missing_ok=True)
            path.write_bytes(raw)
            if not raw:
                with path.open("r+b") as file:
                    file.truncate(2**30)
        refused(tally, f"map: {name}", tmp_path, "similarity", "--classes",
                tmp_path / "map.json")  # fmt: skip
        refused(tally, f"artifact: {name}", tmp_path, *world.arguments("evaluate"))
    assert json.loads(JSON["NaN"])["a"] == 0  # Python's own reader takes it
    tally.figures["JSON"] = 2 * len(JSON)
