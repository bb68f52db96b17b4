"""train-expert: train one group's network by Eq. 1 (method section 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deepme import ranks
from deepme.artifacts.expert import KIND, NONE_OF_THESE, SCHEMA, save_omega
from deepme.artifacts.groups import Groups
from deepme.artifacts.similarity import Similarity
from deepme.artifacts.split import Split
from deepme.config import ExpertSettings, MachineSettings
from deepme.devices import choose_compute
from deepme.networks import take_over_head
from deepme.progress import note
from deepme.storage.atomic import remove
from deepme.storage.header import Header
from deepme.training.classify import (
    first_weights,
    new_network,
    policy_for,
    require_images,
    train,
    training_of,
)
from deepme.training.expert import ExpertTask
from deepme.training.record import identifying_settings, save_result
from deepme.training.run import Run
from deepme.training.warmup import FrozenFeatures, frozen_features
from deepme.workspace import Workspace


def run(
    settings: ExpertSettings,
    machine: MachineSettings,
    workspace: Workspace,
    number: int,
) -> Path:
    """Train the expert of one group, or take up where an earlier run stopped.

    Args:
        settings: network, objective and schedule.
        machine: device, workers and the policy for unreadable images.
        workspace: with similarity.h5, groups.json and split.h5.
        number: the group, 1 to T.

    Returns:
        The path of its training.json.

    Raises:
        UsageError: no such group, backbone or device.
        InputError: a class without training images, or unreadable ones.
        TrainingError: the loss is not finite.
        Interrupted: stopped by a signal, with a checkpoint.
    """
    with ranks.joined(machine.timeout, machine.device):
        return _train(settings, machine, workspace, number)


def _train(
    settings: ExpertSettings,
    machine: MachineSettings,
    workspace: Workspace,
    number: int,
) -> Path:
    groups = workspace.groups()
    group = groups.group(number)
    split = workspace.split(groups.origin)
    similarity = workspace.similarity()
    path = workspace.expert_path(number)
    weights, sources = first_weights(settings.weights, workspace, path)
    origins = (groups.origin, split.origin, similarity.origin, *sources)
    identity = Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings=identifying_settings(settings),
        classes=groups.origin.header.classes,
        made_from=workspace.made_from(*origins),
    )
    with ranks.writing(workspace.lock(path.parent)):
        checkpoint = path.with_name("checkpoint.safetensors")
        if workspace.is_current(path, identity):
            if ranks.is_first():
                remove(checkpoint)
            note(f"expert {number} is up to date: {path}")
            return path
        members = groups.members[number - 1]
        require_images(similarity, split, members, f"group {number}")
        frozen = frozen_features(
            settings,
            identity.settings,
            weights,
            sources,
            workspace,
            split,
            compute=choose_compute(machine, settings.precision),
            machine=machine,
        )
        task = _task(
            settings, machine, similarity, split, members, number, weights, frozen
        )
        label = f"expert {number} ({group.name})"
        done = train(task, machine, identity, checkpoint, label, ema=settings.ema)
        if ranks.is_first():
            _save(workspace, path, groups, number, task, done)
            remove(checkpoint)
    return path


def _task(
    settings: ExpertSettings,
    machine: MachineSettings,
    similarity: Similarity,
    split: Split,
    members: NDArray[np.int64],
    number: int,
    weights: str,
    frozen: FrozenFeatures | None,
) -> ExpertTask:
    # Other first weights for every group, from one seed.
    seeds = np.random.SeedSequence([settings.seed, number])
    torch.manual_seed(int(seeds.generate_state(1)[0]))
    others = _other_rows(settings, split, members, np.random.default_rng(seeds))
    network = new_network(settings, len(members) + bool(len(others)), weights)
    # From a head by chance the first steps would undo what the trunk has learned.
    if settings.weights == "flat":
        take_over_head(network, Path(weights), members.tolist())
    elif settings.weights == "before":
        # New classes come after the old ones in the list, and so in each group.
        take_over_head(network, Path(weights))
    return ExpertTask(
        settings,
        network,
        choose_compute(machine, settings.precision),
        image_size=settings.image_size,
        split=split,
        members=members,
        unreadable=policy_for(split, members, machine),
        workers=machine.workers,
        keep_images=machine.keep_images,
        other_rows=others,
        frozen=frozen,
        theta=similarity.theta(members),
    )


def _other_rows(
    settings: ExpertSettings,
    split: Split,
    members: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw training images of other groups, once for the whole training."""
    outside = np.setdiff1d(np.arange(split.num_classes), members)
    rows = split.rows("train", outside)
    wanted = round(settings.others * len(split.rows("train", members)))
    return rng.choice(rows, size=min(wanted, len(rows)), replace=False)


def _save(
    workspace: Workspace,
    path: Path,
    groups: Groups,
    number: int,
    task: ExpertTask,
    run: Run,
) -> None:
    omega_path = path.with_name("visual_similarity.h5")
    omega = task.omega.cpu().numpy()
    omega_sha256 = save_omega(omega_path, omega, run.identity.made_from)
    classes = groups.group(number).classes
    has_none = task.network.head.out_features > len(classes)
    outputs = (*classes, NONE_OF_THESE) if has_none else classes
    save_result(
        workspace,
        path,
        run.identity,
        task.network,
        training_of(
            task,
            run,
            group=number,
            outputs=outputs,
            backbone=task.settings.backbone,
        ),
        beside={omega_path: omega_sha256},
    )
