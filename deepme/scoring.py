"""From the experts' outputs to scores of all classes, under every fusion."""

# ruff: noqa: N803, N806, N815
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

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
    temper,
)
from deepme.devices import choose_compute
from deepme.images.loading import ImageDataset
from deepme.images.unreadable import UnreadableImages
from deepme.inference import (
    build_gate,
    load_weights,
    temperature_of,
)
from deepme.outputs import outputs_of, outputs_of_experts, outputs_of_flat
from deepme.settings import resolve
from deepme.systems import NEEDS_FLAT, NEEDS_GATE, WHOLE
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
        gated: the same under the temperatures that the gate has learned.
        s_BT: (B, T) the gate's softmax, None where no fusion needs it.
        whole: fusion -> (B, N) logits of the network that it asks about all classes:
            ``flat`` and ``attention``, where a fusion needs them.
    """

    members: Members
    labels_B: Tensor
    logits: list[Tensor]
    gated: list[Tensor]
    s_BT: Tensor | None
    whole: Mapping[str, Tensor]

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
        return _probabilities(self.logits, self.members)

    @cached_property
    def gated_probabilities(self) -> list[Tensor]:
        """T tensors (B, C_t), f_t as the gate has them."""
        return _probabilities(self.gated, self.members)

    @property
    def gate(self) -> Tensor:
        """The gate's softmax s."""
        assert self.s_BT is not None, "asked for by a fusion outside NEEDS_GATE"
        return self.s_BT

    def whole_probabilities(self, name: str) -> Tensor:
        """The softmax (B, N) of the flat network or of attention."""
        return self.whole[name].softmax(dim=1)


def weigh(fusion: str, votes: Votes) -> Tensor:
    """How far a fusion trusts each expert.

    The flat network, attention and stacking weigh no experts' votes: theirs is the
    share of their probability in each group, and all alike.

    Returns:
        (B, T) float ≥ 0.
    """
    members = votes.members
    if fusion in WHOLE or fusion == "coarse":
        asked = votes.whole_probabilities("flat" if fusion == "coarse" else fusion)
        return coarse_weights(asked, members=members)
    ways: dict[str, Callable[[], Tensor]] = {
        "gate": lambda: votes.gate,
        "hard": lambda: hard_weights(votes.gate),
        "max-logit": lambda: max_logit_weights(votes.class_logits),
        "oracle": lambda: oracle_weights(votes.labels_B, members=members),
    }
    equal = equal_weights(len(votes.labels_B), num_experts=len(members.sizes))
    return ways.get(fusion, lambda: equal)()


def score(fusion: str, votes: Votes, weights_BT: Tensor) -> Tensor:
    """The scores of all classes under a fusion.

    Returns:
        (B, N) float ≥ 0, no row all zero.
    """
    if fusion in WHOLE:
        return votes.whole_probabilities(fusion)
    if fusion == "stacking":
        return stack(votes.probabilities, members=votes.members)
    own = votes.gated_probabilities if fusion in NEEDS_GATE else votes.probabilities
    return fuse(own, members=votes.members, weights_BT=weights_BT)


def experts_asked(fusion: str, weights_BT: Tensor) -> float:
    """How many experts a fusion asks about a batch's images, in all."""
    if fusion == "flat":
        return 0.0
    if fusion == "attention":
        return float(weights_BT.numel())
    return float((weights_BT > 0).sum())


def _probabilities(logits: list[Tensor], members: Members) -> list[Tensor]:
    logs = class_log_probabilities(logits, members=members)
    return [log_p_BC.exp() for log_p_BC in logs]


