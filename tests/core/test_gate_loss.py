from __future__ import annotations

from math import inf, log, nan, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from deepme.core.gate_loss import (
    GateLossWeights,
    consistency,
    expert_losses,
    expert_selection,
    gate_objective,
    likelihood,
    margin,
    relevance,
    true_log_probabilities,
)
from deepme.core.mixture import Members

# Four classes, two experts, class 2 shared; one image of each kind of class.
MEMBERS = Members.of([[0, 1, 2], [2, 3]], num_classes=4)
LABELS = torch.tensor([0, 2])
HOLDS = torch.tensor([[True, False], [True, True]])
LOG_PROBABILITIES = (
    torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log(),
    torch.tensor([[0.6, 0.4], [0.7, 0.3]]).log(),
)
# s = (4/5, 1/5) and (1/2, 1/2).
GATE_LOGITS = torch.tensor([[log(4), log(1)], [0.0, 0.0]])
PHI = ((4 / sqrt(17), 1 / sqrt(17)), (1 / sqrt(2), 1 / sqrt(2)))
KAPPA, BETA = 0.7, 0.4

SELECTION = (
    PHI[0][0] * -log(0.5)
    + PHI[0][1] * (log(2) + KAPPA)
    + PHI[1][0] * -log(0.8)
    + PHI[1][1] * -log(0.7)
) / 2
RELEVANCE = (-log(4 / 5) - (log(1 / 2) + log(1 / 2)) / 2) / 2
CONSISTENCY = 0.0  # image 0 has one expert, image 1 the same s for both
# Image 0: F/ΣF = s-weighted, P(0) = 4/5·0.5, its rival class 2 has 4/5·0.2 + 1/5·0.6.
# Image 1: P(2) = (0.8 + 0.7)/2 leads the rival 0.3/2 by more than β.
MARGIN = ((BETA - 4 / 5 * 0.5 + (4 / 5 * 0.2 + 1 / 5 * 0.6)) + 0) / 2


def test_true_log_probabilities_pick_the_output_of_the_true_class() -> None:
    picked = true_log_probabilities(LOG_PROBABILITIES, labels_B=LABELS, members=MEMBERS)
    assert_close(picked, torch.tensor([[log(0.5), -inf], [log(0.8), log(0.7)]]))


def test_expert_losses_charge_outsiders_more_than_a_guess() -> None:
    true = torch.tensor([[log(0.5), nan], [log(0.8), log(0.7)]])
    losses = expert_losses(true, labels_B=LABELS, members=MEMBERS, kappa=KAPPA)
    expected = [[-log(0.5), log(2) + KAPPA], [-log(0.8), -log(0.7)]]
    assert_close(losses, torch.tensor(expected))


def test_expert_selection_weighs_losses_by_confidence() -> None:
    phi = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    losses = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    expected = ((0.6 * 1 + 0.8 * 2) + (1.0 * 3 + 0.0 * 5)) / 2
    assert_close(expert_selection(phi, losses_BT=losses), torch.tensor(expected))


def test_relevance_is_the_cross_entropy_to_the_experts_that_know() -> None:
    actual = relevance(GATE_LOGITS, holds_BT=HOLDS)
    assert_close(actual, torch.tensor(RELEVANCE))


@given(st.integers(1, 5), st.integers(0, 9))
def test_relevance_is_least_where_the_gate_equals_q(num_true: int, seed: int) -> None:
    holds = torch.arange(5)[None] < num_true
    least = relevance(torch.where(holds, 0.0, -1e4), holds_BT=holds)
    assert_close(least, torch.tensor(log(num_true)))
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(seed))
    assert relevance(logits, holds_BT=holds) >= least - 1e-6


def test_consistency_averages_over_pairs_then_images() -> None:
    s = torch.tensor([[0.5, 0.2, 0.3], [0.7, 0.2, 0.1], [0.6, 0.1, 0.3]])
    holds = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0]]).bool()
    three_pairs = (abs(0.5 - 0.2) + abs(0.5 - 0.3) + abs(0.2 - 0.3)) / 3
    one_pair = abs(0.7 - 0.1)
    no_pair = 0
    expected = (three_pairs + one_pair + no_pair) / 3
    assert_close(consistency(s, holds_BT=holds), torch.tensor(expected))


