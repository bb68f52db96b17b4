"""plot-accuracy: the paper's Figures 2 and 3, and the accuracy of each expert."""

# ruff: noqa: N806
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

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
    return save_figures(
        workspace,
        {
            "groups": group_map(groups),
            "class-accuracy": class_accuracy(
                {result.content.system: [result] for result in shown}, k
            ),
            "expert-accuracy": expert_accuracy(shown[0], k),
        },
    )


def group_map(groups: Groups) -> Figure:
    """Draw Figure 2: the classes in their groups."""
    content = groups.content
    return plot_group_map(
        [f"{group.number} {group.name}" for group in content.groups],
        groups.members,
        content.names,
    )


def class_accuracy(systems: Mapping[str, Sequence[Evaluation]], k: int) -> Figure:
    """Draw Figure 3: the accuracy of every class.

    Args:
        systems: label -> the results of one system, one entry a seed.
        k: a rank that all of them have.
    """
    accuracies = {}
    for label, results in systems.items():
        images_N = np.sum([result.counts.images for result in results], axis=0)
        hits_N = np.sum([_hits(result, k) for result in results], axis=0)
        accuracies[label] = hits_N[images_N > 0] / images_N[images_N > 0]
    return plot_class_accuracy(accuracies, k=k)


def _hits(result: Evaluation, k: int) -> NDArray[np.int64]:
    hits_N: NDArray[np.int64] = result.counts.hits[result.counts.topk.tolist().index(k)]
    return hits_N


def expert_accuracy(result: Evaluation, k: int) -> Figure:
    """Draw the experts' accuracy among their own classes, the same in every fusion."""
    tested = [group for group in result.content.groups if group.expert]
    return plot_expert_accuracy(
        [f"{group.number} {group.name}" for group in tested],
        np.array([group.expert[str(k)] for group in tested]),
        [group.classes for group in tested],
        k=k,
    )


def save_figures(workspace: Workspace, figures: Mapping[str, Figure]) -> list[Path]:
    """Write figures as PNG and SVG.

    Args:
        workspace: whose folder of figures they go to.
        figures: name -> figure.

    Returns:
        The files written.
    """
    paths = []
    with workspace.lock():
        for name, figure in figures.items():
            contents = {"png": png_bytes(figure), "svg": svg_bytes(figure)}
            for suffix, content in contents.items():
                path = workspace.figure_path(f"{name}.{suffix}")
                with atomic_write(path) as file:
                    file.write(content)
                paths.append(path)
    return paths