class GateWord(NamedTuple):
    """What the gate says of a batch.

    Attributes:
        s_BT: (B, T) its softmax, None without a gate.
        temperature_T: (T,) float > 0 of the experts, None where it has learned none.
    """

    s_BT: Tensor | None
    temperature_T: Tensor | None


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
        whole: fusion -> outputs of the network that it asks about all classes.
    """

    workspace: Workspace
    groups: Groups
    split: Split
    machine: MachineSettings
    images: GateImages
    gate: Expert | None
    whole: Mapping[str, Outputs]

    @cached_property
    def members(self) -> Members:
        """The classes of the experts."""
        groups = [some.tolist() for some in self.groups.members]
        return Members.of(groups, num_classes=self.groups.num_classes)

    @property
    def positions(self) -> NDArray[np.int64]:
        """The images that all could read, as positions in the subset."""
        return np.flatnonzero(self.images.readable)

    def batches(self, positions: NDArray[np.int64] | None = None) -> Iterator[Votes]:
        """Yield the votes on every `BATCH_SIZE` images, in order.

        Args:
            positions: some of `positions`; None for all.
        """
        if positions is None:
            positions = self.positions
        starts = range(0, len(positions), BATCH_SIZE)
        for start, word in zip(starts, self._gate_batches(positions), strict=True):
            some = positions[start : start + BATCH_SIZE]
            logits = self.images.logits(some)
            yield Votes(
                members=self.members,
                labels_B=torch.from_numpy(self.images.labels[some]),
                logits=logits,
                gated=temper(logits, word.temperature_T),
                s_BT=word.s_BT,
                whole={
                    name: torch.from_numpy(outputs.logits[some])
                    for name, outputs in self.whole.items()
                },
            )

    def _gate_batches(self, positions: NDArray[np.int64]) -> Iterator[GateWord]:
        """Yield what the gate says of every `BATCH_SIZE` positions."""
        if self.gate is None:
            silent = GateWord(None, None)
            yield from (silent for _ in range(0, len(positions), BATCH_SIZE))
            return
        compute = choose_compute(self.machine, "auto")
        recorded = dict(self.gate.origin.header.settings)
        recorded |= {"batch_size": BATCH_SIZE, "weights": "none"}
        settings = resolve(GateSettings, {}, **recorded)
        size = self.gate.training.image_size
        network = build_gate(settings, self.workspace, self.groups, size, "none")
        wanted = network.state_dict()
        network.load_state_dict(load_weights(self.gate, self.gate.weights, wanted))
        network.eval().requires_grad_(False)
        temperature_T = temperature_of(network)
        network.to(compute.device)
        dataset = ImageDataset(self.split.images, size=size, augment=False, seed=0)
        policy = UnreadableImages(self.split.images, len(positions), False, 0.0)
        workers = self.machine.workers
        batches = gate_batches(
            self.images, positions, settings, dataset, workers, members=self.members
        )
        for batch in batches:
            # Every expert has read these images before: failing now is no policy case.
            policy.record(batch.unreadable)
            with torch.inference_mode(), compute.autocast():
                logits_BT, _ = network(batch.inputs.to(compute.device))
            s_BT = gate_confidences(logits_BT.float().cpu())[0]
            yield GateWord(s_BT, temperature_T)


def voters_of(
    workspace: Workspace,
    groups: Groups,
    split: Split,
    subset: str,
    machine: MachineSettings,
    fusions: Iterable[str],
) -> Voters:
    """Gather what some fusions ask about a subset's images; compute what is missing.

    Args:
        workspace: with the trained networks.
        groups: the grouping.
        split: the images.
        subset: train, val or test.
        machine: device, workers and the policy for unreadable images.
        fusions: names from `config.FUSIONS`.

    Raises:
        ArtifactError: a network that is asked is missing or stale.
        InputError: an unreadable image, by the policy.
    """
    asked = set(fusions)
    compute = choose_compute(machine, "auto")
    gate = workspace.gate() if asked & NEEDS_GATE else None
    networks: dict[str, Expert] = {}
    if asked & NEEDS_FLAT:
        networks["flat"] = workspace.flat()
    if "attention" in asked:
        networks["attention"] = workspace.attention()
    sees = gate.origin.header.settings["input"] if gate else "images"
    experts: list[Outputs] = []
    if not asked <= WHOLE:
        experts = outputs_of_experts(
            workspace,
            groups,
            split,
            subset,
            compute=compute,
            machine=machine,
            with_features=sees in ("features", "confidences"),
        )
    flat = None
    if sees == "flat":
        flat = outputs_of_flat(
            workspace, split, subset, compute=compute, machine=machine
        )
    answers = outputs_of(
        [*networks.values()],
        workspace,
        split,
        subset,
        compute=compute,
        machine=machine,
        with_features=False,
    )
    whole = dict(zip(networks, answers, strict=True))
    images = GateImages.of(
        split.images, split.rows(subset), experts, whole.values(), flat
    )
    return Voters(workspace, groups, split, machine, images, gate, whole)
