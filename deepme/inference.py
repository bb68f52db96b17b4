"""Rebuild trained networks and gates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from deepme.artifacts.expert import WEIGHTS_KIND, WEIGHTS_SCHEMA, Expert
from deepme.artifacts.groups import Groups
from deepme.config import GateSettings
from deepme.errors import ArtifactError
from deepme.networks import (
    AttentionNetwork,
    FeatureGate,
    FlatGate,
    Network,
    create_network,
    take_over,
)
from deepme.storage.tensors import read_tensors
from deepme.text import clean
from deepme.workspace import Workspace

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
) -> Network | FeatureGate:
    """Build the gate's network, on images or on what other networks make of them.

    A learned temperature is a parameter of it, ``log_temperature`` (T,), that its own
    outputs do not depend on: it divides the experts' logits.

    Args:
        settings: what it sees, and the backbone.
        workspace: with the networks whose features it sees.
        groups: the grouping.
        image_size: pixels a side.
        weights: of the backbone: hub, none, or a local file.
    """
    widths = []
    if settings.input == "flat":
        widths = [workspace.flat().training.num_features]
    elif settings.input != "images":
        experts = _experts(workspace, groups)
        widths = [expert.training.num_features for expert in experts]
    gate = blank_gate(settings, groups.num_groups, widths, image_size, weights)
    if settings.weights == "before":
        take_over(gate, Path(weights))
    return gate


def blank_gate(
    settings: GateSettings,
    num_groups: int,
    widths: Sequence[int],
    image_size: int,
    weights: str = "none",
) -> Network | FeatureGate:
    """Build a gate's network, as for `build_gate`.

    Args:
        settings: its input, backbone and temperatures.
        num_groups: T.
        widths: of the features that it sees; not used on images.
        image_size: pixels a side.
        weights: of the backbone: hub, none, or a local file.
    """
    gate: Network | FeatureGate
    if settings.input == "images":
        gate = create_network(
            settings.backbone,
            num_groups,
            weights=weights,
            image_size=image_size,
            shrink=settings.shrink,
        )
    elif settings.input == "flat":
        gate = FlatGate(sum(widths), num_groups)
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
