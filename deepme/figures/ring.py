"""Where things stand in the map of groups: discs in a ring, dots in discs, links.

Letters: N classes, T groups, M memberships (dots), L links. Lengths are in radii of
a disc of average size; the ring's middle is the origin, y points up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, isotonic_regression

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_GAP = 0.12
_LEAST_WEDGE = 0.3


class Ring(NamedTuple):
    """The discs, one a group.

    Attributes:
        centres: (T, 2).
        radii: (T,).
    """

    centres: Floats
    radii: Floats


class Dots(NamedTuple):
    """The dots, one a membership, group by group.

    Attributes:
        positions: (M, 2).
        groups: (M,) index of the group.
        classes: (M,) index of the class.
        is_shared: (M,) whether another group holds the class too.
    """

    positions: Floats
    groups: Indices
    classes: Indices
    is_shared: NDArray[np.bool_]


def arrange_ring(sizes: Sequence[int]) -> Ring:
    """Place discs around the origin, clockwise from the top, areas ∝ sizes.

    Each disc has a wedge of half-angle asin(w / R) to itself, w its radius and a gap,
    so discs never touch; R is the least ring radius at which Σ asin(w / R) ≤ π.

    Args:
        sizes: T group sizes, at least one above 0.

    Returns:
        The ring; a single disc stands at the origin.
    """
    radii = np.sqrt(np.array(sizes) / np.mean(sizes))
    if len(radii) == 1:
        return Ring(np.zeros((1, 2)), radii)
    widths = np.maximum(radii, _LEAST_WEDGE) + _GAP

    def slack(ring_radius: float) -> float:
        return float(np.pi - np.arcsin(widths / ring_radius).sum())

    least, most = float(widths.max()), float(widths.sum())
    ring_radius = least if slack(least) >= 0 else float(brentq(slack, least, most))
    half_angles = np.arcsin(widths / ring_radius)
    half_angles += (np.pi - half_angles.sum()) / len(radii)
    angles = np.pi / 2 - (2 * np.cumsum(half_angles) - half_angles)
    centres = ring_radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Ring(centres, radii)


def outer_points(ring: Ring) -> Floats:
    """Find the point of each disc that is farthest from the ring's middle.

    Args:
        ring: T discs.

    Returns:
        (T, 2) points; a disc at the origin has its rightmost one.
    """
    is_middle = ~ring.centres.any(axis=1, keepdims=True)
    outward = np.where(is_middle, (1.0, 0.0), ring.centres)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    points: Floats = ring.centres + ring.radii[:, None] * outward
    return points


def sunflower(count: int) -> Floats:
    """Spread points evenly in the unit disc, as the seeds of a sunflower.

    ρ_k = √((k + ½) / n), φ_k = k · π (3 − √5) (Vogel, 1979).

    Args:
        count: n.

    Returns:
        (n, 2) points, from the middle outwards.
    """
    seeds = np.arange(count)
    radius, angle = np.sqrt((seeds + 0.5) / max(1, count)), seeds * np.pi * (3 - 5**0.5)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def place_dots(ring: Ring, members: Sequence[Indices], *, num_classes: int) -> Dots:
    """Give every class a dot in each of its groups.

    Shared classes take the places nearest to the ring's middle, in the order in which
    their other groups follow along the ring, so that few links cross.

    Args:
        ring: T discs.
        members: T arrays of class indices in [0, N), none twice in one group.
        num_classes: N.

    Returns:
        The dots.
    """
    classes = np.concatenate(members).astype(np.int64)
    groups = np.repeat(np.arange(len(members)), [len(group) for group in members])
    is_shared = np.bincount(classes, minlength=num_classes)[classes] > 1
    twins, order = _twin_centres(ring, groups, classes, num_classes)
    positions = np.zeros((len(classes), 2))
    for t, (centre, radius) in enumerate(zip(ring.centres, ring.radii, strict=True)):
        places = 0.93 * radius * sunflower(len(members[t]))
        rows = np.flatnonzero((groups == t) & is_shared)
        rest = np.flatnonzero((groups == t) & ~is_shared)
        inward = np.argsort(places @ centre, kind="stable")
        along = np.array([-centre[1], centre[0]])
        front = np.sort(inward[: len(rows)])
        front = front[np.argsort(places[front] @ along, kind="stable")]
        rows = rows[np.lexsort((order[rows], (twins[rows] @ along).round(6)))]
        positions[rows] = centre + places[front]
        positions[rest] = centre + places[np.sort(inward[len(rows) :])]
    return Dots(positions, groups, classes, is_shared)


def _twin_centres(
    ring: Ring, groups: Indices, classes: Indices, num_classes: int
) -> tuple[Floats, Indices]:
    """The mean centre of each membership's other groups, and the order among equals.

    Seen from the middle, the dots of two discs mirror each other: equals stand by
    class in the one and against it in the other.
    """
    sums = np.zeros((num_classes, 3))
    values = np.column_stack([ring.centres[groups], groups])
    np.add.at(sums, classes, values)
    others = np.maximum(1, np.bincount(classes, minlength=num_classes)[classes] - 1)
    means = (sums[classes] - values) / others[:, None]
    return means[:, :2], np.where(means[:, 2] > groups, classes, -classes)


def join_twins(dots: Dots) -> Floats:
    """Draw the links: n_y − 1 curves for a class in n_y groups, bent to the middle.

    The nearer the two dots, the shallower the bend.

    Args:
        dots: the dots.

    Returns:
        (L, 17, 2) points of quadratic Bézier curves.
    """
    order = np.argsort(dots.classes, kind="stable")
    is_twin = np.diff(dots.classes[order]) == 0
    start = dots.positions[order[:-1][is_twin], None]
    stop = dots.positions[order[1:][is_twin], None]
    width = 2 * np.hypot(*dots.positions.T).max()
    near = 1 - np.linalg.norm(start - stop, axis=-1, keepdims=True) / width
    bend = 0.35 * near * (start + stop)
    s = np.linspace(0, 1, 17)[None, :, None]
    curves: Floats = (1 - s) ** 2 * start + 2 * s * (1 - s) * bend + s**2 * stop
    return curves


def spread(wanted: Floats, *, gap: float, low: float, high: float) -> Floats:
    """Move numbers apart as little as possible (least squares).

    Args:
        wanted: (n,) positions, in the order that the result shall ascend in.
        gap: least distance of neighbours; less if n of them do not fit.
        low: least position.
        high: greatest position.

    Returns:
        (n,) positions in [low, high].
    """
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    steps = gap * np.arange(len(wanted))
    free = isotonic_regression(wanted - steps).x if len(wanted) else wanted
    return np.clip(free, low, high - gap * max(0, len(wanted) - 1)) + steps
