# ruff: noqa: N803, N806
"""How much a classifier confuses its classes: an affinity to group them by.

After HD-CNN (Yan et al., ICCV 2015), whose groups come from a flat network's
confusions on images it was not trained on.

Letters: N classes, B images of one batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepme.core.grouping import FloatArray

_STRIP = 256  # rows worked on at once


class SoftConfusions:
    """The mean probabilities of each true class's images, gathered batch by batch.

    F_ij = mean over the images of class i of the classifier's probability of class
    j. Needs 4 N² bytes, however many images there are.

    Attributes:
        images_N: (N,) int64, images seen of each class.
    """

    def __init__(self, num_classes: int) -> None:
        """Start with no image of any of the N classes."""
        self.images_N = np.zeros(num_classes, dtype=np.int64)
        self._sums_NN = np.zeros((num_classes, num_classes), dtype=np.float32)

    def update(
        self, probabilities_BN: FloatArray, labels_B: NDArray[np.integer[Any]]
    ) -> None:
        """Add the images of one batch.

        Args:
            probabilities_BN: (B, N) float, rows sum to one.
            labels_B: (B,) int, true classes 0 … N−1; fastest where equal ones are
                many, as in a list ordered by class.
        """
        by_class = np.argsort(labels_B, kind="stable")
        classes, starts, counts = np.unique(
            labels_B[by_class], return_index=True, return_counts=True
        )
        if not len(classes):  # reduceat knows no empty list
            return
        self._sums_NN[classes] += np.add.reduceat(probabilities_BN[by_class], starts)
        self.images_N[classes] += counts

    def affinity(self) -> NDArray[np.float32]:
        """Compute S = (F + Fᵀ) / 2, the diagonal 0.

        A class without images has no row of F. It is placed by how often others are
        taken for it: S_ij = F_ji alone. Of two such classes nothing is known, S = 0.

        Returns:
            (N, N) float32, symmetric, in [0, 1]; a new array.
        """
        num_classes = len(self.images_N)
        images_N1 = np.maximum(self.images_N, 1).astype(np.float32)[:, None]
        seen_N = (self.images_N > 0).astype(np.float32)
        affinity_NN = np.empty_like(self._sums_NN)
        # In strips: F, Fᵀ and S as a whole would be three arrays of N² at once.
        for start in range(0, num_classes, _STRIP):
            rows = slice(start, start + _STRIP)
            strip = self._sums_NN[rows] / images_N1[rows]
            strip += (self._sums_NN[:, rows] / images_N1).T
            affinity_NN[rows] = strip / np.maximum(seen_N[rows, None] + seen_N, 1)
        np.fill_diagonal(affinity_NN, 0)
        return affinity_NN
