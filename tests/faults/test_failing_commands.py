"""Let a system call of a whole command fail: also those that read, or only look.

Each command meets an I/O error once at every call on every file of its workspace, and a
full disk at those that write; of equal calls on one file, at the first and the last. It
ends with exit code 3 and one line, or the call did not matter and its files are right.
An error of the disk is never told as a stale or corrupt file.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from injection import ChildEnd, command, snapshot
from syscalls import ALL_NUMBERS, Traced
from tally import Tally, one_error, side_by_side
from world import STAGES, Trial, World, link

TIER = "I/O errors within whole commands"
WRITES = ("write", "pwrite64", "fsync", "ftruncate", "rename", "mkdir")
OPTIONS = {"train-expert": ("--group", "1")}
OLDER = ("cluster", "split", "evaluate")
"""Commands that find older artifacts in the place of theirs; the others find none."""
LOOKING = {"status": ("status",), "verify": ("verify",), "report": ("report",)}
"""Commands that change no artifact."""

Failure = tuple[int, int, str]
"""The call's number, the error, and a name."""


def failures(calls: list[str]) -> Iterator[Failure]:
    """One for the first and the last of the calls that are alike."""
    alike: dict[str, list[int]] = {}
    for number, call in enumerate(calls, 1):
        # A temporary name ends in eight random digits.
        alike.setdefault(re.sub(r"-[0-9a-f]{8}$", "", call), []).append(number)
    for call, numbers in alike.items():
        for number in sorted({numbers[0], numbers[-1]}):
            yield number, errno.EIO, call
            if call.split()[0] in WRITES:
                yield number, errno.ENOSPC, call


def traced(work: partial[None], root: Path, failure: Failure | None = None) -> Traced:
    number, error, _ = failure or (0, 0, "")
    at = range(number, number + 1) if number else range(0)
    return Traced(work, root, at, error, reads=True, numbers=ALL_NUMBERS)


def told(code: int, output: str) -> str:
    """What is wrong with how the error was told."""
    wrong = re.search(r"^error: .*(stale|corrupt|missing).*$", output, re.MULTILINE)
    return f"it says {wrong.group()}" if code and wrong else ""


def writing(world: World, stage: str, tally: Tally, at: Path) -> None:
    """Disturb a command that makes artifacts."""
    trial = Trial(world, stage, at, *OPTIONS.get(stage, ()), replace=stage in OLDER)
    trial.reset()
    quiet = traced(trial.work(), trial.root)
    assert quiet.wait().code == 0
    for failure in failures(quiet.calls):
        trial.reset()
        end = traced(trial.work(), trial.root, failure).wait()
        untouched = snapshot(trial.root) == trial.before
        problems = [one_error(end, 3), told(end.code, end.output), trial.not_whole()]
        if end.code == 0:
            finished = snapshot(trial.root) == trial.after
            problems = ["" if finished else "success with other files"]
        elif not untouched:
            problems.append(trial.not_finished())
        name = errno.errorcode[failure[1]]
        tally.case(f"{stage}: {name} at {failure[2]}", *problems, output=end.output)
    trial.check_templates()


def answer(end: ChildEnd) -> list[str]:
    """What was printed, but the progress."""
    return [line for line in end.output.splitlines() if " left, " not in line]


def looking(world: World, name: str, tally: Tally, at: Path) -> None:
    """Disturb a command that only reads."""
    root = at / "workspace"
    link(world.finished, root)
    work = command(*LOOKING[name], "-w", root)
    quiet = traced(work, root)
    expected = quiet.wait()
    assert expected.code == 0
    before = snapshot(root)
    for failure in failures(quiet.calls):
        end = traced(work, root, failure).wait()
        problems = [one_error(end, 3), told(end.code, end.output)]
        if end.code == 0:
            same = answer(end) == answer(expected)
            problems = ["" if same else "success with another answer"]
        after = snapshot(root)
        after.pop("report.html", None)
        before.pop("report.html", None)
        same = {n: c for n, c in after.items() if ".tmp-" not in n} == before
        problems.append("" if same else "other files")
        error = errno.errorcode[failure[1]]
        tally.case(f"{name}: {error} at {failure[2]}", *problems, output=end.output)


@pytest.mark.timeout(3600)
def test_failing_commands(world: World, tally: Tally, tmp_path: Path) -> None:
    jobs = {stage: partial(writing, world, stage) for stage in STAGES}
    jobs |= {name: partial(looking, world, name) for name in LOOKING}
    tally.figures["commands"] = len(jobs)
    side_by_side(tally, tmp_path, jobs)
