from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from deepme.storage.hdf5 import mapped
from deepme.storage.rows import HELD, MappedRows

ROWS, WIDTH = 3 * HELD // 4096, 1024


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file three times as large as what is held of it."""
    path = tmp_path_factory.mktemp("rows") / "rows.h5"
    with h5py.File(path, "w") as file:
        values = np.arange(ROWS, dtype=np.float32)[:, None]
        file["values"] = np.broadcast_to(values, (ROWS, WIDTH))
    return path


def rows_of(path: Path) -> MappedRows:
    with h5py.File(path) as file:
        return MappedRows(mapped(path, file["values"]))


def resident(path: Path) -> int:
    """Bytes of a mapped file that count as this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    found = 0
    for line in lines:
        if line.endswith(str(path)):
            rss = next(line for line in lines if line.startswith("Rss:"))
            found += 1024 * int(rss.split()[1])
    return found


@pytest.mark.parametrize(
    "rows",
    [slice(3, 9), np.array([7, 7, 2, ROWS - 1]), np.arange(ROWS) % 1000 == 0],
    ids=["slice", "numbers", "mask"],
)
def test_rows_are_those_of_the_array(path: Path, rows: object) -> None:
    found = rows_of(path)[rows]
    assert np.array_equal(found[:, 0], np.arange(ROWS, dtype=np.float32)[rows])
    assert found.shape == (len(found), WIDTH)
    assert not np.shares_memory(found, rows_of(path)[rows])


@pytest.mark.parametrize("apart", [False, True])
def test_streaming_through_a_file_holds_little_of_it(path: Path, apart: bool) -> None:
    rows = rows_of(path)
    most = total = 0
    for start in range(0, ROWS, 256):
        which = np.arange(start, min(start + 256, ROWS))
        read = rows[which if apart else slice(start, start + 256)]
        total += int(read[:, 0].sum())
        if start % 1024 == 0:
            most = max(most, resident(path))
    assert total == ROWS * (ROWS - 1) // 2
    assert most <= HELD + 2 * 256 * 4096


def test_no_rows_are_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "none.h5"
    with h5py.File(path, "w") as file:
        file["values"] = np.empty((0, 4), np.float32)
    assert rows_of(path)[np.array([], dtype=np.int64)].shape == (0, 4)
