"""Kill, refuse and race the writer, under each format: old or new at any point."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from injection import (
    WRITER,
    Calls,
    Child,
    ChildEnd,
    die,
    fail,
    in_child,
    limit_file_size,
)

from deepme.errors import EnvironmentFault
from deepme.storage.atomic import atomic_write, sweep
from deepme.storage.hdf5 import open_hdf5, write_hdf5
from deepme.storage.header import Header
from deepme.storage.json import read_json, write_json
from deepme.storage.tensors import read_tensors, write_tensors

HEADER = Header(kind="try", schema_version=1)
ROWS = 64
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


def write_bytes(path: Path, value: int) -> None:
    with atomic_write(path) as file:
        file.write(bytes([value]) * 4096)


def read_bytes(path: Path) -> int:
    content = path.read_bytes()
    assert content == content[:1] * 4096
    return content[0]


def write_number(path: Path, value: int) -> None:
    write_json(path, HEADER, {"values": [value] * 100})


def read_number(path: Path) -> int:
    return int(read_json(path, "try", 1)[1]["values"][0])


def write_array(path: Path, value: int) -> None:
    def fill(file: h5py.File) -> Any:
        file["first"] = np.arange(100)
        rows = file.create_dataset(
            "rows", (ROWS, 100), np.float32, chunks=(8, 100), compression="gzip"
        )
        noise = np.random.default_rng(value).random((8, 100))
        noise[:, 0] = value
        return ((rows, slice(at, at + 8), noise) for at in range(0, ROWS, 8))

    write_hdf5(path, HEADER, fill)


def read_array(path: Path) -> int:
    with open_hdf5(path, "try", 1) as (_, file, _sha256):
        (value,) = np.unique(file["rows"][:, 0])
    return int(value)


def write_weights(path: Path, value: int) -> None:
    write_tensors(path, HEADER, {"w": torch.full((8, 32), float(value))})


def read_weights(path: Path) -> int:
    return int(read_tensors(path, "try", 1)[1]["w"].unique().item())


Write = Callable[[Path, int], None]
Read = Callable[[Path], int]
FORMATS: dict[str, tuple[Write, Read]] = {
    "file": (write_bytes, read_bytes),
    "json": (write_number, read_number),
    "hdf5": (write_array, read_array),
    "tensors": (write_weights, read_weights),
}
OLD, NEW = 1, 2


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["replace", "create"])
def old(request: pytest.FixtureRequest) -> bool:
    """Whether there is an older file of the name."""
    return bool(request.param)


class Trial:
    """One write of `NEW`, over `OLD` or nothing, that something disturbs."""

    def __init__(self, folder: Path, kind: str, old: bool) -> None:
        self.folder, self.old = folder, old
        self.path = folder / "artifact"
        self.write, self.read = FORMATS[kind]
        self.tried = 0

    def calls(self) -> list[str]:
        """The calls an undisturbed write makes."""
        self._begin()
        with Calls(*WRITER) as calls:
            self.write(self.path, NEW)
        return calls.made

    def run(self, disturb: Callable[[Callable[[], None]], None]) -> ChildEnd:
        """Write in a child that ends like a command."""
        self._begin()
        self.tried += 1

        def work() -> None:
            try:
                disturb(lambda: self.write(self.path, NEW))
            except EnvironmentFault as error:
                print(error)
                raise SystemExit(error.exit_code) from None

        return in_child(work)

    def refused(self, end: ChildEnd) -> bool:
        """Whether it ended in one line and the exit code for people."""
        wording = f"cannot write {self.path}: "
        lines = end.output.splitlines()
        return end.code == 3 and len(lines) == 1 and lines[0].startswith(wording)

    def _begin(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        if self.old:
            self.write(self.path, OLD)

    def check(self, *allowed: int) -> None:
        """The file is as before or new; the next writer sweeps and succeeds."""
        found = self.read(self.path) if self.path.exists() else 0
        assert found in {OLD if self.old else 0, *allowed}
        sweep(self.folder)
        self.write(self.path, NEW)
        assert list(self.folder.iterdir()) == [self.path]
        assert self.read(self.path) == NEW


@pytest.fixture
def trial(
    tmp_path: Path, kind: str, old: bool, record_property: Callable[[str, object], None]
) -> Any:
    trial = Trial(tmp_path, kind, old)
    yield trial
    record_property("points", trial.tried)


class TestKilled:
    def test_before_and_after_every_call(self, trial: Trial):
        calls = trial.calls()
        assert {"open", "close", "fsync", "replace"} <= set(calls)
        for number in range(1, len(calls) + 1):
            for after in (False, True):

                def disturb(write: Any, number: int = number, after: bool = after):
                    with Calls(*WRITER, at=(number,), action=die, after=after):
                        write()

                assert trial.run(disturb).code == -signal.SIGKILL
                trial.check(NEW)

    def test_at_any_length(self, trial: Trial):
        trial.write(trial.path, NEW)
        size = trial.path.stat().st_size
        for limit in (0, 1, 511, 512, 513, size // 2, size - 1):

            def disturb(write: Any, limit: int = limit):
                limit_file_size(limit, kill=True)
                write()

            assert trial.run(disturb).code == -signal.SIGXFSZ
            trial.check()


class TestRefused:
    @pytest.mark.parametrize("forever", [False, True], ids=["once", "forever"])
    def test_at_every_call(self, trial: Trial, forever: bool):
        calls = trial.calls()
        committed = calls.index("replace") + 1
        for first, number in enumerate(islice(cycle(ERRORS), len(calls)), start=1):
            at = range(first, 1000) if forever else (first,)

            def disturb(write: Any, at: Any = at, number: int = number):
                with Calls(*WRITER, at=at, action=fail(number)):
                    write()

            end = trial.run(disturb)
            assert trial.refused(end), f"{calls[first - 1]}: {end}"
            # After the rename it is only its durability that cannot be promised.
            trial.check(*((NEW,) if first > committed else ()))

    def test_at_any_length(self, trial: Trial):
        trial.write(trial.path, NEW)
        size = trial.path.stat().st_size
        for limit in (0, 1, 511, 512, 513, size // 2, size - 1):

            def disturb(write: Any, limit: int = limit):
                limit_file_size(limit, kill=False)
                write()

            end = trial.run(disturb)
            assert trial.refused(end), end
            trial.check()


def test_a_reader_sees_old_or_new_while_a_writer_replaces(tmp_path: Path, kind: str):
    path = tmp_path / "artifact"
    write, read = FORMATS[kind]
    write(path, OLD)

    def replace() -> None:
        for _ in range(10_000):
            write(path, NEW)
            write(path, OLD)

    writer = Child(replace)
    deadline = time.monotonic() + 20
    seen = []
    while len(seen) < 100 or len(set(seen)) < 2:
        assert time.monotonic() < deadline
        seen.append(read(path))
    writer.send(signal.SIGKILL)
    writer.wait()
    assert set(seen) == {OLD, NEW}
