"""status: what is in a workspace, what is stale and why, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deepme.errors import ArtifactError
from deepme.text import counted, listing
from deepme.verifying import verdict_of
from deepme.workspace import Workspace

_ORDER = ("corrupt", "stale", "unfinished", "missing", "done")
"""The worst first, as of several files one is told."""


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """How far one command has come.

    Attributes:
        stage: the command.
        state: ``done``, ``missing``, ``unfinished`` (a checkpoint waits), ``stale``
            (what it was made from has changed) or ``corrupt``.
        told: what is there, or why it is not good; for people.
        command: that brings it up to date; empty if it is.
    """

    stage: str
    state: str
    told: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """A whole workspace.

    Attributes:
        workspace: its folder.
        stages: in the order in which they run; optional ones where they are there.
        next: the command to run next.
    """

    workspace: str
    stages: tuple[StageStatus, ...]
    next: str


def status(workspace: Workspace) -> Status:
    """Look at every stage of a workspace; nothing in it is changed.

    Args:
        workspace: may be empty, or not there.

    Returns:
        The stages, and the next command: that of the first stage that is not done.
    """
    stages = [
        _similarity(workspace),
        _cluster(workspace),
        _split(workspace),
        *_optional(workspace, "train-flat", workspace.flat_path),
        _experts(workspace),
        _one(workspace, "train-gate", workspace.gate_path),
        *_optional(workspace, "train-attention", workspace.attention_path),
        _evaluations(workspace),
        _figures(workspace),
        _report(workspace),
    ]
    due = [stage.command for stage in stages if stage.state != "done"]
    return Status(
        workspace=str(workspace.root),
        stages=tuple(stages),
        next=due[0] if due else "deepme predict IMAGES",
    )


def _one(workspace: Workspace, stage: str, path: Path) -> StageStatus:
    """The state of one artifact, or of the checkpoint beside it."""
    state, reason = _state(workspace, path)
    command = "" if state == "done" else workspace.command_for(path)
    return StageStatus(stage=stage, state=state, told=reason, command=command)


def _state(workspace: Workspace, path: Path) -> tuple[str, str]:
    if path.exists():
        verdict = verdict_of(workspace, path)
        state = "done" if verdict.state == "intact" else verdict.state
        if state == "done" or not _checkpoint(path).exists():
            return state, verdict.reason
    if _checkpoint(path).exists():
        return "unfinished", "its checkpoint waits"
    return "missing", ""


def _checkpoint(path: Path) -> Path:
    return path.with_name("checkpoint.safetensors")


def _optional(workspace: Workspace, stage: str, path: Path) -> list[StageStatus]:
    """A stage that not every run has; nothing where it was never begun."""
    found = _one(workspace, stage, path)
    return [] if found.state == "missing" else [found]


def _similarity(workspace: Workspace) -> StageStatus:
    found = _one(workspace, "similarity", workspace.similarity_path)
    if found.state == "done":
        classes = len(workspace.similarity().classes)
        return replace(found, told=counted(classes, "class"))
    return found


def _cluster(workspace: Workspace) -> StageStatus:
    found = _one(workspace, "cluster", workspace.groups_path)
    if found.state == "done":
        return replace(found, told=counted(workspace.groups().num_groups, "group"))
    return found


def _split(workspace: Workspace) -> StageStatus:
    path = workspace.split_path
    found = _one(workspace, "split", path)
    if found.state != "done" or not workspace.similarity_path.exists():
        return found
    try:
        split = workspace.split(workspace.similarity().origin)
    except ArtifactError as error:
        # Of another class list; its lineage names none (docs/artifacts.md).
        reason, command = str(error.args[0]), workspace.command_for(path)
        return replace(found, state="stale", told=reason, command=command)
    return replace(found, told=counted(len(split.images), "image"))


def _experts(workspace: Workspace) -> StageStatus:
    """All experts in one: how many are done, and the worst state of the others."""
    everyone = "deepme train-expert --group all"
    try:
        groups = workspace.groups().content.groups
    except ArtifactError:
        told = "there are no groups in force"
        return StageStatus(
            stage="train-expert", state="missing", told=told, command=everyone
        )
    paths = {group.number: workspace.expert_path(group.number) for group in groups}
    states = {number: _state(workspace, path) for number, path in paths.items()}
    due = [number for number, (state, _) in states.items() if state != "done"]
    told = f"{len(paths) - len(due)} of {counted(len(paths), 'expert')}"
    if not due:
        return StageStatus(stage="train-expert", state="done", told=told, command="")
    state, reason = min((states[n] for n in due), key=lambda s: _ORDER.index(s[0]))
    waiting = listing(list(map(str, due)), 20)
    some = f"deepme train-expert --group {','.join(map(str, due))}"
    return StageStatus(
        stage="train-expert",
        state=state,
        told=f"{told}; not {waiting}{f': {reason}' if reason else ''}",
        command=everyone if len(due) == len(paths) else some,
    )


def _evaluations(workspace: Workspace) -> StageStatus:
    found = (workspace.root / "evaluation").glob("*.json")
    paths = sorted(found, key=lambda path: path.stem)
    states = [(*_state(workspace, path), path) for path in paths]
    if not states:
        return _one(workspace, "evaluate", workspace.evaluation_path("deepme"))
    state, reason, path = min(states, key=lambda s: _ORDER.index(s[0]))
    if state == "done":
        told = listing([path.stem for path in paths])
        return StageStatus(stage="evaluate", state=state, told=told, command="")
    return StageStatus(
        stage="evaluate",
        state=state,
        told=f"{path.stem}: {reason}",
        command=workspace.command_for(path),
    )


def _figures(workspace: Workspace) -> StageStatus:
    drawn = sorted((workspace.root / "figures").glob("*.png"))
    return _drawn(workspace, "plot-accuracy", drawn, counted(len(drawn), "figure"))


def _report(workspace: Workspace) -> StageStatus:
    page = workspace.report_path
    return _drawn(workspace, "report", [page] if page.exists() else [], page.name)


def _drawn(
    workspace: Workspace, stage: str, files: list[Path], told: str
) -> StageStatus:
    """What carries no lineage: it is stale when an evaluation is younger."""
    evaluations = (workspace.root / "evaluation").glob("*.json")
    results = [path.stat().st_mtime for path in evaluations]
    state = "done"
    if not files:
        state, told = "missing", ""
    elif results and max(results) > min(path.stat().st_mtime for path in files):
        state, told = "stale", "an evaluation is younger"
    command = "" if state == "done" else f"deepme {stage}"
    return StageStatus(stage=stage, state=state, told=told, command=command)
