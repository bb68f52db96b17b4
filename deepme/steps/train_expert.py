"""train-expert: train one group's network by Eq. 1 (method section 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deepme.artifacts.expert import KIND, SCHEMA, Training, save_omega
from deepme.artifacts.groups import Group, Groups
from deepme.artifacts.split import SUBSETS, Split
from deepme.config import ExpertSettings, MachineSettings
from deepme.devices import choose_compute
from deepme.errors import InputError
from deepme.images.unreadable import UnreadableImages
from deepme.progress import note
from deepme.storage.header import Header
from deepme.training.expert import ExpertTask
from deepme.training.loop import fit
from deepme.training.record import identifying_settings, save_result, versions
from deepme.training.run import Run, Stage
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
    groups = workspace.groups()
    group = groups.group(number)
    split = workspace.split(groups)
    similarity = workspace.similarity()
    compute = choose_compute(machine, settings.precision)
    path = workspace.expert_path(number)
    identity = Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings=identifying_settings(settings),
        classes=groups.origin.header.classes,
        made_from=workspace.made_from(groups.origin, split.origin, similarity.origin),
    )
    with workspace.lock(path.parent):
        checkpoint = path.with_name("checkpoint.safetensors")
        if workspace.is_current(path, identity):
            checkpoint.unlink(missing_ok=True)
            note(f"expert {number} is up to date: {path}")
            return path
        members = groups.members[number - 1]
        _require_images(groups, group, split, members)
        torch.manual_seed(_seed(settings.seed, number))
        task = ExpertTask(
            settings,
            compute,
            split=split,
            members=members,
            theta=similarity.theta(members),
            unreadable=_policy(split, members, machine),
            workers=machine.workers,
        )
        training = Run(
            label=f"expert {number} ({group.name})",
            task=task,
            stages=_stages(settings),
            unreadable=task.unreadable,
            checkpoint=checkpoint,
            identity=identity,
            device=compute.device,
            batch_size=settings.batch_size,
            checkpoint_seconds=60 * machine.checkpoint_minutes,
        )
        fit(training)
        _save(workspace, path, group, task, training)
        checkpoint.unlink(missing_ok=True)
    return path


def _stages(settings: ExpertSettings) -> tuple[Stage, ...]:
    return (
        Stage(
            name="warmup",
            epochs=settings.warmup_epochs,
            lr=settings.warmup_lr,
            lr_end=settings.warmup_lr_end,
        ),
        Stage(
            name="finetune",
            epochs=settings.epochs,
            lr=settings.lr,
            lr_end=settings.lr_end,
        ),
    )


def _require_images(
    groups: Groups, group: Group, split: Split, members: NDArray[np.int64]
) -> None:
    counts = split.counts[SUBSETS.index("train")][members]
    empty = members[counts == 0]
    if len(empty):
        raise InputError(
            f"{len(empty):,} of the {len(members):,} classes of group {group.number} "
            f"have no training image, first {groups.name_of(int(empty[0]))}",
            "add images and rerun `deepme split`, or leave these classes out of the "
            "list for `deepme similarity`",
        )


def _policy(
    split: Split, members: NDArray[np.int64], machine: MachineSettings
) -> UnreadableImages:
    num_images = int(split.counts[:2, members].sum())
    skip = machine.on_bad == "skip"
    return UnreadableImages(split.images, num_images, skip, machine.max_bad)


def _seed(seed: int, number: int) -> int:
    """Other first weights for every group, from one seed."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _save(
    workspace: Workspace, path: Path, group: Group, task: ExpertTask, run: Run
) -> None:
    omega_path = path.with_name("visual_similarity.h5")
    omega = task.omega.cpu().numpy()
    omega_sha256 = save_omega(omega_path, omega, run.identity.made_from)
    training = Training(
        group=group.number,
        outputs=group.classes,
        num_features=task.network.head.in_features,
        images=len(task.train_rows),
        backbone=task.settings.backbone,
        image_size=task.settings.image_size,
        history=tuple(run.history),
        skipped=run.unreadable.listed(),
        versions=versions(),
    )
    save_result(
        workspace,
        path,
        run.identity,
        task.network,
        training,
        beside={omega_path: omega_sha256},
    )
