"""evaluate: how well the mixture does on the test images (method sections 4 and 5)."""

# ruff: noqa: N806
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deepme.artifacts.calibration import Calibration
from deepme.artifacts.evaluation import (
    KIND,
    NUM_BINS,
    SCHEMA,
    Counts,
    EvaluationContent,
    GroupResult,
    load_evaluation,
    save_evaluation,
)
from deepme.artifacts.groups import Groups
from deepme.calibrating import CALIBRATED, Way, calibrate_locked
from deepme.config import EvaluateSettings, MachineSettings
from deepme.core.calibration import Temperature, temper_probabilities
from deepme.core.metrics import (
    CalibrationBins,
    SparseConfusions,
    TopKCounts,
    WeightSums,
)
from deepme.core.mixture import Members, normalize_scores, routed_weights
from deepme.errors import InputError
from deepme.progress import note, progress
from deepme.scoring import Voters, Votes, experts_asked, score, voters_of, weigh
from deepme.storage.header import Header
from deepme.systems import NEEDS_FLAT, NEEDS_GATE, WHOLE, system_name
from deepme.training.gate import GateImages
from deepme.workspace import Workspace


def run(
    settings: EvaluateSettings, machine: MachineSettings, workspace: Workspace
) -> list[EvaluationContent]:
    """Write evaluation/SYSTEM.json and SYSTEM.h5 for each fusion asked for.

    Args:
        settings: ranks and fusions.
        machine: device, workers and the policy for unreadable images.
        workspace: with all experts trained, and the gate if a fusion needs it.

    Returns:
        The results, in the order of the fusions.

    Raises:
        ArtifactError: an expert or the gate is missing or stale.
        InputError: there is no test image.
    """
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    with workspace.lock():
        calibrations = {
            fusion: calibrate_locked(workspace, _way(settings, fusion), machine)
            for fusion in settings.fusion
            if fusion in CALIBRATED
        }
        voters = voters_of(workspace, groups, split, "test", machine, settings.fusion)
        lineages = {
            fusion: _lineage(fusion, voters, calibrations.get(fusion))
            for fusion in settings.fusion
        }
        headers = {
            fusion: _header(groups, settings, fusion, lineage)
            for fusion, lineage in lineages.items()
        }
        paths = {
            fusion: _path(workspace, groups, fusion, header)
            for fusion, header in headers.items()
        }
        if all(workspace.is_current(paths[name], headers[name]) for name in headers):
            note("the evaluation is up to date")
            return [load_evaluation(path).content for path in paths.values()]
        if not len(voters.positions):
            raise InputError(
                "the split has no test image that can be read",
                "rerun `deepme split` with a larger --test",
            )
        members = voters.members
        counters = {
            fusion: _Counter(members, settings, fusion, calibrations.get(fusion))
            for fusion in headers
        }
        _count(voters, counters)
        return [
            _save(groups, voters.images, paths[fusion], headers[fusion], counter)
            for fusion, counter in counters.items()
        ]


def _lineage(
    fusion: str, voters: Voters, calibration: Calibration | None
) -> dict[str, str]:
    """What a fusion's result is made from."""
    origins = [voters.groups.origin, voters.split.origin]
    if calibration:
        origins.append(calibration.origin)
    if fusion not in WHOLE:
        origins += [output.origin for output in voters.images.outputs]
    if fusion in NEEDS_GATE and voters.gate:
        origins.append(voters.gate.origin)
        if voters.images.flat:
            origins.append(voters.images.flat.origin)
    if fusion in NEEDS_FLAT:
        origins.append(voters.whole["flat"].origin)
    if fusion == "attention":
        origins.append(voters.whole["attention"].origin)
    return voters.workspace.made_from(*origins)


def _path(workspace: Workspace, groups: Groups, fusion: str, header: Header) -> Path:
    method = str(groups.origin.header.settings["method"])
    name = system_name(method, fusion)
    if "route_top" in header.settings or "route_least" in header.settings:
        name += "-routed"
    return workspace.evaluation_path(name)


def _header(
    groups: Groups, settings: EvaluateSettings, fusion: str, lineage: dict[str, str]
) -> Header:
    return Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings=_recorded(settings, fusion),
        classes=groups.origin.header.classes,
        made_from=lineage,
    )


def _recorded(settings: EvaluateSettings, fusion: str) -> dict[str, Any]:
    """The settings that a fusion's result depends on."""
    return {"topk": list(settings.topk)} | _way(settings, fusion).settings


def _way(settings: EvaluateSettings, fusion: str) -> Way:
    return Way.of(fusion, settings.route_top, settings.route_least)


