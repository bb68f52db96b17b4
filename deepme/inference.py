"""Load trained experts, and ask each once for its outputs on a subset's images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deepme.artifacts.expert import Expert
from deepme.artifacts.groups import Groups
from deepme.artifacts.outputs import (
    KIND,
    SCHEMA,
    Batch,
    Outputs,
    load_outputs,
    save_outputs,
)
from deepme.artifacts.split import Split
from deepme.config import GateSettings, MachineSettings
from deepme.devices import Compute
from deepme.errors import ArtifactError
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.images.unreadable import UnreadableImages
from deepme.networks import (
    AttentionNetwork,
    FeatureGate,
    Network,
    create_network,
    take_over_head,
)
from deepme.progress import note, progress
from deepme.storage.header import Header
from deepme.storage.tensors import read_tensors
from deepme.text import clean
from deepme.workspace import Workspace

WEIGHTS_KIND, WEIGHTS_SCHEMA = "weights", 1
BATCH_SIZE = 256
CONFIDENCES = 3
"""Numbers an expert that `core.mixture.expert_confidences` gives."""


def load_network(network: Expert, workspace: Workspace) -> Network | AttentionNetwork:
    """Rebuild a trained network on images: an expert, a gate, the flat one, attention.

    Args:
        network: the trained one.
        workspace: with the experts, whose backbones attention has.

    Raises:
        ArtifactError: its weights are not the ones its training.json names.
    """
    built = blank_network(network, workspace)
    built.load_state_dict(load_weights(network, network.weights, built.state_dict()))
    return built.eval()


def blank_network(network: Expert, workspace: Workspace) -> Network | AttentionNetwork:
    """Build a trained network on images without its weights, as for `load_network`."""
    if network.origin.header.kind != "attention":
        return _build(network)
    groups = workspace.groups()
    learned = network.origin.header.settings["attention"] == "learned"
    experts = [_build(expert) for expert in _experts(workspace, groups)]
    return AttentionNetwork(experts, groups.num_classes, learned=learned)


def load_experts(workspace: Workspace, groups: Groups) -> list[Network]:
    """Rebuild all trained experts, in the order of the groups."""
    networks = []
    for expert in _experts(workspace, groups):
        network = _build(expert)
        state = load_weights(expert, expert.weights, network.state_dict())
        network.load_state_dict(state)
        networks.append(network)
    return networks


def _build(network: Expert) -> Network:
    training = network.training
    return create_network(
        training.backbone,
        len(training.outputs),
        weights="none",
        image_size=training.image_size,
    )


def _experts(workspace: Workspace, groups: Groups) -> list[Expert]:
    return [workspace.expert(group.number) for group in groups.content.groups]


def build_gate(
    settings: GateSettings,
    workspace: Workspace,
    groups: Groups,
    image_size: int,
    weights: str,
) -> nn.Module:
    """Build the gate's network, on images or on what the experts make of them.

    A learned temperature is a parameter of it, ``log_temperature`` (T,), that its own
    outputs do not depend on: it divides the experts' logits.

    Args:
        settings: which of the two, and the backbone.
        workspace: with the experts, whose widths a gate on features needs.
        groups: the grouping.
        image_size: pixels a side.
        weights: of the backbone: hub, none, or a local file.
    """
    widths = []
    if settings.input != "images":
        experts = _experts(workspace, groups)
        widths = [expert.training.num_features for expert in experts]
    gate = blank_gate(settings, groups.num_groups, widths, image_size, weights)
    if settings.weights == "before" and isinstance(gate, Network):
        take_over_head(gate, Path(weights))
    return gate


def blank_gate(
    settings: GateSettings,
    num_groups: int,
    widths: Sequence[int],
    image_size: int,
    weights: str = "none",
) -> nn.Module:
    """Build a gate's network, as for `build_gate`.

    Args:
        settings: its input, backbone and temperatures.
        num_groups: T.
        widths: of the experts' features; not used on images.
        image_size: pixels a side.
        weights: of the backbone: hub, none, or a local file.
    """
    gate: nn.Module
    if settings.input == "images":
        gate = create_network(
            settings.backbone, num_groups, weights=weights, image_size=image_size
        )
    else:
        width = sum(widths)
        if settings.input == "confidences":
            width += CONFIDENCES * num_groups
        gate = FeatureGate(width, num_groups)
    if settings.temperature == "learned":
        neutral = nn.Parameter(torch.zeros(num_groups))
        gate.register_parameter("log_temperature", neutral)
    return gate


def temperature_of(gate: nn.Module) -> torch.Tensor | None:
    """The temperatures (T,) of the experts that a gate has learned, or None."""
    logs: torch.Tensor | None = getattr(gate, "log_temperature", None)
    return None if logs is None else logs.exp()


def load_weights(
    expert: Expert, path: Path, wanted: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Read the weights that belong to a training.json, checked against a network.

    Raises:
        ArtifactError: other weights than named, or of other shapes.
    """
    _, state, sha256 = read_tensors(path, WEIGHTS_KIND, WEIGHTS_SCHEMA)
    shapes = {name: value.shape for name, value in state.items()}
    if sha256 not in expert.origin.header.made_from.values() or shapes != {
        name: value.shape for name, value in wanted.items()
    }:
        raise ArtifactError(
            f"{clean(str(path))} does not belong to its {expert.origin.path.name}",
            "rerun the command that trains it",
        )
    return state


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

    Args:
        workspace: where the experts are.
        groups: the grouping.
        split: the images.
        subset: train, val or test.
        compute: the device.
        machine: workers, and the policy for unreadable images.
        with_features: whether the features are needed too.

    Returns:
        One entry an expert, in the order of the groups.

    Raises:
        ArtifactError: an expert is missing or stale.
        InputError: an unreadable image, by the policy.
    """
    return [
        outputs_of(
            expert,
            workspace,
            split,
            subset,
            compute=compute,
            machine=machine,
            with_features=with_features,
        )
        for expert in _experts(workspace, groups)
    ]


def outputs_of(
    expert: Expert,
    workspace: Workspace,
    split: Split,
    subset: str,
    *,
    compute: Compute,
    machine: MachineSettings,
    with_features: bool,
) -> Outputs:
    """Load what one network says of all its classes; compute it if need be."""
    rows = split.rows(subset)
    path = workspace.outputs_path(subset, expert)
    header = Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings={"subset": subset, "features": with_features},
        classes=expert.origin.header.classes,
        made_from=workspace.made_from(expert.origin, split.origin),
    )
    if not _usable(workspace, path, header):
        network = load_network(expert, workspace)
        _compute_outputs(expert, network, split, rows, path, header, compute, machine)
    return load_outputs(path, len(rows), len(expert.training.outputs))


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


def _usable(workspace: Workspace, path: Path, header: Header) -> bool:
    """Whether the file is there; one with features serves where none are needed."""
    richer = replace(header, settings=header.settings | {"features": True})
    return workspace.is_current(path, header, richer)


def _compute_outputs(
    expert: Expert,
    network: Network | AttentionNetwork,
    split: Split,
    rows: NDArray[np.int64],
    path: Path,
    header: Header,
    compute: Compute,
    machine: MachineSettings,
) -> None:
    training = expert.training
    unreadable = _policy(split, rows, machine)
    dataset = ImageDataset(
        split.images, size=training.image_size, augment=False, seed=0
    )
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
