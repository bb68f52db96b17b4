# ruff: noqa: N806
from __future__ import annotations

import io
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csgraph
from sklearn.metrics.pairwise import rbf_kernel
from torch.testing import assert_close

from deepme.core.regularizers import (
    ClassMeans,
    blend,
    expert_objective,
    laplacian_penalty,
    normalized_laplacian,
    ridge_penalty,
    visual_similarity,
)

# Class 0 is similar to 1 and 2, which are not similar to each other; the diagonal
# must not matter. Degrees 3, 1, 2.
SIMILARITY = torch.tensor([[9.0, 1.0, 2.0], [1.0, 9.0, 0.0], [2.0, 0.0, 9.0]])
WEIGHT = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 1.0]])


def random_similarity(num_classes: int, seed: int) -> torch.Tensor:
    values = torch.rand(
        num_classes, num_classes, generator=torch.Generator().manual_seed(seed)
    ).double()
    return (values + values.T).fill_diagonal_(0)


def test_normalized_laplacian_of_three_classes() -> None:
    expected = torch.tensor(
        [
            [1, -1 / sqrt(3 * 1), -2 / sqrt(3 * 2)],
            [-1 / sqrt(3 * 1), 1, 0],
            [-2 / sqrt(3 * 2), 0, 1],
        ]
    )
    assert_close(normalized_laplacian(SIMILARITY), expected)


def test_normalized_laplacian_leaves_its_input_alone() -> None:
    similarity = SIMILARITY.clone()
    normalized_laplacian(similarity)
    assert torch.equal(similarity, SIMILARITY)


def test_isolated_class_has_a_zero_row_as_in_scipy() -> None:
    similarity = random_similarity(6, seed=0)
    similarity[2] = similarity[:, 2] = 0
    laplacian = normalized_laplacian(similarity)
    assert not laplacian[2].any()
    expected = csgraph.laplacian(similarity.numpy(), normed=True)
    assert_close(laplacian, torch.from_numpy(expected))


def test_zero_similarity_pulls_nothing() -> None:
    laplacian = normalized_laplacian(torch.zeros(3, 3))
    assert_close(laplacian_penalty(WEIGHT, laplacian), torch.tensor(0.0))


def test_laplacian_penalty_is_the_weighted_sum_of_squared_differences() -> None:
    w0, w1, w2 = WEIGHT[0] / sqrt(3), WEIGHT[1] / sqrt(1), WEIGHT[2] / sqrt(2)
    expected = 1 * (w0 - w1).square().sum() + 2 * (w0 - w2).square().sum()
    assert_close(laplacian_penalty(WEIGHT, normalized_laplacian(SIMILARITY)), expected)


def test_laplacian_penalty_is_the_trace_of_the_paper() -> None:
    laplacian = normalized_laplacian(random_similarity(5, seed=1))
    weight = torch.arange(20.0).reshape(5, 4).double().sin()
    W = weight.T  # d×C, as printed
    assert_close(laplacian_penalty(weight, laplacian), torch.trace(W @ laplacian @ W.T))


def test_penalty_gradients() -> None:
    laplacian = normalized_laplacian(random_similarity(4, seed=2))
    weight = torch.arange(12.0).reshape(4, 3).double().cos().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: laplacian_penalty(w, laplacian), weight)
    assert torch.autograd.gradcheck(ridge_penalty, weight)


def test_ridge_penalty() -> None:
    expected = 1**2 + 2**2 + 3**2 + 1**2 + 0**2 + 1**2
    assert_close(ridge_penalty(WEIGHT), torch.tensor(float(expected)))


def test_visual_similarity_of_three_directions() -> None:
    # Unit vectors →, ↑, ←: squared distances 2, 2, 4, so σ² = 2.
    means = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-2.0, 0.0]])
    near, far = exp(-2 / 2), exp(-4 / 2)
    expected = torch.tensor([[0, near, far], [near, 0, near], [far, near, 0]])
    actual = visual_similarity(means, seen_C=torch.ones(3, dtype=torch.bool))
    assert_close(actual, expected)


