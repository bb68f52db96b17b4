"""One temperature for a classifier's probabilities, so that they mean what they say.

A classifier that is sure of an image should be right as often as it says. Modern
networks are surer than that, a mixture may be less sure; one number, fitted on images
they have not learned from, corrects most of it and changes no ranking (Guo et al.,
2017).

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
    """Find the τ under which the best guess is on average as sure as it is right.

    Expectation consistency (Clarté et al., 2023): the mean over images of max_n P_n is
    their accuracy. It falls as τ grows, so Brent's method finds the one τ. Guo et al.
    (2017) fit the likelihood of the true class instead, which a mixture's probabilities
    of classes in other groups, small and many, decide more than its best guess does.

    Args:
        log_p_RN: (R, N) float ≤ 0, log P; −∞ where P is 0. R ≥ 1.
        labels_R: (R,) int64 in [0, N), the true classes.

    Returns:
        τ in [`LEAST`, `MOST`].

    Raises:
        ValueError: there is no image.
    """
    if not len(labels_R):
        raise ValueError("no image to fit a temperature on, expected at least one")
    right = int((log_p_RN.argmax(dim=1) == labels_R).sum())

    def excess(beta: float) -> float:
        total = -float(right)
        for part in torch.split(log_p_RN, _ROWS):
            bounded = part.double().clamp(min=_NEVER)
            total += float((beta * bounded).softmax(dim=1).amax(dim=1).sum())
        return total

    low, high = 1 / MOST, 1 / LEAST
    if excess(low) >= 0:
        return MOST
    if excess(high) <= 0:
        return LEAST
    return float(1 / brentq(excess, low, high, xtol=1e-6))


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
