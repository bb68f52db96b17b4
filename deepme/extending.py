"""extend: add classes to a finished mixture without training all of it anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from deepme import experts, placing
from deepme.artifacts.evaluation import EvaluationContent
from deepme.artifacts.expert import (
    KIND,
    SCHEMA,
    Expert,
    load_omega,
    save_omega,
)
from deepme.artifacts.split import Split
from deepme.config import (
    AttentionSettings,
    EvaluateSettings,
    ExpertSettings,
    ExtendSettings,
    FlatSettings,
    GateSettings,
    MachineSettings,
)
from deepme.costs import network_cost
from deepme.inference import load_network
from deepme.networks import PASSES_A_STEP
from deepme.progress import note
from deepme.settings import Settings
from deepme.steps import evaluate, train_attention, train_flat, train_gate
from deepme.storage.header import Header
from deepme.training.record import save_result
from deepme.workspace import Workspace

SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What new classes mean for one group.

    Attributes:
        group: its number.
        name: of the group.
        added: its new classes.
        classes: how many it has with them.
        images: training images with theirs.
    """

    group: int
    name: str
    added: tuple[str, ...]
    classes: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What `run` came to.

    Attributes:
        classes: the new ones.
        joined: the groups whose experts go on learning.
        kept: numbers of the groups whose experts stay.
        training_tflop: of what is trained now.
        anew_tflop: of training all of it with all classes from its first weights.
        share: of the one in the other.
        results: one entry a fusion; empty where the classes were only placed.
    """

    classes: tuple[str, ...]
    joined: tuple[Joined, ...]
    kept: tuple[int, ...]
    training_tflop: float
    anew_tflop: float
    share: float
    results: tuple[EvaluationContent, ...]


def run(
    settings: ExtendSettings,
    machine: MachineSettings,
    earlier: Workspace,
    workspace: Workspace,
    *,
    data: Path,
    place_only: bool,
) -> Extension:
    """Place new classes, train what they concern, and evaluate.

    The experts of the groups that they join, the gate, and the head on all features
    where there is one, go on from what they had learned. All other experts stay. Where
    the gate sees the flat network, its head learns the new classes on the trunk it
    has, else it is left out: nothing here asks it. Again, it redoes only what is
    missing.

    Args:
        settings: how long.
        machine: device, workers and the policy for unreadable images.
        earlier: a workspace with all experts trained; nothing in it is changed.
        workspace: where the larger mixture goes.
        data: class folders (or tar files) of the new classes.
        place_only: train nothing.

    Returns:
        What joined which group, what that costs, and the results.

    Raises:
        DeepmeError: as `deepme.placing.run`, or whatever a stage raises; what is
            finished stays.
    """
    placed = placing.run(earlier, workspace, data=data)
    stages = _stages(settings, workspace, sorted(placed.joined))
    extension = _extension(placed, stages, workspace)
    note(
        f"{len(placed.classes)} new classes, {len(placed.joined)} of "
        f"{placed.groups.num_groups} experts go on learning: "
        f"{100 * extension.share:.0f} % of training all anew"
    )
    if place_only:
        return extension
    for number in extension.kept:
        _keep_expert(workspace, number)
    for number, expert in stages.experts.items():
        experts.train(expert, machine, workspace, [number])
    if stages.flat:
        train_flat.run(stages.flat, machine, workspace)
    if stages.gate:
        train_gate.run(stages.gate, machine, workspace)
    if stages.attention:
        train_attention.run(stages.attention, machine, workspace)
    if not stages.evaluate:
        return extension
    results = evaluate.run(stages.evaluate, machine, workspace)
    return replace(extension, results=tuple(results))


@dataclass(frozen=True, kw_only=True)
class _Stages:
    """The settings of everything that is trained; None where it was not there."""

    experts: dict[int, ExpertSettings]
    flat: FlatSettings | None
    gate: GateSettings | None
    attention: AttentionSettings | None
    evaluate: EvaluateSettings | None


def _stages(
    settings: ExtendSettings, workspace: Workspace, numbers: Sequence[int]
) -> _Stages:
    """What was set before, with fewer epochs and weights from before."""
    before, share = workspace.before, settings.share
    going_on = {
        number: _going_on(ExpertSettings, _first_expert(before, number), share)
        for number in numbers
    }
    flat = gate = attention = None
    if before.gate_path.exists():
        gate = _going_on(GateSettings, _first(before, Workspace.gate), share)
        if gate.input == "flat":
            flat = _head_alone(_first(before, Workspace.flat))
    if before.attention_path.exists():
        recorded = _first_attention(before).origin.header.settings
        attention = _recorded(AttentionSettings, recorded)
        attention = replace(attention, epochs=_fewer(attention.epochs, share))
    return _Stages(
        experts=going_on,
        flat=flat,
        gate=gate,
        attention=attention,
        evaluate=_evaluation(gate is not None, attention is not None),
    )


def _first(workspace: Workspace, load: Callable[[Workspace], Expert]) -> Expert:
    """What a network was before any extension, so that its epochs are those of all."""
    found = load(workspace)
    while found.origin.header.settings.get("weights") == "before":
        workspace = workspace.before
        found = load(workspace)
    return found


def _first_expert(workspace: Workspace, number: int) -> Expert:
    return _first(workspace, lambda place: place.expert(number))


def _first_attention(workspace: Workspace) -> Expert:
    """It always begins anew, so that its settings do not tell."""
    while workspace.before.attention_path.exists():
        workspace = workspace.before
    return workspace.attention()


def _head_alone(trained: Expert) -> FlatSettings:
    """As long as it had learned: the trunk's features are computed once."""
    recorded = _recorded(FlatSettings, trained.origin.header.settings)
    return replace(
        recorded,
        weights="before",
        warmup="cache",
        warmup_epochs=len(trained.training.history),
        epochs=0,
    )


