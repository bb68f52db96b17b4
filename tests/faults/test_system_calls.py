"""What a kill leaves, at every system call of every stage on its workspace.

A process that is killed before a call leaves the files as they are at that moment. So
each command runs once, stands still before each of its calls, and its files are looked
at; one call in twenty is then killed in earnest and must leave the same. The files of
each moment are whole, and the next run makes of them what an undisturbed one makes.
Moments whose files are the same but for the content of temporary ones, which nothing
reads, are gone on from once.
"""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
from injection import snapshot
from tally import Tally, side_by_side
from world import OFTEN, STAGES, Trial, World, what_counts

TIER = "kill points at system calls"
SETTINGS = {"train-expert": OFTEN, "train-gate": OFTEN}
SEEDED = ("cluster", "split", "train-expert", "evaluate")
EARNEST = 20


def killed(trial: Trial, tally: Tally) -> None:
    trial.reset()
    calls, moments = trial.watched()
    finished: dict[frozenset[tuple[str, bytes]], str] = {}
    for number, (call, files) in enumerate(zip(calls, moments, strict=True), start=1):
        counts = what_counts(files)
        if counts not in finished:
            trial.restore(files)
            finished[counts] = trial.not_finished()
        problems = [trial.not_whole(files), finished[counts]]
        if number % EARNEST == EARNEST // 2:
            problems.append(not_the_same(trial, number, files))
            tally.figures["killed"] = tally.figures.get("killed", 0) + 1
        tally.case(f"{trial.arguments[0]} at {number}, {call}", *problems)
    trial.check_templates()
    ends = tally.figures.get("runs_to_the_end", 0)
    tally.figures["runs_to_the_end"] = ends + len(finished)


def not_the_same(trial: Trial, number: int, files: dict[str, bytes]) -> str:
    """Kill it in earnest; say if that leaves other files than were looked at."""
    trial.reset()
    end, _ = trial.traced(range(number, number + 1), reads=True)
    if end.code != -signal.SIGKILL:
        return f"it ended with {end.code}: {end.output}"
    same = what_counts(snapshot(trial.root)) == what_counts(files)
    return "" if same else "the kill leaves other files"


def with_nothing_there(world: World, stage: str, tally: Tally, folder: Path) -> None:
    killed(Trial(world, stage, folder, *SETTINGS.get(stage, ())), tally)


def over_an_old_artifact(world: World, stage: str, tally: Tally, folder: Path) -> None:
    killed(Trial(world, stage, folder, replace=True), tally)


@pytest.mark.timeout(3600)
def test_kill_points(world: World, tally: Tally, tmp_path: Path) -> None:
    jobs = {stage: partial(with_nothing_there, world, stage) for stage in STAGES}
    jobs |= {
        f"{name}-old": partial(over_an_old_artifact, world, name) for name in SEEDED
    }
    side_by_side(tally, tmp_path, jobs)
