"""The commands beside the seven stages: the flat network, attention, routes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deepme.config import (
    AttentionSettings,
    ExtendSettings,
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


def extend(
    *,
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="class folders or tar files of new classes"),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="workspace to write"),
    ],
    place_only: Annotated[
        bool,
        typer.Option("--place-only", help="place them and say the cost; train nothing"),
    ] = False,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: ExtendSettings,
    machine: MachineSettings,
) -> None:
    """Add classes to a finished mixture; train only the experts that they join.

    The workspace stays as it is. The larger one has the groups with the new classes,
    the experts of the others as they were, and a gate over all.

    Example: deepme extend --data NEW --out extended --place-only
    """
    from deepme.extending import run
    from deepme.extension_tables import print_extension
    from deepme.tables import print_json

    found = run(
        settings,
        machine,
        open_workspace(workspace),
        open_workspace(out),
        data=data,
        place_only=place_only,
    )
    if json:
        print_json(asdict(found))
    else:
        print_extension(found)
