"""Ways to kill a process at a chosen point, or to make a file operation fail there.

A `Child` is a fork of the test's process: nothing is imported anew, so hundreds of them
are affordable, and its code can be changed before it starts:

- `Calls` numbers the calls of the ``os`` functions that a writer makes, and does
  something before or after a chosen one: `die`, or `fail` with an errno.
- `limit_file_size` lets the kernel end every write beyond a size, also those that HDF5
  makes in C: with a signal that kills, or with an error like that of a full disk.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

WRITER = ("open", "close", "pwrite", "ftruncate", "fsync", "replace", "unlink")
"""The functions of ``os`` through which `deepme.storage` changes files."""


class ChildEnd(NamedTuple):
    """How a child ended.

    Attributes:
        code: its exit code, or minus the signal's number.
        output: stdout and stderr together.
    """

    code: int
    output: str


class Child:
    """A fork of this process that does some work; `SystemExit` gives its exit code."""

    def __init__(self, work: Callable[[], object]) -> None:
        # Not a file: a limit on the size of files would be one on the output too.
        self._reader, writer = os.pipe()
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_work, args=(work, writer), daemon=True)
        self._process.start()
        os.close(writer)

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    def send(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self._process.is_alive():
            os.kill(self.pid, number)

    def wait(self, seconds: float = 60.0) -> ChildEnd:
        """Wait for the end; a child that hangs is killed and fails the test."""
        deadline = time.monotonic() + seconds
        output = self._read_until(deadline)
        # Its end of the sentinel closes a moment before it is gone.
        self._process.join(max(1.0, deadline - time.monotonic()))
        hangs = self._process.is_alive()
        if hangs:
            self._process.kill()
        self._process.join()
        with os.fdopen(self._reader, "rb") as reader:
            output += reader.read()
        code = self._process.exitcode
        self._process.close()
        text = output.decode(errors="replace")
        assert not hangs, f"the child hung for {seconds:g} s\n{text}"
        assert code is not None
        return ChildEnd(code, text)

    def _read_until(self, deadline: float) -> bytes:
        """Read what it says until it ends: it would wait where the pipe is full."""
        said = b""
        while (left := deadline - time.monotonic()) > 0:
            ready = wait([self._reader, self._process.sentinel], left)
            if self._process.sentinel in ready:
                break
            if ready:
                said += os.read(self._reader, 1 << 16)
        return said


def _work(work: Callable[[], object], writer: int) -> None:
    # A signal that kills must leave no core file and no pytest summary behind.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    sys.stdout = sys.stderr = os.fdopen(writer, "w", buffering=1)
    try:
        work()
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


def end_interpreter(code: int) -> NoReturn:
    """End a fork as a process of its own ends, through the libraries' last acts.

    A fork of multiprocessing leaves without them, so what crashes there goes unseen.
    """
    # Else the last collection would copy every page of the test's process.
    gc.freeze()
    ctypes.pythonapi.Py_Exit(code)
    raise AssertionError("Py_Exit returned")


def in_child(work: Callable[[], object], seconds: float = 60.0) -> ChildEnd:
    """Do some work in a child and wait for its end."""
    return Child(work).wait(seconds)


def apart(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a child: for what leaves a process in which nothing can be forked.

    torch's exporter starts threads of autograd, and after that no fork can train.
    """

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        ended = in_child(lambda: test(*arguments, **fixtures), seconds=240)
        assert ended.code == 0, ended.output

    return run


def command(*arguments: object) -> Callable[[], None]:
    """The work of ``deepme ARGUMENTS``, ending with the command's exit code."""

    def work() -> None:
        from deepme.cli import app

        app([str(argument) for argument in arguments], prog_name="deepme")

    return work


class Calls:
    """Number the calls of some ``os`` functions and act at chosen ones.

    Args:
        names: the functions.
        at: the numbers, from 1, of the calls to act at.
        action: what to do; with none the calls are only counted.
        after: act when the call has returned, not before it.
    """

    def __init__(
        self,
        *names: str,
        at: range | tuple[int, ...] = (),
        action: Callable[[], None] | None = None,
        after: bool = False,
    ) -> None:
        self.names, self.at, self.action, self.after = names, at, action, after
        self.made: list[str] = []
        self._real = {name: getattr(os, name) for name in names}

    def __enter__(self) -> Calls:
        for name, function in self._real.items():
            setattr(os, name, self._counted(name, function))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)

    def _counted(self, name: str, function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.made.append(name)
            due = self.action is not None and len(self.made) in self.at
            if due and not self.after:
                self.action()
            result = function(*arguments, **options)
            if due and self.after:
                self.action()
            return result

        return counted


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(number: int) -> Callable[[], None]:
    """Send this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def fail(errno: int) -> Callable[[], None]:
    """Raise what the system reports with this number."""

    def action() -> None:
        raise OSError(errno, os.strerror(errno))

    return action


def limit_file_size(size: int, *, kill: bool) -> None:
    """Make the kernel end every write beyond `size` bytes of any file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kill else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock's, with its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".deepme.lock", ".deepme.holder")
    }
