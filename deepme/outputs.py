"""Ask each trained network once for its outputs on a subset's images.

They are kept on disk: all logits, or, where the file would be larger than
`EXACT_BYTES`, `core.compact`'s form of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deepme.artifacts.expert import Expert
from deepme.artifacts.groups import Groups
from deepme.artifacts.outputs import (
    KIND,
    SCHEMA,
    Batch,
    Outputs,
    Shortened,
    load_outputs,
    save_outputs,
)
from deepme.artifacts.split import Split
from deepme.config import MachineSettings
from deepme.core.compact import KEPT
from deepme.devices import Compute
from deepme.images.keeping import KeptImages, room_for
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.images.unreadable import UnreadableImages
from deepme.inference import load_network
from deepme.networks import AttentionNetwork, Network
from deepme.progress import note, progress
from deepme.storage.header import Header
from deepme.workspace import Workspace

BATCH_SIZE = 256
EXACT_BYTES = 4 * 2**30
"""The largest file of all logits; beyond, `--outputs auto` keeps the compact form."""


def outputs_of_experts(
    workspace: Workspace,
    groups: Groups,
    split: Split,
    subset: str,
    *,
    compute: Compute,
    machine: MachineSettings,
    with_features: bool,
) -> list[Outputs]:
    """Load every expert's outputs on a subset; compute those missing or stale.

    The images are decoded once for all experts, where they fit into memory.

    Args:
        workspace: where the experts are.
        groups: the grouping.
        split: the images.
        subset: train, val or test.
        compute: the device.
        machine: workers, room for images, and the policy for unreadable ones.
        with_features: whether the features are needed too.

    Returns:
        One entry an expert, in the order of the groups.

    Raises:
        ArtifactError: an expert is missing or stale.
        InputError: an unreadable image, by the policy.
    """

    @cache
    def room() -> KeptImages | None:
        rows = split.rows(subset)
        return room_for(split.images, rows, gigabytes=machine.keep_images)

    return [
        outputs_of(
            expert,
            workspace,
            split,
            subset,
            compute=compute,
            machine=machine,
            with_features=with_features,
            room=room,
        )
        for expert in [
            workspace.expert(group.number) for group in groups.content.groups
        ]
    ]


def outputs_of_flat(
    workspace: Workspace,
    split: Split,
    subset: str,
    *,
    compute: Compute,
    machine: MachineSettings,
) -> Outputs:
    """Load what a gate on the flat network sees: its outputs and features.

    Raises:
        ArtifactError: the flat network is missing or stale.
        InputError: an unreadable image, by the policy.
    """
    return outputs_of(
        workspace.flat(),
        workspace,
        split,
        subset,
        compute=compute,
        machine=machine,
        with_features=True,
    )


def outputs_of(
    expert: Expert,
    workspace: Workspace,
    split: Split,
    subset: str,
    *,
    compute: Compute,
    machine: MachineSettings,
    with_features: bool,
    room: Callable[[], KeptImages | None] = lambda: None,
) -> Outputs:
    """Load what one network says of all its classes; compute it if need be.

    ``room`` gives room for decoded images that other networks are asked about too; it
    is called only where something is computed.
    """
    rows = split.rows(subset)
    path = workspace.outputs_path(subset, expert)
    exact = Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings={"subset": subset, "features": with_features},
        classes=expert.origin.header.classes,
        made_from=workspace.made_from(expert.origin, split.origin),
    )
    num_outputs = len(expert.training.outputs)
    kept = {"kept": min(KEPT, num_outputs)}
    compact = replace(exact, settings=exact.settings | kept)
    wanted = [exact] if machine.outputs == "exact" else [exact, compact]
    if machine.outputs == "compact":
        wanted = [compact]
    if not _usable(workspace, path, wanted):
        short = is_compact(len(rows), num_outputs, machine)
        header = compact if short else exact
        dataset = ImageDataset(
            split.images,
            size=expert.training.image_size,
            augment=False,
            seed=0,
            kept=room(),
        )
        _compute_outputs(
            expert, workspace, split, rows, dataset, path, header, compute, machine
        )
    return load_outputs(path, len(rows), num_outputs)


def is_compact(num_rows: int, num_outputs: int, machine: MachineSettings) -> bool:
    """Whether a network's outputs are written in compact form."""
    if machine.outputs == "auto":
        return 4 * num_rows * num_outputs > EXACT_BYTES
    return machine.outputs == "compact"


def num_bytes(num_rows: int, num_outputs: int, machine: MachineSettings) -> int:
    """What a network's outputs take on disk, without features."""
    if is_compact(num_rows, num_outputs, machine):
        return num_rows * (8 * min(KEPT, num_outputs) + 17)
    return num_rows * (4 * num_outputs + 1)