@given(
    arrays(np.float32, (4, 3), elements=st.floats(-4, 4, width=16)),
    arrays(np.bool_, 4),
)
def test_visual_similarity_equals_scikit_learns_rbf_kernel(
    means: np.ndarray, seen: np.ndarray
) -> None:
    similarity = visual_similarity(
        torch.from_numpy(means), seen_C=torch.from_numpy(seen)
    )
    assert torch.equal(similarity, similarity.T)
    assert not similarity.diagonal().any()
    assert not similarity[~torch.from_numpy(seen)].any()

    norms = np.linalg.norm(means.astype(np.float64), axis=1, keepdims=True)
    units = (means / np.where(norms > 0, norms, 1))[seen]
    i, j = np.triu_indices(len(units), 1)
    squared = np.sort(np.square(units[i] - units[j]).sum(axis=1))
    if not len(squared) or (sigma_squared := squared[(len(squared) - 1) // 2]) < 1e-9:
        return
    expected = rbf_kernel(units, gamma=1 / sigma_squared)
    np.fill_diagonal(expected, 0)
    # Ω is float32: what is below its range comes out as 0.
    actual = similarity.numpy()[np.ix_(seen, seen)]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-30)


def test_class_without_images_is_similar_to_none_and_changes_no_other() -> None:
    means = torch.tensor([[1.0, 0.0], [torch.nan, torch.nan], [0.0, 1.0]])
    actual = visual_similarity(means, seen_C=torch.tensor([True, False, True]))
    e = exp(-2 / 2)  # one pair: its distance is the median
    assert_close(actual, torch.tensor([[0, 0, e], [0, 0, 0], [e, 0, 0]]))


@pytest.mark.parametrize("seen", [[True], [False], [True, False], [False, False]])
def test_no_pair_of_seen_classes_means_no_similarity(seen: list[bool]) -> None:
    means = torch.ones(len(seen), 2)
    actual = visual_similarity(means, seen_C=torch.tensor(seen))
    assert torch.equal(actual, torch.zeros(len(seen), len(seen)))


def test_identical_means_are_fully_similar_whatever_their_rounding() -> None:
    direction = torch.rand(64, generator=torch.Generator().manual_seed(3))
    means = torch.tensor([0.1, 0.3, 7.0])[:, None] * direction
    actual = visual_similarity(means, seen_C=torch.ones(3, dtype=torch.bool))
    assert torch.equal(actual, 1 - torch.eye(3))


def test_sigma_zero_separates_the_class_that_differs() -> None:
    means = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    actual = visual_similarity(means, seen_C=torch.ones(4, dtype=torch.bool))
    same = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert torch.equal(actual, (same[:, None] * same).fill_diagonal_(0))


def test_blend_keeps_the_share_of_the_old() -> None:
    old, new = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])
    expected = torch.tensor([0.9 * 1 + 0.1 * 3, 0.9 * 2 + 0.1 * 6])
    assert_close(blend(old, new, momentum=0.9), expected)
    assert torch.equal(blend(old, new, momentum=0), new)
    assert torch.equal(blend(old, new, momentum=1), old)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_blend_refuses_momentum_outside_its_range(momentum: float) -> None:
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\]"):
        blend(torch.zeros(1), torch.zeros(1), momentum=momentum)


def test_class_means_average_unit_vectors() -> None:
    means = ClassMeans.zeros(3, width=2)
    features = torch.tensor([[3.0, 4.0], [0.0, 5.0], [-1.0, 0.0]], requires_grad=True)
    means.update(features, labels_B=torch.tensor([0, 0, 2]))
    expected = [[(3 / 5 + 0) / 2, (4 / 5 + 1) / 2], [0, 0], [-1, 0]]
    assert_close(means.means(), torch.tensor(expected))
    assert means.seen().tolist() == [True, False, True]
    assert means.count_C.tolist() == [2, 0, 1]
    assert not means.sum_Cd.requires_grad


