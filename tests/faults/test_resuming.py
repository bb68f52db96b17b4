"""Stopped and gone on with is never stopped: the same weights, momenta and figures."""

from __future__ import annotations

import shutil
import signal
from itertools import product
from pathlib import Path

import pytest
import torch
from injection import snapshot
from stopping import Stopping
from tally import Tally
from world import Trial, World

from deepme.storage.tensors import read_tensors, write_tensors

TIER = "resume equivalence, one process"
STEPS = 2
"""Of an epoch."""
PLACES = {"mid-epoch": 3, "epoch end": 4, "last step but one": 7, "finished": 0}
"""Where the first life ends: a step of 8, or not at all."""
LATER = 7
"""Where both are stopped to compare what a checkpoint holds."""
TRAININGS, PRECISIONS = ("train-expert", "train-gate"), ("float32", "bfloat16")
CELLS = list(product(TRAININGS, PRECISIONS, (0, 2), PLACES))


def trial_of(
    world: World, stage: str, folder: Path, precision: str, workers: int
) -> Trial:
    # Four epochs in all, one of them of warm-up.
    options = ["--group", "1"] if stage == "train-expert" else []
    options += ["--epochs", "3", "--precision", precision, "--workers", str(workers)]
    return Trial(world, stage, folder, *options, nested=bool(workers))


def folder_of(trial: Trial) -> Path:
    return trial.root / ("gate" if trial.arguments[0] == "train-gate" else "experts/01")


def stopped(trial: Trial, at: int) -> str:
    """Run until a step; say what is wrong if it does not stop there."""
    end = Stopping(trial.work(), at, signal.SIGINT).run()
    return "" if end.code == 130 else f"exit code {end.code}\n{end.output}"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("stage", "precision", "workers", "place"), CELLS)
def test_the_same(
    world: World,
    tally: Tally,
    tmp_path: Path,
    stage: str,
    precision: str,
    workers: int,
    place: str,
) -> None:
    trial = trial_of(world, stage, tmp_path, precision, workers)
    at, problems = PLACES[place], []
    if 0 < at < LATER:
        # Weights, momenta, Ω, random state and figures of a later step.
        trial.reset()
        problems.append(stopped(trial, LATER))
        whole = snapshot(folder_of(trial))
        trial.reset()
        problems += [stopped(trial, at), stopped(trial, LATER)]
        if snapshot(folder_of(trial)) != whole:
            problems.append(f"another checkpoint at step {LATER}")
    else:
        trial.reset()
        problems.append(stopped(trial, at) if at else "")
        if not at:
            end = Stopping(trial.work(), 0, signal.SIGINT).run()
            problems.append("" if end.code == 0 else end.output)
    problems.append(trial.not_finished())
    tally.case(f"{stage}, {precision}, {workers} workers, {place}", *problems)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", ["momentum.", "model.", "rng."])
def test_without_a_part_it_differs(
    world: World, tally: Tally, tmp_path: Path, part: str
) -> None:
    """The negative control: the tests above can fail."""
    trial = trial_of(world, "train-expert", tmp_path, "float32", 0)
    trial.reset()
    problem = stopped(trial, 3)
    path = folder_of(trial) / "checkpoint.safetensors"
    header, tensors, _ = read_tensors(path, "checkpoint", 1)
    for name in tensors:
        if name.startswith(part):
            tensors[name] = torch.zeros_like(tensors[name])
    tensors |= (
        {"rng.cpu": torch.Generator().manual_seed(1).get_state()}
        if part == "rng."
        else {}
    )
    write_tensors(path, header, tensors)
    told = trial.not_finished()
    tally.case(f"without {part}", problem, "" if told else "it does not differ")
    tally.figures["controls"] = tally.figures.get("controls", 0) + 1
    shutil.rmtree(trial.root)
