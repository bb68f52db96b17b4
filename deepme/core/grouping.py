# ruff: noqa: N803, N806, N815
"""Groups of classes: which class goes to which expert.

Letters: N classes, T groups, C classes of one group. A membership p_ct says how
far class c belongs to group t. Groups overlap; every class is in at least one.
Whatever finds the memberships (spectral clustering, windows, chance) ends here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating[Any]]
BoolArray: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSummary:
    """The figures people judge a grouping by."""

    sizes_T: tuple[int, ...]
    """Classes of each group."""
    shared_T: tuple[int, ...]
    """Classes of each group that are in other groups as well."""
    coverage: float
    """Share of classes with some p ≥ δ."""
    num_fallbacks: int
    """Classes with no p ≥ δ, in their group of largest p alone."""
    overlap: float
    """Mean number of groups a class is in, ≥ 1."""

    @property
    def empty_groups(self) -> tuple[int, ...]:
        """Indices, from 0, of the groups without a class.

        Such a group is nobody's largest p and has no p ≥ δ: no expert can be trained
        for it. `num_filled` is then the number of groups to ask for instead.
        """
        return tuple(t for t, size in enumerate(self.sizes_T) if size == 0)

    @property
    def num_filled(self) -> int:
        """Number of groups that have a class."""
        return len(self.sizes_T) - len(self.empty_groups)


def assign_groups(memberships_NT: FloatArray, *, delta: float) -> BoolArray:
    """Assign each class to the groups it belongs to far enough.

    G_t = {c : p_ct ≥ δ} ∪ {c : argmax_s p_cs = t}. The paper has the first part
    only, which leaves classes without an expert.

    Args:
        memberships_NT: (N, T) float in [0, 1].
        delta: δ in [0, 1].

    Returns:
        (N, T) bool, at least one True in each row.

    Raises:
        ValueError: delta is outside [0, 1].
    """
    if not 0 <= delta <= 1:
        raise ValueError(f"delta is {delta}; expected a number from 0 to 1")
    assigned_NT: BoolArray = memberships_NT >= delta
    assigned_NT[_primary_entries(memberships_NT)] = True
    return assigned_NT


def delta_for_overlap(memberships_NT: FloatArray, *, overlap: float) -> float:
    """Find the δ at which a class is in the wanted number of groups on average.

    With k of the N (T − 1) memberships outside the argmax groups admitted, the
    overlap is 1 + k / N. δ lies halfway between the largest membership left out
    and the next larger one, so that rounding cannot move it past either.

    Args:
        memberships_NT: (N, T) float in [0, 1].
        overlap: wanted mean number of groups, from 1 to T.

    Returns:
        δ whose overlap is as near to the wanted one as equal memberships, which
        come in together, allow.

    Raises:
        ValueError: overlap is outside 1..T.
    """
    num_classes, num_groups = memberships_NT.shape
    if not 1 <= overlap <= num_groups:
        raise ValueError(
            f"overlap is {overlap}; expected a number from 1 to the {num_groups} groups"
        )
    secondary_NT = np.ones_like(memberships_NT, dtype=bool)
    secondary_NT[_primary_entries(memberships_NT)] = False
    steps, counts = np.unique(memberships_NT[secondary_NT], return_counts=True)
    admitted = np.append(0, np.cumsum(counts[::-1]))
    num_steps = int(np.abs(admitted - (overlap - 1) * num_classes).argmin())
    if num_steps == len(steps):
        return 0.0
    left_out = steps[::-1][num_steps]
    larger = memberships_NT[memberships_NT > left_out].min(initial=1.0)
    halfway = (left_out + larger) / 2
    return float(halfway if halfway > left_out else larger)


def cap_group_sizes(
    assigned_NT: BoolArray, memberships_NT: FloatArray, *, max_classes: int
) -> BoolArray:
    """Take from each group above the limit the classes that belong to it least.

    A class never loses the group it belongs to most, so a group with more such
    classes than the limit stays above it.

    Args:
        assigned_NT: (N, T) bool.
        memberships_NT: (N, T) float in [0, 1].
        max_classes: the limit, ≥ 1.

    Returns:
        (N, T) bool, True only where assigned_NT is.

    Raises:
        ValueError: max_classes is below 1.
    """
    if max_classes < 1:
        raise ValueError(f"max_classes is {max_classes}; expected 1 or more")
    capped_NT = assigned_NT.copy()
    removable_NT = assigned_NT.copy()
    removable_NT[_primary_entries(np.where(assigned_NT, memberships_NT, -1))] = False
    for group, size in enumerate(assigned_NT.sum(axis=0)):
        candidates = np.flatnonzero(removable_NT[:, group])
        order = np.argsort(memberships_NT[candidates, group], kind="stable")
        surplus = max(int(size) - max_classes, 0)
        capped_NT[candidates[order[:surplus]], group] = False
    return capped_NT


def summarize_groups(
    assigned_NT: BoolArray, memberships_NT: FloatArray, *, delta: float
) -> GroupSummary:
    """Count what the groups hold and how far δ alone covers the classes.

    Args:
        assigned_NT: (N, T) bool.
        memberships_NT: (N, T) float in [0, 1].
        delta: the δ in [0, 1] that assigned_NT was made with.

    Returns:
        The summary.
    """
    covered_N = (memberships_NT >= delta).any(axis=1)
    groups_of_N = assigned_NT.sum(axis=1)
    shared_NT = assigned_NT & (groups_of_N > 1)[:, None]
    return GroupSummary(
        sizes_T=tuple(assigned_NT.sum(axis=0).tolist()),
        shared_T=tuple(shared_NT.sum(axis=0).tolist()),
        coverage=float(covered_N.mean()),
        num_fallbacks=int((~covered_N).sum()),
        overlap=float(groups_of_N.mean()),
    )


def _primary_entries(memberships_NT: FloatArray) -> tuple[NDArray[np.intp], ...]:
    """Index each class's largest membership, the first group where several are."""
    return np.arange(len(memberships_NT)), memberships_NT.argmax(axis=1)
