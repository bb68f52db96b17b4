"""What a run will take: counted exactly, timed by a short measurement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deepme import planning
from deepme.demo import demo_recipe
from deepme.errors import ArtifactError
from deepme.planning import Speed, plan
from deepme.recipe import Recipe
from deepme.workspace import Workspace

SPEED = Speed(training=100.0, forward=300.0, loading=50.0, memory=1, weights=1000)


@pytest.fixture
def workspace(tiny_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A finished workspace on a machine of known speed."""
    monkeypatch.setattr(planning, "_measure", lambda *_: SPEED)
    return Workspace(tiny_workspace)


@pytest.fixture
def recipe() -> Recipe:
    whole = demo_recipe()
    return replace(
        whole,
        expert=replace(whole.expert, warmup_epochs=2, epochs=3, weights="none"),
        gate=replace(whole.gate, epochs=4, weights="none"),
        evaluate=replace(whole.evaluate, fusion=("gate",)),
    )


def stages(found: planning.Plan) -> dict[str, planning.PlannedStage]:
    return {stage.command: stage for stage in found.stages}


def test_passes_and_disk_are_counted(workspace, recipe):
    found = plan(recipe, workspace)
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    own = [len(split.rows("train", members)) for members in groups.members]
    rows = {name: len(split.rows(name)) for name in ("train", "val", "test")}
    assert found.images == rows
    assert found.largest == max(own)
    by_name = stages(found)
    assert list(by_name) == ["train-expert", "train-gate", "evaluate"]
    assert by_name["train-expert"].passes == 5 * sum(own)
    asked = 3 * (rows["train"] + rows["val"])
    assert by_name["train-gate"].passes == asked + 4 * rows["train"]
    assert by_name["evaluate"].passes == 4 * rows["test"]
    logits = sum(4 * len(members) + 1 for members in groups.members)
    gate = logits * (rows["train"] + rows["val"]) + 3 * SPEED.weights
    assert by_name["train-gate"].disk == gate
    assert by_name["evaluate"].disk == logits * rows["test"]
    assert found.disk == sum(stage.disk for stage in found.stages)


def test_loading_and_computing_add_up_or_go_side_by_side(workspace, recipe):
    alone = stages(plan(recipe, workspace))["evaluate"]
    assert alone.seconds == pytest.approx(alone.passes / 300 + alone.passes / 50)
    for workers, seconds in ((2, alone.passes / 100), (8, alone.passes / 300)):
        machine = replace(recipe.machine, workers=workers)
        with_workers = stages(plan(replace(recipe, machine=machine), workspace))
        assert with_workers["evaluate"].seconds == pytest.approx(seconds)


def test_what_builds_on_the_flat_network_trains_it(workspace, recipe):
    flat = replace(recipe, expert=replace(recipe.expert, weights="flat"))
    found = plan(flat, workspace)
    passes = stages(found)["train-flat"].passes
    assert passes == found.images["train"] * recipe.flat.epochs


@pytest.mark.parametrize(
    ("seconds", "at_a_time", "expected"),
    [([4, 3, 2, 1], 1, 10), ([4, 3, 2, 1], 2, 5), ([9, 1, 1], 3, 9)],
)
def test_the_longest_go_first(seconds, at_a_time, expected):
    assert planning._makespan(seconds, at_a_time) == expected


def test_it_measures_this_machine(tiny_workspace, tiny_config, invoke, monkeypatch):
    monkeypatch.setattr(planning, "MEASURE_SECONDS", 0.1)
    arguments = ("plan", "--config", tiny_config, "-w", tiny_workspace)
    ended = invoke(*arguments, "--json")
    assert ended.code == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert all(told["speed"][name] > 0 for name in told["speed"])
    assert told["speed"]["forward"] > told["speed"]["training"]
    assert told["seconds"] == pytest.approx(sum(s["seconds"] for s in told["stages"]))
    shown = invoke(*arguments)
    assert "train-expert" in shown.stdout
    assert "in all" in shown.stdout
    assert "1 expert at a time" in shown.stdout


def test_before_cluster_it_names_the_command(tmp_path, recipe):
    with pytest.raises(ArtifactError, match="run `deepme cluster`"):
        plan(recipe, Workspace(tmp_path))
