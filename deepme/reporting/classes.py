# ruff: noqa: N806
"""Every class: its groups, its accuracy, and what it is most often taken for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepme.reporting.sources import Sources
from deepme.reporting.tables import Cell, Table, ratio
from deepme.text import clean

EXTREMES = 15
"""Classes shown as best, and as worst."""


def groups_of_classes(sources: Sources) -> list[list[int]]:
    """For each of the N classes the numbers of its groups, ascending."""
    groups: list[list[int]] = [[] for _ in range(sources.groups.num_classes)]
    for number, members in enumerate(sources.groups.members, start=1):
        for index in members.tolist():
            groups[index].append(number)
    return groups


def most_taken_for(sources: Sources) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find what each class is most often taken for.

    Returns:
        (N,) the other class's index, -1 where no image went wrong, and (N,) how often.
    """
    taken_N = np.full(sources.groups.num_classes, -1, dtype=np.int64)
    times_N = np.zeros(sources.groups.num_classes, dtype=np.int64)
    confusions = sources.shown.counts.confusions
    # Ascending counts: of what is assigned to one place the last stays.
    ordered = confusions[np.argsort(confusions[:, 2], kind="stable")]
    taken_N[ordered[:, 0]] = ordered[:, 1]
    times_N[ordered[:, 0]] = ordered[:, 2]
    return taken_N, times_N


def class_columns(sources: Sources) -> dict[str, Any]:
    """Pack what the page's searchable table shows, a list a column.

    Returns:
        JSON values: ``id``, ``name``, ``groups_of``, ``images``, ``hits``, ``taken``
        and ``times``, each with N entries.
    """
    content, counts = sources.groups.content, sources.shown.counts
    taken_N, times_N = most_taken_for(sources)
    return {
        "id": [clean(name) for name in content.classes],
        "name": [clean(name) for name in content.names],
        "groups_of": groups_of_classes(sources),
        "images": counts.images.tolist(),
        "hits": counts.hits[_first(counts.topk)].tolist(),
        "taken": taken_N.tolist(),
        "times": times_N.tolist(),
    }


def extremes(sources: Sources) -> tuple[Table, Table]:
    """Make the tables of the best and of the worst classes.

    Of classes that are equally good those with more test images come first, for they
    say more; a class stands in one of the tables only.
    """
    counts = sources.shown.counts
    hits_N = counts.hits[_first(counts.topk)]
    tested = np.flatnonzero(counts.images)
    accuracy = hits_N[tested] / counts.images[tested]
    size = -counts.images[tested]
    count = min(EXTREMES, len(tested) // 4)
    best = tested[np.lexsort((tested, size, -accuracy))][:count]
    worst = tested[np.lexsort((tested, size, accuracy))]
    worst = worst[~np.isin(worst, best)][: max(count, 1)]
    taken_N, times_N = most_taken_for(sources)

    def rows(indices: NDArray[np.int64]) -> list[list[Cell]]:
        return [
            [
                sources.class_name(i),
                f"{counts.images[i]:,}",
                ratio(int(hits_N[i]), int(counts.images[i])),
                _mistake(sources, int(taken_N[i]), int(times_N[i])),
            ]
            for i in indices.tolist()
        ]

    header = ("class", "images", f"top-{sources.rank}", "most often taken for")
    return (
        Table(caption="The best classes", header=header, align="lrrl", rows=rows(best)),
        Table(
            caption="The worst classes", header=header, align="lrrl", rows=rows(worst)
        ),
    )


def _mistake(sources: Sources, other: int, times: int) -> Cell:
    return f"{sources.class_name(other)} ({times:,})" if other >= 0 else None


def _first(topk: NDArray[np.int64]) -> int:
    return int(topk.argmin())
