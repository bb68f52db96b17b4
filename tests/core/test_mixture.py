# ruff: noqa: N806
from __future__ import annotations

from math import exp, log, sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepme.core.mixture import (
    Members,
    class_log_probabilities,
    coarse_weights,
    equal_weights,
    expert_confidences,
    fuse,
    gate_confidences,
    hard_weights,
    max_logit_weights,
    normalize_scores,
    oracle_weights,
    routed_weights,
    stack,
    temper,
)

# Four classes, two experts, class 2 shared.
MEMBERS = Members.of([[0, 1, 2], [2, 3]], num_classes=4)
PROBABILITIES = (torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.6, 0.4]]))


def test_members_hold_classes_and_their_outputs() -> None:
    members = Members.of([[3, 0], [1, 3, 2]], num_classes=4)
    assert [classes.tolist() for classes in members.classes] == [[3, 0], [1, 3, 2]]
    assert members.position_NT.tolist() == [[1, -1], [-1, 0], [-1, 2], [0, 1]]
    assert members.num_classes == 4
    assert members.sizes == (2, 3)
    assert members.holds(torch.tensor([3, 0])).tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 1], []], "group 1 has 0 classes"),
        ([[0, 1, 2]], r"all of them in \[0, 2\)"),
        ([[0, 1], [-1]], "group 1 has 1 classes"),
        ([[0, 1], [1, 1]], "group 1 holds a class twice"),
        ([[1]], "1 of 2 classes are in no group"),
    ],
)
def test_members_refuse_groups_that_do_not_fit(
    groups: list[list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Members.of(groups, num_classes=2)


def test_gate_confidences_are_softmax_scaled_to_length_one() -> None:
    s, phi = gate_confidences(torch.tensor([[log(4), log(1)]]))
    assert_close(s, torch.tensor([[4 / 5, 1 / 5]]))
    norm = sqrt((4 / 5) ** 2 + (1 / 5) ** 2)
    assert_close(phi, torch.tensor([[4 / 5 / norm, 1 / 5 / norm]]))


def test_gate_confidences_survive_extreme_logits() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    s, phi = gate_confidences(logits)
    assert s.tolist() == phi.tolist() == [[1, 0, 0]]
    phi.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_fuse_is_equation_3() -> None:
    phi_1, phi_2 = 0.8, 0.6
    scores = fuse(
        PROBABILITIES, members=MEMBERS, weights_BT=torch.tensor([[phi_1, phi_2]])
    )
    shared = phi_1 * 0.2 + phi_2 * 0.6
    expected = torch.tensor([[phi_1 * 0.5, phi_1 * 0.3, shared, phi_2 * 0.4]])
    assert_close(scores, expected)
    assert_close(normalize_scores(scores), expected / (phi_1 + phi_2))


def test_fuse_follows_the_order_of_an_experts_outputs() -> None:
    members = Members.of([[2, 0, 1]], num_classes=3)
    scores = fuse(
        [torch.tensor([[0.5, 0.3, 0.2]])], members=members, weights_BT=torch.ones(1, 1)
    )
    assert_close(scores, torch.tensor([[0.3, 0.2, 0.5]]))


def test_fuse_refuses_a_missing_expert() -> None:
    with pytest.raises(ValueError, match="zip"):
        fuse(PROBABILITIES[:1], members=MEMBERS, weights_BT=torch.ones(1, 2))


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Members, list[torch.Tensor], torch.Tensor]:
    num_classes, num_experts = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    groups = [
        draw(st.lists(st.integers(0, num_classes - 1), min_size=1, unique=True))
        for _ in range(num_experts - 1)
    ]
    groups.append(list(range(num_classes)))  # no class without an expert
    members = Members.of(groups, num_classes=num_classes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    probabilities = [
        torch.randn(3, size, generator=generator).double().softmax(1)
        for size in members.sizes
    ]
    logits = torch.randn(3, num_experts, generator=generator).double()
    return members, probabilities, logits


@given(mixtures())
def test_fuse_equals_the_dense_sum(
    mixture: tuple[Members, list[torch.Tensor], torch.Tensor],
) -> None:
    members, probabilities, logits = mixture
    s, phi = gate_confidences(logits)
    dense_BTN = torch.zeros(3, len(probabilities), members.num_classes).double()
    for t, (probability, classes) in enumerate(
        zip(probabilities, members.classes, strict=True)
    ):
        dense_BTN[:, t, classes] = probability
    scores = fuse(probabilities, members=members, weights_BT=phi)
    assert_close(scores, torch.einsum("bt,btn->bn", phi, dense_BTN))

    by_s = fuse(probabilities, members=members, weights_BT=s)
    assert_close(normalize_scores(scores), normalize_scores(by_s))
    assert_close(normalize_scores(scores).sum(1), torch.ones(3).double())


def test_fuse_gradients_reach_gate_and_experts() -> None:
    generator = torch.Generator().manual_seed(0)
    gate = torch.randn(3, 2, generator=generator).double().requires_grad_()
    experts = [
        torch.randn(3, size, generator=generator).double().requires_grad_()
        for size in MEMBERS.sizes
    ]

    def probabilities(gate: torch.Tensor, *experts: torch.Tensor) -> torch.Tensor:
        softmax = [expert.softmax(1) for expert in experts]
        phi = gate_confidences(gate)[1]
        return normalize_scores(fuse(softmax, members=MEMBERS, weights_BT=phi))

    assert torch.autograd.gradcheck(probabilities, (gate, *experts))


class LargestTensor(TorchDispatchMode):
    """Remember the number of elements of the largest tensor that was made."""

    num_elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.num_elements = max(self.num_elements, leaf.numel())
        return result


def test_fuse_makes_no_tensor_larger_than_its_result() -> None:
    num_classes, num_experts, batch = 60, 6, 4
    groups = [list(range(t, num_classes, num_experts)) for t in range(num_experts)]
    members = Members.of(groups, num_classes=num_classes)
    probabilities = [torch.rand(batch, size) for size in members.sizes]
    with LargestTensor() as largest:
        fuse(
            probabilities,
            members=members,
            weights_BT=torch.rand(batch, num_experts, requires_grad=True),
        )
    assert largest.num_elements == batch * num_classes


def test_equal_weights_average_the_experts() -> None:
    weights = equal_weights(1, num_experts=2)
    scores = fuse(PROBABILITIES, members=MEMBERS, weights_BT=weights)
    assert_close(scores, torch.tensor([[0.5 / 2, 0.3 / 2, (0.2 + 0.6) / 2, 0.4 / 2]]))


def test_hard_weights_keep_the_surest_expert_the_first_of_equals() -> None:
    s = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])
    assert hard_weights(s).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert hard_weights(s.double()).dtype == torch.float64