def test_consistency_of_a_single_expert_is_zero() -> None:
    holds = torch.ones(2, 1, dtype=torch.bool)
    assert consistency(torch.ones(2, 1), holds_BT=holds) == 0


def test_margin_asks_for_a_lead_of_beta_over_the_best_rival() -> None:
    # ΣF = 2, 1, 1: a lead of (1.0 − 0.6)/2, then no lead, then one above β.
    scores = torch.tensor([[0.4, 1.0, 0.6], [0.5, 0.1, 0.4], [0.0, 0.0, 1.0]])
    actual = margin(scores, labels_B=torch.tensor([1, 2, 2]), beta=0.3)
    expected = ((0.3 - 1.0 / 2 + 0.6 / 2) + (0.3 - 0.4 + 0.5) + 0) / 3
    assert_close(actual, torch.tensor(expected))


def test_margin_pushes_the_truth_up_and_the_best_rival_down() -> None:
    scores = torch.tensor([[0.3, 0.5, 0.2]], requires_grad=True)
    margin(scores, labels_B=torch.tensor([0]), beta=0.1).backward()
    # d/dF of −(F_0 − F_1)/ΣF at ΣF = 1: ∓1 plus the common (F_0 − F_1).
    common = 0.3 - 0.5
    expected = torch.tensor([[-1 + common, 1 + common, common]])
    assert scores.grad is not None
    assert_close(scores.grad, expected)


def test_likelihood_is_the_mixtures_cross_entropy() -> None:
    true = true_log_probabilities(LOG_PROBABILITIES, labels_B=LABELS, members=MEMBERS)
    actual = likelihood(
        GATE_LOGITS, log_probabilities=LOG_PROBABILITIES, true_log_probability_BT=true
    )
    expected = (-log(4 / 5 * 0.5) - log((0.8 + 0.7) / 2)) / 2
    assert_close(actual, torch.tensor(expected))


def test_likelihood_is_of_what_the_outputs_for_other_images_leave() -> None:
    # Expert 1 gives half of its softmax to none of its classes.
    halved = (LOG_PROBABILITIES[0], LOG_PROBABILITIES[1] - log(2))
    true = true_log_probabilities(halved, labels_B=LABELS, members=MEMBERS)
    actual = likelihood(
        GATE_LOGITS, log_probabilities=halved, true_log_probability_BT=true
    )
    first = 4 / 5 * 0.5 / (4 / 5 + 1 / 10)
    second = (0.8 / 2 + 0.35 / 2) / (1 / 2 + 1 / 4)
    assert_close(actual, torch.tensor((-log(first) - log(second)) / 2))


