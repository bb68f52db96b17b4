"""Warm-up from a cache: the frozen trunks' features of every image, computed once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepme import ranks
from deepme.artifacts.features import (
    KIND,
    SCHEMA,
    Features,
    load_features,
    save_features,
)
from deepme.artifacts.features import (
    Batch as Block,
)
from deepme.artifacts.groups import Groups
from deepme.artifacts.origin import Origin
from deepme.artifacts.split import Split
from deepme.config import MachineSettings, NetworkSettings
from deepme.devices import Compute
from deepme.errors import EnvironmentFault, UsageError
from deepme.images.keeping import KeptImages, room_for
from deepme.images.loading import WHOLE, Batch, ImageDataset, Share, epoch_order
from deepme.images.unreadable import UnreadableImages
from deepme.inference import load_network
from deepme.networks import AttentionNetwork, Network, create_network
from deepme.outputs import forward_blocks
from deepme.progress import note, progress
from deepme.storage.header import Header
from deepme.workspace import Workspace

SUBSETS = ("train", "val")


@dataclass(frozen=True)
class FrozenFeatures:
    """The features of training and validation images under one trunk or several.

    Attributes:
        rows: subset -> (R,) rows in the split, ascending.
        features: subset -> one for each trunk, R rows each.
        labels: (M,) the split's labels.
    """

    rows: dict[str, NDArray[np.int64]]
    features: dict[str, list[Features]]
    labels: NDArray[np.int32]

    def batch(self, subset: str, rows: NDArray[np.integer[Any]]) -> Batch:
        """Features of some images in place of the images."""
        found = self.features[subset]
        where = np.searchsorted(self.rows[subset], rows)
        readable = np.all([one.readable[where] for one in found], axis=0)
        good = rows[readable]
        parts = [one.features[where[readable]] for one in found]
        return Batch(
            inputs=torch.from_numpy(np.hstack(parts).astype(np.float32)),
            rows=torch.from_numpy(good.astype(np.int64)),
            labels=torch.from_numpy(self.labels[good].astype(np.int64)),
            unreadable=dict.fromkeys(
                rows[~readable].tolist(), "could not be read for the cache of features"
            ),
        )

    def training_batches(
        self,
        rows: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int,
        epochs: range,
        first_step: int,
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        """Stream epochs in the order that images would have, from any step on."""
        for epoch in epochs:
            batches = epoch_order(rows, batch_size, seed=seed, epoch=epoch, share=share)
            for some in batches[first_step:]:
                yield self.batch("train", some)
            first_step = 0

    def validation_batches(
        self, rows: NDArray[np.int64], batch_size: int
    ) -> Iterator[Batch]:
        """Stream validation images in order."""
        for start in range(0, len(rows), batch_size):
            yield self.batch("val", rows[start : start + batch_size])


def frozen_features(
    settings: NetworkSettings,
    recorded: dict[str, object],
    weights: str,
    sources: Sequence[Origin],
    workspace: Workspace,
    split: Split,
    *,
    compute: Compute,
    machine: MachineSettings,
) -> FrozenFeatures | None:
    """Load the cache of warm-up; compute what is missing or stale.

    Args:
        settings: of the network.
        recorded: the settings as recorded, with the digest of a weights file.
        weights: of the trunk: hub, or a local file.
        sources: artifacts that the weights come from.
        workspace: that the cache belongs to.
        split: the images.
        compute: the device.
        machine: workers, and the policy for unreadable images.

    Returns:
        The features of all training and validation images, or None where the settings
        ask for no cache or for no warm-up.

    Raises:
        UsageError: the trunk has no weights that all experts start from.
        EnvironmentFault: the disk has no room for it.
        InputError: an unreadable image, by the policy.
    """
    if settings.warmup != "cache" or not settings.warmup_epochs:
        return None
    if weights == "none":
        raise UsageError(
            "--warmup is cache and --weights is none: every expert draws its own "
            "trunk, so there is nothing to share",
            "use --weights hub, flat or a file, or --warmup views",
        )
    network = create_network(
        settings.backbone, 1, weights=weights, image_size=settings.image_size
    )
    origin = {key: recorded[key] for key in ("backbone", "image_size", "weights")}
    # One at a time fills it; whoever comes meanwhile waits and then finds it.
    lock = workspace.lock(workspace.root / "features", patient=True)
    with ranks.first_alone(lock):
        features = {
            subset: [
                _features(
                    network,
                    settings.image_size,
                    workspace.features_path(subset),
                    {"subset": subset, **origin},
                    sources,
                    workspace,
                    split,
                    compute=compute,
                    machine=machine,
                )
            ]
            for subset in SUBSETS
        }
    return _beside_labels(features, split)


def features_of_experts(
    workspace: Workspace,
    groups: Groups,
    split: Split,
    *,
    compute: Compute,
    machine: MachineSettings,
) -> FrozenFeatures:
    """Load the features of all trained experts side by side; compute what is missing.

    They lie apart from the experts' outputs, on which a trained gate depends.

    Args:
        workspace: with the experts.
        groups: the grouping.
        split: the images.
        compute: the device.
        machine: workers, and the policy for unreadable images.

    Raises:
        ArtifactError: an expert is missing or stale.
        EnvironmentFault: the disk has no room for it.
        InputError: an unreadable image, by the policy.
    """

    @cache
    def room(subset: str) -> KeptImages | None:
        rows = split.rows(subset)
        return room_for(split.images, rows, gigabytes=machine.keep_images)

    features: dict[str, list[Features]] = {subset: [] for subset in SUBSETS}
    for group in groups.content.groups:
        expert = workspace.expert(group.number)
        network = load_network(expert, workspace)
        for subset, found in features.items():
            found.append(
                _features(
                    network,
                    expert.training.image_size,
                    workspace.features_path(subset, expert),
                    {"subset": subset},
                    [expert.origin],
                    workspace,
                    split,
                    compute=compute,
                    machine=machine,
                    room=room,
                )
            )
    return _beside_labels(features, split)


def _beside_labels(features: dict[str, list[Features]], split: Split) -> FrozenFeatures:
    rows = {subset: split.rows(subset) for subset in SUBSETS}
    return FrozenFeatures(rows, features, split.images.label)


def _features(
    network: Network | AttentionNetwork,
    image_size: int,
    path: Path,
    settings: dict[str, object],
    sources: Sequence[Origin],
    workspace: Workspace,
    split: Split,
    *,
    compute: Compute,
    machine: MachineSettings,
    room: Callable[[str], KeptImages | None] = lambda _: None,
) -> Features:
    """Load a network's features of a subset; compute them if missing or stale.

    ``room`` gives room for decoded images that other networks are asked about too.
    """
    subset = str(settings["subset"])
    rows = split.rows(subset)
    precision = "bfloat16" if compute.bfloat16 else "float32"
    header = Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings={**settings, "precision": precision},
        classes=split.origin.header.classes,
        made_from=workspace.made_from(split.origin, *sources),
    )
    if not workspace.is_current(path, header):
        dataset = ImageDataset(
            split.images, size=image_size, augment=False, seed=0, kept=room(subset)
        )
        _compute(network, dataset, rows, path, header, compute, machine)
    return load_features(path, len(rows), network.head.in_features)


def _compute(
    network: Network | AttentionNetwork,
    dataset: ImageDataset,
    rows: NDArray[np.int64],
    path: Path,
    header: Header,
    compute: Compute,
    machine: MachineSettings,
) -> None:
    shape = (len(rows), network.head.in_features)
    _require_room(path, shape)
    policy = UnreadableImages(
        dataset.images, len(rows), machine.on_bad == "skip", machine.max_bad
    )
    network.eval().to(compute.device)
    with progress(f"features of {path.stem} images", len(rows), "images") as advance:
        blocks: Iterator[Block] = (
            (where, features, readable)
            for where, _, features, readable in forward_blocks(
                network, dataset, rows, policy, compute, machine.workers
            )
        )
        save_features(path, header, blocks, shape=shape, advance=advance)


def _require_room(path: Path, shape: tuple[int, int]) -> None:
    """Tell the size beforehand.

    Raises:
        EnvironmentFault: the disk has less.
    """
    needed = 2 * shape[0] * shape[1] + shape[0]
    path.parent.mkdir(exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    told = f"features of {shape[0]:,} {path.stem} images take {needed / 1e9:,.2f} GB"
    if needed > free:
        raise EnvironmentFault(
            f"{told}, {free / 1e9:,.2f} GB are free",
            "free some, use another --workspace, or --warmup views",
        )
    note(told)
