"""The commands beside the seven stages: the flat network, attention, routes."""

from __future__ import annotations

from dataclasses import asdict

from deepme.config import (
    AttentionSettings,
    FlatSettings,
    MachineSettings,
    RouteSettings,
)
from deepme.options import HERE, AsJson, Where, open_workspace


def train_flat(
    *,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: FlatSettings,
    machine: MachineSettings,
) -> None:
    """Train one network over all classes: the yardstick, and a start for experts.

    Example: deepme train-flat
    """
    from deepme.steps.train_flat import run
    from deepme.tables import print_paths

    print_paths([run(settings, machine, open_workspace(workspace))], json)


def train_attention(
    *,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: AttentionSettings,
    machine: MachineSettings,
) -> None:
    """Train one head on all experts' features, and the experts with it.

    Example: deepme train-attention --epochs 0
    """
    from deepme.steps.train_attention import run
    from deepme.tables import print_paths

    print_paths([run(settings, machine, open_workspace(workspace))], json)


def route(
    *,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: RouteSettings,
    machine: MachineSettings,
) -> None:
    """Find how few experts an image needs to be shown to, on validation images.

    Example: deepme route --tolerance 0.002
    """
    from deepme.steps.route import run
    from deepme.tables import print_json, print_routing

    content = run(settings, machine, open_workspace(workspace))
    if json:
        print_json(asdict(content))
    else:
        print_routing(content)
