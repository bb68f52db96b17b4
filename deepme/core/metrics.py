"""Accuracy, confusions and calibration by counters that grow with N, never with N².

Letters: N classes, K values of k, B batch, y true class. Counters live on the CPU,
whatever device the scores come from; they count, and divide once at the end.

Ties: an image is a hit at k when fewer than k other classes score at least as high as
y. A tie so counts against the true class, and constant or NaN scores earn nothing.
"""

# ruff: noqa: N803, N806, N815
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def true_ranks(scores_BN: Tensor, *, labels_B: Tensor) -> Tensor:
    """Count the other classes that score at least as high as the true one.

    Args:
        scores_BN: (B, N) float, larger is better.
        labels_B: (B,) int64 in [0, N).

    Returns:
        (B,) int64 in [0, N), 0 where the true class leads alone. A NaN counts as
        ahead of y, and everything is ahead of a NaN at y.
    """
    true_B1 = scores_BN.gather(1, labels_B[:, None])
    # Not `>=`: every comparison with NaN is false, and a NaN must not be a hit.
    ahead_BN = (scores_BN < true_B1).logical_not_()
    return ahead_BN.sum(dim=1) - 1  # y itself


class TopKCounts:
    """Count hits and images per class, for accuracy at several k.

    A k above N is no error: every image with its true class among N candidates is a
    hit, as for a group of 3 classes at top 5.
    """

    topk: tuple[int, ...]
    """The K values of k."""
    hits_KN: Tensor
    """(K, N) int64: the images of each class with rank below k."""
    count_N: Tensor
    """(N,) int64: the images of each class."""

    def __init__(self, num_classes: int, topk: Sequence[int]) -> None:
        """Start at zero.

        Raises:
            ValueError: `topk` is empty, repeats a k or holds one below 1.
        """
        self.topk = tuple(topk)
        if not self.topk or min(self.topk) < 1 or len(set(topk)) < len(topk):
            raise ValueError(f"topk is {self.topk}, expected different numbers ≥ 1")
        self.hits_KN = torch.zeros(len(self.topk), num_classes, dtype=torch.int64)
        self.count_N = torch.zeros(num_classes, dtype=torch.int64)

    def update(self, scores_BN: Tensor, *, labels_B: Tensor) -> None:
        """Add one batch.

        Args:
            scores_BN: (B, N) float, larger is better, on any scale and device.
            labels_B: (B,) int64 in [0, N), on the same device.
        """
        rank_B = true_ranks(scores_BN, labels_B=labels_B).cpu()
        labels_B = labels_B.cpu()
        for row, k in enumerate(self.topk):
            self.hits_KN[row] += self._per_class(labels_B[rank_B < k])
        self.count_N += self._per_class(labels_B)

    def _per_class(self, labels: Tensor) -> Tensor:
        return torch.bincount(labels, minlength=len(self.count_N))

    def merge(self, other: TopKCounts) -> None:
        """Add the counts of another part of the same evaluation.

        Raises:
            ValueError: the other has different classes or different k.
        """
        same_classes = len(other.count_N) == len(self.count_N)
        if not same_classes or other.topk != self.topk:
            raise ValueError(
                f"found counts of {len(other.count_N)} classes at top {other.topk}, "
                f"expected {len(self.count_N)} classes at top {self.topk}"
            )
        self.hits_KN += other.hits_KN
        self.count_N += other.count_N

    def macro(self, k: int) -> float:
        """Return the mean of the per-class accuracies at k, over classes with images.

        Raises:
            ValueError: `k` was not counted, or no image was.
        """
        hits_N = self._hits(k)
        seen_N = self.count_N > 0
        return float((hits_N[seen_N].double() / self.count_N[seen_N]).mean())

    def micro(self, k: int) -> float:
        """Return the share of all images that are hits at k.

        Raises:
            ValueError: `k` was not counted, or no image was.
        """
        return int(self._hits(k).sum()) / int(self.count_N.sum())

    def _hits(self, k: int) -> Tensor:
        if k not in self.topk:
            raise ValueError(f"top {k} was not counted, only {self.topk}")
        if not self.count_N.any():
            raise ValueError("no image was counted, expected at least one")
        return self.hits_KN[self.topk.index(k)]


