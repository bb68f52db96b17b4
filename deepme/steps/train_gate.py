"""train-gate: learn how to weigh the experts' votes (method section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deepme.artifacts.expert import SCHEMA, Expert, Training
from deepme.artifacts.groups import Groups
from deepme.artifacts.origin import Origin
from deepme.artifacts.split import Split
from deepme.config import GateSettings, MachineSettings
from deepme.core.mixture import Members
from deepme.devices import Compute, choose_compute
from deepme.errors import InputError
from deepme.images.keeping import room_for
from deepme.images.loading import ImageDataset
from deepme.images.unreadable import UnreadableImages
from deepme.inference import build_gate
from deepme.networks import FeatureGate, Network
from deepme.outputs import outputs_of_experts, outputs_of_flat
from deepme.progress import note
from deepme.storage.atomic import remove
from deepme.storage.header import Header
from deepme.training.classify import first_weights
from deepme.training.events import events_of
from deepme.training.gate import GateImages, GateTask
from deepme.training.loop import fit
from deepme.training.record import identifying_settings, save_result, versions
from deepme.training.run import Run, Stage
from deepme.training.warmup import FrozenFeatures, features_of_trunk
from deepme.workspace import Workspace


def run(settings: GateSettings, machine: MachineSettings, workspace: Workspace) -> Path:
    """Train the gate on the frozen experts' cached outputs.

    Args:
        settings: input, loss and schedule.
        machine: device, workers and the policy for unreadable images.
        workspace: with all experts trained.

    Returns:
        The path of the gate's training.json.

    Raises:
        ArtifactError: an expert, or the flat network where it is seen, is missing or
            stale.
        InputError: the flat network, where it is seen, has another image size.
        TrainingError: the loss is not finite.
        Interrupted: stopped by a signal, with a checkpoint.
    """
    groups = workspace.groups()
    # Before the experts, which a split that is missing would make stale.
    split = workspace.split(groups.origin)
    first = workspace.expert(1).training
    if settings.backbone == "same":
        settings = replace(settings, backbone=first.backbone)
    given = _Given(
        settings=settings,
        machine=machine,
        workspace=workspace,
        groups=groups,
        split=split,
        compute=choose_compute(machine, settings.precision),
        image_size=first.image_size,
    )
    if settings.input == "flat":
        _require_size(workspace.flat(), first.image_size)
    path = workspace.gate_path
    weights, sources = first_weights(settings.weights, workspace, path)
    with workspace.lock():
        train, val = given.images(settings.learn_from), given.images("val")
        if settings.learn_from == "val":
            # What it has learned by heart says nothing of it.
            val = replace(val, readable=np.zeros_like(val.readable))
        origins = [origin for part in (train, val) for origin in part.origins]
        identity = Header(
            kind="gate",
            schema_version=SCHEMA,
            settings=identifying_settings(settings),
            classes=groups.origin.header.classes,
            made_from=workspace.made_from(*origins, *sources),
        )
        checkpoint = path.with_name("checkpoint.safetensors")
        if workspace.is_current(path, identity):
            remove(checkpoint)
            note(f"the gate is up to date: {path}")
            return path
        if not train.readable.any():
            raise InputError("no readable training image is left for the gate")
        torch.manual_seed(settings.seed)
        network = build_gate(settings, workspace, groups, first.image_size, weights)
        frozen = given.frozen(network, identity, sources)
        task = given.task(network, train, val, frozen)
        training = _run_of(settings, machine, task, checkpoint, identity)
        fit(training)
        _save(workspace, path, groups, task, training, first.image_size)
        remove(checkpoint)
    return path


def _require_size(flat: Expert, image_size: int) -> None:
    """The mixture shows one image to all its networks."""
    found = flat.training.image_size
    if found != image_size:
        raise InputError(
            f"the flat network sees {found} pixels, the experts {image_size}; a gate "
            "on it needs the same size",
            f"rerun `deepme train-flat --image-size {image_size}`",
        )


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What the gate learns with and from."""

    settings: GateSettings
    machine: MachineSettings
    workspace: Workspace
    groups: Groups
    split: Split
    compute: Compute
    image_size: int

    def images(self, subset: str) -> GateImages:
        """A subset's images, and what the networks that the gate weighs say of them."""
        outputs = outputs_of_experts(
            self.workspace,
            self.groups,
            self.split,
            subset,
            compute=self.compute,
            machine=self.machine,
            with_features=self.settings.input in ("features", "confidences"),
        )
        flat = None
        if self.settings.input == "flat":
            flat = outputs_of_flat(
                self.workspace,
                self.split,
                subset,
                compute=self.compute,
                machine=self.machine,
            )
        rows = self.split.rows(subset)
        return GateImages.of(self.split.images, rows, outputs, flat=flat)

    def frozen(
        self,
        network: Network | FeatureGate,
        identity: Header,
        sources: Sequence[Origin],
    ) -> FrozenFeatures | None:
        """The features of the gate's own trunk, where warm-up learns from a cache."""
        settings = self.settings
        cached = settings.warmup == "cache" and settings.warmup_epochs > 0
        if not (cached and isinstance(network, Network)):
            return None
        trunk = {key: identity.settings[key] for key in ("backbone", "weights")}
        trunk["image_size"] = self.image_size
        if settings.shrink > 1:
            trunk["shrink"] = settings.shrink
        if settings.weights == "none":
            trunk["seed"] = settings.seed
        return features_of_trunk(
            network,
            trunk,
            sources,
            self.workspace,
            self.split,
            compute=self.compute,
            machine=self.machine,
            learn_from=settings.learn_from,
        )

    def task(
        self,
        network: Network | FeatureGate,
        train: GateImages,
        val: GateImages,
        frozen: FrozenFeatures | None,
    ) -> GateTask:
        """What is trained."""
        settings, machine, images = self.settings, self.machine, self.split.images
        kept = None
        if settings.input == "images":
            read = np.concatenate([train.rows, val.rows])
            kept = room_for(images, read, gigabytes=machine.keep_images)
        num_images = len(train.rows) + len(val.rows)
        skip = machine.on_bad == "skip"
        return GateTask(
            settings,
            network,
            self.compute,
            train=train,
            val=val,
            dataset=ImageDataset(
                images,
                size=self.image_size,
                augment=settings.augment == "crop",
                seed=settings.seed,
                kept=kept,
            ),
            members=Members.of(
                [members.tolist() for members in self.groups.members],
                num_classes=self.groups.num_classes,
                device=self.compute.device,
            ),
            unreadable=UnreadableImages(images, num_images, skip, machine.max_bad),
            workers=machine.workers,
            frozen=frozen,
        )


