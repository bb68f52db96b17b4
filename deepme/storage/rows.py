"""Rows of a large array in a file, a few at a time.

They are read rather than mapped. A page of a mapped file counts as the process's memory
until the system wants it back, and the system maps as many pages around it as it likes:
of a file of 1.7 GB that was just written, shuffled rows of a few megabytes brought all.
And where the disk fails, a mapping ends the process by a signal; a read tells of it.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepme.storage.header import corrupt, reading


class Rows(Protocol):
    """What gives rows of an array: (B, C) float32 for slices, numbers or a mask."""

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        """Read some rows."""


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

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Read some rows, by a slice, by their numbers or by a mask.

        Raises:
            IndexError: there is no such row.
            ArtifactError: the file has been cut short.
            EnvironmentFault: the file system refused.
        """
        numbers = self._numbers(rows)
        found = np.empty((len(numbers), *self._shape[1:]), self._dtype)
        if not found.nbytes:
            return found
        size = found.nbytes // len(numbers)
        # As bytes, for a memoryview of records cannot be cast.
        buffer = found.reshape(-1).view(np.uint8).data
        # Neighbours are read together.
        begins = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist()]
        ends = [*begins[1:], len(numbers)]
        with reading(self._file.path):
            for begin, end, first in zip(
                begins, ends, numbers[begins].tolist(), strict=True
            ):
                self._fill(buffer[size * begin : size * end], size * first)
        return found

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

    def _fill(self, buffer: memoryview, position: int) -> None:
        position += self._offset
        while buffer:
            count = os.preadv(self._file.descriptor, [buffer], position)
            if not count:
                raise corrupt(self._file.path, "it was cut short while it was read")
            buffer, position = buffer[count:], position + count
