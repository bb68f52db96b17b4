"""What the gate minimises: Eq. 4, 5 and 7 in the reading R of docs/method.md.

Letters: N classes, T experts, C_t classes of expert t, B batch, x image, y true class,
G_t the classes of expert t, n_y the number of experts whose group holds y, s the
softmax gate, φ its L2-scaled form, F the fused scores, P = F/ΣF.

Every term is a mean over all B images. As printed, Eq. 4 is least when the gate picks
one and the same expert for every image, its Hamming distance (Eq. 7) has gradient 0
everywhere, and Eq. 5 swaps truth and competitor: hence the reading R.
"""

# ruff: noqa: N803, N806
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from deepme.core.mixture import Members, fuse, gate_confidences


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLossWeights:
    """The weight of each term, 0 to switch it off, and the two constants within.

    The defaults are what does best on validation images; Eq. 4 is selection, relevance
    and margin 1, consistency 0.1, likelihood 0.

    Raises:
        ValueError: a number is negative or not finite, or all terms are off.
    """

    selection: float = 0.0
    """Weight of the expert selection ξ."""
    relevance: float = 0.0
    """Weight of −Σ q log s."""
    consistency: float = 0.0
    """Weight of the agreement of experts that share the class."""
    margin: float = 0.0
    """Weight of the margin, the paper's α."""
    likelihood: float = 1.0
    """Weight of −log P(y), which the paper does not have."""
    kappa: float = 1.0
    """Nats by which an expert without the class is worse than guessing, κ."""
    beta: float = 0.1
    """The lead in probability that the true class must have, β."""

    def __post_init__(self) -> None:
        """Check every number."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{field.name} is {value}, expected a number ≥ 0")
        terms = (self.selection, self.relevance, self.consistency, self.margin)
        if not any((*terms, self.likelihood)):
            raise ValueError("all terms have weight 0, expected at least one above 0")


def true_log_probabilities(
    log_probabilities: Sequence[Tensor], *, labels_B: Tensor, members: Members
) -> Tensor:
    """Pick each expert's log f_t^(y)(x) for the true class.

    Args:
        log_probabilities: T tensors (B, C_t) float ≤ 0, the experts' log-softmax.
        labels_B: (B,) int64 in [0, N), y.
        members: the classes of the T experts.

    Returns:
        (B, T) float, −∞ where y ∉ G_t.
    """
    position_BT = members.position_NT[labels_B]
    picked = [
        log_p_BC.gather(1, position_B.clamp(min=0)[:, None])
        for log_p_BC, position_B in zip(log_probabilities, position_BT.T, strict=True)
    ]
    return torch.cat(picked, dim=1).masked_fill(position_BT < 0, -math.inf)


def expert_losses(
    true_log_probability_BT: Tensor,
    *,
    labels_B: Tensor,
    members: Members,
    kappa: float,
) -> Tensor:
    """Compute ℓ_t(x): expert t's cross-entropy, or log C_t + κ where y ∉ G_t.

    log C_t is the loss of guessing among the expert's classes; κ says how much worse
    than a guess it is to ask an expert that cannot know.

    Args:
        true_log_probability_BT: (B, T) float, log f_t^(y)(x) where y ∈ G_t; whatever
            it holds elsewhere is ignored.
        labels_B: (B,) int64 in [0, N), y.
        members: the classes of the T experts.
        kappa: κ in nats, ≥ 0.

    Returns:
        (B, T) float ≥ 0.
    """
    outside_T = true_log_probability_BT.new_tensor(members.sizes).log() + kappa
    holds_BT = members.holds(labels_B)
    return torch.where(holds_BT, -true_log_probability_BT, outside_T)


def expert_selection(phi_BT: Tensor, *, losses_BT: Tensor) -> Tensor:
    """Compute the mean of ξ = Σ_t φ_t ℓ_t, the loss of the experts asked (Eq. 4, 1).

    Args:
        phi_BT: (B, T) float in [0, 1], from `gate_confidences`.
        losses_BT: (B, T) float, ℓ from `expert_losses`.

    Returns:
        Scalar ≥ 0.
    """
    return (phi_BT * losses_BT).sum(dim=1).mean()


def relevance(gate_logits_BT: Tensor, *, holds_BT: Tensor) -> Tensor:
    """Compute the mean of −Σ_t q_t log s_t with q_t = 1[y ∈ G_t] / n_y.

    The paper's stated intent in words: promote the experts that know y, depress the
    others.

    Args:
        gate_logits_BT: (B, T) float, the gate before the softmax.
        holds_BT: (B, T) bool, 1[y ∈ G_t], at least one true in each row.

    Returns:
        Scalar ≥ 0, least (the mean of log n_y) at s = q.
    """
    q_BT = holds_BT / holds_BT.sum(dim=1, keepdim=True)
    return functional.cross_entropy(gate_logits_BT, q_BT.to(gate_logits_BT.dtype))


def consistency(s_BT: Tensor, *, holds_BT: Tensor) -> Tensor:
    """Compute the mean |s_t − s_h| over the pairs t < h that both hold y (Eq. 4, 2; 7).

    The mean is taken over an image's n_y (n_y − 1)/2 pairs first, then over all B
    images; one with n_y = 1 has no pair and contributes 0. So the term fades where
    groups hardly overlap, and no image counts more for lying in many groups.

    Args:
        s_BT: (B, T) float in [0, 1], the softmax gate.
        holds_BT: (B, T) bool, 1[y ∈ G_t].

    Returns:
        Scalar in [0, 1].
    """
    num_experts = s_BT.shape[1]
    t, h = torch.triu_indices(num_experts, num_experts, offset=1, device=s_BT.device)
    both_BP = holds_BT[:, t] & holds_BT[:, h]
    gap_BP = (s_BT[:, t] - s_BT[:, h]).abs() * both_BP
    return (gap_BP.sum(dim=1) / both_BP.sum(dim=1).clamp(min=1)).mean()


def margin(scores_BN: Tensor, *, labels_B: Tensor, beta: float) -> Tensor:
    """Compute the mean of max(0, β − P(y) + max_{c≠y} P(c)), P = F/ΣF (Eq. 4, 3; 5).

    Args:
        scores_BN: (B, N) float ≥ 0, F from `fuse`, no row all zero, N ≥ 2.
        labels_B: (B,) int64 in [0, N), y.
        beta: β, the lead that the true class must have.

    Returns:
        Scalar in [0, 1 + β].
    """
    true_B1 = scores_BN.gather(1, labels_B[:, None])
    rivals_BN = scores_BN.scatter(1, labels_B[:, None], -math.inf)
    lead_B = true_B1.squeeze(1) - rivals_BN.max(dim=1).values
    return (beta - lead_B / scores_BN.sum(dim=1)).clamp(min=0).mean()


def likelihood(
    gate_logits_BT: Tensor,
    *,
    log_probabilities: Sequence[Tensor],
    true_log_probability_BT: Tensor,
) -> Tensor:
    """Compute the mean of −log P(y), P = F/ΣF: the likelihood of the mixture itself.

    The objective of Jacobs et al. (1991), beyond the paper: it asks for the experts
    that name the class, where `relevance` asks for those that hold it. In logarithms,
    so that a gate all but certain and wrong keeps its gradient; φ's scale cancels.

    Args:
        gate_logits_BT: (B, T) float, the gate before the softmax.
        log_probabilities: T tensors (B, C_t) float ≤ 0, log f_t.
        true_log_probability_BT: (B, T) float, from `true_log_probabilities`.

    Returns:
        Scalar ≥ 0.
    """
    log_s_BT = gate_logits_BT.log_softmax(dim=1)
    # Below 0 for an expert that knows images of other groups.
    log_mass_BT = torch.stack(
        [log_p.logsumexp(dim=1) for log_p in log_probabilities], 1
    )
    log_true_B = (log_s_BT + true_log_probability_BT).logsumexp(dim=1)
    return ((log_s_BT + log_mass_BT).logsumexp(dim=1) - log_true_B).mean()


def gate_objective(
    gate_logits_BT: Tensor,
    *,
    log_probabilities: Sequence[Tensor],
    labels_B: Tensor,
    members: Members,
    weights: GateLossWeights,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute Eq. 4, the weighted sum of the terms above.

    The experts may be frozen (the paper's two stages) or learn along: gradients reach
    `log_probabilities` where they ask for one. Terms of weight 0 are not computed.

    Args:
        gate_logits_BT: (B, T) float, the gate before the softmax.
        log_probabilities: T tensors (B, C_t) in the gate's dtype, ≤ 0, the experts'
            log-softmax in the order of `members.classes[t]`.
        labels_B: (B,) int64 in [0, N), y.
        members: the classes of the T experts.
        weights: of the terms, with κ and β.

    Returns:
        The scalar total, and its computed terms by name (the fields of
        `GateLossWeights`), each before its weight and detached.
    """
    s_BT, phi_BT = gate_confidences(gate_logits_BT)
    holds_BT = members.holds(labels_B)

    def true_log_p() -> Tensor:
        return true_log_probabilities(
            log_probabilities, labels_B=labels_B, members=members
        )

    def selection_term() -> Tensor:
        losses_BT = expert_losses(
            true_log_p(), labels_B=labels_B, members=members, kappa=weights.kappa
        )
        return expert_selection(phi_BT, losses_BT=losses_BT)

    def margin_term() -> Tensor:
        probabilities = [log_p_BC.exp() for log_p_BC in log_probabilities]
        scores_BN = fuse(probabilities, members=members, weights_BT=phi_BT)
        return margin(scores_BN, labels_B=labels_B, beta=weights.beta)

    terms: dict[str, Callable[[], Tensor]] = {
        "selection": selection_term,
        "relevance": lambda: relevance(gate_logits_BT, holds_BT=holds_BT),
        "consistency": lambda: consistency(s_BT, holds_BT=holds_BT),
        "margin": margin_term,
        "likelihood": lambda: likelihood(
            gate_logits_BT,
            log_probabilities=log_probabilities,
            true_log_probability_BT=true_log_p(),
        ),
    }
    strength = {name: getattr(weights, name) for name in terms}
    parts = {name: term() for name, term in terms.items() if strength[name]}
    total = torch.stack([strength[name] * part for name, part in parts.items()]).sum()
    return total, {name: part.detach() for name, part in parts.items()}