def test_max_logit_weights_are_the_softmax_of_the_largest_logits() -> None:
    logits = [torch.tensor([[1.0, 3.0, -2.0]]), torch.tensor([[2.0, 0.0]])]
    total = exp(3) + exp(2)
    expected = torch.tensor([[exp(3) / total, exp(2) / total]])
    assert_close(max_logit_weights(logits), expected)


def test_oracle_weights_ask_the_experts_that_hold_the_class() -> None:
    weights = oracle_weights(torch.tensor([0, 2, 3]), members=MEMBERS)
    assert weights.tolist() == [[1, 0], [1 / 2, 1 / 2], [0, 1]]


def test_oracle_leaves_only_the_experts_own_errors() -> None:
    weights = oracle_weights(torch.tensor([3]), members=MEMBERS)
    scores = fuse(PROBABILITIES, members=MEMBERS, weights_BT=weights)
    assert_close(scores, torch.tensor([[0, 0, 0.6, 0.4]]))


def test_stacking_averages_the_experts_that_know_a_class() -> None:
    scores_BN = stack(PROBABILITIES, members=MEMBERS)
    assert_close(scores_BN, torch.tensor([[0.5, 0.3, (0.2 + 0.6) / 2, 0.4]]))


def test_coarse_weights_add_up_the_flat_networks_probabilities() -> None:
    flat_BN = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    weights_BT = coarse_weights(flat_BN, members=MEMBERS)
    assert_close(weights_BT, torch.tensor([[0.1 + 0.2 + 0.3 / 2, 0.3 / 2 + 0.4]]))


def test_an_output_for_none_of_the_classes_takes_its_share() -> None:
    logits = (torch.tensor([[log(1), log(2), log(3), log(4)]]), torch.zeros(1, 2))
    first, second = class_log_probabilities(logits, members=MEMBERS)
    assert_close(first.exp(), torch.tensor([[0.1, 0.2, 0.3]]))
    assert_close(second.exp(), torch.tensor([[0.5, 0.5]]))


def test_expert_confidences_are_torchs_own() -> None:
    logits = [torch.randn(5, size, dtype=torch.float64) * 3 for size in (4, 1, 7)]
    told = expert_confidences(logits)
    assert told.shape == (5, 9)
    for t, values in enumerate(logits):
        entropy = torch.distributions.Categorical(logits=values).entropy()
        assert_close(told[:, t], values.max(dim=1).values)
        assert_close(told[:, 3 + t], entropy / log(max(2, values.shape[1])))
        assert_close(told[:, 6 + t], values.exp().sum(dim=1).log())


def test_temperatures_divide_the_logits() -> None:
    logits = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])]
    assert temper(logits, None) == logits
    halved, doubled = temper(logits, torch.tensor([2.0, 0.5]))
    assert halved.tolist() == [[0.5, 1.0]]
    assert doubled.tolist() == [[6.0]]


class TestRouting:
    S = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.4, 0.4], [0.1, 0.1, 0.8]])

    def test_the_first_k_keep_their_weights(self) -> None:
        kept = routed_weights(self.S, top=2)
        assert_close(kept, torch.tensor([[0.5, 0.3, 0], [0, 0.4, 0.4], [0.1, 0, 0.8]]))

    def test_one_is_hard_routing(self) -> None:
        assert_close(routed_weights(self.S, top=1) > 0, hard_weights(self.S) > 0)

    @pytest.mark.parametrize("top", [None, 3, 9])
    def test_all_are_all(self, top: int | None) -> None:
        assert_close(routed_weights(self.S, top=top), self.S)

    def test_from_a_weight_on(self) -> None:
        kept = routed_weights(self.S, least=0.3)
        assert_close(kept, torch.tensor([[0.5, 0.3, 0], [0, 0.4, 0.4], [0, 0, 0.8]]))

    def test_the_largest_is_asked_whatever_the_weight(self) -> None:
        kept = routed_weights(self.S, least=1.0)
        assert (kept > 0).any(dim=1).all()
        assert (kept > 0).sum(dim=1).tolist() == [1, 2, 1]
