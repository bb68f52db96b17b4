# ruff: noqa: N803, N806, N815
"""What every method of grouping ends with: groups, and the memberships behind them.

Letters: N classes, T groups, E dimensions of the embedding: T, or 0 without one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deepme.core.clustering import SoftSpectralClustering
from deepme.core.grouping import (
    BoolArray,
    FloatArray,
    GroupSummary,
    assign_groups,
    cap_group_sizes,
    delta_for_overlap,
    summarize_groups,
)
from deepme.core.spectral import Affinity


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grouping:
    """Groups with what they were made from.

    Attributes:
        assigned_NT: (N, T) bool, which class is in which group.
        memberships_NT: (N, T) float64, rows sum to one.
        embedding_NE: (N, E) float64.
        eigenvalues_E: (E,) float64, descending.
        delta: δ in force; None where no memberships were cut.
        collapsed: whether the memberships are close to uniform.
    """

    assigned_NT: BoolArray
    memberships_NT: FloatArray
    embedding_NE: FloatArray
    eigenvalues_E: FloatArray
    delta: float | None
    collapsed: bool

    def summarize(self) -> GroupSummary:
        """Count what the groups hold; without δ they cover every class."""
        return summarize_groups(
            self.assigned_NT, self.memberships_NT, delta=self.delta or 0
        )


def cluster_softly(
    model: SoftSpectralClustering,
    affinity_NN: Affinity,
    *,
    delta: float,
    overlap: float | None,
    max_classes: int,
) -> Grouping:
    """Group classes by soft spectral clustering, δ and a limit on the size.

    Args:
        model: with affinity "precomputed"; it is fitted.
        affinity_NN: (N, N) float32 or float64, symmetric, ≥ 0, the diagonal 0; or a
            `TwinAffinity`.
        delta: δ in [0, 1].
        overlap: wanted mean number of groups a class, which finds δ; or None.
        max_classes: classes of a group, ≥ 1; see `cap_group_sizes`.

    Returns:
        The grouping; some of its groups may be empty.

    Raises:
        ValueError: a value is outside its range.
    """
    return cut_softly(
        model.fit(affinity_NN), delta=delta, overlap=overlap, max_classes=max_classes
    )


def cut_softly(
    model: SoftSpectralClustering,
    *,
    delta: float,
    overlap: float | None,
    max_classes: int,
) -> Grouping:
    """Group the classes of a fitted clustering by δ and a limit on the size.

    Args:
        model: fitted.
        delta: as in `cluster_softly`, and so the rest.
        overlap: wanted mean number of groups a class, which finds δ; or None.
        max_classes: classes of a group, ≥ 1.

    Returns:
        The grouping; some of its groups may be empty.
    """
    memberships_NT = model.memberships_
    if overlap is not None:
        delta = delta_for_overlap(memberships_NT, overlap=overlap)
    return Grouping(
        assigned_NT=cap_group_sizes(
            assign_groups(memberships_NT, delta=delta),
            memberships_NT,
            max_classes=max_classes,
        ),
        memberships_NT=memberships_NT,
        embedding_NE=model.embedding_,
        eigenvalues_E=model.eigenvalues_,
        delta=delta,
        collapsed=model.collapsed_,
    )


def deal_anew(grouping: Grouping, *, seed: int) -> Grouping:
    """Deal the classes to the same places by chance (the paper's DeepME-NoSSC).

    Sizes, shared classes and the number of groups a class stay as they are, so that
    only the meaning is lost.

    Args:
        grouping: N classes in their places.
        seed: of the permutation of its rows.

    Returns:
        The same groups of other classes.
    """
    places_N = np.random.default_rng(seed).permutation(len(grouping.assigned_NT))
    return replace(
        grouping,
        assigned_NT=grouping.assigned_NT[places_N],
        memberships_NT=grouping.memberships_NT[places_N],
        embedding_NE=grouping.embedding_NE[places_N],
    )


def with_equal_memberships(assigned_NT: BoolArray) -> Grouping:
    """Complete groups that were not made from memberships.

    Args:
        assigned_NT: (N, T) bool, at least one True in each row.

    Returns:
        The grouping with p_ct = 1 / n_c in the n_c groups of class c and 0 elsewhere,
        no δ and an embedding of no dimension.
    """
    return Grouping(
        assigned_NT=assigned_NT,
        memberships_NT=assigned_NT / assigned_NT.sum(axis=1, keepdims=True),
        embedding_NE=np.empty((len(assigned_NT), 0)),
        eigenvalues_E=np.empty(0),
        delta=None,
        collapsed=False,
    )
