"""train-attention: one classifier on all experts' features, and joint training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deepme.artifacts.expert import SCHEMA
from deepme.artifacts.groups import Groups
from deepme.artifacts.split import Split
from deepme.config import AttentionSettings, MachineSettings
from deepme.devices import choose_compute
from deepme.errors import InputError
from deepme.inference import load_experts
from deepme.networks import AttentionNetwork
from deepme.progress import note
from deepme.storage.atomic import remove
from deepme.storage.header import Header
from deepme.training.attention import AttentionTask
from deepme.training.classify import policy_for, require_images, train, training_of
from deepme.training.record import save_result
from deepme.training.warmup import features_of_experts
from deepme.workspace import Workspace


def run(
    settings: AttentionSettings, machine: MachineSettings, workspace: Workspace
) -> Path:
    """Train attention over the experts' features, or take up where it stopped.

    The experts stay as they are for ``warmup_epochs``, and learn with it for
    ``epochs``; those in ``experts/`` are never changed.

    Args:
        settings: schedule, and whether there is attention.
        machine: device, workers and the policy for unreadable images.
        workspace: with all experts trained.

    Returns:
        The path of its training.json.

    Raises:
        ArtifactError: an expert is missing or stale.
        InputError: experts of different image sizes, or unreadable images.
        TrainingError: the loss is not finite.
        Interrupted: stopped by a signal, with a checkpoint.
    """
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    experts = [workspace.expert(group.number) for group in groups.content.groups]
    path = workspace.attention_path
    identity = Header(
        kind="attention",
        schema_version=SCHEMA,
        settings=settings.to_dict(),
        classes=groups.origin.header.classes,
        made_from=workspace.made_from(
            split.origin, *(expert.origin for expert in experts)
        ),
    )
    sizes = {expert.training.image_size for expert in experts}
    if len(sizes) > 1:
        raise InputError(
            f"the experts see images of {len(sizes)} sizes ({sorted(sizes)} pixels), "
            "attention expects one",
            "rerun `deepme train-expert --group all` with one --image-size",
        )
    with workspace.lock(path.parent):
        checkpoint = path.with_name("checkpoint.safetensors")
        if workspace.is_current(path, identity):
            remove(checkpoint)
            note(f"attention is up to date: {path}")
            return path
        task = _task(settings, machine, workspace, groups, split, sizes.pop())
        done = train(task, machine, identity, checkpoint, "attention")
        training = training_of(
            task,
            done,
            group=0,
            outputs=groups.content.classes,
            backbone=experts[0].training.backbone,
        )
        save_result(workspace, path, identity, task.network, training, beside={})
        remove(checkpoint)
    return path


def _task(
    settings: AttentionSettings,
    machine: MachineSettings,
    workspace: Workspace,
    groups: Groups,
    split: Split,
    image_size: int,
) -> AttentionTask:
    members = np.arange(groups.num_classes)
    require_images(workspace.similarity(), split, members, "the class list")
    compute = choose_compute(machine, settings.precision)
    frozen = None
    if settings.warmup == "cache" and settings.warmup_epochs:
        frozen = features_of_experts(
            workspace, groups, split, compute=compute, machine=machine
        )
    torch.manual_seed(settings.seed)
    network = AttentionNetwork(
        load_experts(workspace, groups),
        groups.num_classes,
        learned=settings.attention == "learned",
    )
    return AttentionTask(
        settings,
        network,
        compute,
        image_size=image_size,
        split=split,
        members=members,
        unreadable=policy_for(split, members, machine),
        workers=machine.workers,
        keep_images=machine.keep_images,
        other_rows=np.empty(0, dtype=np.int64),
        frozen=frozen,
    )
