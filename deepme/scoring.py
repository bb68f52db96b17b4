"""From the experts' outputs to scores of all classes, under every fusion."""

# ruff: noqa: N803, N806, N815
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepme.artifacts.expert import Expert
from deepme.artifacts.groups import Groups
from deepme.artifacts.outputs import Outputs
from deepme.artifacts.split import Split
from deepme.config import GateSettings, MachineSettings
from deepme.core.mixture import (
    Members,
    class_log_probabilities,
    coarse_weights,
    equal_weights,
    fuse,
    gate_confidences,
    hard_weights,
    max_logit_weights,
    oracle_weights,
    stack,
)
from deepme.devices import choose_compute
from deepme.images.loading import ImageDataset
from deepme.images.unreadable import UnreadableImages
from deepme.inference import build_gate, load_weights
from deepme.settings import resolve
from deepme.training.gate import GateImages, gate_batches
from deepme.workspace import Workspace

BATCH_SIZE = 256


@dataclass(frozen=True)
class Votes:
    """What the fusions need of a batch of images.

    Attributes:
        members: the classes of the T experts.
        labels_B: (B,) int64, the true classes; only the oracle looks at them.
        logits: T tensors, the experts' outputs.
        s_BT: (B, T) the gate's softmax, None where no fusion needs it.
        flat_BN: (B, N) logits of the flat network, None where no fusion needs it.
    """

    members: Members
    labels_B: Tensor
    logits: list[Tensor]
    s_BT: Tensor | None
    flat_BN: Tensor | None

    @cached_property
    def class_logits(self) -> list[Tensor]:
        """T tensors (B, C_t): without the outputs for none of the classes."""
        sizes = self.members.sizes
        return [
            values[:, :size] for values, size in zip(self.logits, sizes, strict=True)
        ]

    @cached_property
    def probabilities(self) -> list[Tensor]:
        """T tensors (B, C_t), f_t."""
        logs = class_log_probabilities(self.logits, members=self.members)
        return [log_p_BC.exp() for log_p_BC in logs]

    @property
    def gate(self) -> Tensor:
        """The gate's softmax s."""
        assert self.s_BT is not None, "asked for by a fusion outside NEEDS_GATE"
        return self.s_BT

    @cached_property
    def flat_probabilities(self) -> Tensor:
        """The flat network's softmax."""
        assert self.flat_BN is not None, "asked for by a fusion outside NEEDS_FLAT"
        return self.flat_BN.softmax(dim=1)


def weigh(fusion: str, votes: Votes) -> Tensor:
    """How far a fusion trusts each expert.

    The flat network and stacking weigh no experts: theirs is the share of the flat
    network's probability in each group, and all alike.

    Returns:
        (B, T) float ≥ 0.
    """
    members = votes.members
    ways: dict[str, Callable[[], Tensor]] = {
        "gate": lambda: votes.gate,
        "hard": lambda: hard_weights(votes.gate),
        "max-logit": lambda: max_logit_weights(votes.class_logits),
        "oracle": lambda: oracle_weights(votes.labels_B, members=members),
        "coarse": lambda: coarse_weights(votes.flat_probabilities, members=members),
        "flat": lambda: coarse_weights(votes.flat_probabilities, members=members),
    }
    equal = equal_weights(len(votes.labels_B), num_experts=len(members.sizes))
    return ways.get(fusion, lambda: equal)()


def score(fusion: str, votes: Votes, weights_BT: Tensor) -> Tensor:
    """The scores of all classes under a fusion.

    Returns:
        (B, N) float ≥ 0, no row all zero.
    """
    if fusion == "flat":
        return votes.flat_probabilities
    if fusion == "stacking":
        return stack(votes.probabilities, members=votes.members)
    return fuse(votes.probabilities, members=votes.members, weights_BT=weights_BT)


@dataclass
class Voters:
    """Experts, gate and flat network over a subset's images, in batches.

    Attributes:
        workspace: with the trained networks.
        groups: the grouping.
        split: the images.
        machine: device and workers.
        images: of the subset, with the experts' outputs.
        gate: None where no fusion needs it.
        flat: the flat network's outputs, None where no fusion needs them.
    """

    workspace: Workspace
    groups: Groups
    split: Split
    machine: MachineSettings
    images: GateImages
    gate: Expert | None
    flat: Outputs | None

    @cached_property
    def members(self) -> Members:
        """The classes of the experts."""
        groups = [some.tolist() for some in self.groups.members]
        return Members.of(groups, num_classes=self.groups.num_classes)

    @property
    def positions(self) -> NDArray[np.int64]:
        """The images that all could read, as positions in the subset."""
        return np.flatnonzero(self.images.readable)

    def batches(self) -> Iterator[Votes]:
        """Yield the votes on every `BATCH_SIZE` readable images, in order."""
        positions = self.positions
        starts = range(0, len(positions), BATCH_SIZE)
        for start, s_BT in zip(starts, self._gate_batches(positions), strict=True):
            some = positions[start : start + BATCH_SIZE]
            flat = self.flat
            yield Votes(
                members=self.members,
                labels_B=torch.from_numpy(self.images.labels[some]),
                logits=self.images.logits(some),
                s_BT=s_BT,
                flat_BN=None if flat is None else torch.from_numpy(flat.logits[some]),
            )

    def _gate_batches(self, positions: NDArray[np.int64]) -> Iterator[Tensor | None]:
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
        for batch in gate_batches(self.images, positions, settings, dataset, workers):
            # Every expert has read these images before: failing now is no policy case.
            policy.record(batch.unreadable)
            with torch.inference_mode(), compute.autocast():
                logits_BT, _ = network(batch.inputs.to(compute.device))
            yield gate_confidences(logits_BT.float().cpu())[0]
