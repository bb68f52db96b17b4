"""The mixture: which expert knows which class, how sure the gate is, and their sum.

Letters: N classes, T experts, C_t classes of expert t, B batch, x image, y true class,
G_t the classes of expert t, n_y the number of experts whose group holds y, s the
softmax gate, φ its L2-scaled form, f_t the softmax of expert t over its C_t classes.

Every way to fuse is a choice of weights φ for the same sum (Eq. 3). Only their ratios
within an image matter: the scale cancels in F/ΣF.
"""

# ruff: noqa: N803, N806, N815
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """The classes of every expert, as lists and as a table; build it with `of`.

    The table takes 8 N·T bytes, 1.2 MB for 10,184 classes and 15 experts.
    """

    classes: tuple[Tensor, ...]
    """T tensors (C_t,) int64: the class behind each output of expert t."""
    position_NT: Tensor
    """(N, T) int64: the output of expert t that stands for class k, −1 if none."""

    @classmethod
    def of(
        cls,
        groups: Sequence[Sequence[int]],
        *,
        num_classes: int,
        device: torch.device | str = "cpu",
    ) -> Members:
        """Index the groups, each a list of classes in the order of its outputs.

        Raises:
            ValueError: a group is empty, repeats a class or holds one outside
                [0, num_classes), or a class is in no group.
        """
        position_NT = torch.full((num_classes, len(groups)), -1)
        for t, group in enumerate(groups):
            if not group or min(group) < 0 or max(group) >= num_classes:
                raise ValueError(
                    f"group {t} has {len(group)} classes, expected at least one, "
                    f"all of them in [0, {num_classes})"
                )
            if len(set(group)) < len(group):
                raise ValueError(f"group {t} holds a class twice, expected once")
            position_NT[list(group), t] = torch.arange(len(group))
        if num_uncovered := int((position_NT < 0).all(dim=1).sum()):
            raise ValueError(
                f"{num_uncovered} of {num_classes} classes are in no group, "
                "expected every class in at least one"
            )
        classes = tuple(torch.tensor(list(group), device=device) for group in groups)
        return cls(classes=classes, position_NT=position_NT.to(device))

    def to(self, device: torch.device | str) -> Members:
        """Return the same tables on a device; themselves where they are there."""
        classes = tuple(classes_C.to(device) for classes_C in self.classes)
        return Members(classes=classes, position_NT=self.position_NT.to(device))

    @property
    def num_classes(self) -> int:
        """N."""
        return self.position_NT.shape[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """C_t, the number of outputs of each expert."""
        return tuple(len(classes) for classes in self.classes)

    def holds(self, labels_B: Tensor) -> Tensor:
        """Return (B, T) bool 1[y ∈ G_t] for labels (B,) int64 in [0, N)."""
        return self.position_NT[labels_B] >= 0


def gate_confidences(gate_logits_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gate's s = softmax and φ = s / ‖s‖₂, so that Σ_t φ_t² = 1 (Eq. 3, 6).

    The L2 scale is the paper's, "in consideration of the training/gradient's
    stability"; it never changes a ranking. ‖s‖₂ ≥ 1/√T, so nothing divides by 0.

    Args:
        gate_logits_BT: (B, T) float, the gate's outputs.

    Returns:
        s and φ, both (B, T) in [0, 1].
    """
    s_BT = gate_logits_BT.softmax(dim=1)
    return s_BT, s_BT / s_BT.norm(dim=1, keepdim=True)


def class_log_probabilities(
    logits: Sequence[Tensor], *, members: Members
) -> list[Tensor]:
    """Compute log f_t over the classes of each expert.

    Args:
        logits: T tensors (B, C_t) float, or (B, C_t + 1) where the expert has an output
            for none of its classes; that one takes its share and is left out.
        members: the classes of the T experts.

    Returns:
        T tensors (B, C_t) float ≤ 0; where nothing is left out, each row's
        probabilities sum to 1.
    """
    return [
        logits_BC.log_softmax(dim=1)[:, :size]
        for logits_BC, size in zip(logits, members.sizes, strict=True)
    ]


def fuse(
    probabilities: Sequence[Tensor], *, members: Members, weights_BT: Tensor
) -> Tensor:
    """Add up the experts: F_k(x) = Σ_{t: k ∈ G_t} φ_t(x) f_t^(k)(x) (Eq. 3).

    Takes memory for one (B, N) result and one (B, C_t) product, not for B·T·N.

    Args:
        probabilities: T tensors (B, C_t) float, f_t, the outputs in the order of
            `members.classes[t]`.
        members: the classes of the T experts.
        weights_BT: (B, T) float in the dtype of the probabilities, ≥ 0, φ.

    Returns:
        (B, N) float ≥ 0; each row sums to Σ_t φ_t. Differentiable in both inputs.
    """
    # Not len(): it would fix the batch's size in an exported graph.
    scores_BN = weights_BT.new_zeros(weights_BT.shape[0], members.num_classes)
    experts = zip(probabilities, members.classes, weights_BT.T, strict=True)
    for probability_BC, classes_C, weight_B in experts:
        scores_BN.index_add_(1, classes_C, weight_B[:, None] * probability_BC)
    return scores_BN


def normalize_scores(scores_BN: Tensor) -> Tensor:
    """Compute P = F/ΣF, the probabilities that people are shown.

    Args:
        scores_BN: (B, N) float ≥ 0, F from `fuse`, no row all zero.

    Returns:
        (B, N) float; each row sums to 1.
    """
    return scores_BN / scores_BN.sum(dim=1, keepdim=True)


def equal_weights(
    num_images: int, *, num_experts: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Weigh all experts alike, φ_t = 1/T (the paper's NoGate).

    Returns:
        (B, T) float32.
    """
    return torch.full((num_images, num_experts), 1 / num_experts, device=device)


def hard_weights(s_BT: Tensor) -> Tensor:
    """Route each image to one expert: φ_t = 1[t = argmax s] (hard routing).

    Args:
        s_BT: (B, T) float, the gate; the lowest t wins a tie.

    Returns:
        (B, T) one-hot in the dtype of `s_BT`.
    """
    best_B = s_BT.argmax(dim=1)
    return functional.one_hot(best_B, s_BT.shape[1]).to(s_BT.dtype)


def routed_weights(
    s_BT: Tensor, *, top: int | None = None, least: float = 0.0
) -> Tensor:
    """Ask few experts: keep the weights of those that the gate trusts most.

    Args:
        s_BT: (B, T) float, the gate.
        top: how many at most, by weight; the lowest t wins a tie. None for all.
        least: the smallest weight that is kept; the largest of an image always is.

    Returns:
        (B, T) in the dtype of `s_BT`, 0 for experts that need not be asked.
    """
    kept_BT = s_BT >= torch.clamp(s_BT.amax(dim=1, keepdim=True), max=least)
    if top is not None and top < s_BT.shape[1]:
        # Counted, not sorted: ONNX knows no stable sort.
        other_BTT, own_BTT = s_BT[:, None, :], s_BT[:, :, None]
        index_T = torch.arange(s_BT.shape[1], device=s_BT.device)
        lower_TT = index_T[None, :] < index_T[:, None]
        ahead_BTT = (other_BTT > own_BTT) | ((other_BTT == own_BTT) & lower_TT)
        kept_BT = kept_BT & (ahead_BTT.sum(dim=2) < top)
    return s_BT * kept_BT


def stack(probabilities: Sequence[Tensor], *, members: Members) -> Tensor:
    """Average over the experts that know a class: F_k = mean_{t: k ∈ G_t} f_t^(k).

    The stacking of DMDE (our reconstruction); against equal weights, a class that is
    in several groups has no head start.

    Args:
        probabilities: T tensors (B, C_t) float, f_t.
        members: the classes of the T experts.

    Returns:
        (B, N) float ≥ 0.
    """
    ones_BT = probabilities[0].new_ones(len(probabilities[0]), len(probabilities))
    scores_BN = fuse(probabilities, members=members, weights_BT=ones_BT)
    return scores_BN / (members.position_NT >= 0).sum(dim=1)


def coarse_weights(probability_BN: Tensor, *, members: Members) -> Tensor:
    """Weigh by what a flat network says of each group: φ_t = Σ_{k ∈ G_t} P_k / n_k.

    The coarse classifier of HD-CNN (Yan et al., 2015), n_k the groups that hold k.

    Args:
        probability_BN: (B, N) float, the flat network's softmax.
        members: the classes of the T experts.

    Returns:
        (B, T) float; each row sums to 1.
    """
    holds_NT = (members.position_NT >= 0).to(probability_BN.dtype)
    return probability_BN @ (holds_NT / holds_NT.sum(dim=1, keepdim=True))


def flat_view(features_Bd: Tensor, logits_BN: Tensor, *, members: Members) -> Tensor:
    """What a gate on the flat network sees: its features, and φ of `coarse_weights`.

    Args:
        features_Bd: (B, d) float, of the flat network.
        logits_BN: (B, N) float, of the flat network.
        members: the classes of the T experts.

    Returns:
        (B, d + T) float.
    """
    shares_BT = coarse_weights(logits_BN.softmax(dim=1), members=members)
    return torch.cat([features_Bd, shares_BT], dim=1)


def max_logit_weights(logits: Sequence[Tensor]) -> Tensor:
    """Let the experts speak for themselves: φ = softmax_t(max_c logit_t^(c)) (MixDCNN).

    Args:
        logits: T tensors (B, C_t) float, the experts' outputs before the softmax.

    Returns:
        (B, T) float; each row sums to 1.
    """
    return torch.stack([logit_BC.amax(dim=1) for logit_BC in logits], 1).softmax(dim=1)


def temper(logits: Sequence[Tensor], temperature_T: Tensor | None) -> list[Tensor]:
    """Divide each expert's logits by its temperature (Guo et al., 2017).

    Args:
        logits: T tensors (B, C_t) float.
        temperature_T: (T,) float > 0, or None for 1 each.

    Returns:
        T tensors (B, C_t).
    """
    if temperature_T is None:
        return list(logits)
    return [logit_BC / tau for logit_BC, tau in zip(logits, temperature_T, strict=True)]


def expert_confidences(logits: Sequence[Tensor]) -> Tensor:
    """Measure how sure each expert is of an image, three ways.

    The largest logit (MixDCNN), the entropy of its softmax in shares of log C_t, and
    the energy log Σ_c exp z_c (Liu et al., 2020): what a gate may learn from, as an
    expert tends to be unsure of images of other groups.

    Args:
        logits: T tensors (B, C_t) float, the experts' outputs before the softmax.

    Returns:
        (B, 3T) float: all experts' largest logits, then entropies, then energies.
    """
    columns = []
    for logit_BC in logits:
        entropy_B = torch.special.entr(logit_BC.softmax(dim=1)).sum(dim=1)
        # An expert of one class is always sure.
        bound = math.log(max(2, logit_BC.shape[1]))
        energy_B = logit_BC.logsumexp(dim=1)
        columns.append(torch.stack([logit_BC.amax(dim=1), entropy_B / bound, energy_B]))
    return torch.stack(columns, dim=1).flatten(0, 1).T


def oracle_weights(labels_B: Tensor, *, members: Members) -> Tensor:
    """Weigh by the true label: φ_t = 1[y ∈ G_t] / n_y, the yardstick for every gate.

    Above it lies only what a gate gains by preferring one of the n_y experts that hold
    y to their mean.

    Args:
        labels_B: (B,) int64 in [0, N), y.
        members: the classes of the T experts.

    Returns:
        (B, T) float32; each row sums to 1.
    """
    holds_BT = members.holds(labels_B).to(torch.float32)
    return holds_BT / holds_BT.sum(dim=1, keepdim=True)
