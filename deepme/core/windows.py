# ruff: noqa: N803, N806
"""Windows over an order of the classes: groups without a clustering.

Our reconstruction of the groups of DMDE (Zhao et al., 2018, arXiv 1706.07901), the
paper's baseline. All we know of them is DMDE's abstract (classes at sibling leaves
of an ontology share a group, groups overlap to certain degrees) and the paper's
remark that the overlap is set by hand.

Letters: N classes, T groups, M memberships = the sizes of all groups together.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage

from deepme.core.grouping import BoolArray, FloatArray
from deepme.core.taxonomy import Indices, Taxonomy, climb, hypernym_closure

_ORDERED_LIMIT = 1000  # classes whose leaves are turned; the time grows with N³


def walk_order(taxonomy: Taxonomy, classes: Indices) -> Indices:
    """Order the classes by a depth-first walk down the taxonomy.

    Hypernyms come before what lies below them, hyponyms ascend by offset. A synset
    of several hypernyms is met below the first of them that the walk reaches.

    Args:
        taxonomy: the taxonomy.
        classes: (N,) distinct indices; some may lie above others.

    Returns:
        (N,) int64, positions in `classes` in the order of the walk.
    """
    closure = hypernym_closure(taxonomy, classes)
    source, hypernyms = climb(taxonomy, closure)
    hyponyms: dict[int, list[int]] = defaultdict(list)
    for synset, hypernym in zip(
        closure[source].tolist(), hypernyms.tolist(), strict=True
    ):
        hyponyms[hypernym].append(synset)
    roots = np.delete(closure, source)
    met: dict[int, int] = {}
    ahead = roots[::-1].tolist()
    while ahead:
        synset = ahead.pop()
        if synset not in met:
            met[synset] = len(met)
            ahead += reversed(hyponyms[synset])
    return np.argsort([met[synset] for synset in classes.tolist()])


def linkage_order(theta_NN: FloatArray) -> Indices:
    """Order classes without a taxonomy, so that similar ones come near each other.

    The leaves of average linkage on 1 − Θ (Sokal and Michener, 1958); up to 1,000
    classes its branches are turned for the least distance between neighbours
    (Bar-Joseph et al., 2001).

    Args:
        theta_NN: (N, N) float in [0, 1], symmetric, N ≥ 1; its diagonal is not read.

    Returns:
        (N,) int64, positions from left to right.
    """
    num_classes = len(theta_NN)
    if num_classes == 1:
        return np.zeros(1, dtype=np.int64)
    # Row by row into the condensed form: N² distances in float64 would be twice it.
    distances = np.empty(num_classes * (num_classes - 1) // 2)
    start = 0
    for row in range(num_classes - 1):
        stop = start + num_classes - 1 - row
        np.subtract(1, theta_NN[row, row + 1 :], out=distances[start:stop])
        start = stop
    tree = linkage(distances, "average", optimal_ordering=num_classes <= _ORDERED_LIMIT)
    return leaves_list(tree).astype(np.int64)


def window_groups(order_N: Indices, num_groups: int, *, overlap: float) -> BoolArray:
    """Lay T windows of equal size over an order; consecutive ones share classes.

    M = N · overlap memberships, rounded, are dealt to the windows: sizes differ by
    one where T does not divide M. Each window holds its own share of N / T classes,
    and what exceeds that lies more ahead of it the later the window is, from nothing
    for the first to all for the last: nearly even steps from end to end.

    Args:
        order_N: (N,) positions of the classes in order.
        num_groups: T, from 1 to N.
        overlap: wanted mean number of groups a class, from 1 to T.

    Returns:
        (N, T) bool, M of them True, at least one in each row.

    Raises:
        ValueError: num_groups is outside 1..N or overlap outside 1..T.
    """
    num_classes = len(order_N)
    if not 1 <= num_groups <= num_classes:
        raise ValueError(
            f"{num_groups} windows asked of {num_classes} classes; "
            f"expected 1 to {num_classes}"
        )
    if not 1 <= overlap <= num_groups:
        raise ValueError(
            f"overlap is {overlap}; expected a number from 1 to the {num_groups} groups"
        )
    own_T = _shares(num_classes, num_groups)
    sizes_T = _shares(round(num_classes * overlap), num_groups)
    ahead_T = (sizes_T - own_T) * np.arange(num_groups) // max(num_groups - 1, 1)
    start_T = np.clip(np.cumsum(own_T) - own_T - ahead_T, 0, num_classes - sizes_T)
    place_N1 = np.argsort(order_N)[:, None]
    assigned_NT: BoolArray = (start_T <= place_N1) & (place_N1 < start_T + sizes_T)
    return assigned_NT


def _shares(total: int, count: int) -> NDArray[np.int64]:
    """Cut a number into near-equal parts, the larger ones first."""
    return total // count + (np.arange(count) < total % count)