class _Counter:
    """All counters of one fusion; linear in N and in the number of errors."""

    def __init__(
        self,
        members: Members,
        settings: EvaluateSettings,
        fusion: str,
        calibration: Calibration | None,
    ) -> None:
        self.members, self.settings, self.fusion = members, settings, fusion
        self.temperature = (
            Temperature(*calibration.content.fitted) if calibration else None
        )
        self.calibrated = CalibrationBins(NUM_BINS)
        self.system = TopKCounts(members.num_classes, settings.topk)
        self.experts = [TopKCounts(size, settings.topk) for size in members.sizes]
        self.confusions = SparseConfusions(members.num_classes)
        self.calibration = CalibrationBins(NUM_BINS)
        self.weights = WeightSums(len(members.sizes))
        self.right_group = self.expert_passes = 0.0

    def update(self, votes: Votes) -> None:
        labels_B, fusion = votes.labels_B, self.fusion
        way = _way(self.settings, fusion)
        weights_BT = weigh(fusion, votes)
        weights_BT = routed_weights(weights_BT, top=way.top, least=way.least)
        scores_BN = normalize_scores(score(fusion, votes, weights_BT))
        self.expert_passes += experts_asked(fusion, weights_BT)
        self.system.update(scores_BN, labels_B=labels_B)
        self.confusions.update(scores_BN, labels_B=labels_B)
        confidence_B, predicted_B = scores_BN.max(dim=1)
        self.calibration.update(confidence_B, correct_B=predicted_B == labels_B)
        if self.temperature is not None:
            P_BN = temper_probabilities(scores_BN, self.temperature)
            self.calibrated.update(P_BN.amax(dim=1), correct_B=predicted_B == labels_B)
        first_BT = self.weights.update(weights_BT)
        self.right_group += float((first_BT * self.members.holds(labels_B)).sum())
        for t, counts in enumerate(self.experts[: len(votes.logits)]):
            position_B = self.members.position_NT[labels_B, t]
            inside_B = position_B >= 0
            counts.update(
                votes.class_logits[t][inside_B], labels_B=position_B[inside_B]
            )


def _count(voters: Voters, counters: dict[str, _Counter]) -> None:
    with progress("evaluating", len(voters.positions), "images") as advance:
        for votes in voters.batches():
            for counter in counters.values():
                counter.update(votes)
            advance(len(votes.labels_B))


def _save(
    groups: Groups, images: GateImages, path: Path, header: Header, counter: _Counter
) -> EvaluationContent:
    num_images = int(images.readable.sum())
    topk = counter.system.topk
    content = EvaluationContent(
        system=path.stem,
        fusion=str(header.settings["fusion"]),
        classes=groups.num_classes,
        classes_tested=int((counter.system.count_N > 0).sum()),
        images=num_images,
        unreadable=len(images.readable) - num_images,
        macro={str(k): counter.system.macro(k) for k in topk},
        micro={str(k): counter.system.micro(k) for k in topk},
        right_group=counter.right_group / num_images,
        expert_passes=counter.expert_passes / num_images,
        calibration_error=counter.calibration.expected_error(),
        temperature=counter.temperature and counter.temperature.base,
        temperature_slope=counter.temperature and counter.temperature.slope,
        calibrated_error=(
            None if counter.temperature is None else counter.calibrated.expected_error()
        ),
        groups=tuple(
            _group_result(groups, counter, t, num_images)
            for t in range(groups.num_groups)
        ),
    )
    counts = Counts(
        topk=np.array(topk, dtype=np.int64),
        hits=counter.system.hits_KN.numpy(),
        images=counter.system.count_N.numpy(),
        confusions=np.stack(counter.confusions.packed(), axis=1),
        bin_images=counter.calibration.count_M.numpy(),
        bin_hits=counter.calibration.correct_M.numpy(),
        bin_confidence=counter.calibration.confidence_M.numpy(),
        calibrated_images=counter.calibrated.count_M.numpy(),
        calibrated_hits=counter.calibrated.correct_M.numpy(),
        calibrated_confidence=counter.calibrated.confidence_M.numpy(),
    )
    save_evaluation(path, header, content, counts)
    return content


def _group_result(
    groups: Groups, counter: _Counter, t: int, num_images: int
) -> GroupResult:
    group, expert, system = groups.content.groups[t], counter.experts[t], counter.system
    inside = groups.members[t]
    within = TopKCounts(len(inside), system.topk)
    within.hits_KN = system.hits_KN[:, inside]
    within.count_N = system.count_N[inside]
    tested = int(within.count_N.sum())
    asked = bool(expert.count_N.sum())
    chosen = float(counter.weights.chosen_T[t])
    return GroupResult(
        number=group.number,
        name=group.name,
        classes=len(inside),
        images=tested,
        expert={str(k): expert.macro(k) for k in system.topk} if asked else {},
        system={str(k): within.macro(k) for k in system.topk} if tested else {},
        chosen=chosen / num_images,
        load=float(counter.weights.load_T[t]) / num_images,
        entropy=float(counter.weights.entropy_T[t]) / chosen if chosen else None,
    )
