# ruff: noqa: N803, N806
"""Soft spectral clustering as a scikit-learn estimator.

Letters: N points (classes, in this package), M new points, T groups, d features.
"""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    check_is_fitted,
    check_non_negative,
    validate_data,
)
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from deepme.core.fuzzy import (
    FuzzyPartition,
    fuzzy_c_means,
    fuzzy_memberships,
    has_collapsed,
)
from deepme.core.spectral import (
    Affinity,
    FloatArray,
    RandomState,
    extend_embedding,
    leading_eigenvectors,
    unit_rows,
)
from deepme.core.twins import TwinAffinity

_AFFINITIES = ("precomputed", "rbf", "nearest_neighbors")
_KMEANS_STARTS = 10


class SoftSpectralClustering(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Cluster points so that a point may belong to several clusters.

    Spectral embedding of the affinity (Ng, Jordan and Weiss, 2001), then fuzzy
    c-means (Bezdek, 1981) from k-means centres. The same data and seed give the same
    bytes, whatever the number of cores.

    Args:
        n_clusters: T, from 1 to the number of samples.
        affinity: "rbf" and "nearest_neighbors" make the affinity from features as
            scikit-learn's SpectralClustering does; "precomputed" takes X as the
            (N, N) affinity, dense or CSR, symmetric and ≥ 0, its diagonal ignored,
            or a `TwinAffinity`.
            A dense one with zeros on its diagonal is used without a copy.
        fuzzifier: m > 1; memberships are hard near 1 and uniform for large m.
        gamma: of the "rbf" kernel exp(−γ ‖x − y‖²).
        n_neighbors: of "nearest_neighbors", the point itself counted.
        tol: fuzzy c-means stops when every membership changes by less.
        max_iter: limit on the iterations of fuzzy c-means.
        random_state: seed of the eigenvectors' and of k-means' start.

    Attributes:
        memberships_: (N, T) float64, rows sum to one. An isolated point (no
            affinity to any other) is near-uniform.
        labels_: (N,) the cluster of largest membership.
        embedding_: (N, T) float64, rows of length one; 0 for isolated points.
        eigenvalues_: (T,) float64, descending.
        cluster_centers_: (T, T) float64, in the space of the embedding.
        n_iter_: iterations of fuzzy c-means.
        collapsed_: whether the memberships are close to uniform; see
            `has_collapsed`. A smaller fuzzifier helps.

    Example:
        >>> points = [[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]
        >>> model = SoftSpectralClustering(2, random_state=0).fit(points)
        >>> bool(model.labels_[0] == model.labels_[2] != model.labels_[3])
        True
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        affinity: Literal["precomputed", "rbf", "nearest_neighbors"] = "rbf",
        fuzzifier: float = 1.3,
        gamma: float = 1.0,
        n_neighbors: int = 10,
        tol: float = 1e-4,
        max_iter: int = 300,
        random_state: RandomState = None,
    ) -> None:
        """Keep the parameters; `fit` checks them."""
        self.n_clusters = n_clusters
        self.affinity = affinity
        self.fuzzifier = fuzzifier
        self.gamma = gamma
        self.n_neighbors = n_neighbors
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> Self:
        """Compute the memberships of X's points.

        Args:
            X: (N, d) features, or the (N, N) affinity where "precomputed".
                float32 stays float32.
            y: not used; there for scikit-learn's pipelines.

        Returns:
            The fitted estimator.

        Raises:
            ValueError: a parameter or X is outside its range.
        """
        X = self._validate(X, reset=True)
        self._check_parameters(num_points=X.shape[0])
        rng = check_random_state(self.random_state)
        self._spectrum = leading_eigenvectors(
            self._fit_affinity(X), self.n_clusters, random_state=rng
        )
        self.eigenvalues_ = self._spectrum.eigenvalues_T
        self.embedding_ = unit_rows(self._spectrum.eigenvectors_NT)
        partition = self._partition(rng)
        self.memberships_ = partition.memberships_NT
        self.cluster_centers_ = partition.centers_Td
        self.n_iter_ = partition.n_iter
        self.labels_ = self.memberships_.argmax(axis=1)
        self.collapsed_ = has_collapsed(self.memberships_)
        return self

    def embed(self, X: Any) -> FloatArray:
        """Embed new points by the Nyström extension.

        Args:
            X: as in `predict_memberships`.

        Returns:
            (M, T) float64, rows of length one; 0 for a point without affinity.
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        return extend_embedding(self._affinity_to_fitted(X), self._spectrum)

    def predict_memberships(self, X: Any) -> FloatArray:
        """Compute the memberships of new points by the Nyström extension.

        For "rbf", and for "precomputed" where the affinity of a point with itself
        is given as 0, the fitted points get their `memberships_` again. For
        "nearest_neighbors" they come near: a new point knows whom it is close to,
        not who is close to it.

        Args:
            X: (M, d) features, or (M, N) affinities to the fitted points where
                "precomputed".

        Returns:
            (M, T) float64, rows sum to one.
        """
        return fuzzy_memberships(
            self.embed(X), self.cluster_centers_, fuzzifier=self.fuzzifier
        )

    def predict(self, X: Any) -> NDArray[np.intp]:
        """Assign new points to their cluster of largest membership.

        Args:
            X: as in `predict_memberships`.

        Returns:
            (M,) cluster numbers from 0.
        """
        labels_M: NDArray[np.intp] = self.predict_memberships(X).argmax(axis=1)
        return labels_M

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn what X is."""
        tags = super().__sklearn_tags__()
        precomputed = self.affinity == "precomputed"
        tags.input_tags.pairwise = precomputed
        tags.input_tags.positive_only = precomputed
        tags.input_tags.sparse = precomputed
        return tags

    def _validate(self, X: Any, *, reset: bool) -> Any:
        if isinstance(X, TwinAffinity) and self.affinity == "precomputed":
            return X
        X = validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr" if self.affinity == "precomputed" else False,
            dtype=[np.float64, np.float32],
            ensure_min_samples=2 if reset else 1,
        )
        if self.affinity == "precomputed":
            check_non_negative(X, "SoftSpectralClustering")
        return X

    def _check_parameters(self, *, num_points: int) -> None:
        rules = {
            "affinity": (self.affinity in _AFFINITIES, f"one of {_AFFINITIES}"),
            "n_clusters": (
                isinstance(self.n_clusters, Integral)
                and 1 <= self.n_clusters <= num_points,
                f"a whole number from 1 to the {num_points} samples",
            ),
            "fuzzifier": (self.fuzzifier > 1, "a number above 1"),
            "gamma": (self.gamma > 0, "a number above 0"),
            "tol": (self.tol >= 0, "a number from 0"),
            "max_iter": (self.max_iter >= 1, "a whole number from 1"),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                found = getattr(self, name)
                raise ValueError(f"{name} is {found!r}; expected {expected}")

    def _partition(self, rng: np.random.RandomState) -> FuzzyPartition:
        kmeans = KMeans(self.n_clusters, n_init=_KMEANS_STARTS, random_state=rng)
        # One thread: several add their partial sums in the order of arrival, and
        # the last bits of the centres would change from run to run.
        with threadpool_limits(limits=1):
            partition = fuzzy_c_means(
                self.embedding_,
                kmeans.fit(self.embedding_).cluster_centers_,
                fuzzifier=self.fuzzifier,
                tol=self.tol,
                max_iter=self.max_iter,
            )
        if not partition.converged:
            warnings.warn(
                f"memberships still change by {self.tol} or more after "
                f"{self.max_iter} iterations; raise max_iter",
                ConvergenceWarning,
                stacklevel=3,
            )
        return partition

    def _fit_affinity(self, X: Any) -> Affinity:
        if self.affinity == "precomputed":
            _check_symmetric(X)
            return X
        self._X = X
        if self.affinity == "rbf":
            affinity_NN = rbf_kernel(X, gamma=self.gamma)
            np.fill_diagonal(affinity_NN, 0)
            return affinity_NN
        self._neighbors = NearestNeighbors(n_neighbors=self.n_neighbors).fit(X)
        graph_NN = self._neighbors.kneighbors_graph(X)
        return (graph_NN + graph_NN.T) / 2

    def _affinity_to_fitted(self, X: Any) -> Affinity:
        if self.affinity == "precomputed":
            return X
        if self.affinity == "nearest_neighbors":
            return self._neighbors.kneighbors_graph(X)
        affinity_MN = rbf_kernel(X, self._X, gamma=self.gamma)
        rows, columns = _same_points(X, self._X)
        affinity_MN[rows, columns] = 0
        return affinity_MN


def _check_symmetric(affinity_NN: Affinity) -> None:
    if affinity_NN.shape[0] != affinity_NN.shape[1]:
        raise ValueError(f"affinity has shape {affinity_NN.shape}; expected a square")
    # A x = Aᵀ x for a random x, unlike A = Aᵀ, needs no second N² array.
    probe_N = np.random.default_rng(0).random(affinity_NN.shape[0])
    probe_N = probe_N.astype(affinity_NN.dtype)
    if not np.allclose(affinity_NN @ probe_N, affinity_NN.T @ probe_N, rtol=1e-4):
        raise ValueError("affinity differs from its transpose; expected symmetry")


def _same_points(
    new_Md: FloatArray, fitted_Nd: FloatArray
) -> tuple[list[int], list[int]]:
    """Find the new points that equal a fitted one, as (new, fitted) indices."""
    new_Md = new_Md.astype(fitted_Nd.dtype)
    fitted_of = {row.tobytes(): column for column, row in enumerate(fitted_Nd)}
    found = [(row, fitted_of.get(point.tobytes())) for row, point in enumerate(new_Md)]
    pairs = [(row, column) for row, column in found if column is not None]
    return [row for row, _ in pairs], [column for _, column in pairs]
