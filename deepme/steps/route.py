"""route: how few experts an image needs to be shown to."""

# ruff: noqa: N806

from __future__ import annotations

from matplotlib.figure import Figure

from deepme.artifacts.routing import (
    KIND,
    SCHEMA,
    Route,
    RoutingContent,
    load_routing,
    save_routing,
)
from deepme.config import MachineSettings, RouteSettings
from deepme.core.metrics import TopKCounts
from deepme.core.mixture import routed_weights
from deepme.errors import InputError, UsageError
from deepme.figures.render import svg_bytes
from deepme.figures.routing import plot_routing
from deepme.progress import note, progress
from deepme.scoring import Voters, score, voters_of, weigh
from deepme.storage.atomic import atomic_write
from deepme.storage.header import Header
from deepme.workspace import Workspace

LEAST = (
    *(0.5, 0.4, 0.3, 0.25, 0.2, 0.17, 0.15, 0.13, 0.12, 0.11, 0.1),
    *(0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01),
)
"""Weights tried as the smallest that asks an expert."""


def run(
    settings: RouteSettings, machine: MachineSettings, workspace: Workspace
) -> RoutingContent:
    """Measure routes on validation images, write routing.json and draw the curve.

    Tries the k most trusted experts for every k, and all experts from a weight on; the
    chosen route asks the fewest experts among those within the tolerance of all.

    Args:
        settings: the tolerance.
        machine: device, workers and the policy for unreadable images.
        workspace: with experts and gate trained.

    Returns:
        All routes and the chosen one.

    Raises:
        ArtifactError: an expert or the gate is missing or stale.
        UsageError: the gate needs every expert's answer itself.
        InputError: there is no validation image.
    """
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    gate = workspace.gate()
    seen = gate.origin.header.settings["input"]
    if seen in ("features", "confidences"):
        raise UsageError(
            f"the gate sees the experts' {seen}, so it has to ask all of them",
            "train one on images, or on the flat network: "
            "`deepme train-gate --input images`",
        )
    path = workspace.routing_path
    with workspace.lock():
        voters = voters_of(workspace, groups, split, "val", machine, ["gate"])
        header = Header(
            kind=KIND,
            schema_version=SCHEMA,
            settings=settings.to_dict(),
            classes=groups.origin.header.classes,
            made_from=workspace.made_from(gate.origin, *voters.images.origins),
        )
        if workspace.is_current(path, header):
            note(f"the routing is up to date: {path}")
            return load_routing(path)
        if not len(voters.positions):
            raise InputError(
                "the split has no validation image that can be read",
                "rerun `deepme split` with a larger --val",
            )
        content = _measure(voters, settings.tolerance)
        save_routing(path, header, content)
        with atomic_write(workspace.figure_path("routing.svg")) as file:
            file.write(svg_bytes(_draw(content)))
    return content


def _measure(voters: Voters, tolerance: float) -> RoutingContent:
    experts = len(voters.members.sizes)
    ways: list[tuple[int | None, float]] = [(k, 0.0) for k in range(1, experts + 1)]
    ways += [(None, least) for least in LEAST]
    counts = [TopKCounts(voters.members.num_classes, (1,)) for _ in ways]
    passes = [0.0] * len(ways)
    with progress("routing", len(voters.positions), "images") as advance:
        for votes in voters.batches():
            s_BT = weigh("gate", votes)
            for i, (top, least) in enumerate(ways):
                weights_BT = routed_weights(s_BT, top=top, least=least)
                scores_BN = score("gate", votes, weights_BT)
                counts[i].update(scores_BN, labels_B=votes.labels_B)
                passes[i] += float((weights_BT > 0).sum())
            advance(len(votes.labels_B))
    routes = tuple(
        Route(
            top=top,
            least=least,
            passes=total / len(voters.positions),
            macro=count.macro(1),
        )
        for (top, least), total, count in zip(ways, passes, counts, strict=True)
    )
    dense = routes[experts - 1].macro
    near = [i for i, route in enumerate(routes) if route.macro >= dense - tolerance]
    return RoutingContent(
        experts=experts,
        images=len(voters.positions),
        dense=dense,
        tolerance=tolerance,
        routes=routes,
        chosen=min(near, key=lambda i: routes[i].passes),
    )


def _draw(content: RoutingContent) -> Figure:
    curves = {
        "the most trusted k": [r for r in content.routes if r.top is not None],
        "from a weight on": [r for r in content.routes if r.top is None],
    }
    return plot_routing(
        {
            label: [(route.passes, route.macro) for route in routes]
            for label, routes in curves.items()
        },
        dense=content.dense,
        tolerance=content.tolerance,
        chosen=(content.best.passes, content.best.macro),
        label=content.best.options,
    )