def features_of(
    expert: Expert,
    workspace: Workspace,
    split: Split,
    rows: NDArray[np.int64],
    *,
    compute: Compute,
    machine: MachineSettings,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Ask a network for its features of some images, without keeping them.

    Returns:
        (R, d) float32 features, and (R,) bool, which images could be read.

    Raises:
        InputError: an unreadable image, by the policy.
    """
    training = expert.training
    policy = _policy(split, rows, machine)
    network = load_network(expert, workspace).to(compute.device)
    dataset = ImageDataset(
        split.images, size=training.image_size, augment=False, seed=0
    )
    features = np.empty((len(rows), training.num_features), dtype=np.float32)
    readable = np.empty(len(rows), dtype=np.bool_)
    with progress("features of training images", len(rows), "images") as advance:
        blocks = forward_blocks(
            network, dataset, rows, policy, compute, machine.workers
        )
        for where, _, some_features, some_readable in blocks:
            features[where], readable[where] = some_features, some_readable
            advance(len(some_readable))
    return features, readable


def _usable(workspace: Workspace, path: Path, wanted: Sequence[Header]) -> bool:
    """Whether the file is there; one with features serves where none are needed."""
    richer = [
        replace(header, settings=header.settings | {"features": True})
        for header in wanted
    ]
    return workspace.is_current(path, *wanted, *richer)


def _shortened(
    expert: Expert,
    workspace: Workspace,
    split: Split,
    rows: NDArray[np.int64],
    header: Header,
) -> Shortened | None:
    """How a network's logits are kept in compact form, if they are."""
    if "kept" not in header.settings:
        return None
    classes = np.arange(split.num_classes)
    if expert.origin.header.kind == "expert":
        classes = workspace.groups().members[expert.training.group - 1]
    positions = np.full(split.num_classes, -1, dtype=np.int32)
    positions[classes] = np.arange(len(classes))
    return Shortened(positions[split.images.label[rows]], header.settings["kept"])


def _compute_outputs(
    expert: Expert,
    workspace: Workspace,
    split: Split,
    rows: NDArray[np.int64],
    dataset: ImageDataset,
    path: Path,
    header: Header,
    compute: Compute,
    machine: MachineSettings,
) -> None:
    training = expert.training
    unreadable = _policy(split, rows, machine)
    network = load_network(expert, workspace)
    network.to(compute.device)
    with_features = bool(header.settings["features"])
    who = {
        "expert": f"expert {training.group}",
        "flat": "flat network",
        "attention": "attention",
    }
    name = who[expert.origin.header.kind]
    label = f"{name}: outputs on {header.settings['subset']} images"
    with progress(label, len(rows), "images") as advance:
        save_outputs(
            path,
            header,
            forward_blocks(
                network, dataset, rows, unreadable, compute, machine.workers
            ),
            shape=(len(rows), len(training.outputs)),
            num_features=training.num_features if with_features else None,
            shortened=_shortened(expert, workspace, split, rows, header),
            advance=advance,
        )
    if unreadable.reasons:
        note(f"{label}: {len(unreadable.reasons):,} unreadable images left out")


def _policy(
    split: Split, rows: NDArray[np.int64], machine: MachineSettings
) -> UnreadableImages:
    skip = machine.on_bad == "skip"
    return UnreadableImages(split.images, len(rows), skip, machine.max_bad)


def forward_blocks(
    network: Network | AttentionNetwork,
    dataset: ImageDataset,
    rows: NDArray[np.int64],
    unreadable: UnreadableImages,
    compute: Compute,
    workers: int,
) -> Iterator[Batch]:
    """Ask a network about some images, in order and without augmentation.

    Yields:
        (positions, logits (B, C), features (B, d), readable (B,)).
    """
    start = 0
    for batch in evaluation_batches(dataset, rows, BATCH_SIZE, workers):
        unreadable.record(batch.unreadable)
        stop = start + len(batch.rows) + len(batch.unreadable)
        with torch.inference_mode(), compute.autocast():
            logits, features = network(batch.inputs.to(compute.device))
        readable = np.isin(rows[start:stop], batch.rows.numpy())
        yield (
            slice(start, stop),
            _at(readable, logits),
            _at(readable, features),
            readable,
        )
        start = stop


def _at(readable: NDArray[np.bool_], values: torch.Tensor) -> NDArray[np.float32]:
    """Spread the rows of readable images; the others are zero."""
    spread = np.zeros((len(readable), values.shape[1]), dtype=np.float32)
    spread[readable] = values.float().cpu().numpy()
    return spread