def _run_of(
    settings: GateSettings,
    machine: MachineSettings,
    task: GateTask,
    checkpoint: Path,
    identity: Header,
) -> Run:
    warmup = Stage(
        name="warmup",
        epochs=settings.warmup_epochs,
        lr=settings.warmup_lr,
        lr_end=settings.warmup_lr_end,
    )
    whole = Stage(
        name="gate", epochs=settings.epochs, lr=settings.lr, lr_end=settings.lr_end
    )
    return Run(
        label="gate",
        task=task,
        stages=(warmup, whole),
        unreadable=task.unreadable,
        checkpoint=checkpoint,
        identity=identity,
        device=task.compute.device,
        batch_size=settings.batch_size,
        checkpoint_seconds=60 * machine.checkpoint_minutes,
        accumulate=machine.accumulate,
        events=events_of(machine, checkpoint),
    )


def _save(
    workspace: Workspace,
    path: Path,
    groups: Groups,
    task: GateTask,
    run: Run,
    image_size: int,
) -> None:
    head = task.network.head
    assert isinstance(head, nn.Linear), "every gate ends in a linear layer"
    training = Training(
        group=0,
        outputs=tuple(str(group.number) for group in groups.content.groups),
        num_features=head.in_features,
        images=int(np.count_nonzero(task.train.readable)),
        backbone=task.settings.backbone,
        image_size=image_size,
        history=tuple(run.history),
        skipped=run.unreadable.listed(),
        versions=versions(),
    )
    save_result(workspace, path, run.identity, task.network, training, beside={})
