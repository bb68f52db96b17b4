"""--dry-run: every stage up to where it would begin to work, and no further.

A stage asks its workspace whether what it makes is current, before it works. Here the
workspace notes the answer and stops the stage; so what a rehearsal says is decided by
the code that a run would go through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deepme.errors import ArtifactError
from deepme.recipe import Recipe
from deepme.steps import (
    cluster,
    evaluate,
    similarity,
    split,
    train_attention,
    train_expert,
    train_flat,
    train_gate,
)
from deepme.storage.header import Header
from deepme.text import listing
from deepme.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """What a run would do about one stage.

    Attributes:
        stage: the command.
        runs: whether it would work, or leave everything as it is.
        why: the first reason, or empty.
    """

    stage: str
    runs: bool
    why: str


class _Begins(Exception):
    """A stage would begin to work."""


class _Ends(Exception):
    """A stage has nothing to do."""


@dataclass(frozen=True)
class RehearsalWorkspace(Workspace):
    """A workspace that is never written to, and stops whoever would.

    Attributes:
        goal: what the stage makes last.
    """

    goal: Path = Path()

    @contextmanager
    def lock(
        self, folder: Path | None = None, *, patient: bool = False
    ) -> Iterator[None]:
        """Let everyone in: nobody writes."""
        yield

    def is_current(self, path: Path, *expected: Header) -> bool:
        """Answer, and stop the stage at its goal or at the first thing to be made."""
        if why := self.why_not_current(path, *expected):
            raise _Begins(f"{self.name_of(path)}: {why}")
        if path == self.goal:
            raise _Ends
        return True


Work = Callable[[Workspace], object]


@dataclass
class Rehearsal:
    """The stages of one workspace, one after the other; a method each.

    Attributes:
        workspace: where a run would write.
        stages: what has been found.
        shared: stages whose work another workspace does and this one links -> what has
            been found of them there.
    """

    workspace: Workspace
    stages: list[Rehearsed] = field(default_factory=list)
    shared: Mapping[str, Rehearsed] = field(default_factory=dict)

    def roots(
        self, recipe: Recipe, data: Path, classes: str, matrix: str, hierarchy: str
    ) -> None:
        """Similarity and split, from what the user names."""
        source = classes or ("" if matrix else str(data))
        world = {"classes": source, "matrix": matrix, "hierarchy": hierarchy}
        place, machine = self.workspace, recipe.machine
        self._stage(
            "similarity",
            place.similarity_path,
            lambda at: similarity.run(recipe.similarity, at, **world),
        )
        self._stage(
            "split",
            place.split_path,
            lambda at: split.run(recipe.split, machine, at, data=data, scan=False),
            "similarity",
        )

    def flat(self, recipe: Recipe) -> None:
        """The flat network."""
        self._stage(
            "train-flat",
            self.workspace.flat_path,
            lambda at: train_flat.run(recipe.flat, recipe.machine, at),
            *("similarity", "split"),
        )

    def cluster(self, recipe: Recipe) -> None:
        """The groups."""
        flat = ("train-flat",) if recipe.cluster.method == "confusion" else ()
        self._stage(
            "cluster",
            self.workspace.groups_path,
            lambda at: cluster.run(recipe.cluster, recipe.machine, at),
            *("similarity", *flat),
        )

    def experts(self, recipe: Recipe) -> None:
        """Every group's expert, in one line."""
        needs = ("split", "train-flat", "cluster")
        self._line("train-expert", needs, lambda: self._due_experts(recipe))

    def _due_experts(self, recipe: Recipe) -> str:
        numbers = [group.number for group in self.workspace.groups().content.groups]
        reasons = {number: self._expert(recipe, number) for number in numbers}
        due = [number for number, reason in reasons.items() if reason]
        if not due:
            return ""
        told = listing(list(map(str, due)), 20)
        return f"{len(due)} of {len(numbers)} groups ({told}): {reasons[due[0]]}"

    def _expert(self, recipe: Recipe, number: int) -> str:
        path = self.workspace.expert_path(number)
        settings, machine = recipe.expert, recipe.machine
        return self._try(
            path, lambda at: train_expert.run(settings, machine, at, number)
        )

    def gate(self, recipe: Recipe) -> None:
        """The gate."""
        self._stage(
            "train-gate",
            self.workspace.gate_path,
            lambda at: train_gate.run(recipe.gate, recipe.machine, at),
            *("train-flat", "train-expert"),
        )

    def attention(self, recipe: Recipe) -> None:
        """Attention."""
        self._stage(
            "train-attention",
            self.workspace.attention_path,
            lambda at: train_attention.run(recipe.attention, recipe.machine, at),
            "train-expert",
        )

    def evaluate(self, recipe: Recipe) -> None:
        """The evaluation of every fusion; figures are drawn anew after it."""
        self._stage(
            "evaluate",
            Path(),
            lambda at: evaluate.run(recipe.evaluate, recipe.machine, at),
            *("split", "train-flat", "train-expert", "train-gate", "train-attention"),
        )

    def _stage(self, name: str, goal: Path, work: Work, *needs: str) -> None:
        self._line(name, needs, lambda: self._try(goal, work))

    def _line(self, name: str, needs: Sequence[str], ask: Callable[[], str]) -> None:
        """Add what is to be said of a stage; asked only if nothing before it runs."""
        if name in self.shared:
            self.stages.append(self.shared[name])
            return
        due = [stage.stage for stage in self.stages if stage.runs]
        why = next((f"after {stage}" for stage in due if stage in needs), "")
        if not why:
            try:
                why = ask()
            except ArtifactError as error:
                # What it builds on is made elsewhere and not linked yet.
                why = str(error.args[0])
        self.stages.append(Rehearsed(stage=name, runs=bool(why), why=why))

    def _try(self, goal: Path, work: Work) -> str:
        """Why a stage would work, or nothing."""
        try:
            work(RehearsalWorkspace(self.workspace.root, goal))
        except _Begins as begins:
            return str(begins)
        except _Ends:
            pass
        return ""


def rehearse(
    recipe: Recipe,
    workspace: Workspace,
    *,
    data: Path,
    classes: str = "",
    matrix: str = "",
    hierarchy: str = "",
) -> list[Rehearsed]:
    """Say what `pipeline.run_all` would do; images are listed, nothing is written.

    Args:
        recipe: as for `pipeline.run_all`, and so the rest.
        workspace: may be empty.
        data: the images.
        classes: a class list, or empty.
        matrix: similarities, or empty.
        hierarchy: a hierarchy, or empty.

    Returns:
        A line a stage, in order.

    Raises:
        DeepmeError: what a run would raise before it works.
    """
    found = Rehearsal(workspace)
    found.roots(recipe, data, classes, matrix, hierarchy)
    if recipe.needs_flat:
        found.flat(recipe)
    found.cluster(recipe)
    found.experts(recipe)
    found.gate(recipe)
    if "attention" in recipe.evaluate.fusion:
        found.attention(recipe)
    found.evaluate(recipe)
    drawn = Rehearsed(stage="plot-accuracy", runs=True, why="figures are drawn anew")
    return [*found.stages, drawn]
