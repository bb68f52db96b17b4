# ruff: noqa: N803, N806
"""What speaks for a number of groups T and a cut δ, before any expert is trained.

First what the clustering itself says (eigengap, Xie–Beni index, balance, overlap),
then how well cheap heads on frozen features do in these groups.

Letters: N classes, T groups, C classes of one group, R training images, V validation
images, d features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from deepme.core.grouping import FloatArray
from deepme.core.mixture import Members, fuse, oracle_weights

_BATCH = 2048


class HeadAccuracy(NamedTuple):
    """Top-1 of cheap heads on validation images, mean over classes, in [0, 1].

    Attributes:
        mixture: under the given weights of the experts.
        oracle: under the weights of the true label.
    """

    mixture: float
    oracle: float


def xie_beni(
    points_Nd: FloatArray,
    centers_Td: FloatArray,
    memberships_NT: FloatArray,
    *,
    fuzzifier: float,
) -> float:
    """Compute the Xie–Beni index, low for compact clusters far from each other.

    Σ_it u_it^m ‖x_i − v_t‖² / (N min_{s≠t} ‖v_s − v_t‖²)  (Xie and Beni, 1991, with
    the fuzzifier in place of their 2).

    Args:
        points_Nd: (N, d) float.
        centers_Td: (T, d) float.
        memberships_NT: (N, T) float, rows sum to one.
        fuzzifier: m > 1.

    Returns:
        The index ≥ 0; infinite where two centres coincide or T is 1.
    """
    squared_NT = cdist(points_Nd, centers_Td, "sqeuclidean")
    within = float((memberships_NT**fuzzifier * squared_NT).sum()) / len(points_Nd)
    between = float(pdist(centers_Td, "sqeuclidean").min(initial=np.inf))
    if between == 0 or not np.isfinite(between):
        return float("inf")
    return within / between


def balance(sizes_T: Sequence[int]) -> float:
    """Compute the evenness of the groups' sizes: their entropy over log T.

    Args:
        sizes_T: T sizes > 0.

    Returns:
        1 for equal sizes, towards 0 where one group holds nearly all; 1 for T = 1.
    """
    if len(sizes_T) == 1:
        return 1.0
    shares_T = np.asarray(sizes_T) / np.sum(sizes_T)
    return float(-(shares_T * np.log(shares_T)).sum() / np.log(len(sizes_T)))


class FeatureHeads:
    """Linear discriminants on frozen features, one for each group.

    Linear discriminant analysis (Fisher; scikit-learn's, with the shrinkage of Ledoit
    and Wolf) has a closed form, so a grid of groupings takes seconds, and nothing of
    it has to be tuned or seeded. A group's head knows its own classes alone, as an
    expert does.

    Args:
        features_Rd: (R, d) float, training images.
        labels_R: (R,) int64 in [0, N).
        val_features_Vd: (V, d) float, validation images.
        val_labels_V: (V,) int64 in [0, N).
    """

    def __init__(
        self,
        features_Rd: FloatArray,
        labels_R: NDArray[np.int64],
        *,
        val_features_Vd: FloatArray,
        val_labels_V: NDArray[np.int64],
    ) -> None:
        """Keep the features; heads are fitted for each grouping."""
        self._train = features_Rd, labels_R
        self._val = val_features_Vd, val_labels_V

    @property
    def num_images(self) -> int:
        """R."""
        return len(self._train[1])

    def accuracy(self, members: Members, weights_VT: FloatArray) -> HeadAccuracy:
        """Fit a head for each group and measure the mixture.

        Args:
            members: the groups.
            weights_VT: (V, T) float ≥ 0, how far each expert is trusted.

        Returns:
            The accuracies.
        """
        heads = [self._head(classes.numpy()) for classes in members.classes]
        features_Vd, labels_V = self._val
        hits = np.zeros((2, len(labels_V)))
        for start in range(0, len(labels_V), _BATCH):
            some = slice(start, start + _BATCH)
            labels_B = torch.from_numpy(labels_V[some])
            outputs = [torch.from_numpy(head(features_Vd[some])) for head in heads]
            both = (
                torch.from_numpy(weights_VT[some]).double(),
                oracle_weights(labels_B, members=members).double(),
            )
            for row, weights_BT in zip(hits, both, strict=True):
                scores_BN = fuse(outputs, members=members, weights_BT=weights_BT)
                row[some] = scores_BN.argmax(dim=1) == labels_B
        present, where_V = np.unique(labels_V, return_inverse=True)
        counts = np.bincount(where_V, minlength=len(present))
        mixture, oracle = (
            float((np.bincount(where_V, weights=row) / counts).mean()) for row in hits
        )
        return HeadAccuracy(mixture, oracle)

    def _head(self, classes_C: NDArray[np.int64]) -> Any:
        """A function from features (B, d) to probabilities (B, C)."""
        features_Rd, labels_R = self._train
        inside_R = np.isin(labels_R, classes_C)
        known = np.unique(labels_R[inside_R])
        columns = np.searchsorted(np.sort(classes_C), known)
        order = np.argsort(classes_C)[columns]
        model = None
        if len(known) > 1:
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            model.fit(features_Rd[inside_R], labels_R[inside_R])

        def probabilities(features_Bd: FloatArray) -> FloatArray:
            spread_BC = np.zeros((len(features_Bd), len(classes_C)))
            known_BC = 1.0 if model is None else model.predict_proba(features_Bd)
            spread_BC[:, order] = known_BC
            return spread_BC

        return probabilities
