"""What a report is made from: the artifacts of a workspace, or of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepme.artifacts.calibration import CalibrationContent, load_calibration
from deepme.artifacts.comparison import (
    ComparisonContent,
    load_comparison,
)
from deepme.artifacts.evaluation import Evaluation, load_evaluation
from deepme.artifacts.groups import Groups
from deepme.artifacts.similarity import Similarity
from deepme.artifacts.split import Split
from deepme.errors import ArtifactError
from deepme.systems import SYSTEMS
from deepme.text import clean
from deepme.workspace import Workspace

_BY_INTEREST = ("gate", "attention", "flat")
"""The fusions that people predict with, the mixture first."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Loaded artifacts, none of them stale.

    Attributes:
        title: the name of the folder that was asked for.
        workspace: that they lie in; of a comparison, one trial's.
        similarity: the classes and how near they are to each other.
        groups: the grouping.
        split: the images.
        evaluations: every system's result in the workspace, by name.
        shown: the one of them whose classes and experts are looked at closely.
        calibration: of its fusion; None where it has no temperature.
        comparison: Table 1 over several seeds; None where none was made.
    """

    title: str
    workspace: Workspace
    similarity: Similarity
    groups: Groups
    split: Split
    evaluations: list[Evaluation]
    shown: Evaluation
    calibration: CalibrationContent | None
    comparison: ComparisonContent | None

    @property
    def rank(self) -> int:
        """The smallest k of the top-k accuracies that were counted."""
        return int(self.shown.counts.topk.min())

    def class_name(self, index: int) -> str:
        """A class's name for people, cleaned."""
        return clean(self.groups.content.names[index])


def load_sources(workspace: Workspace) -> Sources:
    """Load what a report needs.

    Args:
        workspace: of a finished run, or the folder of a comparison, of which the trial
            of DeepME's first seed is shown.

    Raises:
        ArtifactError: an artifact is missing, corrupt or stale.
    """
    title = clean(workspace.root.resolve().name)
    comparison = None
    chosen = None
    path = workspace.root / "comparison.json"
    if path.exists():
        comparison = load_comparison(path)
        workspace, chosen = _trial_shown(workspace, comparison)
    evaluations = workspace.evaluations()
    shown = next((e for e in evaluations if e.origin.path == chosen), None)
    shown = shown or _most_interesting(evaluations)
    groups = workspace.groups()
    return Sources(
        title=title,
        workspace=workspace,
        similarity=workspace.similarity(),
        groups=groups,
        split=workspace.split(groups.origin),
        evaluations=evaluations,
        shown=shown,
        calibration=_calibration(workspace, shown),
        comparison=comparison,
    )


def _most_interesting(evaluations: list[Evaluation]) -> Evaluation:
    for fusion in _BY_INTEREST:
        for evaluation in evaluations:
            if evaluation.content.fusion == fusion:
                return evaluation
    return evaluations[0]


def _trial_shown(
    workspace: Workspace, comparison: ComparisonContent
) -> tuple[Workspace, Path]:
    """Find the trial behind DeepME's row of the table, or behind the first row.

    A trial bears the name of the first of its systems, so it is known by its figures.
    """
    row = min(comparison.systems, key=lambda row: row.system != "deepme")
    seed = row.seeds[0].seed
    for path in sorted(workspace.root.glob(f"seed-{seed}/*/evaluation/*.json")):
        content = load_evaluation(path).content
        same_fusion = content.fusion == SYSTEMS[row.system].fusion
        if same_fusion and content.macro == row.seeds[0].macro:
            return Workspace(path.parents[1]), path
    raise ArtifactError(
        f"{clean(str(workspace.root))} holds no trial of {row.label} with seed {seed}",
        "rerun `deepme compare --data IMAGES`, or name a trial's own folder with -w",
    )


def _calibration(
    workspace: Workspace, evaluation: Evaluation
) -> CalibrationContent | None:
    route = evaluation.origin.header.settings
    path = workspace.calibration_path(
        evaluation.content.fusion, route.get("route_top"), route.get("route_least", 0.0)
    )
    if workspace.name_of(path) in evaluation.origin.header.made_from:
        return load_calibration(path).content
    return None
