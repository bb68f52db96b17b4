"""Table 1: all systems on one split, one pre-training and one budget, over seeds.

Each pair of seed and settings has a workspace of its own below the comparison's, an
ordinary one: ``deepme evaluate -w COMPARISON/seed-0/deepme`` works. What two systems
have in common is trained once and linked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deepme import experts
from deepme.artifacts.comparison import (
    KIND,
    SCHEMA,
    ComparisonContent,
    Cost,
    SeedResult,
    SystemResult,
    save_comparison,
)
from deepme.artifacts.evaluation import Evaluation, EvaluationContent, load_evaluation
from deepme.config import ExpertSettings
from deepme.costs import cost_of
from deepme.errors import UsageError
from deepme.progress import note
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
from deepme.storage.header import Header
from deepme.systems import (
    NEEDS_GATE,
    NEEDS_NO_EXPERT,
    SYSTEMS,
    WHOLE,
    System,
)
from deepme.text import suggestion
from deepme.workspace import Workspace

_ROOTS = ("similarity.h5", "split.h5")
_FLAT = ("flat/*", "outputs/*/flat.h5")
_GROUPS = ("groups.json", "memberships.h5")
_EXPERTS = ("experts/*/*", "outputs/*/[0-9]*.h5")


@dataclass
class Trial:
    """The systems of one seed that differ in their fusion alone.

    Attributes:
        name: of its workspace, that of its first system.
        recipe: the settings.
        systems: name -> system.
    """

    name: str
    recipe: Recipe
    systems: dict[str, System] = field(default_factory=dict)

    @property
    def fusions(self) -> tuple[str, ...]:
        """What `evaluate` is asked for."""
        return tuple(dict.fromkeys(item.fusion for item in self.systems.values()))


def plan_trials(recipe: Recipe, systems: Sequence[str], seed: int) -> list[Trial]:
    """Say what has to be trained for some systems.

    Args:
        recipe: what all systems share.
        systems: names from `SYSTEMS`.
        seed: of groups and trainings.

    Returns:
        Trials with different settings, in the order of the systems.

    Raises:
        UsageError: an unknown or repeated system.
    """
    unknown = [name for name in systems if name not in SYSTEMS]
    if unknown or len(set(systems)) < len(systems) or not systems:
        raise UsageError(
            f"--systems is {','.join(systems)}, expected different ones of "
            f"{', '.join(SYSTEMS)}",
            suggestion(unknown[0], SYSTEMS).strip() if unknown else "",
        )
    trials: list[Trial] = []
    for name in systems:
        system = SYSTEMS[name]
        own = _recipe_of(system, recipe, seed)
        for trial in trials:
            if trial.recipe == own:
                break
        else:
            trial = Trial(name, own)
            trials.append(trial)
        trial.systems[name] = system
    return trials


def _recipe_of(system: System, recipe: Recipe, seed: int) -> Recipe:
    groups = recipe.cluster.num_groups + system.more_groups
    epochs = round(recipe.flat.epochs * system.longer)
    expert = replace(recipe.expert, **system.expert)
    if system.like_flat:
        own = recipe.flat.to_dict()
        expert = ExpertSettings(**own, lambda2=0.0, lambda3=0.0)
    return replace(
        recipe,
        cluster=replace(
            recipe.cluster, seed=seed, **({"num_groups": groups} | system.cluster)
        ),
        flat=replace(recipe.flat, seed=seed, epochs=epochs),
        expert=replace(expert, seed=seed),
        gate=replace(recipe.gate, seed=seed, **system.gate),
        attention=replace(recipe.attention, seed=seed, **system.attention),
    )


def run(
    recipe: Recipe,
    workspace: Workspace,
    *,
    data: Path,
    classes: str = "",
    matrix: str = "",
    hierarchy: str = "",
    systems: Sequence[str],
    seeds: range,
) -> tuple[ComparisonContent, list[Path]]:
    """Train and evaluate the systems, and write comparison.json after each of them.

    At the end it draws the paper's Figures 2 and 3 and the accuracy of each expert.

    Args:
        recipe: the settings that all systems share; its seeds are replaced.
        workspace: the folder of the comparison.
        data: the images, as for split.
        classes: a class list, as for similarity; empty for the image folder's own.
        matrix: the user's own similarities, as for similarity, or empty.
        hierarchy: the user's own hierarchy, as for similarity, or empty.
        systems: names from `SYSTEMS`.
        seeds: of groups and training; at least one.

    Returns:
        The table, and the figures' files.

    Raises:
        UsageError: an unknown system, or no seed.
        DeepmeError: whatever a stage raises; what is finished stays.
    """
    if not seeds:
        raise UsageError(f"--seeds is {len(seeds)}, expected 1 or more")
    plans = {seed: plan_trials(recipe, systems, seed) for seed in seeds}
    source = classes or ("" if matrix else str(data))
    similarity.run(
        recipe.similarity,
        workspace,
        classes=source,
        matrix=matrix,
        hierarchy=hierarchy,
    )
    report = split.run(recipe.split, recipe.machine, workspace, data=data, scan=False)
    table = _Table(recipe, workspace, report, systems)
    for seed, trials in plans.items():
        finished: list[tuple[Trial, Workspace]] = []
        for trial in trials:
            note(f"seed {seed}: {', '.join(trial.systems)}")
            place = Workspace(workspace.root / f"seed-{seed}" / trial.name)
            _adopt(place, trial, workspace, finished)
            results = _run_trial(trial, place)
            finished.append((trial, place))
            table.add(seed, trial, place, results)
    return table.content(), table.draw()


def _adopt(
    place: Workspace,
    trial: Trial,
    root: Workspace,
    finished: list[tuple[Trial, Workspace]],
) -> None:
    """Link what the trial shares with the whole comparison and with earlier trials."""
    place.adopt(root, *_ROOTS)
    for earlier, other in finished:
        mine, theirs = trial.recipe, earlier.recipe
        if mine.flat == theirs.flat:
            place.adopt(other, *_FLAT)
        if mine.cluster == theirs.cluster:
            place.adopt(other, *_GROUPS)
            if mine.expert == theirs.expert:
                place.adopt(other, *_EXPERTS)


def _run_trial(trial: Trial, place: Workspace) -> list[EvaluationContent]:
    recipe, machine = trial.recipe, trial.recipe.machine
    if any(recipe.builds_on_flat(fusion) for fusion in trial.fusions):
        train_flat.run(recipe.flat, machine, place)
    groups = cluster.run(recipe.cluster, machine, place)
    if not NEEDS_NO_EXPERT.issuperset(trial.fusions):
        numbers = [group.number for group in groups.groups]
        experts.train(recipe.expert, machine, place, numbers)
    if not NEEDS_GATE.isdisjoint(trial.fusions):
        train_gate.run(recipe.gate, machine, place)
    if "attention" in trial.fusions:
        train_attention.run(recipe.attention, machine, place)
    return evaluate.run(replace(recipe.evaluate, fusion=trial.fusions), machine, place)


class _Table:
    """Gathers the rows; written anew whenever one is complete."""

    def __init__(
        self,
        recipe: Recipe,
        workspace: Workspace,
        report: split.SplitReport,
        systems: Sequence[str],
    ) -> None:
        self.recipe, self.workspace, self.report = recipe, workspace, report
        self.seeds: dict[str, list[SeedResult]] = {name: [] for name in systems}
        self.costs: dict[str, Cost] = {}
        self.evaluations: dict[str, list[Evaluation]] = {name: [] for name in systems}
        self.places: dict[str, Workspace] = {}

    def add(
        self,
        seed: int,
        trial: Trial,
        place: Workspace,
        results: list[EvaluationContent],
    ) -> None:
        """Take up the results of a trial."""
        by_fusion = {result.fusion: result for result in results}
        for name, system in trial.systems.items():
            result = by_fusion[system.fusion]
            self.seeds[name].append(_seed_result(seed, result))
            evaluation = load_evaluation(place.evaluation_path(result.system))
            self.evaluations[name].append(evaluation)
            self.places.setdefault(name, place)
            if name not in self.costs:
                self.costs[name] = cost_of(system.fusion, trial.recipe, place)
        path = self.workspace.root / "comparison.json"
        with self.workspace.lock():
            save_comparison(path, self._header(), self.content())

    def draw(self) -> list[Path]:
        """Draw every class under all systems; groups and experts of the first seed.

        The groups are DeepME's if it is among the systems, else the first mixture's.
        """
        ranks = [int(rank) for rank in self.recipe.evaluate.topk]
        k = 5 if 5 in ranks else ranks[-1]
        labelled = {
            SYSTEMS[name].label: results for name, results in self.evaluations.items()
        }
        figures = {"class-accuracy": plot_accuracy.class_accuracy(labelled, k)}
        mixtures = [
            name
            for name in sorted(self.places, key=lambda name: name != "deepme")
            if SYSTEMS[name].fusion not in NEEDS_NO_EXPERT
        ]
        if mixtures:
            groups = self.places[mixtures[0]].groups()
            figures["groups"] = plot_accuracy.group_map(groups)
        asked = [name for name in mixtures if SYSTEMS[name].fusion not in WHOLE]
        if asked:
            result = self.evaluations[asked[0]][0]
            figures["expert-accuracy"] = plot_accuracy.expert_accuracy(result, k)
        return plot_accuracy.save_figures(self.workspace, figures)

    def content(self) -> ComparisonContent:
        """The rows that have a result."""
        return ComparisonContent(
            classes=self.report.classes,
            train_images=self.report.train,
            test_images=self.report.test,
            groups=self.recipe.cluster.num_groups,
            systems=tuple(
                SystemResult(
                    system=name,
                    label=SYSTEMS[name].label,
                    cost=self.costs[name],
                    seeds=tuple(results),
                )
                for name, results in self.seeds.items()
                if results
            ),
        )

    def _header(self) -> Header:
        recipe = self.recipe
        stages = (
            *(recipe.cluster, recipe.flat, recipe.expert),
            *(recipe.gate, recipe.attention),
        )
        return Header(
            kind=KIND,
            schema_version=SCHEMA,
            settings={stage.section: stage.to_dict() for stage in stages},
        )


def _seed_result(seed: int, result: EvaluationContent) -> SeedResult:
    return SeedResult(
        seed=seed,
        macro=result.macro,
        micro=result.micro,
        right_group=result.right_group,
        calibration_error=result.calibration_error,
        experts={
            f"{group.number} {group.name}": group.expert["1"]
            for group in result.groups
            if "1" in group.expert
        },
    )
