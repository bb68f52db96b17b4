from __future__ import annotations

from collections import Counter
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.testing import assert_close

from deepme.core.metrics import (
    CalibrationBins,
    SparseConfusions,
    TopKCounts,
    WeightSums,
    true_ranks,
)

# Four images of three classes; class 2 has none.
SCORES = torch.tensor(
    [[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]]
)
LABELS = torch.tensor([0, 0, 1, 1])


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    """Import torchmetrics only where it is compared with: that takes seconds."""
    from torchmetrics.functional import classification

    return classification


@pytest.fixture
def random_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (400,), generator=generator)
    logits = torch.randn(400, 7, generator=generator)
    logits[torch.arange(400), labels] += 1
    return logits.softmax(1), labels


def counted(
    scores: torch.Tensor, labels: torch.Tensor, topk: tuple[int, ...]
) -> TopKCounts:
    counts = TopKCounts(scores.shape[1], topk)
    counts.update(scores, labels_B=labels)
    return counts


def test_true_ranks_count_the_classes_ahead() -> None:
    assert true_ranks(SCORES, labels_B=LABELS).tolist() == [0, 2, 0, 1]


def test_a_tie_counts_against_the_true_class() -> None:
    scores = torch.tensor([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.4, 0.2, 0.4]])
    assert true_ranks(scores, labels_B=torch.tensor([0, 0, 1])).tolist() == [1, 2, 2]


@pytest.mark.parametrize("value", [0.0, 1 / 3, float("nan"), float("inf")])
def test_constant_scores_earn_nothing(value: float) -> None:
    counts = counted(torch.full((4, 3), value), LABELS, (1, 2))
    assert counts.micro(1) == counts.micro(2) == counts.macro(1) == 0


@pytest.mark.parametrize("where_nan", [0, 1])
def test_nan_is_never_a_hit(where_nan: int) -> None:
    scores = torch.tensor([[0.9, 0.1, 0.0]])
    scores[0, where_nan] = torch.nan
    assert counted(scores, torch.tensor([0]), (1,)).micro(1) == 0


def test_counts_per_class() -> None:
    counts = counted(SCORES, LABELS, (1, 2))
    assert counts.count_N.tolist() == [2, 2, 0]
    assert counts.hits_KN.tolist() == [[1, 1, 0], [1, 2, 0]]


def test_macro_skips_classes_without_images_and_weighs_the_others_alike() -> None:
    counts = counted(SCORES[:3], LABELS[:3], (1, 2))
    assert counts.macro(1) == pytest.approx((1 / 2 + 1 / 1) / 2)
    assert counts.micro(1) == pytest.approx((1 + 1) / 3)


def test_k_above_the_number_of_classes_is_always_a_hit() -> None:
    counts = counted(SCORES, LABELS, (3, 5))
    assert counts.micro(3) == counts.macro(5) == 1


