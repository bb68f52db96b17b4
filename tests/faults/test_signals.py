"""SIGTERM and SIGINT at any step of a training, and while it saves."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from stopping import Stopping
from tally import Tally, one_error
from world import OFTEN, Trial, World

from deepme.storage.tensors import read_tensors

TIER = "SIGTERM and SIGINT"
EACH = 25
"""Of each signal for each of two trainings."""
EPOCHS = 5
STEPS = 2
"""Of an epoch; there is one epoch of warm-up before these."""
CHECKPOINTS = {"train-expert": "experts/01", "train-gate": "gate"}


def saved_steps(path: Path) -> int:
    """The steps that a checkpoint holds; the stage before has one epoch."""
    place = read_tensors(path, "checkpoint", 1)[0].settings["progress"]["position"]
    return (int(place["stage"]) + int(place["epoch"])) * STEPS + int(place["step"])


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stage", CHECKPOINTS)
def test_stopped(
    world: World, tally: Tally, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    options = ["--group", "1"] if stage == "train-expert" else []
    trial = Trial(world, stage, tmp_path, *options, "--epochs", str(EPOCHS))
    total = (1 + EPOCHS) * STEPS
    path = trial.root / CHECKPOINTS[stage] / "checkpoint.safetensors"
    rng = random.Random(f"{stage} {number}")
    for trial_number in range(EACH):
        trial.reset()
        saving = trial_number % 5 == 4
        trial.arguments += OFTEN if saving else ()
        at = rng.randrange(1, total)
        training = Stopping(trial.work(), at, number, saving=saving)
        end = training.run()
        seconds = time.monotonic() - training.stopped
        slowest = max(seconds, tally.figures.get("slowest_s", 0.0))
        tally.figures["slowest_s"] = round(slowest, 1)
        del trial.arguments[len(trial.arguments) - len(OFTEN) * saving :]
        # In the middle of a save the step after it is still made.
        kept = saved_steps(path) if path.exists() else 0
        tally.case(
            f"{stage} {number.name} at step {at}{' while it saves' if saving else ''}",
            one_error(end, 128 + number),
            "" if at <= kept <= at + saving else f"the checkpoint holds {kept} steps",
            "" if seconds < 30 else f"it took {seconds:.0f} s",
            trial.not_whole(),
            trial.not_finished(),
            output=end.output,
        )
