"""Let HDF5 write without ever meeting an error or a signal.

HDF5 does not recover from a write that fails: when the file is closed, or when the
process ends, it crashes (measured with h5py 3.16 on a full disk: signal 11 at four of
five points). So it writes through a `Sink`, which keeps the first error to itself until
HDF5 is done, and `SignalsHeld` keeps Ctrl-C out of the sink's own code.

What HDF5 cannot read it calls a broken file, whatever the reason. So it reads through a
`Source`, which remembers an error of the file system.
"""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any


class Sink(io.RawIOBase):
    """A file object for h5py whose writes always succeed.

    From the first error on nothing is written; `check` tells of it. Its user stops
    soon after, so HDF5 hardly comes to read back what was not written.

    Args:
        descriptor: of a file open for reading and writing; not closed here. Nobody
            else changes its size.
    """

    def __init__(self, descriptor: int) -> None:
        """Start at the beginning, without an error.

        Raises:
            OSError: the file system does not tell the file's size.
        """
        super().__init__()
        self._descriptor = descriptor
        self._position = 0
        # HDF5 asks for the end, and that question must not fail either.
        self._end = os.fstat(descriptor).st_size
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error met.

        Raises:
            OSError: the file system refused a write.
        """
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to an absolute position, or to the end."""
        if whence == os.SEEK_END:
            offset += self._end
        self._position = offset
        return offset

    def tell(self) -> int:
        """The position."""
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Read from the position on."""
        count = os.preadv(self._descriptor, [buffer], self._position)
        self._position += count
        return count

    def write(self, data: Any, /) -> int:
        """Write all of `data` at the position."""
        rest = memoryview(data).cast("B")
        count, stop = len(rest), self._position + len(rest)
        try:
            while rest and self._error is None:
                rest = rest[os.pwrite(self._descriptor, rest, stop - len(rest)) :]
        except OSError as error:
            self._error = error
        self._position = stop
        self._end = max(self._end, stop)
        return count

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or lengthen the file; HDF5 does so when it closes."""
        size = self._position if size is None else size
        try:
            if self._error is None:
                os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._error = error
        self._end = size
        return size


class Source(io.FileIO):
    """A file open for reading that remembers the first error met.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        """Open it."""
        self._error: OSError | None = None
        super().__init__(path, "rb")

    def check(self) -> None:
        """Raise the first error met.

        Raises:
            OSError: the file system refused a read, or the closing.
        """
        if self._error is not None:
            raise self._error

    def readinto(self, buffer: Any, /) -> int | None:
        """Read from the position on."""
        with self._remembered():
            return self._read(buffer)

    def close(self) -> None:
        """Close the file."""
        with self._remembered():
            super().close()

    def _read(self, buffer: Any) -> int | None:
        return super().readinto(buffer)

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or error
            raise


class SignalsHeld:
    """Let SIGINT and SIGTERM wait until the block ends; a second one acts at once."""

    def __init__(self) -> None:
        """Leave alone what is ignored, and threads, which no signal interrupts."""
        self._waiting: list[int] = []
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                    self._before[number] = handler

    def __enter__(self) -> SignalsHeld:
        """Begin to hold."""
        self._hold()
        return self

    def __exit__(self, *_: object) -> None:
        """Deliver what waits."""
        self._release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Deliver what waits, and let signals act within the inner block."""
        try:
            self._release()
            yield
        finally:
            self._hold()

    def _hold(self) -> None:
        for number in self._before:
            signal.signal(number, self._wait)

    def _wait(self, number: int, _frame: FrameType | None) -> None:
        self._waiting.append(number)
        signal.signal(number, signal.SIG_DFL)

    def _release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        while self._waiting:
            signal.raise_signal(self._waiting.pop())
