"""train-flat: one network over all classes, the paper's VGG16-Ext."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deepme import ranks
from deepme.artifacts.expert import SCHEMA
from deepme.artifacts.split import Split
from deepme.config import FlatSettings, MachineSettings
from deepme.devices import Compute, choose_compute
from deepme.networks import take_over_head
from deepme.progress import note
from deepme.storage.atomic import remove
from deepme.storage.header import Header
from deepme.training.classifier import ClassifierTask
from deepme.training.classify import (
    first_weights,
    new_network,
    policy_for,
    require_images,
    train,
    training_of,
)
from deepme.training.record import identifying_settings, save_result
from deepme.training.warmup import FrozenFeatures, frozen_features
from deepme.workspace import Workspace


def run(settings: FlatSettings, machine: MachineSettings, workspace: Workspace) -> Path:
    """Train the flat network, or take up where an earlier run stopped.

    It is the yardstick for every mixture, and three things can build on it: groups
    (``cluster --method confusion``), experts (``train-expert --weights flat``) and the
    gate (``train-gate --weights flat``).

    Args:
        settings: network and schedule.
        machine: device, workers and the policy for unreadable images.
        workspace: with similarity.h5 and split.h5.

    Returns:
        The path of its training.json.

    Raises:
        UsageError: no such backbone or device.
        InputError: a class without training images, or unreadable ones.
        TrainingError: the loss is not finite.
        Interrupted: stopped by a signal, with a checkpoint.
    """
    with ranks.joined(machine.timeout, machine.device):
        return _train(settings, machine, workspace)


def _train(
    settings: FlatSettings, machine: MachineSettings, workspace: Workspace
) -> Path:
    similarity = workspace.similarity()
    split = workspace.split(similarity.origin)
    compute = choose_compute(machine, settings.precision)
    path = workspace.flat_path
    weights, sources = first_weights(settings.weights, workspace, path)
    identity = Header(
        kind="flat",
        schema_version=SCHEMA,
        settings=identifying_settings(settings),
        classes=similarity.origin.header.classes,
        made_from=workspace.made_from(split.origin, *sources),
    )
    with ranks.writing(workspace.lock(path.parent)):
        checkpoint = path.with_name("checkpoint.safetensors")
        if workspace.is_current(path, identity):
            if ranks.is_first():
                remove(checkpoint)
            note(f"the flat network is up to date: {path}")
            return path
        members = np.arange(len(similarity.classes))
        require_images(similarity, split, members, "the class list")
        frozen = frozen_features(
            settings,
            identity.settings,
            weights,
            sources,
            workspace,
            split,
            compute=compute,
            machine=machine,
        )
        task = _task(settings, machine, split, members, weights, compute, frozen)
        done = train(
            task, machine, identity, checkpoint, "flat network", ema=settings.ema
        )
        if ranks.is_first():
            training = training_of(
                task,
                done,
                group=0,
                outputs=similarity.classes,
                backbone=settings.backbone,
            )
            save_result(workspace, path, identity, task.network, training, beside={})
            remove(checkpoint)
    return path


def _task(
    settings: FlatSettings,
    machine: MachineSettings,
    split: Split,
    members: NDArray[np.int64],
    weights: str,
    compute: Compute,
    frozen: FrozenFeatures | None,
) -> ClassifierTask[FlatSettings]:
    torch.manual_seed(settings.seed)
    network = new_network(settings, len(members), weights)
    if settings.weights == "before":
        # New classes come after the old ones in the list.
        take_over_head(network, Path(weights))
    return ClassifierTask(
        settings,
        network,
        compute,
        image_size=settings.image_size,
        split=split,
        members=members,
        unreadable=policy_for(split, members, machine),
        workers=machine.workers,
        keep_images=machine.keep_images,
        other_rows=np.empty(0, dtype=np.int64),
        frozen=frozen,
    )