class SparseConfusions:
    """Count errors by (true class, class predicted instead).

    Takes 8 bytes an error while it counts, and 24 a different pair when packed.
    The class predicted instead is the best of the others, the lowest of equals, so
    the errors are exactly the misses of `TopKCounts` at k = 1.
    """

    def __init__(self, num_classes: int) -> None:
        """Start with no error."""
        self.num_classes = num_classes
        self._codes: list[NDArray[np.int64]] = []

    def update(self, scores_BN: Tensor, *, labels_B: Tensor) -> None:
        """Add one batch.

        Args:
            scores_BN: (B, N) float, larger is better, N ≥ 2, on any device.
            labels_B: (B,) int64 in [0, N), on the same device.
        """
        wrong_B = true_ranks(scores_BN, labels_B=labels_B) > 0
        labels_B = labels_B[wrong_B]
        others_BN = scores_BN[wrong_B].scatter_(1, labels_B[:, None], -math.inf)
        code_B = labels_B * self.num_classes + others_BN.argmax(dim=1)
        self._codes.append(code_B.cpu().numpy())

    def packed(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the (true, predicted, count) of every different error.

        Returns:
            Three int64 arrays of equal length, sorted by true, then predicted class.
        """
        codes = np.concatenate([np.empty(0, np.int64), *self._codes])
        pairs, counts = np.unique(codes, return_counts=True)
        true, predicted = np.divmod(pairs, self.num_classes)
        return true, predicted, counts.astype(np.int64)


class WeightSums:
    """Sum how far each expert is trusted, and how sure of it the weights are."""

    load_T: Tensor
    """(T,) float64: the sum of each expert's share of the weights."""
    chosen_T: Tensor
    """(T,) float64: images for which it weighs most; experts that tie share one."""
    entropy_T: Tensor
    """(T,) float64: the sum over those images of the weights' entropy / log T."""

    def __init__(self, num_experts: int) -> None:
        """Start at zero."""
        self.load_T = torch.zeros(num_experts, dtype=torch.float64)
        self.chosen_T, self.entropy_T = self.load_T.clone(), self.load_T.clone()

    def update(self, weights_BT: Tensor) -> Tensor:
        """Add one batch.

        Args:
            weights_BT: (B, T) float ≥ 0, no row all zero.

        Returns:
            (B, T) float, 1 for the expert that weighs most; equal ones share it.
        """
        top_BT = weights_BT == weights_BT.amax(dim=1, keepdim=True)
        first_BT = top_BT / top_BT.sum(dim=1, keepdim=True)
        share_BT = weights_BT.double() / weights_BT.double().sum(dim=1, keepdim=True)
        # With one expert the entropy is 0, whatever it is divided by.
        bound = math.log(max(2, len(self.load_T)))
        entropy_B = torch.special.entr(share_BT).sum(dim=1) / bound
        self.load_T += share_BT.sum(dim=0).cpu()
        self.chosen_T += first_BT.double().sum(dim=0).cpu()
        self.entropy_T += (first_BT * entropy_B[:, None]).sum(dim=0).cpu()
        return first_BT


class CalibrationBins:
    """Compare how sure a classifier is with how often it is right.

    Bins of equal width over [0, 1], each with its lower edge, the last with both.
    """

    count_M: Tensor
    """(M,) int64: the images in each bin."""
    correct_M: Tensor
    """(M,) int64: those of them that were right."""
    confidence_M: Tensor
    """(M,) float64: the sum of their confidences."""

    def __init__(self, num_bins: int = 15) -> None:
        """Start at zero.

        Raises:
            ValueError: `num_bins` is below 1.
        """
        if num_bins < 1:
            raise ValueError(f"num_bins is {num_bins}, expected at least 1")
        self.count_M = torch.zeros(num_bins, dtype=torch.int64)
        self.correct_M = torch.zeros(num_bins, dtype=torch.int64)
        self.confidence_M = torch.zeros(num_bins, dtype=torch.float64)

    def update(self, confidence_B: Tensor, *, correct_B: Tensor) -> None:
        """Add one batch.

        Args:
            confidence_B: (B,) float in [0, 1], P of the predicted class.
            correct_B: (B,) bool, whether that class is the true one.
        """
        confidence_B = confidence_B.cpu().double()
        num_bins = len(self.count_M)
        bin_B = (confidence_B * num_bins).long().clamp(max=num_bins - 1)
        self.count_M += torch.bincount(bin_B, minlength=num_bins)
        self.correct_M += torch.bincount(bin_B[correct_B.cpu()], minlength=num_bins)
        self.confidence_M.index_add_(0, bin_B, confidence_B)

    def expected_error(self) -> float:
        """Compute ECE = Σ_m (n_m / n) |accuracy_m − confidence_m| (Guo et al., 2017).

        With n_m images in bin m the weight n_m cancels the two means' divisor:
        ECE = Σ_m |right_m − Σ confidence| / n.

        Raises:
            ValueError: no image was counted.
        """
        num_images = int(self.count_M.sum())
        if not num_images:
            raise ValueError("no image was counted, expected at least one")
        gap_M = (self.correct_M - self.confidence_M).abs()
        return float(gap_M.sum()) / num_images
