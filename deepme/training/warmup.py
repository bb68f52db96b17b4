"""Warm-up from a cache: the frozen trunks' features of every image, computed once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepme import ranks
from deepme.artifacts.expert import Expert
from deepme.artifacts.features import (
    KIND,
    SCHEMA,
    Features,
    NewFeatures,
    load_features,
    save_features,
)
from deepme.artifacts.groups import Groups
from deepme.artifacts.origin import Origin
from deepme.artifacts.split import Split
from deepme.asking import answers, passes
from deepme.config import MachineSettings, NetworkSettings
from deepme.devices import Compute
from deepme.errors import EnvironmentFault, UsageError
from deepme.images.loading import WHOLE, Batch, Share, epoch_order
from deepme.inference import load_network
from deepme.networks import AttentionNetwork, Network, create_network
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
    trunk = {key: recorded[key] for key in ("backbone", "image_size", "weights")}
    return features_of_trunk(
        network, trunk, sources, workspace, split, compute=compute, machine=machine
    )


def features_of_trunk(
    network: Network,
    trunk: dict[str, Any],
    sources: Sequence[Origin],
    workspace: Workspace,
    split: Split,
    *,
    compute: Compute,
    machine: MachineSettings,
    learn_from: str = "train",
) -> FrozenFeatures:
    """Load a trunk's features of all images; compute what is missing or stale.

    There is room for those of one trunk: who comes with another replaces them.

    Args:
        network: with the trunk.
        trunk: what its features depend on, as recorded; ``image_size`` is the pixels a
            side that the network is given.
        sources: artifacts that its weights come from.
        workspace: that the cache belongs to.
        split: the images.
        compute: the device.
        machine: workers, and the policy for unreadable images.
        learn_from: the subset whose images are trained on.

    Raises:
        EnvironmentFault: the disk has no room for it.
        InputError: an unreadable image, by the policy.
    """
    files = {
        subset: NewFeatures(
            path=workspace.features_path(subset),
            header=_header(subset, trunk, sources, workspace, split, compute),
            shape=(len(split.rows(subset)), network.head.in_features),
        )
        for subset in dict.fromkeys((learn_from, "val"))
    }
    # One at a time fills it; whoever comes meanwhile waits and then finds it.
    lock = workspace.lock(workspace.root / "features", patient=True)
    with ranks.first_alone(lock):
        for subset, file in files.items():
            if not workspace.is_current(file.path, file.header):
                _compute(
                    [network],
                    [file],
                    subset,
                    split,
                    trunk["image_size"],
                    compute,
                    machine,
                )
        # Read before anyone with another trunk replaces them.
        return _loaded({"train": [files[learn_from]], "val": [files["val"]]}, split)


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
    experts = [workspace.expert(group.number) for group in groups.content.groups]

    def file(subset: str, expert: Expert) -> NewFeatures:
        return NewFeatures(
            path=workspace.features_path(subset, expert),
            header=_header(subset, {}, [expert.origin], workspace, split, compute),
            shape=(len(split.rows(subset)), expert.training.num_features),
        )

    files = {subset: [file(subset, expert) for expert in experts] for subset in SUBSETS}
    for subset, of_experts in files.items():
        missing = [
            expert
            for expert, one in zip(experts, of_experts, strict=True)
            if not workspace.is_current(one.path, one.header)
        ]
        for some in passes(missing):
            _compute(
                [load_network(expert, workspace) for expert in some],
                [file(subset, expert) for expert in some],
                subset,
                split,
                some[0].training.image_size,
                compute,
                machine,
            )
    return _loaded(files, split)


def _header(
    subset: str,
    settings: dict[str, object],
    sources: Sequence[Origin],
    workspace: Workspace,
    split: Split,
    compute: Compute,
) -> Header:
    precision = "bfloat16" if compute.bfloat16 else "float32"
    return Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings={"subset": subset, **settings, "precision": precision},
        classes=split.origin.header.classes,
        made_from=workspace.made_from(split.origin, *sources),
    )


def _loaded(files: dict[str, list[NewFeatures]], split: Split) -> FrozenFeatures:
    features = {
        subset: [load_features(file.path, *file.shape) for file in of_trunks]
        for subset, of_trunks in files.items()
    }
    rows = {
        subset: split.rows(of_trunks[0].header.settings["subset"])
        for subset, of_trunks in files.items()
    }
    return FrozenFeatures(rows, features, split.images.label)


def _compute(
    networks: Sequence[Network | AttentionNetwork],
    files: Sequence[NewFeatures],
    subset: str,
    split: Split,
    image_size: int,
    compute: Compute,
    machine: MachineSettings,
) -> None:
    """Ask networks in one pass over the images of a subset."""
    _require_room(files, subset)
    found = answers(
        [network.eval().to(compute.device) for network in networks],
        split.images,
        split.rows(subset),
        image_size=image_size,
        compute=compute,
        machine=machine,
    )
    features = (
        (where, [features for _, features in of_networks], readable)
        for where, of_networks, readable in found
    )
    num_images = files[0].shape[0]
    with progress(f"features of {subset} images", num_images, "images") as advance:
        save_features(files, features, advance=advance)


def _require_room(files: Sequence[NewFeatures], subset: str) -> None:
    """Tell the size beforehand.

    Raises:
        EnvironmentFault: the disk has less.
    """
    needed = sum(rows * (2 * width + 1) for rows, width in (one.shape for one in files))
    folder = files[0].path.parent
    folder.mkdir(exist_ok=True)
    free = shutil.disk_usage(folder).free
    told = (
        f"features of {files[0].shape[0]:,} {subset} images take {needed / 1e9:,.2f} GB"
    )
    if needed > free:
        raise EnvironmentFault(
            f"{told}, {free / 1e9:,.2f} GB are free",
            "free some, use another --workspace, or --warmup views",
        )
    note(told)
