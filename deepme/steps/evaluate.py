"""evaluate: how well the mixture does on the test images (method sections 4 and 5)."""

# ruff: noqa: N803, N806, N815
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepme.artifacts.evaluation import (
    KIND,
    SCHEMA,
    Counts,
    EvaluationContent,
    GroupResult,
    load_evaluation,
    save_evaluation,
)
from deepme.artifacts.expert import Expert
from deepme.artifacts.groups import Groups
from deepme.artifacts.split import Split
from deepme.config import EvaluateSettings, GateSettings, MachineSettings
from deepme.core.metrics import CalibrationBins, SparseConfusions, TopKCounts
from deepme.core.mixture import (
    Members,
    equal_weights,
    fuse,
    gate_confidences,
    hard_weights,
    max_logit_weights,
    normalize_scores,
    oracle_weights,
)
from deepme.devices import choose_compute
from deepme.errors import InputError
from deepme.images.loading import ImageDataset
from deepme.images.unreadable import UnreadableImages
from deepme.inference import build_gate, load_weights, outputs_of_experts
from deepme.progress import note, progress
from deepme.settings import resolve
from deepme.storage.header import Header
from deepme.systems import system_name
from deepme.training.gate import GateImages, gate_batches
from deepme.workspace import Workspace

NEEDS_GATE = ("gate", "hard")
"""The fusions that ask the gate; the others work on the experts alone."""

BATCH_SIZE = 256


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
    split = workspace.split(groups)
    compute = choose_compute(machine, "auto")
    gate = None
    if any(fusion in NEEDS_GATE for fusion in settings.fusion):
        gate = workspace.gate()
    with workspace.lock():
        outputs = outputs_of_experts(
            workspace,
            groups,
            split,
            "test",
            compute=compute,
            machine=machine,
            with_features=gate is not None and _sees_features(gate),
        )
        experts = workspace.made_from(*(output.origin for output in outputs))
        mixture = experts | (workspace.made_from(gate.origin) if gate else {})
        headers = {
            fusion: _header(
                groups, settings, fusion, mixture if fusion in NEEDS_GATE else experts
            )
            for fusion in settings.fusion
        }
        paths = {fusion: _path(workspace, groups, fusion) for fusion in headers}
        if all(workspace.is_current(paths[name], headers[name]) for name in headers):
            note("the evaluation is up to date")
            return [load_evaluation(path).content for path in paths.values()]
        images = GateImages.of(split.images, split.rows("test"), outputs)
        if not images.readable.any():
            raise InputError(
                "the split has no test image that can be read",
                "rerun `deepme split` with a larger --test",
            )
        members = Members.of(
            [some.tolist() for some in groups.members], num_classes=groups.num_classes
        )
        counters = {fusion: _Counter(members, settings.topk) for fusion in headers}
        scorer = _GateScorer(workspace, groups, split, gate, machine)
        _count(images, members, counters, scorer)
        return [
            _save(groups, images, paths[fusion], headers[fusion], counter)
            for fusion, counter in counters.items()
        ]


def _path(workspace: Workspace, groups: Groups, fusion: str) -> Path:
    method = str(groups.origin.header.settings["method"])
    return workspace.evaluation_path(system_name(method, fusion))


def _header(
    groups: Groups, settings: EvaluateSettings, fusion: str, lineage: dict[str, str]
) -> Header:
    return Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings={"topk": list(settings.topk), "fusion": fusion},
        classes=groups.origin.header.classes,
        made_from=lineage,
    )


def _sees_features(gate: Expert) -> bool:
    return bool(gate.origin.header.settings["input"] == "features")


class _Vote(NamedTuple):
    """What the fusions need of a batch."""

    labels_B: Tensor
    logits: list[Tensor]
    probabilities: list[Tensor]
    s_BT: Tensor | None


@dataclass
class _GateScorer:
    """The trained gate over the test images, in batches; None without a gate."""

    workspace: Workspace
    groups: Groups
    split: Split
    gate: Expert | None
    machine: MachineSettings

    def batches(
        self, images: GateImages, positions: NDArray[np.int64]
    ) -> Iterator[Tensor | None]:
        """Yield s (B, T) for every `BATCH_SIZE` positions."""
        if self.gate is None:
            yield from (None for _ in range(0, len(positions), BATCH_SIZE))
            return
        compute = choose_compute(self.machine, "auto")
        recorded = dict(self.gate.origin.header.settings)
        recorded |= {"batch_size": BATCH_SIZE, "weights": "none"}
        settings = resolve(GateSettings, {}, **recorded)
        size = self.gate.training.image_size
        network = build_gate(settings, self.workspace, self.groups, size, "none")
        wanted = network.state_dict()
        network.load_state_dict(load_weights(self.gate, self.gate.weights, wanted))
        network.eval().to(compute.device)
        dataset = ImageDataset(self.split.images, size=size, augment=False, seed=0)
        policy = UnreadableImages(self.split.images, len(positions), False, 0.0)
        workers = self.machine.workers
        for batch in gate_batches(images, positions, settings, dataset, workers):
            # Every expert has read these images before: failing now is no policy case.
            policy.record(batch.unreadable)
            with torch.inference_mode(), compute.autocast():
                logits_BT, _ = network(batch.inputs.to(compute.device))
            yield gate_confidences(logits_BT.float().cpu())[0]


