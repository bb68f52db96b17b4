"""One temperature for a classifier's probabilities, so that they mean what they say.

A classifier that is sure of an image should be right as often as it says. Modern
networks are surer than that; one number, fitted on images they have not learned from,
corrects most of it and changes no ranking (Guo et al., 2017).

Letters: N classes, R images to fit on, B batch, τ the temperature, β = 1/τ.
"""

# ruff: noqa: N803, N806
from __future__ import annotations

import torch
from scipy.optimize import brentq
from torch import Tensor

LEAST, MOST = 1 / 20, 20.0
"""The temperatures between which the fit stays; 1 changes nothing."""

_NEVER = -1e4
"""Stands for log 0 where it is multiplied with 0."""

_ROWS = 256


def temper_probabilities(P_BN: Tensor, temperature: float) -> Tensor:
    """Flatten or sharpen probabilities: P^(1/τ) / Σ P^(1/τ), the softmax of log P / τ.

    For a network's softmax this divides its logits by τ; a mixture's P has no logits,
    and log P stands for them.

    Args:
        P_BN: (B, N) float ≥ 0, each row sums to 1.
        temperature: τ > 0; above 1 the classifier becomes less sure.

    Returns:
        (B, N) float; each row sums to 1, in the order of P.
    """
    if temperature == 1.0:
        return P_BN
    return (P_BN.log() / temperature).softmax(dim=1)


def fit_temperature(log_p_RN: Tensor, *, labels_R: Tensor) -> float:
    """Find the τ under which the true classes are most likely (Guo et al., 2017).

    −Σ log softmax(β log p)_y is convex in β = 1/τ; its derivative
    Σ (E_β[log p] − log p_y) has one zero, found by Brent's method.

    Args:
        log_p_RN: (R, N) float ≤ 0, log P; −∞ where P is 0.
        labels_R: (R,) int64 in [0, N), the true classes. Images whose true class has
            no probability are as unlikely under every τ and are left out.

    Returns:
        τ in [`LEAST`, `MOST`].

    Raises:
        ValueError: no image is left.
    """
    told_RN, labels_R = _told(log_p_RN, labels_R)
    true = float(told_RN.gather(1, labels_R[:, None]).double().sum())

    def slope(beta: float) -> float:
        total = -true
        for part in torch.split(told_RN, _ROWS):
            bounded = part.double().clamp(min=_NEVER)
            total += float(((beta * bounded).softmax(dim=1) * bounded).sum())
        return total

    low, high = 1 / MOST, 1 / LEAST
    if slope(low) >= 0:
        return MOST
    if slope(high) <= 0:
        return LEAST
    return float(1 / brentq(slope, low, high, xtol=1e-6))


def mean_loss(log_p_RN: Tensor, *, labels_R: Tensor, temperature: float) -> float:
    """Compute the mean of −log P_y under a temperature, what `fit_temperature` lowers.

    Args:
        log_p_RN: as there.
        labels_R: as there.
        temperature: τ > 0.

    Raises:
        ValueError: no image gives its class any probability.
    """
    told_RN, labels_R = _told(log_p_RN, labels_R)
    total = 0.0
    parts = zip(torch.split(told_RN, _ROWS), torch.split(labels_R, _ROWS), strict=True)
    for part, labels_B in parts:
        tempered = (part.double() / temperature).log_softmax(dim=1)
        total -= float(tempered.gather(1, labels_B[:, None]).sum())
    return total / len(labels_R)


def _told(log_p_RN: Tensor, labels_R: Tensor) -> tuple[Tensor, Tensor]:
    """The images whose true class has a probability."""
    told_R = log_p_RN.gather(1, labels_R[:, None])[:, 0] > _NEVER
    if not told_R.any():
        raise ValueError("no image gives its class any probability")
    if told_R.all():
        return log_p_RN, labels_R  # as a rule: choosing rows would copy them all
    return log_p_RN[told_R], labels_R[told_R]
