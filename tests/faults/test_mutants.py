"""Corruption: every file of a finished workspace, changed in a thousand ways each."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from injection import command, in_child
from tally import Tally
from world import World

from deepme.errors import ArtifactError
from deepme.storage.hdf5 import open_hdf5
from deepme.storage.json import read_json
from deepme.storage.tensors import read_tensors
from deepme.verifying import verdict_of, verify
from deepme.workspace import Workspace

TIER = "corruption mutants"
LEAST = 30_000
BLOCKS = (16, 64, 512)


def bit(raw: bytes, rng: random.Random) -> bytes:
    """Half of the times in the first 2 KiB, where headers are."""
    changed = bytearray(raw)
    area = min(len(raw), 2048) if rng.random() < 0.5 else len(raw)
    changed[rng.randrange(area)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def longer(raw: bytes, rng: random.Random) -> bytes:
    more = rng.choice((1, 2, 512))
    return raw + rng.choice((b"\0" * more, rng.randbytes(more), raw[-more:]))


def swapped(raw: bytes, rng: random.Random) -> bytes:
    size = rng.choice(BLOCKS)
    first, second = sorted(rng.choices(range(0, max(1, len(raw) - size), 16), k=2))
    size = min(size, second - first)
    return b"".join(
        (
            raw[:first],
            raw[second : second + size],
            raw[first + size : second],
            raw[first : first + size],
            raw[second + size :],
        )
    )


def zeroed(raw: bytes, rng: random.Random) -> bytes:
    size = rng.choice(BLOCKS)
    place = rng.randrange(0, len(raw), 16)
    gone = raw[place : place + size]
    return raw[:place] + b"\0" * len(gone) + raw[place + size :]


def overwritten(raw: bytes, rng: random.Random) -> bytes:
    size = rng.choice((1, 4, 16))
    place = rng.randrange(len(raw))
    noise = rng.randbytes(len(raw[place : place + size]))
    return raw[:place] + noise + raw[place + size :]


WAYS = (bit, bit, bit, cut, longer, swapped, zeroed, overwritten)


def mutants(raw: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """Different from the whole file, each of them."""
    made = 0
    while made < count:
        changed = WAYS[made % len(WAYS)](raw, rng)
        if changed == raw:
            # Zeros over zeros, or a block for its like.
            changed = bit(raw, rng)
        made += 1
        yield changed


def read(path: Path, kind: str, schema_version: int) -> None:
    """As the stages read it."""
    if path.suffix == ".h5":
        with open_hdf5(path, kind, schema_version):
            return
    reader = read_json if path.suffix == ".json" else read_tensors
    reader(path, kind, schema_version)


def noticed(workspace: Workspace, path: Path, kind: str, version: int) -> str:
    """What is wrong with how a damaged file is taken, by a stage and by verify."""
    try:
        read(path, kind, version)
        return "read without an error"
    except ArtifactError as error:
        if error.exit_code != 2 or not str(error).isprintable():
            return f"refused with {error!r}"
    state = verdict_of(workspace, path).state
    return "" if state == "corrupt" else f"verify calls it {state}"


def header_of(path: Path) -> tuple[str, int]:
    """The kind and layout that a file says it has."""
    from deepme.artifacts.origin import origin_of
    from deepme.storage.tensors import tensors_header

    tensors = path.suffix == ".safetensors"
    header = tensors_header(path)[0] if tensors else origin_of(path).header
    return header.kind, header.schema_version


@pytest.mark.timeout(3600)
def test_every_mutant_is_noticed(world: World, tally: Tally, tmp_path: Path):
    workspace = Workspace(world.whole(tmp_path / "workspace"))
    files = [workspace.root / verdict.file for verdict in verify(workspace)]
    kinds = {header_of(path)[0] for path in files}
    for path in files:
        raw, (kind, version) = path.read_bytes(), header_of(path)
        each = -(-LEAST // len(files))

        def batch(
            path: Path = path,
            raw: bytes = raw,
            kind: str = kind,
            version: int = version,
            each: int = each,
        ) -> None:
            told: dict[str, int] = {}
            for changed in mutants(raw, each, random.Random(path.name)):
                # A new file: the one that is there is linked from elsewhere.
                path.unlink()
                path.write_bytes(changed)
                problem = noticed(workspace, path, kind, version)
                told[problem] = told.get(problem, 0) + 1
            print(json.dumps(told))

        end = in_child(batch, seconds=600)
        path.unlink()
        path.write_bytes(raw)
        name = workspace.name_of(path)
        assert end.code == 0, f"{name}: {end}"
        for problem, times in json.loads(end.output).items():
            for _ in range(times):
                tally.case(name, problem)
    tally.figures |= {"files": len(files), "kinds": len(kinds)}


@pytest.mark.timeout(3600)
def test_the_command_ends_with_2(world: World, tally: Tally, tmp_path: Path):
    workspace = Workspace(world.whole(tmp_path / "workspace"))
    for verdict in verify(workspace):
        path = workspace.root / verdict.file
        raw = path.read_bytes()
        path.unlink()
        path.write_bytes(zeroed(raw[:-1], random.Random(path.name)))
        end = in_child(command("verify", "-w", workspace.root))
        tally.case(
            verdict.file,
            "" if end.code == 2 else f"exit code {end.code}",
            "" if f"{verdict.file} " in end.output else "its name is not told",
            "" if "\x1b" not in end.output else "an escape character",
            output=end.output,
        )
        path.unlink()
        path.write_bytes(raw)
