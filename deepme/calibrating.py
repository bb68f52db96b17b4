"""The temperature of each way to answer, fitted on validation images when first needed.

evaluate and predict ask for it, and so does `deepme.load`; whoever is first fits it. It
never sees a test image. A gate that asks few experts has a temperature of its own for
each route: it is surer than the one that asks all.
"""

# ruff: noqa: N803, N806
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepme.artifacts.calibration import (
    KIND,
    SCHEMA,
    Calibration,
    CalibrationContent,
    load_calibration,
    save_calibration,
)
from deepme.artifacts.expert import Expert
from deepme.config import MachineSettings
from deepme.core.calibration import (
    Temperature,
    fit_temperature,
    mean_loss,
    temper_probabilities,
)
from deepme.core.metrics import CalibrationBins
from deepme.core.mixture import normalize_scores, routed_weights
from deepme.progress import note, progress, warn
from deepme.scoring import Voters, score, voters_of, weigh
from deepme.storage.header import Header
from deepme.workspace import Workspace

CALIBRATED = ("gate", "attention", "flat")
"""The fusions that people predict with; the others are for comparison alone."""

MAX_NUMBERS = 2**26
"""Probabilities held while fitting, 256 MiB: 6,589 images of 10,184 classes."""


@dataclass(frozen=True)
class Way:
    """A way to answer that has a temperature of its own.

    Attributes:
        fusion: one of `CALIBRATED`.
        top: experts that the gate asks at most; None for all, and for other fusions.
        least: smallest weight with which it asks one; 0 for other fusions.
    """

    fusion: str
    top: int | None = None
    least: float = 0.0

    @classmethod
    def of(cls, fusion: str, top: int | None, least: float) -> Way:
        """A fusion, with the route that was asked for if it is the gate's."""
        return cls(fusion, top, least) if fusion == "gate" else cls(fusion)

    @property
    def settings(self) -> dict[str, Any]:
        """As a header records them."""
        found: dict[str, Any] = {"fusion": self.fusion}
        if self.top is not None:
            found["route_top"] = self.top
        if self.least > 0:
            found["route_least"] = self.least
        return found

    def path(self, workspace: Workspace) -> Path:
        """Where its temperature lies."""
        return workspace.calibration_path(self.fusion, self.top, self.least)


def calibrate(
    workspace: Workspace, way: Way, machine: MachineSettings
) -> Calibration | None:
    """Load the temperature of a way to answer, or fit it if it is missing or stale.

    Args:
        workspace: with what the fusion needs trained.
        way: the fusion and its route.
        machine: device, workers and the policy for unreadable images.

    Returns:
        The temperature; None, with a warning, if there is no validation image that
        can be read and whose class has any probability.

    Raises:
        ArtifactError: a network that is asked is missing or stale.
        InputError: an unreadable image, by the policy.
    """
    found = _current(workspace, way)
    if found is None:
        with workspace.lock():
            found = calibrate_locked(workspace, way, machine)
    return found


def calibrate_locked(
    workspace: Workspace, way: Way, machine: MachineSettings
) -> Calibration | None:
    """Do as `calibrate` where the caller holds the workspace's lock."""
    if found := _current(workspace, way):
        return found
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    voters = voters_of(workspace, groups, split, "val", machine, [way.fusion])
    log_p_RN, labels_R = _log_probabilities(voters, way)
    if not log_p_RN.gather(1, labels_R[:, None]).isfinite().any():
        warn(
            "the split has no validation image that says how sure to be: "
            "probabilities are not calibrated"
        )
        return None
    content = _fit(log_p_RN, labels_R)
    path = way.path(workspace)
    save_calibration(path, _header(workspace, way), content)
    told = " to ".join(dict.fromkeys(f"{tau:.3g}" for tau in content.ends))
    note(f"temperature {told} fitted on {content.images:,} validation images: {path}")
    return load_calibration(path)


def _current(workspace: Workspace, way: Way) -> Calibration | None:
    path = way.path(workspace)
    if workspace.is_current(path, _header(workspace, way)):
        return load_calibration(path)
    return None


def _header(workspace: Workspace, way: Way) -> Header:
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    return Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings=way.settings,
        classes=groups.origin.header.classes,
        made_from=workspace.made_from(
            split.origin, _answerer(workspace, way.fusion).origin
        ),
    )


def _answerer(workspace: Workspace, fusion: str) -> Expert:
    ways = {
        "gate": workspace.gate,
        "attention": workspace.attention,
        "flat": workspace.flat,
    }
    return ways[fusion]()


def _log_probabilities(voters: Voters, way: Way) -> tuple[Tensor, Tensor]:
    """Log P (R, N) of validation images, spread evenly if there are very many."""
    positions = spread(voters.positions, MAX_NUMBERS // voters.members.num_classes)
    log_p_RN = torch.empty(len(positions), voters.members.num_classes)
    labels_R = torch.empty(len(positions), dtype=torch.int64)
    start = 0
    with progress("calibrating", len(positions), "images") as advance:
        for votes in voters.batches(positions):
            stop = start + len(votes.labels_B)
            weights_BT = weigh(way.fusion, votes)
            weights_BT = routed_weights(weights_BT, top=way.top, least=way.least)
            scores_BN = score(way.fusion, votes, weights_BT)
            log_p_RN[start:stop] = normalize_scores(scores_BN).log()
            labels_R[start:stop] = votes.labels_B
            advance(stop - start)
            start = stop
    return log_p_RN, labels_R


def spread(positions: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Take at most so many of them, evenly: neighbours are of one class."""
    if len(positions) <= most:
        return positions
    places = np.linspace(0, len(positions) - 1, max(1, most)).round()
    return np.asarray(positions[places.astype(np.int64)])


def _fit(log_p_RN: Tensor, labels_R: Tensor) -> CalibrationContent:
    temperature = fit_temperature(log_p_RN, labels_R=labels_R)
    losses = [
        mean_loss(log_p_RN, labels_R=labels_R, temperature=tau)
        for tau in (Temperature(), temperature)
    ]
    errors = [
        _expected_error(log_p_RN, labels_R, tau) for tau in (Temperature(), temperature)
    ]
    return CalibrationContent(
        temperature=temperature.base,
        temperature_slope=temperature.slope,
        images=len(labels_R),
        loss_before=losses[0],
        loss_after=losses[1],
        error_before=errors[0],
        error_after=errors[1],
    )


def _expected_error(
    log_p_RN: Tensor, labels_R: Tensor, temperature: Temperature
) -> float:
    bins = CalibrationBins(15)
    parts = zip(torch.split(log_p_RN, 256), torch.split(labels_R, 256), strict=True)
    for part, labels_B in parts:
        P_BN = temper_probabilities(part.exp(), temperature)
        confidence_B, predicted_B = P_BN.max(dim=1)
        bins.update(confidence_B, correct_B=predicted_B == labels_B)
    return bins.expected_error()
