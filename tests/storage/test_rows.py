"""Rows of an array in a file, read when asked for."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from injection import Calls, fail

from deepme.errors import ArtifactError, EnvironmentFault
from deepme.storage import rows as module
from deepme.storage.hdf5 import file_rows
from deepme.storage.rows import FileRows, OpenFile

ROWS, WIDTH = 3000, 7


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def records(values: np.ndarray) -> np.ndarray:
    made = np.empty(ROWS, [("a", np.float32, (WIDTH,)), ("b", np.int64)])
    made["a"], made["b"] = values, np.arange(ROWS)
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["before"] = np.arange(5)
        file["wide"] = values
        file["half"] = values.astype(np.float16)
        file["records"] = records(values)
        file["flat"] = values[:, 0].astype(np.float64)
        file["none"] = np.empty((0, 4), np.float32)
        file["narrow"] = np.empty((4, 0), np.float32)
        file.create_dataset("pieces", data=values, chunks=(10, WIDTH))
    return path


@pytest.fixture(params=["by rows", "whole"], autouse=True)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Arrays of the tests are small: also read them as if they were large."""
    if request.param == "by rows":
        monkeypatch.setattr(module, "SMALL", -1)
    return str(request.param)


def rows_of(path: Path, name: str = "wide") -> FileRows:
    with h5py.File(path) as file:
        return file_rows(OpenFile(path), file[name])


WANTED = {
    "slice": slice(3, 9),
    "all": slice(None),
    "backwards": slice(9, 3, -2),
    "beyond": slice(ROWS - 2, ROWS + 9),
    "numbers": np.array([7, 7, 2, 3, 4, ROWS - 1]),
    "small numbers": np.array([5, 4], np.uint8),
    "shuffled": np.random.default_rng(1).permutation(ROWS),
    "mask": np.arange(ROWS) % 1000 < 2,
    "no numbers": np.array([], np.int64),
    "empty": slice(4, 4),
}


@pytest.mark.parametrize("name", ["wide", "half", "flat", "records"])
@pytest.mark.parametrize("rows", WANTED.values(), ids=WANTED.keys())
def test_rows_are_those_of_the_array(path: Path, name: str, rows: object) -> None:
    with h5py.File(path) as file:
        expected = file[name][()][rows]
    found = rows_of(path, name)[rows]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert found.flags.writeable


@pytest.mark.parametrize("name", ["none", "narrow"])
def test_no_rows_are_no_trouble(path: Path, name: str) -> None:
    with h5py.File(path) as file:
        shape = file[name].shape
    assert rows_of(path, name)[:].shape == shape


def test_neighbours_are_read_together(path: Path, how: str) -> None:
    rows = rows_of(path)
    with Calls("preadv") as calls:
        if how == "whole":
            assert [len(rows[some]) for some in ([4], [7, 2])] == [1, 2]
            assert len(calls.made) == 1
            return
        assert rows[10:500].shape == (490, WIDTH)
        assert len(calls.made) == 1
        assert rows[np.array([4, 5, 6, 2, 3, 9])].shape == (6, WIDTH)
        assert len(calls.made) == 1 + 3


def test_a_read_may_give_less(path: Path, values: np.ndarray, monkeypatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, into, at: preadv(fd, [into[0][:5]], at)
    )
    np.testing.assert_array_equal(rows_of(path)[100:130], values[100:130])


@pytest.mark.parametrize("rows", [[ROWS], [0, -1]])
def test_rows_that_there_are_not(path: Path, rows: list[int]) -> None:
    with pytest.raises(IndexError, match="expected rows from 0 to 2999"):
        rows_of(path)[np.array(rows)]


def test_a_disk_that_fails_is_named(path: Path, how: str) -> None:
    rows = rows_of(path)
    with (
        Calls("preadv", at=(1 if how == "whole" else 2,), action=fail(errno.EIO)),
        pytest.raises(EnvironmentFault, match=r"cannot read .*rows\.h5: Input/output"),
    ):
        rows[np.array([1, 5, 9])]


def test_a_file_that_shrinks_is_corrupt(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes())
    rows = rows_of(copy)
    os.truncate(copy, 2048)
    with pytest.raises(ArtifactError, match="it was cut short while it was read"):
        rows[ROWS - 1 :]


def test_a_file_that_is_replaced_is_read_on(
    path: Path, values: np.ndarray, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes())
    rows = rows_of(copy)
    copy.unlink()
    copy.write_text("another")
    np.testing.assert_array_equal(rows[5:8], values[5:8])


def test_an_array_in_pieces_is_refused(path: Path) -> None:
    with pytest.raises(ArtifactError, match="pieces lies in pieces"):
        rows_of(path, "pieces")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is missing"):
        OpenFile(tmp_path / "none.h5")


def test_the_file_is_closed_with_its_last_array(path: Path) -> None:
    with h5py.File(path) as file:
        opened = OpenFile(path)
        first, second = (file_rows(opened, file[name]) for name in ("wide", "half"))
    descriptor = opened.descriptor
    del opened, first
    gc.collect()
    assert second[:1].shape == (1, WIDTH)
    del second
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