def _going_on(cls: type[SettingsT], trained: Expert, share: float) -> SettingsT:
    recorded = trained.origin.header.settings
    found: Any = _recorded(cls, recorded | {"weights": "before"})
    # A gate may have had no other epochs; an expert's head is there already.
    warmup = _fewer(found.warmup_epochs, share) if cls is GateSettings else 0
    epochs = _fewer(found.epochs, share)
    return replace(found, warmup_epochs=warmup, epochs=epochs)  # type: ignore[no-any-return]


def _recorded(cls: type[SettingsT], recorded: dict[str, Any]) -> SettingsT:
    names = {item.name for item in fields(cls)}
    return cls(**{name: value for name, value in recorded.items() if name in names})


def _fewer(epochs: int, share: float) -> int:
    return max(1, round(share * epochs)) if epochs else 0


def _evaluation(has_gate: bool, has_attention: bool) -> EvaluateSettings | None:
    fusions = ("gate",) * has_gate + ("attention",) * has_attention
    return EvaluateSettings(fusion=fusions) if fusions else None


def _extension(
    placed: placing.Placed, stages: _Stages, workspace: Workspace
) -> Extension:
    groups = placed.groups
    split = workspace.split(groups.origin)
    joined = tuple(
        Joined(
            group=number,
            name=groups.group(number).name,
            added=added,
            classes=len(groups.group(number).classes),
            images=len(split.rows("train", groups.members[number - 1])),
        )
        for number, added in placed.joined.items()
    )
    now, anew = _cost(stages, workspace, split)
    numbers = range(1, groups.num_groups + 1)
    return Extension(
        classes=placed.classes,
        joined=joined,
        kept=tuple(number for number in numbers if number not in placed.joined),
        training_tflop=now / 1e3,
        anew_tflop=anew / 1e3,
        share=now / anew if anew else 0.0,
        results=(),
    )


def _cost(stages: _Stages, workspace: Workspace, split: Split) -> tuple[float, float]:
    """GFLOP of what is trained now, and of all of it anew.

    Counted are the passes of networks over training images; heads that learn from
    cached features cost next to nothing beside them.
    """
    before, groups = workspace.before, workspace.groups()
    every = len(split.rows("train"))
    now = anew = asked = 0.0
    for number, members in enumerate(groups.members, start=1):
        image = network_cost(before.expert(number), before).image
        asked += every * image
        step = PASSES_A_STEP * image * len(split.rows("train", members))
        anew += step * _epochs(_first_expert(before, number))
        if number in stages.experts:
            now += step * stages.experts[number].epochs
    by_gate = asked
    if before.flat_path.exists():
        flat = _first(before, Workspace.flat)
        once = every * network_cost(flat, before).image
        anew += PASSES_A_STEP * once * _epochs(flat)
        if stages.flat:
            # Its trunk is asked for its head's cache, and again for the gate's.
            now += once
            by_gate += once
    if stages.gate:
        now, anew = now + by_gate, anew + by_gate
        if stages.gate.input == "images":
            first = _first(before, Workspace.gate).origin.header.settings
            once = every * network_cost(before.gate(), before).image
            now += once * _passes(stages.gate)
            anew += once * _passes(_recorded(GateSettings, first))
    if stages.attention:
        attention = _first_attention(before)
        now += asked + PASSES_A_STEP * asked * stages.attention.epochs
        anew += asked + PASSES_A_STEP * asked * _epochs(attention)
    return now, anew


def _passes(gate: GateSettings) -> int:
    """Forward passes of a gate on images in its training, an image."""
    warmup = (
        min(1, gate.warmup_epochs) if gate.warmup == "cache" else gate.warmup_epochs
    )
    return warmup + PASSES_A_STEP * gate.epochs


def _epochs(trained: Expert) -> int:
    """Epochs in which the whole network learned."""
    stages = [epoch.stage for epoch in trained.training.history]
    return len(stages) - stages.count("warmup")


def _keep_expert(workspace: Workspace, number: int) -> Path:
    """Take over the expert of a group that no new class has joined.

    What it has learned from is the same as before: its classes, their images and
    similarities. So it is written again as it is, with its new lineage.

    Args:
        workspace: extended.
        number: of the group.

    Returns:
        The path of its training.json.
    """
    path = workspace.expert_path(number)
    groups = workspace.groups()
    split, theta = workspace.split(groups.origin), workspace.similarity()
    expert = workspace.earlier(path)
    identity = Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings=expert.origin.header.settings,
        classes=groups.origin.header.classes,
        made_from=workspace.made_from(
            groups.origin, split.origin, theta.origin, expert.origin
        ),
    )
    with workspace.lock(path.parent):
        if workspace.is_current(path, identity):
            note(f"expert {number} is up to date: {path}")
            return path
        size = len(groups.group(number).classes)
        name = "visual_similarity.h5"
        omega = load_omega(expert.origin.path.with_name(name), size)
        omega_path = path.with_name(name)
        written = save_omega(omega_path, omega, identity.made_from)
        network = load_network(workspace.before.expert(number), workspace.before)
        save_result(
            workspace,
            path,
            identity,
            network,
            expert.training,
            beside={omega_path: written},
        )
        note(f"expert {number} is kept: {path}")
    return path
