"""plot-accuracy: the paper's Figures 2 and 3, and the accuracy of each expert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deepme.artifacts.evaluation import Evaluation
from deepme.artifacts.groups import Groups
from deepme.errors import UsageError
from deepme.figures.class_accuracy import plot_class_accuracy
from deepme.figures.expert_accuracy import plot_expert_accuracy
from deepme.figures.group_map import plot_group_map
from deepme.figures.render import png_bytes, svg_bytes
from deepme.storage.atomic import atomic_write
from deepme.workspace import Workspace


def run(workspace: Workspace, *, k: int | None) -> list[Path]:
    """Draw all figures as PNG and SVG.

    Args:
        workspace: with at least one evaluation.
        k: rank of the top-k accuracy shown; None for 5, the paper's, or the largest
            that was evaluated.

    Returns:
        The files written.

    Raises:
        ArtifactError: there is no evaluation, or one is stale.
        UsageError: no evaluation measured top-k.
    """
    groups = workspace.groups()
    results = workspace.evaluations()
    ranks = sorted({int(rank) for result in results for rank in result.counts.topk})
    if k is None:
        k = 5 if 5 in ranks else ranks[-1]
    shown = [result for result in results if k in result.counts.topk]
    if not shown:
        raise UsageError(
            f"--topk is {k}, expected a rank that was evaluated: "
            f"{', '.join(map(str, ranks))}",
            f"or run `deepme evaluate --topk {k}`",
        )
    figures = {
        "groups": _group_map(groups),
        "class-accuracy": _class_accuracy(shown, k),
        "expert-accuracy": _expert_accuracy(shown[0], k),
    }
    with workspace.lock():
        return [
            path
            for name, figure in figures.items()
            for path in _write(workspace, name, figure)
        ]


def _group_map(groups: Groups) -> Figure:
    content = groups.content
    return plot_group_map(
        [f"{group.number} {group.name}" for group in content.groups],
        groups.members,
        content.names,
    )


def _class_accuracy(results: list[Evaluation], k: int) -> Figure:
    accuracies = {}
    for result in results:
        counts = result.counts
        tested = counts.images > 0
        hits = counts.hits[counts.topk.tolist().index(k)]
        accuracies[result.content.system] = hits[tested] / counts.images[tested]
    return plot_class_accuracy(accuracies, k=k)


def _expert_accuracy(result: Evaluation, k: int) -> Figure:
    """The experts' accuracy among their own classes; the same in every system."""
    tested = [group for group in result.content.groups if group.expert]
    return plot_expert_accuracy(
        [f"{group.number} {group.name}" for group in tested],
        np.array([group.expert[str(k)] for group in tested]),
        [group.classes for group in tested],
        k=k,
    )


def _write(workspace: Workspace, name: str, figure: Figure) -> list[Path]:
    contents = {"png": png_bytes(figure), "svg": svg_bytes(figure)}
    paths = []
    for suffix, content in contents.items():
        path = workspace.figure_path(f"{name}.{suffix}")
        with atomic_write(path) as file:
            file.write(content)
        paths.append(path)
    return paths
