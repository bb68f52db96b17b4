"""Measure temperatures that are fitted on few validation images.

    python tests/benchmarks/calibration_few.py WORKSPACE...

Of each trained workspace the gate, the gate that asks two experts, the flat network and
attention (where it is trained) answer the validation images. A temperature is fitted on
60, 156, 600 and 1,200 of them, drawn four times, and tried on 1,200 others (or on as
many as are left): no test image is seen, so that the results can choose the way to fit.

*whole* goes all the way to the root of both means, *parts* is `fit_temperature`, *none*
leaves the probabilities as they are. ``squared_error`` is the mean of (the best guess's
probability − [it is right])², ``error`` the calibration error in 15 bins; both are
means over all classifiers and draws. Writes docs/benchmarks/calibration-few.json.
"""

# ruff: noqa: N803, N806
from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recording import record
from scipy.optimize import brentq, root
from torch import Tensor

from deepme import calibrating
from deepme.artifacts.expert import load_training
from deepme.calibrating import Way
from deepme.config import MachineSettings
from deepme.core.calibration import (
    LEAST,
    MOST,
    STEEPEST,
    Temperature,
    _Images,
    fit_temperature,
    temper_probabilities,
)
from deepme.core.metrics import CalibrationBins
from deepme.scoring import voters_of
from deepme.workspace import Workspace

PACKAGES = ("deepme", "torch", "scipy")
SIZES, DRAWS, TRIED = (60, 156, 600, 1200), 4, 1200
WAYS = (Way("gate"), Way("gate", 2), Way("flat"), Way("attention"))
MACHINE = MachineSettings(device="cpu", workers=0, threads=1)
Answers = tuple[Tensor, Tensor]


def answers(workspace: Workspace) -> list[Answers]:
    """Log P (R, N) and labels (R,) of the validation images by each way."""
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    found = []
    for way in WAYS:
        if way.fusion == "attention" and not workspace.attention_path.exists():
            continue
        voters = voters_of(workspace, groups, split, "val", MACHINE, [way.fusion])
        found.append(calibrating._log_probabilities(voters, way))
    return found


def whole_steps(log_p_RN: Tensor, *, labels_R: Tensor) -> Temperature:
    """Go to the root of both means, or else of the first."""
    images = _Images(log_p_RN, labels_R)
    low, high = math.log(LEAST), math.log(MOST)

    def excess(log_tau: float) -> float:
        return float(images.excess(np.array([log_tau, 0.0]))[0][0])

    if excess(low) <= 0:
        return Temperature(LEAST)
    if excess(high) >= 0:
        return Temperature(MOST)
    alone = float(brentq(excess, low, high, xtol=1e-6))
    found = root(images.excess, np.array([alone, 0.0]), jac=True)
    base, slope = found.x.tolist()
    if found.success and low <= base <= high and abs(slope) <= STEEPEST:
        return Temperature(math.exp(base), slope)
    return Temperature(math.exp(alone))


RULES = {
    "none": lambda *_, **__: Temperature(),
    "whole": whole_steps,
    "parts": fit_temperature,
}


def errors(log_p_RN: Tensor, labels_R: Tensor, tau: Temperature) -> tuple[float, float]:
    """The squared error of the best guess's probability, and the calibration error."""
    sure_R, guess_R = temper_probabilities(log_p_RN.double().exp(), tau).max(dim=1)
    right_R = guess_R == labels_R
    bins = CalibrationBins(15)
    bins.update(sure_R, correct_B=right_R)
    return float(((sure_R - right_R.double()) ** 2).mean()), bins.expected_error()


def measure(known: list[Answers]) -> list[dict[str, Any]]:
    """A row for each number of images to fit on."""
    rng = np.random.default_rng(0)
    rows = []
    for size in SIZES:
        found: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
        for log_p_RN, labels_R in known:
            for _ in range(DRAWS):
                order = torch.from_numpy(rng.permutation(len(labels_R)))
                some, others = order[:size], order[size : size + TRIED]
                for rule, fit in RULES.items():
                    tau = fit(log_p_RN[some], labels_R=labels_R[some])
                    found[rule].append(errors(log_p_RN[others], labels_R[others], tau))
        row: dict[str, Any] = {"fitted_on": size}
        for place, name in enumerate(("squared_error", "error")):
            for rule, values in found.items():
                row[f"{name}_{rule}"] = float(np.mean([each[place] for each in values]))
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspaces", type=Path, nargs="+", metavar="WORKSPACE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known: list[Answers] = []
    settings: list[dict[str, Any]] = []
    for root_folder in options.workspaces:
        workspace = Workspace(root_folder)
        found = answers(workspace)
        known += found
        gate = load_training(workspace.gate_path, "gate")
        settings.append(
            {
                "workspace": len(settings) + 1,
                "classes": found[0][0].shape[1],
                "experts": workspace.groups().num_groups,
                "gate": f"on {gate.origin.header.settings['input']}",
                "classifiers": len(found),
                "validation_images": len(found[0][1]),
            }
        )
    figures = {"workspaces": settings, "fits": measure(known)}
    record(
        "calibration-few",
        command="python tests/benchmarks/calibration_few.py WORKSPACE...",
        packages=PACKAGES,
        figures=figures,
    )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
