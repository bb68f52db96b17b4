"""Figure 2 of the paper: the classes in their groups, the shared ones joined.

Every group is a disc of dots, one a class, with an area in proportion to its size.
The discs stand in a ring in the order of the groups, clockwise from the top. A class
that several groups hold is a blue dot in each of them, on the side that faces the
middle, and thin blue lines join its dots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from deepme.figures.ring import (
    Dots,
    Floats,
    Indices,
    Ring,
    arrange_ring,
    join_twins,
    outer_points,
    place_dots,
    spread,
)
from deepme.figures.style import BLUE, GRID, MUTED, PANEL, house_style
from deepme.text import shorten

_WIDTH, _HEIGHT = 12.4, 9.2
_SIDE, _TOP, _BOTTOM = 2.5, 0.95, 0.7
"""Inches left free around the ring for labels, title and legend."""

_LABEL_GAP = 0.36
_MANY = 2_000
_EPSILON = 1e-9
_NAMED_FROM = 52.0
"""Points between neighbouring dots from which on their names have room."""

_DOT = "#98a1ad"


@house_style()
def plot_group_map(
    names: Sequence[str], members: Sequence[Indices], class_names: Sequence[str]
) -> Figure:
    """Plot all groups with their classes, marking and joining the shared ones.

    Class names are written at the dots where the dots are few enough.

    Args:
        names: T groups' names.
        members: T int arrays of class indices in [0, N), none twice in one group.
        class_names: N classes' names.

    Returns:
        The figure; its artists ``classes``, ``shared`` and ``links`` bear these ids.

    Raises:
        ValueError: no membership, or not one name a group.
    """
    sizes = [len(group) for group in members]
    if len(names) != len(sizes) or not sum(sizes):
        raise ValueError(
            f"{len(names)} names for {len(sizes)} groups with {sum(sizes)} members, "
            "expected one name a group and at least one member"
        )
    ring = arrange_ring(sizes)
    dots = place_dots(ring, members, num_classes=len(class_names))
    figure, axes, inch = _open_stage(ring)
    spacing = 72 / inch * float(np.sqrt(np.pi / np.mean(sizes)))
    _draw_discs(axes, ring)
    _draw_links(axes, join_twins(dots))
    _draw_dots(axes, dots, diameter=float(np.clip(0.55 * spacing, 0.9, 8)))
    if spacing >= _NAMED_FROM:
        _name_dots(axes, dots, class_names, width=int(spacing / 3.6))
    counts = np.bincount(dots.groups[dots.is_shared], minlength=len(sizes))
    notes = [
        f"{_classes(size)}, {shared:,} shared"
        for size, shared in zip(sizes, counts.tolist(), strict=True)
    ]
    _label_groups(axes, ring, names, notes, inch=inch)
    _write_title(figure, len(sizes), dots)
    return figure


def _classes(count: int) -> str:
    return f"{count:,} class" if count == 1 else f"{count:,} classes"


def _open_stage(ring: Ring) -> tuple[Figure, Axes, float]:
    """Make axes in which the ring fills what the margins leave; units an inch."""
    low = (ring.centres - ring.radii[:, None]).min(axis=0)
    high = (ring.centres + ring.radii[:, None]).max(axis=0)
    room = np.array([_WIDTH - 2 * _SIDE, _HEIGHT - _TOP - _BOTTOM])
    inch = float(((high - low) / room).max())
    figure = Figure(figsize=(_WIDTH, _HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    x, y = (low + high) / 2
    y += (_TOP - _BOTTOM) / 2 * inch
    axes.set_xlim(x - _WIDTH / 2 * inch, x + _WIDTH / 2 * inch)
    axes.set_ylim(y - _HEIGHT / 2 * inch, y + _HEIGHT / 2 * inch)
    return figure, axes, inch


def _draw_discs(axes: Axes, ring: Ring) -> None:
    for (x, y), radius in zip(ring.centres, ring.radii, strict=True):
        axes.add_patch(Circle((x, y), radius, facecolor=PANEL, edgecolor=GRID))


def _draw_links(axes: Axes, links: Floats) -> None:
    links_artist = LineCollection(
        list(links),
        colors=BLUE,
        linewidths=0.7,
        alpha=float(np.clip(8 / np.sqrt(max(1, len(links))), 0.12, 0.7)),
        rasterized=len(links) > _MANY,
        gid="links",
    )
    axes.add_collection(links_artist, autolim=False)


def _draw_dots(axes: Axes, dots: Dots, *, diameter: float) -> None:
    for shared, colour, gid in ((False, _DOT, "classes"), (True, BLUE, "shared")):
        x, y = dots.positions[dots.is_shared == shared].T
        axes.scatter(
            x,
            y,
            s=diameter**2,
            c=colour,
            linewidths=0,
            zorder=3,
            rasterized=len(dots.classes) > _MANY,
            gid=gid,
        )


def _name_dots(
    axes: Axes, dots: Dots, class_names: Sequence[str], *, width: int
) -> None:
    for (x, y), index in zip(dots.positions, dots.classes, strict=True):
        axes.annotate(
            shorten(class_names[index], width),
            (x, y),
            xytext=(0, -6),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
            zorder=4,
        )


def _label_groups(
    axes: Axes, ring: Ring, names: Sequence[str], notes: Sequence[str], *, inch: float
) -> None:
    """Write the labels in two columns beside the ring, with a line to each disc."""
    bottom, top = axes.get_ylim()
    low, high = bottom + _BOTTOM * inch, top - _TOP * inch
    reach = (np.abs(ring.centres[:, 0]) + ring.radii).max() + 0.3 * inch
    rims = outer_points(ring)
    is_left = rims[:, 0] < -_EPSILON
    for side, on_side in ((1, ~is_left), (-1, is_left)):
        column = np.flatnonzero(on_side)[::-side]
        wanted = rims[column, 1]
        heights = spread(wanted, gap=_LABEL_GAP * inch, low=low, high=high)
        for t, y in zip(column.tolist(), heights.tolist(), strict=True):
            ends = (rims[t, 0], side * reach), (rims[t, 1], y)
            axes.plot(*ends, color=MUTED, lw=0.6, zorder=0.5)
            _write_label(axes, (side * reach, y), side, names[t], notes[t])


def _write_label(
    axes: Axes, place: tuple[float, float], side: int, name: str, note: str
) -> None:
    ha: Literal["left", "right"] = "left" if side > 0 else "right"
    axes.annotate(
        shorten(name, 27),
        place,
        xytext=(4 * side, 0),
        textcoords="offset points",
        ha=ha,
        va="bottom",
        fontsize=9.5,
    )
    axes.annotate(
        note,
        place,
        xytext=(4 * side, -2),
        textcoords="offset points",
        ha=ha,
        va="top",
        fontsize=8,
        color=MUTED,
    )


def _write_title(figure: Figure, num_groups: int, dots: Dots) -> None:
    num_classes = len(np.unique(dots.classes))
    num_shared = len(np.unique(dots.classes[dots.is_shared]))
    title = f"{_classes(num_classes)} in {num_groups} group{'s' * (num_groups > 1)}"
    figure.text(0.02, 0.975, title, fontsize=14, weight="bold", va="top")
    note = f"in several groups: {num_shared:,} ({num_shared / num_classes:.1%})"
    figure.text(0.02, 0.942, note, va="top", color=MUTED)
    handles = [
        Line2D([], [], color=_DOT, ls="", marker="o", label="class in one group"),
        Line2D([], [], color=BLUE, ls="", marker="o", label="class in several groups"),
        Line2D([], [], color=BLUE, lw=1, label="joins the dots of one class"),
    ]
    figure.legend(handles=handles, loc="lower left", ncols=3, fontsize=9)
