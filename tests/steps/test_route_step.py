"""Routes: accuracy against the number of experts asked."""

# ruff: noqa: N806
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deepme.artifacts.routing import load_routing
from deepme.config import EvaluateSettings, MachineSettings, RouteSettings
from deepme.errors import ArtifactError, UsageError
from deepme.scoring import voters_of
from deepme.steps import evaluate
from deepme.steps.route import LEAST, run
from deepme.workspace import Workspace

MACHINE = MachineSettings(device="cpu", workers=0)
T = 3


@pytest.fixture
def workspace(tiny_workspace: Path) -> Workspace:
    return Workspace(tiny_workspace)


def recount(workspace: Workspace, subset: str, keep) -> tuple[float, float]:
    """Experts asked and macro top-1, image by image in numpy."""
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    voters = voters_of(workspace, groups, split, subset, MACHINE, ["gate"])
    hits: dict[int, list[bool]] = {}
    asked = 0
    for votes in voters.batches():
        f = [torch.softmax(z.double(), 1).numpy() for z in votes.logits]
        for b, label in enumerate(votes.labels_B.tolist()):
            s = votes.s_BT[b].double().numpy()
            F = np.zeros(groups.num_classes)
            for t in keep(s):
                asked += 1
                F[groups.members[t]] += s[t] * f[t][b]
            hits.setdefault(label, []).append(bool(F.argmax() == label))
    images = sum(map(len, hits.values()))
    return asked / images, float(np.mean([np.mean(hit) for hit in hits.values()]))


def test_each_route_is_what_it_says(workspace):
    content = run(RouteSettings(), MACHINE, workspace)
    assert content.experts == T
    ways = {(route.top, route.least): route for route in content.routes}
    assert list(ways) == [(1, 0), (2, 0), (3, 0), *((None, least) for least in LEAST)]
    for (top, least), route in ways.items():

        def keep(s, top=top, least=least):
            order = np.argsort(-s, kind="stable")[: top or T]
            return [t for t in order if s[t] >= least] or [int(s.argmax())]

        passes, macro = recount(workspace, "val", keep)
        assert route.passes == pytest.approx(passes)
        assert route.macro == pytest.approx(macro)
    assert content.dense == ways[T, 0].macro


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_the_cheapest_within_the_tolerance_is_chosen(workspace, tolerance):
    content = run(RouteSettings(tolerance=tolerance), MACHINE, workspace)
    near = [r for r in content.routes if r.macro >= content.dense - tolerance]
    assert content.best.passes == min(route.passes for route in near)
    assert content.best in near
    if tolerance == 1:
        assert content.best.passes == 1


def test_again_it_is_up_to_date(workspace, capsys):
    content = run(RouteSettings(), MACHINE, workspace)
    paths = (workspace.routing_path, workspace.figure_path("routing.svg"))
    before = [path.stat().st_mtime_ns for path in paths]
    assert run(RouteSettings(), MACHINE, workspace) == content
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert "the routing is up to date" in capsys.readouterr().err
    assert load_routing(workspace.routing_path) == content


def test_it_opens_no_test_image(workspace):
    split = workspace.split(workspace.groups().origin)
    for row in split.rows("test"):
        assert Path(split.images.display_path(int(row))).exists()
    for path in workspace.root.glob("outputs/test/*"):
        path.unlink()
    run(RouteSettings(), MACHINE, workspace)
    assert not list(workspace.root.glob("outputs/test/*"))


def test_a_gate_on_features_asks_all_anyway(workspace, invoke, tiny_config):
    common = ("--config", tiny_config, "-w", workspace.root)
    assert invoke("train-gate", "--input", "features", *common).code == 0
    with pytest.raises(UsageError, match="the experts' features, so it has to ask all"):
        run(RouteSettings(), MACHINE, workspace)


def test_a_gate_on_the_flat_network_asks_few(workspace, invoke, tiny_config):
    common = ("--config", tiny_config, "-w", workspace.root)
    assert invoke("train-flat", *common).code == 0
    assert invoke("train-gate", "--input", "flat", *common).code == 0
    content = run(RouteSettings(), MACHINE, workspace)
    assert content.best.passes <= T


def test_without_a_gate(workspace):
    workspace.gate_path.unlink()
    with pytest.raises(ArtifactError, match="run `deepme train-gate`"):
        run(RouteSettings(), MACHINE, workspace)


@pytest.mark.parametrize("route", [{"route_top": 2}, {"route_least": 0.4}])
def test_evaluated_it_asks_fewer_experts(workspace, route):
    settings = EvaluateSettings(topk=(1,), fusion=("gate", "equal"), **route)
    gate, equal = evaluate.run(settings, MACHINE, workspace)
    top, least = route.get("route_top", T), route.get("route_least", 0)

    def keep(s):
        order = np.argsort(-s, kind="stable")[:top]
        return [t for t in order if s[t] >= least] or [int(s.argmax())]

    passes, macro = recount(workspace, "test", keep)
    assert gate.expert_passes == pytest.approx(passes)
    assert gate.macro["1"] == pytest.approx(macro)
    assert gate.system == "deepme-routed"
    assert (equal.system, equal.expert_passes) == ("deepme-nogate", T)


def test_printed_and_as_json(workspace, invoke):
    machine = ("--device", "cpu", "--workers", 0, "-w", workspace.root)
    shown = invoke("route", *machine)
    assert shown.code == 0, shown.stderr
    content = load_routing(workspace.routing_path)
    assert content.best.options in shown.stdout
    assert "chosen for `deepme evaluate`: --route-" in shown.stdout
    told = invoke("route", "--json", *machine)
    assert f'"chosen": {content.chosen}' in told.stdout
