"""The temperature beside a grid, scipy, torchmetrics and the one that is true."""

# ruff: noqa: N803, N806
from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, fsolve
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch.testing import assert_close

from deepme.core import calibration
from deepme.core.calibration import (
    LEAST,
    MOST,
    STEEPEST,
    Temperature,
    doubt,
    fit_temperature,
    mean_loss,
    temper_probabilities,
)
from deepme.core.metrics import CalibrationBins

TRUE_TAU = 2.5


def overconfident(images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log P of a classifier whose logits are `TRUE_TAU` times too large."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, 9, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return (TRUE_TAU * logits).log_softmax(1), labels


def their_loss(log_p: torch.Tensor, labels: torch.Tensor, tau: float) -> float:
    chosen = log_softmax(log_p.double().numpy() / tau, axis=1)
    return float(-chosen[np.arange(len(labels)), labels.numpy()].mean())


def their_excess(log_p: torch.Tensor, labels: torch.Tensor, tau: float) -> float:
    """By how much the best guess is surer than it is right."""
    P = softmax(log_p.double().numpy() / tau, axis=1)
    return float(P.max(1).mean() - (P.argmax(1) == labels.numpy()).mean())


def their_fit(log_p: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Log base and slope by scipy; the slope in so far as it is no chance."""
    log_p = log_p.double().numpy()
    right = log_p.argmax(1) == labels.numpy()
    H = entropy(np.exp(log_p), axis=1) / np.log(log_p.shape[1])

    def sure(at: tuple[float, float]) -> np.ndarray:
        return softmax(log_p / np.exp(at[0] + at[1] * H)[:, None], axis=1).max(1)

    def means(at: tuple[float, float]) -> tuple[float, float]:
        off = sure(at) - right
        return off.mean(), (off * H).mean()

    def base_for(slope: float) -> float:
        return brentq(lambda base: means((base, slope))[0], *np.log((LEAST, MOST)))

    alone = base_for(0)
    both, _, ended, _ = fsolve(means, (alone, 0), full_output=True)
    if ended != 1 or abs(both[1]) > STEEPEST:
        return alone, 0
    rise = (sure((alone + 1e-6, 0)) - sure((alone - 1e-6, 0))) / 2e-6
    weight = H - (H * rise).sum() / rise.sum()
    guess = sure((alone, 0))
    deviation = np.sqrt((weight**2 * guess * (1 - guess)).sum())
    chi = (weight * (guess - right)).sum() / deviation
    slope = max(0.0, 1 - 2 / chi**2) * both[1]
    return base_for(slope), slope


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("images", [40, 300, 2000])
@pytest.mark.parametrize("kind", ["overconfident", "crooked", "calibrated"])
def test_it_is_what_scipy_finds(images: int, seed: int, kind: str):
    log_p, labels = (crooked if kind == "crooked" else overconfident)(images, seed)
    if kind == "calibrated":
        log_p = (log_p / TRUE_TAU).log_softmax(1)
    found = fit_temperature(log_p, labels_R=labels)
    log_base, slope = their_fit(log_p, labels)
    assert np.log(found.base) == pytest.approx(log_base, abs=1e-4)
    assert found.slope == pytest.approx(slope, abs=1e-3)


def test_the_best_guess_is_as_sure_as_it_is_right():
    log_p, labels = crooked(700, seed=0)
    tau = fit_temperature(log_p, labels_R=labels)
    assert tau.slope != 0
    sure = temper_probabilities(log_p.double().exp(), tau).amax(1)
    right = (log_p.argmax(1) == labels).double().mean()
    assert float(sure.mean()) == pytest.approx(float(right), abs=1e-6)


def test_a_slope_that_may_be_chance_is_small():
    """Of classifiers without one, over many draws, and of one with a slope."""
    slopes = []
    for seed in range(60):
        log_p, labels = overconfident(150, seed)
        log_p = (log_p / TRUE_TAU).log_softmax(1)
        slopes.append(fit_temperature(log_p, labels_R=labels).slope)
    assert np.mean(np.equal(slopes, 0)) > 0.7
    assert np.abs(slopes).mean() < 0.2
    log_p, labels = crooked(1000, seed=0)
    assert fit_temperature(log_p, labels_R=labels).slope > 0.3


def test_the_loss_is_that_of_scipy():
    log_p, labels = overconfident(700, seed=0)
    for tau in (0.7, 1.0, 2.4):
        ours = mean_loss(log_p, labels_R=labels, temperature=Temperature(tau))
        assert ours == pytest.approx(their_loss(log_p, labels, tau), rel=1e-9)


def test_a_guess_that_is_too_timid_is_made_surer():
    """As a mixture's: one class stands out, and the rest is spread over many."""
    generator = torch.Generator().manual_seed(4)
    P = torch.full((3000, 50), 0.7 / 49)
    P[:, 0] = 0.3
    labels = torch.where(torch.rand(3000, generator=generator) < 0.45, 0, 7)
    tau = fit_temperature(P.log(), labels_R=labels)
    assert tau.base < 1
    assert tau.slope == 0
    assert float(temper_probabilities(P, tau)[0, 0]) == pytest.approx(0.45, abs=0.03)


def test_held_out_images_are_calibrated_and_keep_their_order():
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    tau = fit_temperature(*overconfident(2000, seed=1)[:1], labels_R=_labels(1))
    assert tau.base == pytest.approx(TRUE_TAU, rel=0.05)
    assert tau.slope == pytest.approx(0, abs=0.2)
    log_p, labels = overconfident(4000, seed=2)
    errors = {}
    for name, P in (
        ("before", log_p.exp()),
        ("after", temper_probabilities(log_p.exp(), tau)),
    ):
        confidence, predicted = P.max(1)
        bins = CalibrationBins(15)
        bins.update(confidence, correct_B=predicted == labels)
        errors[name] = bins.expected_error()
        theirs = torchmetrics.multiclass_calibration_error(
            P, labels, num_classes=9, n_bins=15, norm="l1"
        )
        assert errors[name] == pytest.approx(float(theirs), abs=1e-6)
        assert torch.equal(predicted, log_p.argmax(1))
    assert errors["after"] <= errors["before"] / 2


def _labels(seed: int) -> torch.Tensor:
    return overconfident(2000, seed)[1]


def test_tempering_a_softmax_divides_its_logits():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    tempered = temper_probabilities(logits.softmax(1), Temperature(3.0))
    assert_close(tempered, (logits / 3).softmax(1))
    P = logits.softmax(1)
    assert temper_probabilities(P, Temperature()) is P


def test_a_class_without_probability_keeps_none():
    P = torch.tensor([[0.7, 0.3, 0.0]])
    tempered = temper_probabilities(P, Temperature(2.0))[0]
    assert tempered[2] == 0
    assert float(tempered[0] / tempered[1]) == pytest.approx((0.7 / 0.3) ** 0.5)
    assert float(tempered.sum()) == pytest.approx(1)


def test_an_image_whose_class_has_no_probability_counts_as_wrong():
    log_p, labels = overconfident(300, seed=3)
    never = log_p[:50].clone()
    never[torch.arange(50), labels[:50]] = -torch.inf
    more = torch.cat([log_p, never]), torch.cat([labels, labels[:50]])
    alone = fit_temperature(log_p, labels_R=labels)
    assert fit_temperature(more[0], labels_R=more[1]).base > 1.1 * alone.base
    plain = Temperature()
    assert mean_loss(more[0], labels_R=more[1], temperature=plain) == pytest.approx(
        mean_loss(log_p, labels_R=labels, temperature=plain)
    )
    with pytest.raises(ValueError, match="no image gives its class"):
        mean_loss(never, labels_R=labels[:50], temperature=plain)
    with pytest.raises(ValueError, match="no image to fit"):
        fit_temperature(log_p[:0], labels_R=labels[:0])


@pytest.mark.parametrize(("right", "expected"), [(True, LEAST), (False, MOST)])
def test_it_stays_within_bounds(right: bool, expected: float):
    log_p = torch.tensor([[0.9, 0.1], [0.8, 0.2]]).log()
    labels = torch.tensor([0, 0] if right else [1, 1])
    assert fit_temperature(log_p, labels_R=labels) == Temperature(expected)


def crooked(images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log P of one that is too sure where it doubts and too timid where it does not."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, 9, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    top = logits.softmax(1).amax(1, keepdim=True)
    return (logits * (0.6 + 1.4 * (1 - top))).log_softmax(1), labels


def error_of(P: torch.Tensor, labels: torch.Tensor) -> float:
    confidence, predicted = P.max(1)
    bins = CalibrationBins(15)
    bins.update(confidence, correct_B=predicted == labels)
    return bins.expected_error()


def test_certain_and_doubtful_images_have_temperatures_of_their_own():
    log_p, labels = crooked(4000, seed=5)
    tau = fit_temperature(log_p, labels_R=labels)
    assert tau.slope > 0.3
    log_p, labels = crooked(8000, seed=6)
    alone = brentq(lambda t: their_excess(log_p, labels, t), 0.1, 10)
    after = error_of(temper_probabilities(log_p.exp(), tau), labels)
    assert after < error_of((log_p / alone).softmax(1), labels) / 2
    assert torch.equal(
        temper_probabilities(log_p.exp(), tau).argmax(1), log_p.argmax(1)
    )


def test_doubt_is_the_entropy_of_scipy():
    P = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.6, 0.3, 0.1]])
    expected = entropy(P.numpy(), axis=1) / np.log(3)
    np.testing.assert_allclose(doubt(P).numpy(), expected, atol=1e-6)
    temperature = Temperature(0.5, 2.0)
    tempered = temper_probabilities(P, temperature)
    tau = 0.5 * np.exp(2.0 * expected[2])
    assert_close(tempered[2], (P[2].log() / tau).softmax(0))
    assert_close(tempered[0], P[0])


