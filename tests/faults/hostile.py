"""Run a command on what a stranger made, and watch what it does to the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from injection import ChildEnd, command, in_child

MOST_MEMORY = 2**20
"""KiB: a gibibyte."""
EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork")
CONNECTS = ("socket.connect", "socket.getaddrinfo")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def watched(*arguments: object, inside: Path, secret: Path | None = None) -> ChildEnd:
    """Run a command in a child; its output ends with what it did, and its memory.

    Args:
        arguments: of deepme.
        inside: the only folder in which files may be opened for writing.
        secret: a file that must not be opened at all.
    """

    def look(event: str, details: tuple[object, ...]) -> None:
        if event in EXECUTES or event in CONNECTS or event == "pickle.find_class":
            print(f"did: {event} {details!r}")
        elif event == "open" and isinstance(details[0], str):
            path, flags = Path(details[0]).absolute(), int(str(details[2] or 0))
            if path == secret:
                print(f"did: read {path}")
            # torch and friends keep caches of their own, and /dev/null is nobody's.
            if flags & WRITES and not path.is_relative_to(inside):
                print(f"did: write {path}")

    def work() -> None:
        sys.addaudithook(look)
        try:
            command(*arguments)()
        finally:
            status = Path("/proc/self/status").read_text()
            print("peak KiB:", status.split("VmHWM:")[1].split()[0])

    return in_child(work, seconds=240)


def misdeeds(end: ChildEnd) -> str:
    """What is wrong with what it did."""
    lines = end.output.splitlines()
    # What the interpreter keeps of the modules that it compiles is no deed of theirs.
    deeds = [
        line
        for line in lines
        if line.startswith("did: ") and "/__pycache__/" not in line
    ]
    peak = peak_of(end)
    if peak > MOST_MEMORY:
        deeds.append(f"{peak:,} KiB of memory")
    return "; ".join(deeds)


def peak_of(end: ChildEnd) -> int:
    """KiB of memory at most, this process's own, which it was forked from, included."""
    return int(end.output.rpartition("peak KiB: ")[2].split()[0])
