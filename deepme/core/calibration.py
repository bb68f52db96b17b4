"""A temperature for a classifier's probabilities, so that they mean what they say.

A classifier that is sure of an image should be right as often as it says. Modern
networks are surer than that, a mixture may be less sure; a temperature, fitted on
images they have not learned from, corrects most of it and changes no ranking (Guo et
al., 2017). It depends on the image by its entropy: a mixture may be too sure where
one expert speaks alone, and too timid where many share the vote (after the
entropy-based temperatures of Balanya et al., 2024).

Letters: N classes, R images to fit on, B batch, τ the temperature, H an entropy.
"""

# ruff: noqa: N803, N806
from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, root
from torch import Tensor

LEAST, MOST = 1 / 20, 20.0
"""The temperatures between which the fit stays; 1 changes nothing."""

STEEPEST = 3.0
"""The largest slope, either way, that a fit may come to."""

_NEVER = -1e4
"""Stands for log 0 where it is multiplied with 0."""

_ROWS = 256
_CACHED = 2**18
"""Numbers of which a processor's cache holds a few arrays."""


class Temperature(NamedTuple):
    """log τ = log base + slope · H / log N, H the entropy of an image's P.

    Attributes:
        base: τ > 0 of an image on which all probability is one class's.
        slope: what log τ gains up to an image on which all classes are alike.
    """

    base: float = 1.0
    slope: float = 0.0

    def of(self, doubt_B: Tensor) -> Tensor:
        """τ of each image, from its H / log N in [0, 1]; in [`LEAST`, `MOST`]."""
        return (self.base * (self.slope * doubt_B).exp()).clamp(LEAST, MOST)


def doubt(P_BN: Tensor) -> Tensor:
    """Compute H / log N of each image's probabilities.

    Args:
        P_BN: (B, N) float ≥ 0, each row sums to 1; N ≥ 2.

    Returns:
        (B,) float in [0, 1].
    """
    entropy_BN: Tensor = torch.special.entr(P_BN)
    return entropy_BN.sum(dim=1) / math.log(P_BN.shape[1])


def temper_probabilities(P_BN: Tensor, temperature: Temperature) -> Tensor:
    """Flatten or sharpen probabilities: P^(1/τ) / Σ P^(1/τ), the softmax of log P / τ.

    For a network's softmax this divides its logits by τ; a mixture's P has no logits,
    and log P stands for them.

    Args:
        P_BN: (B, N) float ≥ 0, each row sums to 1.
        temperature: above 1 the classifier becomes less sure.

    Returns:
        (B, N) float; each row sums to 1, in the order of P.
    """
    if temperature == Temperature():
        return P_BN
    tau_B = temperature.of(doubt(P_BN))
    return (P_BN.log() / tau_B[:, None]).softmax(dim=1)


def fit_temperature(log_p_RN: Tensor, *, labels_R: Tensor) -> Temperature:
    """Find the temperature under which the best guess is as sure as it is right.

    Expectation consistency (Clarté et al., 2023): the mean over images of
    max_n P_n − [the guess is right] is 0. That fixes one number, which Brent's method
    finds, for the mean falls as τ grows. The same mean weighed by H / log N is to be 0
    as well, so that neither certain nor doubtful images are off; a root of both
    fixes base and slope. Guo et al. (2017) fit the likelihood of the true class
    instead, which a mixture's probabilities of classes in other groups, small and many,
    decide more than its best guess does.

    Few images ask for a slope by chance. So it is taken only in part, 1 − 2 / χ², and
    the base fits what is taken: χ² is the square of what the second mean is off without
    it in its standard deviations, 1 on average where there is nothing to correct.

    Args:
        log_p_RN: (R, N) float ≤ 0, log P; −∞ where P is 0. R ≥ 1.
        labels_R: (R,) int64 in [0, N), the true classes.

    Returns:
        Its base in [`LEAST`, `MOST`], its slope at most `STEEPEST` either way.

    Raises:
        ValueError: there is no image.
    """
    if not len(labels_R):
        raise ValueError("no image to fit a temperature on, expected at least one")
    images = _Images(log_p_RN, labels_R)
    low, high = math.log(LEAST), math.log(MOST)

    def base_for(slope: float) -> float | None:
        def excess(log_base: float) -> float:
            return float(images.excess(np.array([log_base, slope]))[0][0])

        if excess(low) <= 0 or excess(high) >= 0:
            return None
        return float(brentq(excess, low, high, xtol=1e-6))

    alone = base_for(0.0)
    if alone is None:
        too_timid = images.excess(np.array([low, 0.0]))[0][0] <= 0
        return Temperature(LEAST if too_timid else MOST)
    part = images.evidence_of_slope(alone)
    found = root(images.excess, np.array([alone, 0.0]), jac=True) if part else None
    if found and found.success and abs(found.x[1]) <= STEEPEST:
        slope = part * float(found.x[1])
        base = base_for(slope)
        if base is not None:
            return Temperature(math.exp(base), slope)
    return Temperature(math.exp(alone))


