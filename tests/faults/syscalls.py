"""Number the system calls that a child makes on files of a folder, and disturb one.

Where `injection.Calls` replaces functions of ``os``, this works below Python: it also
meets the writes that C makes, in the standard library, HDF5 or safetensors. The child
is a fork of this process, in which torch is imported. It asks to be traced and sets a
seccomp filter, so the kernel stops it only at the calls that are numbered; at each stop
this process looks whether a file below the folder is meant, and lets the call pass,
kills the child, or has the call fail without being made. No root is needed; Linux on
x86-64.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from injection import ChildEnd, _work, end_interpreter

NUMBERS = {
    **{1: "write", 18: "pwrite64", 20: "writev", 3: "close"},
    **{74: "fsync", 75: "fdatasync", 77: "ftruncate"},
    **{257: "openat", 82: "rename", 87: "unlink", 83: "mkdir", 86: "link"},
}
"""Number on x86-64 -> name; those of the first two rows act on a descriptor."""
ALL_NUMBERS = NUMBERS | {
    **{0: "read", 17: "pread64", 295: "preadv", 5: "fstat", 262: "newfstatat"},
    **{4: "stat", 217: "getdents64"},
}
"""The calls that only look at a file, too."""
OPENAT, CLOSE, FSTATAT, STAT = 257, 3, 262, 4
ON_DESCRIPTORS = {1, 18, 20, 3, 74, 75, 77, 0, 17, 295, 5, 217}

_TRACEME, _CONT, _GETREGS, _SETREGS, _SETOPTIONS = 0, 7, 12, 13, 0x4200
_OPTIONS = 0x100000 | 0x80 | 0x8 | 0x4 | 0x2  # kill with me; seccomp, clone, forks
_SECCOMP_STOP, _ANY_CHILD = 7, 0x40000000

_ROUND = ".next-round"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class _Registers(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_ulonglong)
        for name in (
            *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
            *("rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags"),
            *("rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
        )
    ]


class Traced:
    """A child that does some work, its calls on files of a folder numbered from 1.

    Args:
        work: what to do; `SystemExit` gives the exit code.
        folder: the calls on files below it are numbered.
        at: the calls to disturb.
        error: the errno they fail with; without one the child is killed.
        reads: number also what changes nothing: opening and closing to read.
        numbers: the system calls, of `ALL_NUMBERS`.
        rounds: what to disturb after each `next_round` of the child, in place of that.
        look: called before each numbered call, while the child stands still.
    """

    def __init__(
        self,
        work: Callable[[], object],
        folder: Path,
        at: range = range(0),
        error: int | None = None,
        *,
        reads: bool = False,
        numbers: Mapping[int, str] = NUMBERS,
        rounds: Sequence[tuple[range, int | None]] = (),
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._reads, self._rounds, self._look = reads, iter(rounds), look
        self.calls: list[str] = []
        self._folder, self._at, self._error = str(folder), at, error
        self._output = os.memfd_create("output", 0)
        self._pid = os.fork()
        if not self._pid:
            _be_traced(work, self._output, numbers)

    def wait(self, seconds: float = 120.0) -> ChildEnd:
        """Follow it to its end; one that hangs is killed and fails the test."""
        with _killed_after(self._pid, seconds) as hung:
            os.waitpid(self._pid, 0)
            _ptrace(_SETOPTIONS, self._pid, _OPTIONS)
            _ptrace(_CONT, self._pid)
            code = self._follow()
        size = os.lseek(self._output, 0, os.SEEK_END)
        output = os.pread(self._output, size, 0).decode(errors="replace")
        os.close(self._output)
        assert not hung, f"the child hung for {seconds:g} s\n{output}"
        return ChildEnd(code, output)

    def _follow(self) -> int:
        """Pass the stops of all threads until the child has ended."""
        while True:
            thread, status = os.waitpid(-1, _ANY_CHILD)
            if not os.WIFSTOPPED(status):
                if thread == self._pid:
                    return os.waitstatus_to_exitcode(status)
                continue
            number, event = os.WSTOPSIG(status), status >> 16
            if event == _SECCOMP_STOP:
                self._stopped(thread)
            quiet = event or number == signal.SIGSTOP
            _ptrace(_CONT, thread, 0 if quiet else number)

    def _stopped(self, thread: int) -> None:
        registers = _Registers()
        _ptrace(_GETREGS, thread, ctypes.addressof(registers))
        path = self._path(thread, registers)
        if not path.startswith(self._folder):
            return
        if path == f"{self._folder}/{_ROUND}":
            self.calls = []
            self._at, self._error = next(self._rounds)
            return
        if not self._reads and self._only_reads(registers):
            return
        self.calls.append(
            f"{ALL_NUMBERS[registers.orig_rax]} {path[len(self._folder) :]}"
        )
        self._look()
        if len(self.calls) not in self._at:
            return
        if self._error is None:
            os.kill(self._pid, signal.SIGKILL)
            return
        registers.orig_rax = 2**64 - 1  # no such call: it is not made
        registers.rax = 2**64 - self._error
        _ptrace(_SETREGS, thread, ctypes.addressof(registers))

    def _only_reads(self, registers: _Registers) -> bool:
        if registers.orig_rax == OPENAT:
            flags = registers.rdx
        elif registers.orig_rax == CLOSE:
            text = Path(f"/proc/{self._pid}/fdinfo/{registers.rdi}").read_text()
            flags = int(text.split("flags:")[1].split()[0], 8)
        else:
            return False
        return not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)

    def _path(self, thread: int, registers: _Registers) -> str:
        """The file a call means; empty for those that read from a descriptor."""
        if registers.orig_rax in ON_DESCRIPTORS:
            return self._path_of(registers.rdi)
        second = registers.orig_rax in (OPENAT, FSTATAT)
        address = registers.rsi if second else registers.rdi
        with open(f"/proc/{self._pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
            memory.seek(address)
            path = memory.read(4096).split(b"\0", 1)[0].decode(errors="replace")
        if path or registers.orig_rax != FSTATAT:
            return path
        # As glibc asks for the state of a descriptor.
        return self._path_of(registers.rdi)

    def _path_of(self, descriptor: int) -> str:
        with suppress(OSError):
            return str(Path(f"/proc/{self._pid}/fd/{descriptor}").readlink())
        return ""


def next_round(folder: Path) -> None:
    """Say, in a traced child, that the next of its rounds begins."""
    with suppress(FileNotFoundError):
        (folder / _ROUND).unlink()


def _ptrace(request: int, thread: int, data: int = 0) -> None:
    # A thread that has just been killed is no more; its end is reported by waitpid.
    _libc.ptrace(request, thread, None, data)


def _be_traced(work: Callable[[], object], output: int, numbers: Iterable[int]) -> None:
    """The child's life: it never returns into the test."""
    code = 1
    try:
        _libc.ptrace(_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        _set_filter(list(numbers))
        _work(work, output)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        end_interpreter(code)


def _set_filter(numbers: list[int]) -> None:
    """Have the kernel stop this process at these calls and no others."""
    count = len(numbers)
    lines = [struct.pack("HBBI", 0x20, 0, 0, 0)]  # load the call's number
    for left, number in zip(range(count, 0, -1), numbers, strict=True):
        lines.append(struct.pack("HBBI", 0x15, left, 0, number))  # equal: the last line
    lines.append(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))  # let it pass
    lines.append(struct.pack("HBBI", 0x06, 0, 0, 0x7FF00000))  # stop for the tracer
    program = ctypes.create_string_buffer(b"".join(lines))
    head = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(program))
    _libc.prctl(38, 1, 0, 0, 0)  # no new privileges: needed without root
    if _libc.prctl(22, 2, ctypes.create_string_buffer(head), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


@contextmanager
def _killed_after(pid: int, seconds: float) -> Iterator[list[bool]]:
    hung: list[bool] = []

    def kill() -> None:
        hung.append(True)
        os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield hung
    finally:
        timer.cancel()
        timer.join()