class _Counter:
    """All counters of one fusion; linear in N and in the number of errors."""

    def __init__(self, members: Members, topk: tuple[int, ...]) -> None:
        self.members = members
        self.system = TopKCounts(members.num_classes, topk)
        self.experts = [TopKCounts(size, topk) for size in members.sizes]
        self.confusions = SparseConfusions(members.num_classes)
        self.calibration = CalibrationBins(15)
        self.chosen_T = torch.zeros(len(members.sizes), dtype=torch.float64)
        self.right_group = 0.0

    def update(self, vote: _Vote, weights_BT: Tensor) -> None:
        labels_B = vote.labels_B
        scores_BN = normalize_scores(
            fuse(vote.probabilities, members=self.members, weights_BT=weights_BT)
        )
        self.system.update(scores_BN, labels_B=labels_B)
        self.confusions.update(scores_BN, labels_B=labels_B)
        confidence_B, predicted_B = scores_BN.max(dim=1)
        self.calibration.update(confidence_B, correct_B=predicted_B == labels_B)
        # Experts that tie for the largest weight share the image.
        top_BT = weights_BT == weights_BT.amax(dim=1, keepdim=True)
        share_BT = top_BT / top_BT.sum(dim=1, keepdim=True)
        self.chosen_T += share_BT.sum(dim=0)
        self.right_group += float((share_BT * self.members.holds(labels_B)).sum())
        for t, counts in enumerate(self.experts):
            position_B = self.members.position_NT[labels_B, t]
            inside_B = position_B >= 0
            counts.update(vote.logits[t][inside_B], labels_B=position_B[inside_B])


def _count(
    images: GateImages,
    members: Members,
    counters: dict[str, _Counter],
    scorer: _GateScorer,
) -> None:
    positions = np.flatnonzero(images.readable)
    starts = range(0, len(positions), BATCH_SIZE)
    with progress("evaluating", len(positions), "images") as advance:
        gate = scorer.batches(images, positions)
        for start, s_BT in zip(starts, gate, strict=True):
            some = positions[start : start + BATCH_SIZE]
            logits = images.logits(some)
            vote = _Vote(
                labels_B=torch.from_numpy(images.labels[some]),
                logits=logits,
                probabilities=[logits_BC.softmax(dim=1) for logits_BC in logits],
                s_BT=s_BT,
            )
            for fusion, counter in counters.items():
                counter.update(vote, _weights(fusion, vote, members))
            advance(len(some))


def _weights(fusion: str, vote: _Vote, members: Members) -> Tensor:
    if fusion in NEEDS_GATE:
        assert vote.s_BT is not None, "run() loads the gate for these fusions"
        return vote.s_BT if fusion == "gate" else hard_weights(vote.s_BT)
    if fusion == "equal":
        return equal_weights(len(vote.labels_B), num_experts=len(members.sizes))
    if fusion == "max-logit":
        return max_logit_weights(vote.logits)
    assert fusion == "oracle", fusion
    return oracle_weights(vote.labels_B, members=members)


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
        calibration_error=counter.calibration.expected_error(),
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
    )
    save_evaluation(path, header, content, counts)
    return content


def _group_result(
    groups: Groups, counter: _Counter, t: int, num_images: int
) -> GroupResult:
    group, expert, system = groups.content.groups[t], counter.experts[t], counter.system
    tested = int(expert.count_N.sum())
    inside = groups.members[t]
    within = TopKCounts(len(inside), system.topk)
    within.hits_KN = system.hits_KN[:, inside]
    within.count_N = system.count_N[inside]
    return GroupResult(
        number=group.number,
        name=group.name,
        classes=len(inside),
        images=tested,
        expert={str(k): expert.macro(k) for k in system.topk} if tested else {},
        system={str(k): within.macro(k) for k in system.topk} if tested else {},
        chosen=float(counter.chosen_T[t]) / num_images,
    )
