"""Let a system call fail: a full disk, an I/O error, a quota, a signal.

Each call by which a file of each kind is written, once and from then on for ever.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import h5py
import pytest
from syscalls import Traced, next_round
from tally import Tally
from world import World

from deepme.errors import EnvironmentFault
from deepme.storage.atomic import sweep
from deepme.storage.hdf5 import open_hdf5, write_hdf5
from deepme.storage.json import read_json, write_json
from deepme.storage.tensors import read_tensors, tensors_header, write_tensors
from deepme.verifying import verify
from deepme.workspace import Workspace

TIER = "injected ENOSPC, EIO, EDQUOT, EINTR"
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EINTR)
FOR_EVER = 10**9

Write = Callable[[Path], object]


def writer_of(path: Path) -> tuple[str, Write]:
    """The kind of an artifact, and how its content is written anew."""
    if path.suffix == ".json":
        document = json.loads(path.read_bytes())["deepme"]
        kind, version = document["kind"], document["schema_version"]
        header, content, _ = read_json(path, kind, version)
        return kind, lambda target: write_json(target, header, content)
    if path.suffix == ".h5":
        with h5py.File(path) as plain:
            stated = json.loads(plain.attrs["deepme"])
        kind, version = stated["kind"], stated["schema_version"]
        with open_hdf5(path, kind, version) as (header, file, _):
            arrays = {name: file[name][()] for name in file}

        def fill(new: h5py.File) -> None:
            for name, array in arrays.items():
                new[name] = array

        return kind, lambda target: write_hdf5(target, header, fill)
    origin = tensors_header(path)[0]
    header, tensors, _ = read_tensors(path, origin.kind, origin.schema_version)
    return origin.kind, lambda target: write_tensors(target, header, tensors)


def rounds_of(calls: int) -> list[tuple[range, int | None]]:
    """Every call once with every error, and from it on with all but EINTR.

    A call that is interrupted for ever is made for ever.
    """
    once = product(range(1, calls + 1), (1,), ERRORS)
    for_ever = product(range(1, calls + 1), (FOR_EVER,), ERRORS[:3])
    return [
        (range(first, first + length), error)
        for first, length, error in (*once, *for_ever)
    ]


def disturbed_writes(
    folder: Path, write: Write, rounds: list[tuple[range, int | None]], old: bytes
) -> list[str]:
    """Write in one child, once in every round; tell what is wrong with each."""
    path = folder / "artifact"

    def work() -> None:
        for _ in rounds:
            path.unlink(missing_ok=True)
            if old:
                path.write_bytes(old)
            next_round(folder)
            try:
                write(path)
                ended = ""
            except EnvironmentFault as error:
                ended = str(error)
            next_round(folder)  # nothing is disturbed
            sweep(folder)
            print(json.dumps([ended, path.exists() and path.read_bytes().hex()]))

    # Between two rounds nothing fails.
    planned = [part for each in rounds for part in (each, (range(0), None))]
    end = Traced(work, folder, rounds=planned).wait(600)
    assert end.code == 0, end.output[-2000:]
    new = written(folder, write)
    return [wrong(*json.loads(line), old, new) for line in end.output.splitlines()]


def written(folder: Path, write: Write) -> bytes:
    path = folder / "artifact"
    write(path)
    return path.read_bytes()


def wrong(ended: str, found: str | bool, old: bytes, new: bytes) -> str:
    """What is wrong with a write that ended so and left these bytes, or no file."""
    content = bytes.fromhex(found) if isinstance(found, str) else b""
    if content not in (old, new):
        return "neither the old file nor the new one"
    if not ended:
        return "" if content == new else "success without the file"
    told = ended.startswith("cannot write ") and ended.isprintable()
    return "" if told else f"it says {ended}"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("replace", [False, True], ids=["create", "replace"])
def test_every_kind_of_file(
    world: World, tally: Tally, tmp_path: Path, replace: bool
) -> None:
    workspace = Workspace(world.whole(tmp_path / "workspace"))
    folder = tmp_path / "folder"
    folder.mkdir()
    done = tally.figures.setdefault("kinds", 0)
    kinds: set[str] = set()
    for path in (workspace.root / verdict.file for verdict in verify(workspace)):
        kind, write = writer_of(path)
        if kind in kinds:
            continue
        kinds.add(kind)
        counting = Traced(lambda write=write: write(folder / "artifact"), folder)
        counting.wait()
        rounds = rounds_of(len(counting.calls))
        (folder / "artifact").unlink()
        old = b"old" if replace else b""
        problems = disturbed_writes(folder, write, rounds, old)
        assert len(problems) == len(rounds)
        for (at, error), problem in zip(rounds, problems, strict=True):
            name = f"{kind}, {errno.errorcode[error or 0]} at {at}"
            tally.case(name, problem)
    tally.figures["kinds"] = max(done, len(kinds))