def test_class_means_go_on_from_a_checkpoint_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(4)
    features = torch.rand(4, 8, 16, generator=generator)
    labels = torch.randint(5, (4, 8), generator=generator)
    whole = ClassMeans.zeros(5, width=16)
    part = ClassMeans.zeros(5, width=16)
    for step in range(4):
        whole.update(features[step], labels_B=labels[step])
        checkpoint = io.BytesIO()
        torch.save(part.state_dict(), checkpoint)
        checkpoint.seek(0)
        part = ClassMeans(**torch.load(checkpoint, weights_only=True))
        part.update(features[step], labels_B=labels[step])
    assert torch.equal(part.means(), whole.means())
    assert torch.equal(part.count_C, torch.bincount(labels.flatten(), minlength=5))


def test_class_means_take_half_precision_features() -> None:
    means = ClassMeans.zeros(1, width=2)
    for _ in range(1000):  # bfloat16 sums would stop growing at 256
        means.update(torch.ones(1, 2).bfloat16(), labels_B=torch.tensor([0]))
    assert_close(means.means(), torch.full((1, 2), 1 / sqrt(2)))


def objective(
    lambda1: float, lambda2: float, lambda3: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    # softmax (1/5, 3/5, 1/5) and (1/2, 1/4, 1/4), true classes 1 and 2.
    logits = torch.tensor([[0, log(3), 0], [log(2), 0, 0]])
    return expert_objective(
        logits_BC=logits,
        labels_B=torch.tensor([1, 2]),
        weight_Cd=WEIGHT,
        laplacian_omega=normalized_laplacian(SIMILARITY) if lambda2 else None,
        laplacian_theta=torch.eye(3) if lambda3 else None,
        lambda1=lambda1,
        lambda2=lambda2,
        lambda3=lambda3,
    )


def test_expert_objective_is_equation_1() -> None:
    total, parts = objective(0.1, 0.2, 0.3)
    expected = {
        "cross_entropy": torch.tensor((-log(3 / 5) - log(1 / 4)) / 2),
        "ridge": torch.tensor(16.0),
        "visual": laplacian_penalty(WEIGHT, normalized_laplacian(SIMILARITY)),
        "semantic": torch.tensor(16.0),  # tr(W I Wᵀ)
    }
    assert_close(parts, expected)
    assert_close(
        total,
        expected["cross_entropy"]
        + 0.1 * 16
        + 0.2 / 2 * expected["visual"]
        + 0.3 / 2 * 16,
    )


@pytest.mark.parametrize(
    ("lambdas", "names"),
    [
        ((0, 0, 0), ["cross_entropy"]),
        ((1, 0, 0), ["cross_entropy", "ridge"]),
        ((0, 1, 0), ["cross_entropy", "visual"]),
        ((0, 0, 1), ["cross_entropy", "semantic"]),
    ],
)
def test_a_term_with_lambda_zero_is_left_out(
    lambdas: tuple[float, float, float], names: list[str]
) -> None:
    assert list(objective(*lambdas)[1]) == names


@pytest.mark.parametrize("name", ["visual", "semantic"])
def test_a_lambda_needs_its_laplacian(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} term has λ = 1 but no Laplacian"):
        expert_objective(
            logits_BC=torch.zeros(1, 3),
            labels_B=torch.tensor([0]),
            weight_Cd=WEIGHT,
            laplacian_omega=None,
            laplacian_theta=None,
            lambda1=0,
            lambda2=int(name == "visual"),
            lambda3=int(name == "semantic"),
        )


def test_expert_objective_gradients() -> None:
    laplacian = normalized_laplacian(random_similarity(3, seed=5))
    features = torch.arange(8.0).reshape(4, 2).double().sin()
    weight = torch.arange(6.0).reshape(3, 2).double().cos().requires_grad_()

    def total(weight: torch.Tensor) -> torch.Tensor:
        return expert_objective(
            logits_BC=features @ weight.T,
            labels_B=torch.tensor([0, 1, 2, 0]),
            weight_Cd=weight,
            laplacian_omega=laplacian,
            laplacian_theta=2 * laplacian,
            lambda1=0.1,
            lambda2=0.2,
            lambda3=0.3,
        )[0]

    assert torch.autograd.gradcheck(total, weight)
