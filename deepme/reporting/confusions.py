# ruff: noqa: N806
"""What is taken for what, and how far apart those classes lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepme.reporting.classes import groups_of_classes
from deepme.reporting.sources import Sources
from deepme.reporting.tables import Cell, Table, ratio
from deepme.text import listing

SHOWN = 50
"""Confusions listed."""

NO_PATH = 255
_BASELINE = 1024
"""Classes whose distances to all others stand for those of any two classes."""


def commonest(sources: Sources) -> Table:
    """List the commonest confusions with their distance."""
    confusions = sources.shown.counts.confusions
    by_count = np.lexsort((confusions[:, 1], confusions[:, 0], -confusions[:, 2]))
    chosen = confusions[by_count[:SHOWN]]
    distances = distances_between(sources, chosen[:, :2])
    groups = groups_of_classes(sources)
    images_N = sources.shown.counts.images
    rows: list[list[Cell]] = []
    for (true, other, times), distance in zip(chosen.tolist(), distances, strict=True):
        rows.append(
            [
                sources.class_name(true),
                sources.class_name(other),
                f"{times:,}",
                ratio(times, int(images_N[true])),
                _written(float(distance), sources),
                _together(groups[true], groups[other]),
            ]
        )
    nearness = "edges apart" if _has_paths(sources) else "similarity"
    return Table(
        caption="The commonest confusions",
        header=(
            *("class", "taken for", "images", "of the class's images"),
            *(nearness, "groups"),
        ),
        align="llrrrl",
        rows=rows,
    )


def by_distance(sources: Sources) -> Table | None:
    """Compare how far errors go with how far apart any two classes are.

    Returns:
        A row a distance; None for classes of a matrix, which have no path lengths.
    """
    confusions = sources.shown.counts.confusions
    if not _has_paths(sources) or not len(confusions):
        return None
    distances = distances_between(sources, confusions[:, :2]).astype(np.int64)
    errors = np.bincount(distances, weights=confusions[:, 2], minlength=NO_PATH + 1)
    any_two = _distances_of_any_two(sources)
    rows: list[list[Cell]] = []
    for distance in np.flatnonzero(errors + any_two).tolist():
        rows.append(
            [
                _written(float(distance), sources),
                f"{int(errors[distance]):,}",
                ratio(int(errors[distance]), int(errors.sum())),
                ratio(int(any_two[distance]), int(any_two.sum())),
            ]
        )
    return Table(
        caption="How far errors go",
        header=("edges apart", "images", "of all errors", "of any two classes"),
        align="rrrr",
        rows=rows,
    )


def distances_between(
    sources: Sources, pairs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Look up how far apart classes are.

    Args:
        sources: the artifacts.
        pairs: (E, 2) class indices.

    Returns:
        (E,) path lengths, `NO_PATH` where there is none; of a matrix, similarities.
    """
    found = np.empty(len(pairs), dtype=np.float64)
    classes, position = np.unique(pairs[:, 0], return_inverse=True)
    order = np.argsort(position, kind="stable")
    for rows, block in sources.similarity.rows(classes):
        start, stop = np.searchsorted(position[order], [rows.start, rows.stop])
        mine = order[start:stop]
        found[mine] = block[position[mine] - rows.start, pairs[mine, 1]]
    return found


def _distances_of_any_two(sources: Sources) -> NDArray[np.int64]:
    num_classes = sources.groups.num_classes
    count = min(num_classes, _BASELINE)
    spread = np.unique(np.linspace(0, num_classes - 1, count).astype(np.int64))
    counted = np.zeros(NO_PATH + 1, dtype=np.int64)
    for _, block in sources.similarity.rows(spread):
        counted += np.bincount(block.reshape(-1), minlength=NO_PATH + 1)
    counted[0] = 0  # a class and itself
    return counted


def _has_paths(sources: Sources) -> bool:
    return sources.similarity.theta_of_path_length is not None


def _written(distance: float, sources: Sources) -> Cell:
    if not _has_paths(sources):
        return f"{distance:.2f}"
    return "no path" if distance == NO_PATH else f"{distance:.0f}"


def _together(these: list[int], those: list[int]) -> str:
    both = sorted({*these} & {*those})
    if both:
        return f"both in {listing([str(number) for number in both])}"
    return f"{listing([*map(str, these)])} and {listing([*map(str, those)])}"
