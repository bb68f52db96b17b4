"""A trained mixture as one network: images in, probabilities of all classes out."""

# ruff: noqa: N803, N806
from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from deepme.config import GateSettings
from deepme.core.mixture import (
    Members,
    class_log_probabilities,
    expert_confidences,
    flat_view,
    fuse,
    gate_confidences,
    normalize_scores,
    routed_weights,
)
from deepme.inference import (
    build_gate,
    load_experts,
    load_network,
    load_weights,
    temperature_of,
)
from deepme.networks import Network
from deepme.settings import resolve
from deepme.workspace import Workspace


class Mixture(nn.Module):
    """Experts and gate (Eq. 3); an image is shown only to the experts it is routed to.

    Args:
        experts: T trained networks.
        gate: on images, or on what the experts make of them.
        members: the classes of the experts.
        input: what the gate sees: images, flat, features or confidences.
        flat: the flat network, where the gate sees that.
        top: experts asked at most, None for all.
        least: smallest weight that asks an expert.
        batch_size: images that a network sees at once; None for one pass of every
            network over all images, routed or not, which can be exported.
    """

    def __init__(
        self,
        experts: Sequence[Network],
        gate: nn.Module,
        members: Members,
        *,
        input: str = "images",
        flat: Network | None = None,
        top: int | None = None,
        least: float = 0.0,
        batch_size: int | None = 256,
    ) -> None:
        """Keep the networks; nothing is computed."""
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gate, self.flat = gate, flat
        self.members = members
        self.input, self.top, self.least = input, top, least
        self.batch_size = batch_size

    @classmethod
    def load(
        cls, workspace: Workspace, *, top: int | None = None, least: float = 0.0
    ) -> Mixture:
        """Load what train-expert and train-gate have trained.

        Args:
            workspace: with all experts and the gate.
            top: experts asked at most, None for all.
            least: smallest weight that asks an expert.

        Raises:
            ArtifactError: one of them is missing, stale or corrupt.
        """
        groups = workspace.groups()
        trained = workspace.gate()
        recorded = dict(trained.origin.header.settings) | {"weights": "none"}
        settings = resolve(GateSettings, {}, **recorded)
        size = trained.training.image_size
        gate = build_gate(settings, workspace, groups, size, "none")
        gate.load_state_dict(load_weights(trained, trained.weights, gate.state_dict()))
        members = Members.of(
            [some.tolist() for some in groups.members], num_classes=groups.num_classes
        )
        flat = None
        if settings.input == "flat":
            flat = cast(Network, load_network(workspace.flat(), workspace))
        mixture = cls(
            load_experts(workspace, groups),
            gate,
            members,
            input=settings.input,
            flat=flat,
            top=top,
            least=least,
        )
        return mixture.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to probabilities and the experts' weights.

        Args:
            images: (B, 3, S, S) uint8.

        Returns:
            P (B, N) float32, each row sums to 1; and (B, T) float32, 0 for an expert
            that was not asked.
        """
        weights_BT, logits = self._weigh(images)
        if logits is None and self.routed and self.batch_size is not None:
            scores_BN = self._ask_few(images, weights_BT)
        else:
            if logits is None:
                logits = [self._ask(expert, images)[0] for expert in self.experts]
            votes = [self._probabilities(t, each) for t, each in enumerate(logits)]
            members = self.members.to(images.device)
            scores_BN = fuse(votes, members=members, weights_BT=weights_BT)
        return normalize_scores(scores_BN), weights_BT

    @property
    def routed(self) -> bool:
        """Whether there may be experts that an image is not shown to."""
        return self.top is not None or self.least > 0

    def votes(self, images: Tensor) -> list[Tensor]:
        """Ask each expert by itself.

        Args:
            images: (B, 3, S, S) uint8.

        Returns:
            f_t: T tensors (B, C_t) float32.
        """
        return [
            self._probabilities(t, self._ask(expert, images)[0])
            for t, expert in enumerate(self.experts)
        ]

    def _weigh(self, images: Tensor) -> tuple[Tensor, list[Tensor] | None]:
        """The experts' weights (B, T), and their logits where the gate needed them."""
        logits = None
        if self.input == "images":
            gate_logits_BT = self._ask(self.gate, images)[0]
        elif self.flat is not None:
            logits_BN, features_Bd = self._ask(self.flat, images)
            members = self.members.to(images.device)
            view = flat_view(features_Bd, logits_BN, members=members)
            gate_logits_BT = self.gate(view)[0].float()
        else:
            answers = [self._ask(expert, images) for expert in self.experts]
            logits = [each for each, _ in answers]
            seen = [features_Bd for _, features_Bd in answers]
            if self.input == "confidences":
                seen.append(expert_confidences(logits))
            gate_logits_BT = self.gate(torch.cat(seen, dim=1))[0].float()
        s_BT = gate_confidences(gate_logits_BT)[0]
        return routed_weights(s_BT, top=self.top, least=self.least), logits

    def _ask_few(self, images: Tensor, weights_BT: Tensor) -> Tensor:
        """F (B, N), every expert asked about the images that are routed to it."""
        scores_BN = weights_BT.new_zeros(len(images), self.members.num_classes)
        for t, expert in enumerate(self.experts):
            asked = weights_BT[:, t].nonzero()[:, 0]
            logits_BC = self._ask(expert, images[asked])[0]
            votes_BC = self._probabilities(t, logits_BC) * weights_BT[asked, t, None]
            part_BN = scores_BN.new_zeros(len(asked), scores_BN.shape[1])
            classes_C = self.members.classes[t].to(images.device)
            part_BN.index_add_(1, classes_C, votes_BC)
            scores_BN.index_add_(0, asked, part_BN)
        return scores_BN

    def _ask(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features, of any number of images."""
        if self.batch_size is None:
            logits, features = network(images)
            return logits.float(), features.float()
        # An empty batch has one part, and networks answer that as well.
        parts = [network(part) for part in torch.split(images, self.batch_size)]
        logits, features = zip(*parts, strict=True)
        return torch.cat(logits).float(), torch.cat(features).float()

    def _probabilities(self, t: int, logits_BC: Tensor) -> Tensor:
        temperature_T = temperature_of(self.gate)
        if temperature_T is not None:
            logits_BC = logits_BC / temperature_T[t]
        alone = Members((self.members.classes[t],), self.members.position_NT[:, [t]])
        return class_log_probabilities([logits_BC], members=alone)[0].exp()
