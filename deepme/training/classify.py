"""What training the flat network and training an expert have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepme import ranks
from deepme.artifacts.expert import Training
from deepme.artifacts.origin import Origin
from deepme.artifacts.similarity import Similarity
from deepme.artifacts.split import SUBSETS, Split
from deepme.config import MachineSettings, NetworkSettings, ScheduleSettings
from deepme.errors import InputError, UsageError
from deepme.images.unreadable import UnreadableImages
from deepme.networks import Network, create_network
from deepme.storage.header import Header
from deepme.text import clean, counted
from deepme.training.average import Average
from deepme.training.classifier import ClassifierTask
from deepme.training.events import events_of
from deepme.training.loop import fit
from deepme.training.record import versions
from deepme.training.run import Run, Stage
from deepme.workspace import Workspace


def first_weights(
    weights: str, workspace: Workspace, path: Path
) -> tuple[str, list[Origin]]:
    """Resolve ``flat`` and ``before`` to networks of the workspace.

    Args:
        weights: hub, none, flat, before, or a local file.
        workspace: with the flat network, or the workspace before it was extended, if
            it is asked for.
        path: training.json of the network that is to be trained.

    Returns:
        hub, none or a local file, and the artifacts it comes from.
    """
    if weights == "flat":
        found = workspace.flat()
    elif weights == "before":
        found = workspace.earlier(path)
    else:
        return weights, []
    return str(found.weights), [found.origin]


def new_network(settings: NetworkSettings, num_outputs: int, weights: str) -> Network:
    """Build a network whose head is drawn from torch's global random state.

    Args:
        settings: backbone and image size.
        num_outputs: of the head.
        weights: of the trunk: hub, none, or a local file.
    """
    return create_network(
        settings.backbone,
        num_outputs,
        weights=weights,
        image_size=settings.image_size,
    )


def require_images(
    similarity: Similarity, split: Split, members: NDArray[np.int64], whose: str
) -> None:
    """Refuse classes without a training image.

    Raises:
        InputError: names the first of them.
    """
    counts = split.counts[SUBSETS.index("train")][members]
    empty = members[counts == 0]
    if len(empty):
        first = int(empty[0])
        raise InputError(
            f"{len(empty):,} of the {len(members):,} classes of {whose} have no "
            f"training image, first {clean(similarity.classes[first])} "
            f"({clean(similarity.names[first])})",
            "add images and rerun `deepme split`, or leave these classes out of the "
            "list for `deepme similarity`",
        )


def policy_for(
    split: Split, members: NDArray[np.int64], machine: MachineSettings
) -> UnreadableImages:
    """What to do about unreadable images of some classes."""
    num_images = int(split.counts[:2, members].sum())
    skip = machine.on_bad == "skip"
    return UnreadableImages(split.images, num_images, skip, machine.max_bad)


def train(
    task: ClassifierTask[Any],
    machine: MachineSettings,
    identity: Header,
    checkpoint: Path,
    label: str,
    ema: float | None = None,
) -> Run:
    """Warm up and fine-tune, from the checkpoint where there is one.

    Args:
        task: what to train.
        machine: how the machine is used.
        identity: settings and inputs.
        checkpoint: the file.
        label: for progress and messages.
        ema: share of the average of the weights that is kept at each step, if the
            average is wanted.
    """
    settings: ScheduleSettings = task.settings
    run = Run(
        label=label,
        task=task,
        stages=(
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
        ),
        unreadable=task.unreadable,
        checkpoint=checkpoint,
        identity=identity,
        device=task.compute.device,
        batch_size=settings.batch_size,
        checkpoint_seconds=60 * machine.checkpoint_minutes,
        accumulate=machine.accumulate,
        events=events_of(machine, checkpoint),
    )
    if ema:
        run.average = Average(task.network, ema)
    if task.compute.compiled:
        task.network.compile()
    _require_shares(run, len(task.train_rows))
    fit(run)
    return run


def _require_shares(run: Run, num_images: int) -> None:
    """Refuse batches with too few images for every process and micro-batch.

    Raises:
        UsageError: names the three numbers.
    """
    smallest = num_images // max(1, run.task.steps_per_epoch)
    if smallest < ranks.size() * run.accumulate > 1:
        raise UsageError(
            f"{run.label}: batches of {smallest} images for "
            f"{counted(ranks.size(), 'process')} with --accumulate "
            f"{run.accumulate}, expected at least one for each micro-batch",
            "use a larger --batch-size, fewer processes or a smaller --accumulate",
        )


def training_of(
    task: ClassifierTask[Any],
    run: Run,
    *,
    group: int,
    outputs: Sequence[str],
    backbone: str,
) -> Training:
    """What training.json holds of a finished run."""
    return Training(
        group=group,
        outputs=tuple(outputs),
        num_features=task.network.head.in_features,
        images=len(task.train_rows),
        backbone=backbone,
        image_size=task.dataset.size,
        history=tuple(run.history),
        skipped=run.unreadable.listed(),
        versions=versions(),
    )
