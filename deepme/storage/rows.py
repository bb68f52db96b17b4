"""Rows of a large array in a file, a few at a time.

They are read rather than mapped. A page of a mapped file counts as the process's memory
until the system wants it back, and the system maps as many pages around it as it likes:
of a file of 1.7 GB that was just written, shuffled rows of a few megabytes brought all.
And where the disk fails, a mapping ends the process by a signal; a read tells of it.
"""

from __future__ import annotations

import math
import os
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepme.storage.header import corrupt, reading

SMALL = 8 * 2**20
"""Bytes of an array that is read once and kept: row by row takes longer."""


class Rows(Protocol):
    """What gives rows of an array: (B, C) float32 for slices, numbers or a mask."""

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        """Read some rows."""


def half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round to half precision; what is too large becomes the largest there is."""
    largest = np.finfo(np.float16).max
    return values.clip(-largest, largest).astype(np.float16)


class HalfRows:
    """Rows that are kept in half precision, given as float32.

    Args:
        rows: (R, d) float16.
    """

    def __init__(self, rows: FileRows) -> None:
        """Read nothing yet."""
        self._rows = rows

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        """Read some rows; errors as of `FileRows`."""
        return self._rows[rows].astype(np.float32)


class OpenFile:
    """A file that stays open for reading as long as this is held.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ArtifactError: it is missing.
            EnvironmentFault: the file system refused.
        """
        self.path = path
        with reading(path):
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)


class FileRows:
    """A contiguous array in a file.

    Args:
        file: open; several arrays may share it.
        offset: bytes before the array.
        dtype: of its elements.
        shape: of the array.
    """

    def __init__(
        self, file: OpenFile, *, offset: int, dtype: DTypeLike, shape: tuple[int, ...]
    ) -> None:
        """Read nothing yet."""
        self._file, self._offset = file, offset
        self._dtype, self._shape = np.dtype(dtype), shape
        self._whole: NDArray[Any] | None = None

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Read some rows, by a slice, by their numbers or by a mask.

        Raises:
            IndexError: there is no such row.
            ArtifactError: the file has been cut short.
            EnvironmentFault: the file system refused.
        """
        numbers = self._numbers(rows)
        if self._whole is None and self._num_bytes <= SMALL:
            self._whole = self._read(np.arange(self._shape[0]))
        if self._whole is not None:
            return self._whole[numbers]
        return self._read(numbers)

    @property
    def _num_bytes(self) -> int:
        return math.prod(self._shape) * self._dtype.itemsize

    def _numbers(self, rows: Any) -> NDArray[np.int64]:
        """The numbers of the rows; as a rule few, for whole columns are not read."""
        if isinstance(rows, slice):
            return np.arange(*rows.indices(self._shape[0]))
        numbers = np.asarray(rows)
        if numbers.dtype == np.bool_:
            numbers = np.flatnonzero(numbers)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self._shape[0]:
            raise IndexError(f"expected rows from 0 to {self._shape[0] - 1}")
        return numbers

    def _read(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        found = np.empty((len(numbers), *self._shape[1:]), self._dtype)
        if not found.nbytes:
            return found
        size = found.nbytes // len(numbers)
        # As bytes, for a memoryview of records cannot be cast.
        buffer = found.reshape(-1).view(np.uint8).data
        # Neighbours are read together.
        begins = np.append(0, np.flatnonzero(np.diff(numbers) != 1) + 1)
        ends = np.append(begins[1:], len(numbers))
        places = self._offset + size * numbers[begins].astype(np.int64)
        pieces = [(size * each).tolist() for each in (begins, ends)]
        with reading(self._file.path):
            for begin, end, place in zip(*pieces, places.tolist(), strict=True):
                self._fill(buffer[begin:end], place)
        return found

    def _fill(self, buffer: memoryview, place: int) -> None:
        while buffer:
            count = os.preadv(self._file.descriptor, (buffer,), place)
            if not count:
                raise corrupt(self._file.path, "it was cut short while it was read")
            if count == len(buffer):
                return
            buffer, place = buffer[count:], place + count