def test_the_derivatives_are_those_of_differences():
    log_p, labels = crooked(200, seed=7)
    images = calibration._Images(log_p.double(), labels)
    for x in ((0.2, 0.5), (-0.4, -1.0)):
        _, derivative = images.excess(np.array(x))
        for j, step in enumerate(((1e-6, 0.0), (0.0, 1e-6))):
            up = images.excess(np.add(x, step))[0]
            down = images.excess(np.subtract(x, step))[0]
            np.testing.assert_allclose(derivative[:, j], (up - down) / 2e-6, rtol=1e-4)


def test_single_precision_and_parts_change_nothing(monkeypatch):
    log_p, labels = crooked(700, seed=3)
    exact = fit_temperature(log_p.double(), labels_R=labels)
    for cached in (1, 100, 10**9):
        monkeypatch.setattr(calibration, "_CACHED", cached)
        found = fit_temperature(log_p.float(), labels_R=labels)
        assert found == pytest.approx(exact, rel=1e-4)


def test_where_all_images_are_alike_one_number_is_fitted():
    P = torch.full((500, 4), 0.1)
    P[:, 0] = 0.7
    labels = torch.where(torch.arange(500) < 200, 0, 1)
    tau = fit_temperature(P.log(), labels_R=labels)
    assert tau.slope == 0
    assert float(temper_probabilities(P, tau)[0, 0]) == pytest.approx(0.4, abs=1e-4)