@pytest.mark.parametrize("topk", [(), (0,), (1, 1), (3, -1)])
def test_topk_must_be_different_positive_numbers(topk: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected different numbers ≥ 1"):
        TopKCounts(3, topk)


def test_accuracy_of_nothing_is_refused() -> None:
    counts = TopKCounts(3, (1,))
    for accuracy in (counts.macro, counts.micro):
        with pytest.raises(ValueError, match="no image was counted"):
            accuracy(1)
    with pytest.raises(ValueError, match="top 5 was not counted"):
        counts.macro(5)


def test_merged_parts_equal_one_pass(
    random_batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    scores, labels = random_batch
    whole = counted(scores, labels, (1, 3))
    merged = counted(scores[:150], labels[:150], (1, 3))
    merged.merge(counted(scores[150:], labels[150:], (1, 3)))
    assert torch.equal(merged.hits_KN, whole.hits_KN)
    assert torch.equal(merged.count_N, whole.count_N)


@pytest.mark.parametrize("other", [TopKCounts(4, (1, 3)), TopKCounts(3, (1, 5))])
def test_merge_refuses_other_counts(other: TopKCounts) -> None:
    with pytest.raises(ValueError, match="expected 3 classes at top"):
        TopKCounts(3, (1, 3)).merge(other)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_accuracy_equals_torchmetrics(
    oracle: ModuleType, random_batch: tuple[torch.Tensor, torch.Tensor], k: int
) -> None:
    scores, labels = random_batch
    counts = TopKCounts(7, (1, 3, 5))
    for part in range(0, 400, 64):
        counts.update(scores[part : part + 64], labels_B=labels[part : part + 64])
    for average, ours in (("macro", counts.macro(k)), ("micro", counts.micro(k))):
        theirs = oracle.multiclass_accuracy(
            scores, labels, num_classes=7, top_k=k, average=average
        )
        assert 0 < ours < 1
        assert ours == pytest.approx(theirs.item(), abs=1e-6)


def test_confusions_name_what_was_predicted_instead() -> None:
    confusions = SparseConfusions(3)
    for _ in range(2):
        confusions.update(SCORES, labels_B=LABELS)
    true, predicted, count = confusions.packed()
    assert true.tolist() == [0, 1]
    assert predicted.tolist() == [2, 0]
    assert count.tolist() == [2, 2]
    assert true.dtype == predicted.dtype == count.dtype == np.int64


def test_confusions_without_an_error_are_empty() -> None:
    confusions = SparseConfusions(3)
    assert [len(column) for column in confusions.packed()] == [0, 0, 0]
    confusions.update(SCORES[:1], labels_B=LABELS[:1])
    assert [len(column) for column in confusions.packed()] == [0, 0, 0]


def test_confusions_leave_the_scores_alone() -> None:
    scores = SCORES.clone()
    SparseConfusions(3).update(scores, labels_B=LABELS)
    assert torch.equal(scores, SCORES)


def test_confusions_hold_errors_and_not_pairs_of_classes() -> None:
    num_classes = 10_000
    confusions = SparseConfusions(num_classes)
    labels = torch.arange(0, num_classes, 1000)
    scores = torch.nn.functional.one_hot((labels - 1) % num_classes, num_classes)
    confusions.update(scores.float(), labels_B=labels)
    assert sum(codes.nbytes for codes in confusions._codes) == 8 * len(labels)
    true, predicted, _ = confusions.packed()
    assert true.tolist() == labels.tolist()
    assert predicted.tolist() == [num_classes - 1, *(labels[1:] - 1).tolist()]


@given(
    arrays(np.float32, (6, 4), elements=st.sampled_from([0, 0.25, 0.5])),
    arrays(np.int64, 6, elements=st.integers(0, 3)),
)
def test_confusions_are_exactly_the_misses_at_top_1(
    scores: np.ndarray, labels: np.ndarray
) -> None:
    confusions = SparseConfusions(4)
    confusions.update(torch.from_numpy(scores), labels_B=torch.from_numpy(labels))
    counts = counted(torch.from_numpy(scores), torch.from_numpy(labels), (1,))
    true, predicted, count = confusions.packed()
    misses = Counter(np.repeat(true, count).tolist())
    expected = (counts.count_N - counts.hits_KN[0]).tolist()
    assert [misses[k] for k in range(4)] == expected
    assert (true != predicted).all()


def test_expected_calibration_error_of_three_bins() -> None:
    bins = CalibrationBins(num_bins=2)
    bins.update(
        torch.tensor([0.2, 0.4, 0.5]), correct_B=torch.tensor([False, True, True])
    )
    bins.update(torch.tensor([1.0]), correct_B=torch.tensor([False]))
    assert bins.count_M.tolist() == [2, 2]
    low = 2 / 4 * abs(1 / 2 - (0.2 + 0.4) / 2)
    high = 2 / 4 * abs(1 / 2 - (0.5 + 1.0) / 2)
    assert bins.expected_error() == pytest.approx(low + high)


def test_calibration_equals_torchmetrics(
    oracle: ModuleType, random_batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    scores, labels = random_batch
    confidence, predicted = scores.max(1)
    bins = CalibrationBins(num_bins=15)
    for part in (slice(0, 100), slice(100, 400)):
        bins.update(confidence[part], correct_B=predicted[part] == labels[part])
    theirs = oracle.multiclass_calibration_error(
        scores, labels, num_classes=7, n_bins=15, norm="l1"
    )
    assert bins.expected_error() == pytest.approx(theirs.item(), abs=1e-6)
    assert_close(bins.count_M.sum(), torch.tensor(400))


def test_weights_of_three_experts() -> None:
    sums = WeightSums(3)
    first = sums.update(torch.tensor([[2.0, 1.0, 1.0], [0.3, 0.3, 0.0]]))
    assert first.tolist() == [[1, 0, 0], [0.5, 0.5, 0]]
    assert sums.load_T.tolist() == pytest.approx([0.5 + 0.5, 0.25 + 0.5, 0.25])
    assert sums.chosen_T.tolist() == [1.5, 0.5, 0]
    sure, torn = (np.log(x) / np.log(3) for x in (2**1.5, 2))
    assert sums.entropy_T.tolist() == pytest.approx([sure + torn / 2, torn / 2, 0])


def test_the_weights_of_a_single_expert_are_sure() -> None:
    sums = WeightSums(1)
    sums.update(torch.ones(4, 1))
    assert sums.load_T.tolist() == sums.chosen_T.tolist() == [4]
    assert sums.entropy_T.tolist() == [0]


def test_calibration_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no image was counted"):
        CalibrationBins().expected_error()
    with pytest.raises(ValueError, match="num_bins is 0"):
        CalibrationBins(num_bins=0)