def objective(
    gate_logits: torch.Tensor = GATE_LOGITS, **weights: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return gate_objective(
        gate_logits,
        log_probabilities=LOG_PROBABILITIES,
        labels_B=LABELS,
        members=MEMBERS,
        weights=GateLossWeights(kappa=KAPPA, beta=BETA, **weights),
    )


EQUATION_4 = {"selection": 1, "relevance": 1, "consistency": 0.1, "margin": 1}


def test_gate_objective_is_equation_4() -> None:
    weights = {"selection": 2, "relevance": 3, "consistency": 5, "margin": 7}
    total, parts = objective(**weights, likelihood=0)
    expected = {
        "selection": SELECTION,
        "relevance": RELEVANCE,
        "consistency": CONSISTENCY,
        "margin": MARGIN,
    }
    assert_close(parts, {name: torch.tensor(part) for name, part in expected.items()})
    assert_close(
        total,
        torch.tensor(2 * SELECTION + 3 * RELEVANCE + 5 * CONSISTENCY + 7 * MARGIN),
    )


def test_gate_objective_counts_disagreement_on_a_shared_class() -> None:
    logits = torch.tensor([[0.0, 0.0], [log(3), log(1)]])
    _, parts = objective(logits, **EQUATION_4)
    assert_close(parts["consistency"], torch.tensor((0 + abs(3 / 4 - 1 / 4)) / 2))


TERMS = ("selection", "relevance", "consistency", "margin", "likelihood")


@pytest.mark.parametrize("name", TERMS)
def test_a_term_stands_alone(name: str) -> None:
    alone = {term: float(term == name) for term in TERMS}
    total, parts = objective(**alone)
    assert list(parts) == [name]
    assert_close(total, parts[name])


def test_terms_of_weight_zero_are_not_computed() -> None:
    total, _ = gate_objective(
        GATE_LOGITS,
        log_probabilities=[],  # selection and margin could not do without
        labels_B=LABELS,
        members=MEMBERS,
        weights=GateLossWeights(relevance=1, likelihood=0),
    )
    assert_close(total, torch.tensor(RELEVANCE))


@pytest.mark.parametrize("wrong", [{"selection": -1}, {"beta": nan}, {"kappa": inf}])
def test_weights_refuse_numbers_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a number ≥ 0"):
        GateLossWeights(**wrong)


def test_weights_refuse_an_empty_objective() -> None:
    with pytest.raises(ValueError, match="all terms have weight 0"):
        GateLossWeights(likelihood=0)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_of_each_term_reach_gate_and_experts(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    members = Members.of([[0, 1, 2], [2, 3], [4, 2]], num_classes=5)
    labels = torch.tensor([0, 2, 2, 4])
    gate = torch.randn(4, 3, generator=generator).double().requires_grad_()
    experts = [
        torch.randn(4, size, generator=generator).double().requires_grad_()
        for size in members.sizes
    ]
    alone = GateLossWeights(**{term: float(term == name) for term in TERMS}, beta=0.5)

    def total(gate: torch.Tensor, *experts: torch.Tensor) -> torch.Tensor:
        return gate_objective(
            gate,
            log_probabilities=[expert.log_softmax(1) for expert in experts],
            labels_B=labels,
            members=members,
            weights=alone,
        )[0]

    assert total(gate, *experts) > 0
    assert torch.autograd.gradcheck(total, (gate, *experts))


def test_extreme_confidence_stays_finite_in_float32() -> None:
    # Gate and experts all but certain, and wrong: softmax underflows to exact 0.
    gate = torch.tensor([[-300.0, 300.0], [300.0, -300.0]], requires_grad=True)
    experts = [
        torch.tensor([[-300.0, 300.0, 0.0], [300.0, 0.0, -300.0]], requires_grad=True),
        torch.tensor([[300.0, 0.0], [-300.0, 300.0]], requires_grad=True),
    ]
    total, parts = gate_objective(
        gate,
        log_probabilities=[expert.log_softmax(1) for expert in experts],
        labels_B=LABELS,
        members=MEMBERS,
        weights=GateLossWeights(**EQUATION_4),
    )
    total.backward()
    assert_close(parts["relevance"], torch.tensor((600 + 600 / 2) / 2))
    for tensor in (total, gate.grad, *(expert.grad for expert in experts)):
        assert tensor is not None
        assert tensor.isfinite().all()


def descend(**weights: float) -> torch.Tensor:
    """The softmax gate, (2, 2), at which descent from equal trust ends."""
    gate = torch.zeros(2, 2)
    for _ in range(200):
        gate.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(gate, **weights)[0], gate)
        gate = gate.detach() - gradient
    return gate.softmax(1)


def test_descent_finds_the_experts_that_hold_each_class() -> None:
    s = descend(**EQUATION_4, likelihood=0)
    assert s[0, 0] > 0.95  # class 0: expert 0 only
    assert 0.3 < s[1, 0] < 0.7  # class 2: both experts


def test_descent_on_the_likelihood_finds_the_expert_that_knows_best() -> None:
    s = descend()
    assert s[0, 0] > 0.95  # class 0: expert 0 only
    true = true_log_probabilities(LOG_PROBABILITIES, labels_B=LABELS, members=MEMBERS)
    assert s[1, true[1].argmax()] > 0.9  # class 2: the more certain of both
