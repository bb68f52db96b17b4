"""Two writers of one workspace, and readers while a writer replaces."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from injection import Child, command, snapshot
from tally import Tally, one_error
from world import MADE, STAGES, World, link

from deepme import workspace as module
from deepme.storage.hdf5 import open_hdf5, write_hdf5
from deepme.storage.header import Header
from deepme.storage.json import read_json, write_json
from deepme.storage.tensors import read_tensors, write_tensors
from deepme.workspace import Workspace

TIER = "concurrent writers and readers"
RUNS = 20
"""Second writers of each command."""
LOOPS = 1000
PROMISED = 3.0
"""Seconds from the first try of the lock to the refusal."""


def timed(work: Callable[[], None]) -> Callable[[], None]:
    """Print how long the lock was waited for."""

    def run() -> None:
        acquire = module._acquire

        def measured(*arguments: object) -> None:
            started = time.monotonic()
            try:
                acquire(*arguments)  # type: ignore[arg-type]
            finally:
                print(f"waited {time.monotonic() - started:.2f} s")

        module._acquire = measured  # type: ignore[assignment]
        work()

    return run


def hold(root: Path, folder: Path) -> Child:
    """A child that has the lock when this returns."""

    def work() -> None:
        with Workspace(root).lock(folder):
            (root / "held").touch()
            time.sleep(300)

    child = Child(work)
    while not (root / "held").exists():
        time.sleep(0.005)
    (root / "held").unlink()
    return child


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", STAGES)
def test_the_second_is_refused(
    world: World, tally: Tally, tmp_path: Path, stage: str
) -> None:
    """The holder is at work for long; twenty others come at once."""
    root = tmp_path / "workspace"
    link(world.finished, root)
    for name in MADE[stage]:
        for path in [root / name, *(root / name).rglob("*")]:
            if path.is_file():
                path.unlink()
    folder = root / "experts" / "01" if stage == "train-expert" else root
    arguments = world.arguments(stage)
    arguments = ["1" if argument == "all" else argument for argument in arguments]
    holder, before = hold(root, folder), snapshot(root)
    work = timed(command(*arguments, "-w", root))
    for number, child in enumerate([Child(work) for _ in range(RUNS)]):
        end = child.wait(120)
        waits = [float(found) for found in re.findall(r"waited ([\d.]+) s", end.output)]
        slowest = max(waits, default=99.0)
        tally.figures["slowest_s"] = max(slowest, tally.figures.get("slowest_s", 0.0))
        tally.case(
            f"{stage}, writer {number}",
            one_error(end, 3),
            "" if f"is in use by pid {holder.pid} on " in end.output else "no holder",
            "" if slowest <= PROMISED else f"it waited {slowest} s",
            output=end.output,
        )
    tally.case(f"{stage}: nothing", "" if snapshot(root) == before else "written")
    holder.send(signal.SIGKILL)
    holder.wait()


def write_array(path: Path, number: int) -> None:
    header = Header(kind="try", schema_version=1, settings={"number": number})
    write_hdf5(path, header, lambda file: file.__setitem__("x", [number] * 1000))


def read_array(path: Path) -> int:
    with open_hdf5(path, "try", 1) as (_, file, _digest):
        (number,) = set(file["x"][()].tolist())
        return int(number)


def write_number(path: Path, number: int) -> None:
    write_json(path, Header(kind="try", schema_version=1), [number] * 1000)


def read_number(path: Path) -> int:
    (number,) = set(read_json(path, "try", 1)[1])
    return int(number)


def write_weights(path: Path, number: int) -> None:
    header = Header(kind="try", schema_version=1)
    write_tensors(path, header, {"x": torch.full((1000,), number)})


def read_weights(path: Path) -> int:
    (number,) = set(read_tensors(path, "try", 1)[1]["x"].tolist())
    return int(number)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("write", "read"),
    [
        (write_array, read_array),
        (write_number, read_number),
        (write_weights, read_weights),
    ],
    ids=["HDF5", "JSON", "safetensors"],
)
def test_a_reader_sees_old_or_new(
    tally: Tally,
    tmp_path: Path,
    write: Callable[[Path, int], None],
    read: Callable[[Path], int],
) -> None:
    path = tmp_path / "artifact"
    write(path, 1)

    def replace() -> None:
        while True:
            write(path, 2)
            write(path, 1)

    writer, seen = Child(replace), set()
    for _ in range(LOOPS):
        number = read(path)
        seen.add(number)
        tally.case("a read", "" if number in (1, 2) else f"{number}")
    writer.send(signal.SIGKILL)
    writer.wait()
    assert seen == {1, 2}, "the writer and the reader never met"
