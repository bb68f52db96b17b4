"""compare --dry-run: what each trial would do, and what it would share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepme.comparison import Trial, plan_trials
from deepme.errors import UsageError
from deepme.recipe import Recipe
from deepme.rehearsal import Rehearsal, Rehearsed
from deepme.systems import NEEDS_GATE, NEEDS_NO_EXPERT
from deepme.workspace import Workspace


def rehearse_comparison(
    recipe: Recipe,
    workspace: Workspace,
    *,
    data: Path,
    classes: str = "",
    matrix: str = "",
    hierarchy: str = "",
    systems: Sequence[str],
    seeds: range,
) -> list[Rehearsed]:
    """Say what `comparison.run` would do, with the same arguments; nothing is written.

    Returns:
        Similarity and split, then the stages of each trial under the name of its
        folder. What a trial shares with an earlier one is told once, with that.
    """
    if not seeds:
        raise UsageError(f"--seeds is {len(seeds)}, expected 1 or more")
    plans = {seed: plan_trials(recipe, systems, seed) for seed in seeds}
    root = Rehearsal(workspace)
    root.roots(recipe, data, classes, matrix, hierarchy)
    found = list(root.stages)
    for seed, trials in plans.items():
        told: list[tuple[Trial, dict[str, Rehearsed]]] = []
        for trial in trials:
            place = Workspace(workspace.root / f"seed-{seed}" / trial.name)
            own = Rehearsal(place, list(root.stages), _shared(trial, told))
            _rehearse_trial(trial, own)
            new = own.stages[len(root.stages) :]
            told.append((trial, {stage.stage: stage for stage in new}))
            prefix = f"seed-{seed}/{trial.name}"
            found += [
                replace(stage, stage=f"{prefix}: {stage.stage}")
                for stage in new
                if stage.stage not in own.shared
            ]
    return found


def _shared(
    trial: Trial, told: list[tuple[Trial, dict[str, Rehearsed]]]
) -> dict[str, Rehearsed]:
    """The stages that an earlier trial makes for this one, which are linked."""
    shared: dict[str, Rehearsed] = {}
    for earlier, stages in told:
        mine, theirs = trial.recipe, earlier.recipe
        same = set()
        if mine.flat == theirs.flat:
            same.add("train-flat")
        if mine.cluster == theirs.cluster:
            same.add("cluster")
            if mine.expert == theirs.expert:
                same.add("train-expert")
        for name in same & stages.keys():
            shared.setdefault(name, stages[name])
    return shared


def _rehearse_trial(trial: Trial, found: Rehearsal) -> None:
    """The stages of one trial, in the order of a run."""
    recipe = trial.recipe
    if any(recipe.builds_on_flat(fusion) for fusion in trial.fusions):
        found.flat(recipe)
    found.cluster(recipe)
    if not NEEDS_NO_EXPERT.issuperset(trial.fusions):
        found.experts(recipe)
    if not NEEDS_GATE.isdisjoint(trial.fusions):
        found.gate(recipe)
    if "attention" in trial.fusions:
        found.attention(recipe)
    evaluated = replace(recipe.evaluate, fusion=trial.fusions)
    found.evaluate(replace(recipe, evaluate=evaluated))
