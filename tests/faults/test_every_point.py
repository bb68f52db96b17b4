"""The long tier: every call of the writer in every stage, and hundreds of kills.

Half an hour on two cores, so it is not among the tests of every change::

    uv run pytest tests/faults --record

It prints how many points it tried, and records them in docs/benchmarks/faults.json.
The short version, in every run of the tests, is tests/test_kill.py and
tests/storage/test_atomic_faults.py.
"""

from __future__ import annotations

import errno
import random
import signal
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from injection import WRITER, Calls, ChildEnd, die, fail
from stages import MADE, OFTEN, StageTrial

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
RANDOM_KILLS = {"train-expert": 75, "train-gate": 75}
"""Per stage; 30 in the others: 300 together."""

Count = Callable[[str, int], None]


@pytest.fixture(params=MADE)
def trial(
    request: pytest.FixtureRequest,
    finished_workspace: Path,
    tmp_path: Path,
    tiny_arguments: dict[str, list[str]],
) -> StageTrial:
    stage = request.param
    return StageTrial(finished_workspace, tmp_path, stage, tiny_arguments[stage])


def calls_of(trial: StageTrial) -> list[str]:
    """The writer's calls that an undisturbed run of the command makes, in order."""

    def count(work: Callable[[], None]) -> None:
        with Calls(*WRITER) as calls:
            try:
                work()
            finally:
                print("calls:", *calls.made)

    end = trial.reset().run(count)
    assert end.code == 0, end.output
    assert trial.left_behind() == set()
    return end.output.splitlines()[-1].split()[1:]


def disturbed(trial: StageTrial, at: range, action: Callable[[], None]) -> ChildEnd:
    """Run the command, acting at some of the writer's calls."""

    def disturb(work: Callable[[], None]) -> None:
        with Calls(*WRITER, at=at, action=action):
            work()

    return trial.reset().run(disturb)


@pytest.mark.timeout(3600)
class TestEveryCall:
    def test_killed(self, trial: StageTrial, counted: Count):
        calls = calls_of(trial)
        for number in range(1, len(calls) + 1):
            end = disturbed(trial, range(number, number + 1), die)
            assert end.code == -signal.SIGKILL, f"{number}: {end.output}"
            trial.assert_whole()
            trial.assert_finishes()
        counted("killed at a call of the writer", len(calls))

    @pytest.mark.parametrize("forever", [False, True], ids=["once", "forever"])
    def test_refused(self, trial: StageTrial, forever: bool, counted: Count):
        calls, harmless = calls_of(trial), 0
        for number, error in zip(range(1, len(calls) + 1), cycle(ERRORS), strict=False):
            at = range(number, 10**6 if forever else number + 1)
            end = disturbed(trial, at, fail(error))
            name = f"{calls[number - 1]} {number}: {end}"
            assert "Traceback" not in end.output, name
            if end.code == 0:
                # Nothing depends on it: closing the lock's file, for one.
                assert trial.left_behind() == set(), name
                harmless += 1
                continue
            assert end.code == 3, name
            assert end.output.count("error: ") == 1, name
            trial.assert_whole()
            trial.assert_finishes()
        assert harmless <= 2
        how = "for ever" if forever else "once"
        counted(f"ENOSPC, EIO or EDQUOT from a call on, {how}", len(calls))


@pytest.mark.timeout(3600)
def test_killed_at_any_time(trial: StageTrial, counted: Count):
    started = time.monotonic()
    assert trial.reset().run().code == 0
    seconds = time.monotonic() - started
    rng = random.Random(trial.arguments[0])
    kills = RANDOM_KILLS.get(trial.arguments[0], 30)
    often = OFTEN if trial.steps else ()
    for _ in range(kills):
        trial.reset()
        # One in three is killed again while it continues.
        for _ in range(rng.choice((1, 1, 2))):
            child = trial.start(None, *often)
            time.sleep(seconds * rng.uniform(0.02, 1))
            child.send(signal.SIGKILL)
            assert child.wait().code in (-signal.SIGKILL, 0)
            trial.assert_whole()
        trial.assert_finishes()
    counted("killed at any time", kills)
