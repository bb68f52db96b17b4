"""All stages one after the other; each leaves alone what is up to date."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepme import experts
from deepme.artifacts.evaluation import EvaluationContent
from deepme.artifacts.groups import GroupsContent
from deepme.images.index import class_folders
from deepme.progress import note, warn
from deepme.recipe import Recipe
from deepme.steps import (
    cluster,
    evaluate,
    plot_accuracy,
    similarity,
    split,
    train_attention,
    train_flat,
    train_gate,
)
from deepme.workspace import Workspace


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        groups: the grouping.
        results: one entry a fusion.
        figures: the files drawn.
        report: the page about it all; None where none was asked for.
    """

    groups: GroupsContent
    results: list[EvaluationContent]
    figures: list[Path]
    report: Path | None = None


def run_all(
    recipe: Recipe,
    workspace: Workspace,
    *,
    data: Path,
    classes: str = "",
    matrix: str = "",
    hierarchy: str = "",
    figure_rank: int | None = None,
) -> Outcome:
    """Run all stages on a user's images.

    Args:
        recipe: the settings.
        workspace: where artifacts are and go.
        data: the images, as for split.
        classes: a class list, as for similarity; empty for the image folder's own.
        matrix: the user's own similarities, as for similarity, or empty.
        hierarchy: the user's own hierarchy, as for similarity, or empty.
        figure_rank: k of the accuracies drawn, as for plot-accuracy.

    Returns:
        Groups, results and figures.

    Raises:
        DeepmeError: whatever a stage raises; what is finished stays.
    """
    if not classes and not matrix:
        class_folders(data)  # what is no folder is refused by its own name
    source = classes or ("" if matrix else str(data))
    attends = "attention" in recipe.evaluate.fusion
    announce = _Announcer(7 + recipe.needs_flat + attends)
    announce("similarity")
    similarity.run(
        recipe.similarity,
        workspace,
        classes=source,
        matrix=matrix,
        hierarchy=hierarchy,
    )
    announce("split")
    split.run(recipe.split, recipe.machine, workspace, data=data, scan=False)
    if recipe.needs_flat:
        announce("train-flat")
        train_flat.run(recipe.flat, recipe.machine, workspace)
    announce("cluster")
    groups = cluster.run(recipe.cluster, recipe.machine, workspace)
    for concern in cluster.concerns(recipe.cluster, groups):
        warn(concern)
    announce("train-expert")
    numbers = [group.number for group in groups.groups]
    experts.train(recipe.expert, recipe.machine, workspace, numbers)
    announce("train-gate")
    train_gate.run(recipe.gate, recipe.machine, workspace)
    if attends:
        announce("train-attention")
        train_attention.run(recipe.attention, recipe.machine, workspace)
    announce("evaluate")
    results = evaluate.run(recipe.evaluate, recipe.machine, workspace)
    announce("plot-accuracy")
    figures = plot_accuracy.run(workspace, k=figure_rank)
    return Outcome(groups, results, figures)


class _Announcer:
    """Counts the stages for the reader."""

    def __init__(self, stages: int) -> None:
        self.stages, self.number = stages, 0

    def __call__(self, stage: str) -> None:
        self.number += 1
        note(f"[{self.number}/{self.stages}] {stage}")
