# ruff: noqa: N803, N806, N815
"""Fuzzy c-means: memberships of points in overlapping clusters (Bezdek, 1981).

Letters: N points, T clusters, d features. A membership u_it, or p_it, says how far
point i belongs to cluster t; each row sums to one.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

FloatArray: TypeAlias = NDArray[np.floating[Any]]


class FuzzyPartition(NamedTuple):
    """What fuzzy c-means ended with; the memberships belong to these centres.

    Attributes:
        memberships_NT: (N, T) float64, rows sum to one.
        centers_Td: (T, d) float64.
        n_iter: iterations made.
        converged: whether the memberships came to rest before the last one allowed.
    """

    memberships_NT: FloatArray
    centers_Td: FloatArray
    n_iter: int
    converged: bool


def fuzzy_memberships(
    points_Nd: FloatArray, centers_Td: FloatArray, *, fuzzifier: float
) -> FloatArray:
    """Share each point among the centres by its distances to them.

    u_it = ‖x_i − v_t‖^(−2/(m−1)) / Σ_s ‖x_i − v_s‖^(−2/(m−1))  (Bezdek, 1981),
    computed as a softmax of −log‖x_i − v_t‖² / (m−1), so that neither a point on
    a centre nor m near 1 overflows.

    Args:
        points_Nd: (N, d) float.
        centers_Td: (T, d) float.
        fuzzifier: m > 1; near 1 a point belongs to its nearest centre alone.

    Returns:
        (N, T) float64, rows sum to one. A point on several centres is shared
        equally among them.
    """
    squared_NT = cdist(points_Nd, centers_Td, "sqeuclidean")
    logits_NT = -np.log(np.maximum(squared_NT, np.finfo(float).tiny)) / (fuzzifier - 1)
    weights_NT = np.exp(logits_NT - logits_NT.max(axis=1, keepdims=True))
    memberships_NT: FloatArray = weights_NT / weights_NT.sum(axis=1, keepdims=True)
    return memberships_NT


def fuzzy_c_means(
    points_Nd: FloatArray,
    centers_Td: FloatArray,
    *,
    fuzzifier: float,
    tol: float = 1e-4,
    max_iter: int = 300,
) -> FuzzyPartition:
    """Alternate between memberships and centres until the memberships stand still.

    v_t = Σ_i u_it^m x_i / Σ_i u_it^m, then u as in `fuzzy_memberships`
    (Bezdek, 1981). Start from k-means centres: from random memberships all centres
    meet in one place and u = 1/T.

    Args:
        points_Nd: (N, d) float.
        centers_Td: (T, d) float, where to start.
        fuzzifier: m > 1.
        tol: stop when every membership changes by less.
        max_iter: alternations at most, ≥ 1.

    Returns:
        Memberships (N, T) of the returned centres (T, d), float64; the number of
        alternations; whether `tol` was reached.

    Raises:
        ValueError: fuzzifier is not above 1.
    """
    if not fuzzifier > 1:
        raise ValueError(f"fuzzifier is {fuzzifier}; expected a number above 1")
    memberships_NT = fuzzy_memberships(points_Nd, centers_Td, fuzzifier=fuzzifier)
    for n_iter in range(1, max_iter + 1):
        weights_NT = memberships_NT**fuzzifier
        mass_T1 = weights_NT.sum(axis=0)[:, None]
        # A centre that no point weighs on (m near 1) stays where it is.
        centers_Td = np.where(
            mass_T1 > 0,
            weights_NT.T @ points_Nd / np.where(mass_T1 > 0, mass_T1, 1),
            centers_Td,
        )
        previous_NT = memberships_NT
        memberships_NT = fuzzy_memberships(points_Nd, centers_Td, fuzzifier=fuzzifier)
        if np.abs(memberships_NT - previous_NT).max() < tol:
            return FuzzyPartition(memberships_NT, centers_Td, n_iter, True)
    return FuzzyPartition(memberships_NT, centers_Td, max_iter, False)


def has_collapsed(memberships_NT: FloatArray) -> bool:
    """Tell whether the memberships are close to uniform, that is say nothing.

    mean_i max_t p_it < 2/T. For T = 2, where that always holds, the bound is 3/4,
    halfway from uniform to certain; T = 1 cannot collapse.
    """
    num_groups = memberships_NT.shape[1]
    bound = min(2 / num_groups, (1 + 1 / num_groups) / 2)
    return bool(memberships_NT.max(axis=1).mean() < bound)
