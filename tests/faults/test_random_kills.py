"""Kill every stage at a random moment, three times in a row now and then."""

from __future__ import annotations

import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from injection import Child
from stopping import Stopping
from tally import Tally, side_by_side
from world import OFTEN, STAGES, Trial, World

from deepme.storage.tensors import read_tensors

TIER = "random SIGKILLs"
EACH = 20
KILLS = {"train-expert": 5, "train-gate": 5}
"""Times as many; of the others once: 300 together."""
CHECKPOINTS = {"train-expert": "experts/01", "train-gate": "gate"}


def saved_steps(path: Path, per_epoch: int) -> int:
    """The steps that a checkpoint holds; every stage here has the same epochs."""
    place = read_tensors(path, "checkpoint", 1)[0].settings["progress"]["position"]
    gone = int(place["stage"]) + int(place["epoch"])
    return gone * per_epoch + int(place["step"])


def lost_steps(trial: Trial, stage: str, watched: Stopping) -> str:
    """Say if more than one step, the interval of `OFTEN`, would be made again."""
    path = trial.root / CHECKPOINTS[stage] / "checkpoint.safetensors"
    finished = (path.parent / "training.json").exists()
    if finished or not watched.steps:
        return ""
    kept = saved_steps(path, PER_EPOCH[stage]) if path.exists() else 0
    lost = watched.steps - kept
    return "" if lost <= 1 else f"{lost} steps lost"


PER_EPOCH = {"train-expert": 2, "train-gate": 2}


def killed(world: World, stage: str, job: int, tally: Tally, folder: Path) -> None:
    """Strike one command twenty times, now and then three times in a row."""
    options = ["--group", "1"] if stage == "train-expert" else []
    trial = Trial(world, stage, folder, *options, *(OFTEN if stage in KILLS else ()))
    trial.reset()
    started = time.monotonic()
    assert trial.run().code == 0
    seconds = time.monotonic() - started
    rng, kills, struck = random.Random(f"{stage} {job}"), 0, 0
    while struck < EACH:
        assert kills < 10 * EACH, "most kills come too late"
        trial.reset()
        # One in four is killed twice more while it continues.
        chain = rng.choice((1, 1, 1, 3))
        for life in range(chain):
            kills += 1
            watched = Stopping(trial.work(), 0, signal.SIGKILL)
            child = Child(watched)
            time.sleep(seconds * rng.uniform(0.02, 1))
            child.send(signal.SIGKILL)
            end = child.wait()
            hit = "killed" if end.code == -signal.SIGKILL else "too_late"
            struck += hit == "killed"
            tally.figures[hit] = tally.figures.get(hit, 0) + 1
            tally.case(
                f"{stage} {job}, kill {kills}, life {life}",
                "" if end.code in (-signal.SIGKILL, 0) else f"exit code {end.code}",
                trial.not_whole(),
                lost_steps(trial, stage, watched) if stage in KILLS else "",
                trial.not_finished() if life == chain - 1 else "",
                output=end.output,
            )
        tally.figures["chains"] = tally.figures.get("chains", 0) + (chain == 3)
    trial.check_templates()


@pytest.mark.timeout(3600)
def test_random_kills(world: World, tally: Tally, tmp_path: Path) -> None:
    jobs = {
        f"{stage}-{job}": partial(killed, world, stage, job)
        for stage in STAGES
        for job in range(KILLS.get(stage, 1))
    }
    side_by_side(tally, tmp_path, jobs)
