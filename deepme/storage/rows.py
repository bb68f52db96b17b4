"""Rows of a large array in a file, a few at a time.

Pages of a mapped file that have been read count as the process's memory until the
system wants them back. Here they are given back early, so that streaming through a
hundred gigabytes takes no more than a few megabytes.
"""

from __future__ import annotations

import mmap
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

HELD = 32 * 2**20
"""Bytes of pages held before they are given back."""
AROUND = 64 * 1024
"""Bytes that come along with a row."""


class Rows(Protocol):
    """What gives rows of an array: (B, C) float32 for slices, numbers or a mask."""

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        """Read some rows."""


class MappedRows:
    """A mapped array whose rows are copied out; its pages are not kept.

    Args:
        array: from `storage.hdf5.mapped`.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        """Keep the mapping."""
        self._array, self._held = array, 0

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Copy some rows."""
        apart = not isinstance(rows, slice)
        # Only a slice is a view, which would fault its pages in again.
        read = (np.asarray if apart else np.array)(self._array[rows])
        self._held += max(read.nbytes, AROUND * len(read) if apart else 0)
        if self._held > HELD and isinstance(self._array.base, mmap.mmap):
            self._array.base.madvise(mmap.MADV_DONTNEED)
            self._held = 0
        return read
