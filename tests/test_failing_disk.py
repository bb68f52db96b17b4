"""A disk that fails to read is told as such, never as a stale or corrupt artifact.

Linux gives an I/O error at the first byte of /proc/self/mem, which counts as a regular
file: a link to it is a file that cannot be read.
"""

from __future__ import annotations

import errno
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command

from deepme.errors import EnvironmentFault
from deepme.storage import hdf5
from deepme.storage.hdf5 import write_hdf5
from deepme.storage.header import Header
from deepme.storage.sink import Source
from deepme.workspace import Workspace


def unreadable(path: Path) -> None:
    path.unlink()
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("experts/01/weights.safetensors", "train-gate"),
        ("experts/01/weights.safetensors", "verify"),
        ("split.h5", "train-gate"),
        ("groups.json", "evaluate"),
        ("similarity.h5", "status"),
    ],
)
def test_a_command_names_the_file(
    invoke: Command, tiny_workspace: Path, name: str, command: str
) -> None:
    unreadable(tiny_workspace / name)
    ended = invoke(command, "-w", tiny_workspace)
    assert ended.code == 3
    (line,) = (x for x in ended.stderr.splitlines() if x.startswith("error: "))
    assert f"cannot read {tiny_workspace / name}: Input/output error" in line


@pytest.mark.parametrize("suffix", ["safetensors", "h5", "json"])
def test_an_ancestor_that_cannot_be_read_is_not_one_that_has_changed(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.touch()
    assert Workspace(tmp_path).changed({path.name: "0"}) == path.name
    unreadable(path)
    with pytest.raises(EnvironmentFault, match="Input/output error"):
        Workspace(tmp_path).changed({path.name: "0"})


class FailingSource(Source):
    """Fails at a chosen read of all."""

    made, due = 0, -1

    def _read(self, buffer: Any) -> int | None:
        FailingSource.made += 1
        if FailingSource.made == FailingSource.due:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super()._read(buffer)


def test_every_read_of_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever HDF5 makes of the error, in opening or in reading a dataset."""
    path, values = tmp_path / "a.h5", np.arange(10_000.0)
    header = Header(kind="try", schema_version=1)
    write_hdf5(path, header, lambda file: file.__setitem__("x", values))
    monkeypatch.setattr(hdf5, "Source", FailingSource)

    def read(due: int) -> int:
        FailingSource.made, FailingSource.due = 0, due
        with hdf5.open_hdf5(path, "try", 1) as (_, file, _sha256):
            found = hdf5.dataset(file, "x", np.float64, (None,))[()]
        assert np.array_equal(found, values)
        return FailingSource.made

    reads = read(due=-1)
    assert reads > 3
    for number in range(1, reads + 1):
        with pytest.raises(EnvironmentFault, match=r"cannot read .*a\.h5: Input/"):
            read(due=number)


IN_A_PROCESS = f"""
import errno, os, sys
from pathlib import Path
from typing import Any
from deepme.storage import hdf5
from deepme.storage.sink import Source

{inspect.getsource(FailingSource)}

hdf5.Source, FailingSource.due = FailingSource, int(sys.argv[2])
with hdf5.open_hdf5(Path(sys.argv[1]), "try", 1) as (_, file, _):
    file["x"][()]
"""


def test_a_process_that_meets_it_does_not_crash(tmp_path: Path) -> None:
    """As HDF5 did where it freed, after Python, what the error had left behind."""
    path = tmp_path / "a.h5"
    header = Header(kind="try", schema_version=1)
    write_hdf5(path, header, lambda file: file.__setitem__("x", np.arange(10_000.0)))
    for number in range(1, 100):
        ended = subprocess.run(
            [sys.executable, "-c", IN_A_PROCESS, str(path), str(number)],
            capture_output=True,
            check=False,
        )
        if ended.returncode == 0:
            break
        assert (number, ended.returncode) == (number, 1)
        assert b"EnvironmentFault" in ended.stderr
    assert number > 4