class _Images:
    """The two means that `fit_temperature` brings to 0, and their derivatives.

    With g the distance of log P from the best guess's, that has the probability
    1 / Σ exp(−g / τ). Single precision is enough: what it rounds is far below what a
    few thousand images can tell.
    """

    def __init__(self, log_p_RN: Tensor, labels_R: Tensor) -> None:
        best = log_p_RN.max(dim=1)
        self.right_R = (best.indices == labels_R).double()
        # So many rows at a time that what is computed of them stays in the cache.
        parts = torch.split(log_p_RN, max(1, _CACHED // log_p_RN.shape[1]))
        self.doubt_R = torch.cat([doubt(part.exp()) for part in parts]).double()
        self.gaps = [
            (top_B[:, None] - part).clamp_(max=-_NEVER)
            for top_B, part in zip(
                torch.split(best.values, len(parts[0])), parts, strict=True
            )
        ]
        self.weights_2R = torch.stack([torch.ones_like(self.doubt_R), self.doubt_R])

    def excess(
        self, at: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both means (2,) at (log base, slope), and (2, 2) their derivatives."""
        sure_R, change_R = self._best(*at.tolist())
        excess_2R = self.weights_2R * (sure_R - self.right_R)
        by_2R = self.weights_2R * change_R
        derivative = by_2R @ self.weights_2R.T / len(self.right_R)
        return excess_2R.mean(dim=1).numpy(), derivative.numpy()

    def evidence_of_slope(self, log_tau: float) -> float:
        """Compute 1 − 2 / χ², at least 0, of the second mean without a slope.

        Of that mean what is left of it when the first is kept at 0.
        """
        sure_R, change_R = self._best(log_tau, 0.0)
        weight_R = self.doubt_R - (self.doubt_R * change_R).sum() / change_R.sum()
        off = float((weight_R * (sure_R - self.right_R)).sum()) ** 2
        variance = float((weight_R**2 * sure_R * (1 - sure_R)).sum())
        return 1 - 2 * variance / off if off > 2 * variance else 0.0

    def _best(self, log_base: float, slope: float) -> tuple[Tensor, Tensor]:
        """The best guess's probability (R,), and how it grows with log τ."""
        total, weighed = [], []
        tau_R = Temperature(math.exp(log_base), slope).of(self.doubt_R)
        pace_R = (-1 / tau_R).to(self.gaps[0].dtype)
        paces = torch.split(pace_R, len(self.gaps[0]))
        for gap_BN, pace_B in zip(self.gaps, paces, strict=True):
            share_BN = (gap_BN * pace_B[:, None]).exp_()
            total.append(share_BN.sum(dim=1))
            weighed.append(share_BN.mul_(gap_BN).sum(dim=1))
        total_R = torch.cat(total).double()
        return 1 / total_R, -torch.cat(weighed).double() / (total_R**2 * tau_R)


def mean_loss(log_p_RN: Tensor, *, labels_R: Tensor, temperature: Temperature) -> float:
    """Compute the mean of −log P_y under a temperature.

    Args:
        log_p_RN: as there.
        labels_R: as there.
        temperature: 1 for the probabilities as they are.

    Raises:
        ValueError: no image gives its class any probability.
    """
    told_RN, labels_R = _told(log_p_RN, labels_R)
    total = 0.0
    parts = zip(torch.split(told_RN, _ROWS), torch.split(labels_R, _ROWS), strict=True)
    for part, labels_B in parts:
        tau_B = temperature.of(doubt(part.double().exp()))
        tempered = (part.double() / tau_B[:, None]).log_softmax(dim=1)
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
