"""The temperature beside a grid, scipy, torchmetrics and the one that is true."""

# ruff: noqa: N806
from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import root_scalar
from scipy.special import log_softmax, softmax
from torch.testing import assert_close

from deepme.core.calibration import (
    LEAST,
    MOST,
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


def test_the_best_guess_is_as_sure_as_it_is_right():
    log_p, labels = overconfident(700, seed=0)
    found = fit_temperature(log_p, labels_R=labels)
    assert their_excess(log_p, labels, found) == pytest.approx(0, abs=1e-6)
    theirs = root_scalar(
        lambda tau: their_excess(log_p, labels, tau), bracket=(0.1, 10)
    )
    assert found == pytest.approx(theirs.root, rel=1e-4)
    grid = np.linspace(0.5, 5, 451)
    best = grid[np.argmin([abs(their_excess(log_p, labels, tau)) for tau in grid])]
    assert found == pytest.approx(best, abs=0.01)


def test_the_loss_is_that_of_scipy():
    log_p, labels = overconfident(700, seed=0)
    for tau in (0.7, 1.0, 2.4):
        ours = mean_loss(log_p, labels_R=labels, temperature=tau)
        assert ours == pytest.approx(their_loss(log_p, labels, tau), rel=1e-9)


def test_a_guess_that_is_too_timid_is_made_surer():
    """As a mixture's: one class stands out, and the rest is spread over many."""
    generator = torch.Generator().manual_seed(4)
    P = torch.full((3000, 50), 0.7 / 49)
    P[:, 0] = 0.3
    labels = torch.where(torch.rand(3000, generator=generator) < 0.45, 0, 7)
    tau = fit_temperature(P.log(), labels_R=labels)
    assert tau < 1
    assert float(temper_probabilities(P, tau)[0, 0]) == pytest.approx(0.45, abs=0.03)


def test_held_out_images_are_calibrated_and_keep_their_order():
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    tau = fit_temperature(*overconfident(2000, seed=1)[:1], labels_R=_labels(1))
    assert tau == pytest.approx(TRUE_TAU, rel=0.05)
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
    tempered = temper_probabilities(logits.softmax(1), 3.0)
    assert_close(tempered, (logits / 3).softmax(1))
    P = logits.softmax(1)
    assert temper_probabilities(P, 1.0) is P


def test_a_class_without_probability_keeps_none():
    P = torch.tensor([[0.7, 0.3, 0.0]])
    tempered = temper_probabilities(P, 2.0)[0]
    assert tempered[2] == 0
    assert float(tempered[0] / tempered[1]) == pytest.approx((0.7 / 0.3) ** 0.5)
    assert float(tempered.sum()) == pytest.approx(1)


def test_an_image_whose_class_has_no_probability_counts_as_wrong():
    log_p, labels = overconfident(300, seed=3)
    never = log_p[:50].clone()
    never[torch.arange(50), labels[:50]] = -torch.inf
    more = torch.cat([log_p, never]), torch.cat([labels, labels[:50]])
    alone = fit_temperature(log_p, labels_R=labels)
    assert fit_temperature(more[0], labels_R=more[1]) > 1.1 * alone
    assert mean_loss(more[0], labels_R=more[1], temperature=1.0) == pytest.approx(
        mean_loss(log_p, labels_R=labels, temperature=1.0)
    )
    with pytest.raises(ValueError, match="no image gives its class"):
        mean_loss(never, labels_R=labels[:50], temperature=1.0)
    with pytest.raises(ValueError, match="no image to fit"):
        fit_temperature(log_p[:0], labels_R=labels[:0])


@pytest.mark.parametrize(("right", "expected"), [(True, LEAST), (False, MOST)])
def test_it_stays_within_bounds(right: bool, expected: float):
    log_p = torch.tensor([[0.9, 0.1], [0.8, 0.2]]).log()
    labels = torch.tensor([0, 0] if right else [1, 1])
    assert fit_temperature(log_p, labels_R=labels) == expected
