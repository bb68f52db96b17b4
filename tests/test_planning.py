"""What a run will take: counted exactly, timed by a short measurement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deepme import measuring, planning
from deepme.demo import demo_recipe
from deepme.errors import ArtifactError
from deepme.networks import create_network
from deepme.planning import Speed, plan
from deepme.recipe import Recipe
from deepme.workspace import Workspace

SPEED = Speed(
    training=100.0,
    forward=300.0,
    head=10_000.0,
    loading=50.0,
    memory=1,
    weights=1000,
    features=8,
)


@pytest.fixture
def workspace(tiny_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A finished workspace on a machine of known speed."""
    monkeypatch.setattr(planning, "measure", lambda *_: SPEED)
    return Workspace(tiny_workspace)


@pytest.fixture
def recipe() -> Recipe:
    whole = demo_recipe()
    return replace(
        whole,
        expert=replace(whole.expert, warmup_epochs=2, epochs=3, weights="none"),
        gate=replace(whole.gate, warmup_epochs=0, epochs=4, weights="none"),
        evaluate=replace(whole.evaluate, fusion=("gate",)),
    )


def stages(found: planning.Plan) -> dict[str, planning.PlannedStage]:
    return {stage.command: stage for stage in found.stages}


def test_passes_and_disk_are_counted(workspace, recipe):
    found = plan(recipe, workspace)
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    own, val = (
        [len(split.rows(subset, members)) for members in groups.members]
        for subset in ("train", "val")
    )
    rows = {name: len(split.rows(name)) for name in ("train", "val", "test")}
    assert found.images == rows
    assert found.largest == max(own)
    by_name = stages(found)
    assert list(by_name) == ["train-expert", "train-gate", "evaluate"]
    assert by_name["train-expert"].passes == 5 * (sum(own) + sum(val))
    asked = 3 * (rows["train"] + rows["val"])
    learned = 4 * (rows["train"] + rows["val"])
    assert by_name["train-gate"].passes == asked + learned
    assert by_name["evaluate"].passes == 4 * rows["test"] + rows["val"]
    logits = sum(4 * len(members) + 1 for members in groups.members)
    gate = logits * (rows["train"] + rows["val"]) + 3 * SPEED.weights
    assert by_name["train-gate"].disk == gate
    assert by_name["evaluate"].disk == logits * rows["test"]
    assert found.disk == sum(stage.disk for stage in found.stages)


def test_a_trunk_that_does_not_change_is_asked_once(workspace, recipe):
    views = stages(plan(recipe, workspace))["train-expert"]
    cached = replace(recipe.expert, warmup="cache", weights="hub", warmup_epochs=200)
    recipe = replace(recipe, expert=cached)
    found = plan(recipe, workspace)
    images = found.images["train"] + found.images["val"]
    expert = stages(found)["train-expert"]
    per_epoch = views.passes // 5
    assert expert.passes == images + 3 * per_epoch
    assert expert.disk == views.disk + images * (2 * SPEED.features + 1)
    one_epoch_less = replace(recipe, expert=replace(cached, warmup_epochs=199))
    less = stages(plan(one_epoch_less, workspace))["train-expert"]
    assert expert.seconds - less.seconds == pytest.approx(per_epoch / SPEED.head)

    flat = replace(recipe.flat, warmup="cache", weights="hub", warmup_epochs=2)
    both = replace(
        recipe, flat=flat, evaluate=replace(recipe.evaluate, fusion=("gate", "flat"))
    )
    found = stages(plan(both, workspace))
    assert found["train-flat"].passes == images * (1 + flat.epochs)
    assert found["train-expert"].passes == 3 * per_epoch
    other = replace(both, flat=replace(flat, image_size=64))
    assert stages(plan(other, workspace))["train-expert"].passes == expert.passes


def test_attention_trains_all_experts_together(workspace, recipe):
    attends = replace(
        recipe,
        attention=replace(recipe.attention, warmup_epochs=30, epochs=2),
        evaluate=replace(recipe.evaluate, fusion=("attention",)),
    )
    found = plan(attends, workspace)
    by_name = stages(found)
    assert list(by_name)[-2:] == ["train-attention", "evaluate"]
    images = found.images["train"] + found.images["val"]
    assert by_name["train-attention"].passes == 3 * images * (1 + 2)
    features = 3 * images * (2 * SPEED.features + 1)
    assert by_name["train-attention"].disk == 3 * 3 * SPEED.weights + features
    answered = found.images["val"] + found.images["test"]
    assert by_name["evaluate"].passes == 3 * answered


@pytest.mark.parametrize(
    ("settings", "networks", "epochs"),
    [
        ({"input": "flat"}, 4, 0),
        ({"input": "features"}, 3, 0),
        ({"learn_from": "val"}, 3, 4),
    ],
    ids=str,
)
def test_what_a_gate_asks(workspace, recipe, settings, networks, epochs):
    found = plan(replace(recipe, gate=replace(recipe.gate, **settings)), workspace)
    on_val = settings.get("learn_from") == "val"
    images = found.images["val"] + (0 if on_val else found.images["train"])
    passes = stages(found)["train-gate"].passes
    assert passes == (networks + epochs) * images


@pytest.mark.parametrize(
    ("input", "flat", "features"),
    [
        ("images", 0, 0),
        ("flat", 1, 1),
        ("features", 0, 3),
        ("confidences", 0, 3),
    ],
)
def test_what_a_gate_keeps_on_disk(workspace, recipe, input, flat, features):
    found = plan(replace(recipe, gate=replace(recipe.gate, input=input)), workspace)
    images = found.images["train"] + found.images["val"]
    classes = [len(members) for members in workspace.groups().members]
    logits = sum(4 * count + 1 for count in classes) + flat * (4 * 12 + 1)
    kept = images * (logits + features * (2 * SPEED.features + 1))
    assert stages(found)["train-gate"].disk == kept + 3 * SPEED.weights


def test_a_gates_frozen_trunk_is_asked_once_or_in_every_epoch(workspace, recipe):
    plain = stages(plan(recipe, workspace))["train-gate"]
    for warmup, asked, kept in (("cache", 1, 1), ("views", 10, 0)):
        gate = replace(recipe.gate, warmup=warmup, warmup_epochs=10)
        found = plan(replace(recipe, gate=gate), workspace)
        images = found.images["train"] + found.images["val"]
        warm = stages(found)["train-gate"]
        assert warm.passes - plain.passes == asked * images
        assert warm.disk - plain.disk == kept * images * (2 * SPEED.features + 1)
        heads = 10 * images / SPEED.head if kept else 0
        seconds = asked * images * (1 / SPEED.forward + 1 / SPEED.loading)
        assert warm.seconds - plain.seconds == pytest.approx(seconds + heads)


def test_a_gate_on_smaller_images_computes_less_and_loads_the_same(workspace, recipe):
    whole = plan(recipe, workspace)
    small = plan(replace(recipe, gate=replace(recipe.gate, shrink=2)), workspace)
    images = whole.images
    learned, validated = 4 * images["train"], 4 * images["val"]
    for command, fewer, seconds in (
        (
            "train-gate",
            learned + validated,
            learned * 3 / 4 / 100 + validated * 3 / 4 / 300,
        ),
        (
            "evaluate",
            images["val"] + images["test"],
            (images["val"] + images["test"]) * 3 / 4 / 300,
        ),
    ):
        before, after = (stages(found)[command] for found in (whole, small))
        assert before.passes - after.passes == pytest.approx(fewer * 3 / 4, abs=8)
        assert before.seconds - after.seconds == pytest.approx(seconds, abs=0.1)


def test_loading_and_computing_add_up_or_go_side_by_side(workspace, recipe):
    found = plan(recipe, workspace)
    alone = stages(found)["evaluate"]
    # The three experts share a pass over the test images; the gate sees all anew.
    loaded = 2 * found.images["test"] + found.images["val"]
    assert alone.seconds == pytest.approx(alone.passes / 300 + loaded / 50)
    for workers, seconds in ((1, loaded / 50), (8, alone.passes / 300)):
        machine = replace(recipe.machine, workers=workers)
        with_workers = stages(plan(replace(recipe, machine=machine), workspace))
        assert with_workers["evaluate"].seconds == pytest.approx(seconds)


@pytest.mark.parametrize(("weights", "loads"), [(1000, 1), (3 * 2**30, 3)])
def test_an_image_is_loaded_once_for_as_many_experts_as_have_room(
    workspace, recipe, monkeypatch, weights, loads
):
    monkeypatch.setattr(planning, "measure", lambda *_: replace(SPEED, weights=weights))
    asks = replace(recipe, gate=replace(recipe.gate, input="features"))
    found = plan(asks, workspace)
    images = found.images["train"] + found.images["val"]
    seconds = 3 * images / SPEED.forward + loads * images / SPEED.loading
    assert stages(found)["train-gate"].seconds == pytest.approx(seconds)


def test_attention_loads_an_image_once_for_all_its_experts(workspace, recipe):
    attends = replace(
        recipe,
        attention=replace(recipe.attention, warmup_epochs=0, epochs=1),
        evaluate=replace(recipe.evaluate, fusion=("attention",)),
    )
    found = plan(attends, workspace)
    train, val, test = (found.images[name] for name in ("train", "val", "test"))
    by_name = stages(found)
    learned = 3 * (train / SPEED.training + val / SPEED.forward)
    loaded = (train + val) / SPEED.loading
    assert by_name["train-attention"].seconds == pytest.approx(learned + loaded)
    asked = (val + test) * (3 / SPEED.forward + 1 / SPEED.loading)
    assert by_name["evaluate"].seconds == pytest.approx(asked)


def test_what_builds_on_the_flat_network_trains_it(workspace, recipe):
    flat = replace(recipe, expert=replace(recipe.expert, weights="flat"))
    found = plan(flat, workspace)
    passes = stages(found)["train-flat"].passes
    each = found.images["train"] + found.images["val"]
    assert passes == each * recipe.flat.epochs


@pytest.mark.parametrize(
    ("seconds", "at_a_time", "expected"),
    [([4, 3, 2, 1], 1, 10), ([4, 3, 2, 1], 2, 5), ([9, 1, 1], 3, 9)],
)
def test_the_longest_go_first(seconds, at_a_time, expected):
    assert planning._makespan(seconds, at_a_time) == expected


def test_it_measures_this_machine(tiny_workspace, tiny_config, invoke, monkeypatch):
    monkeypatch.setattr(measuring, "MEASURE_SECONDS", 0.1)
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
    assert f"measured {told['backbone']} at {told['image_size']} pix" in shown.stdout


def test_before_cluster_it_names_the_command(tmp_path, recipe):
    with pytest.raises(ArtifactError, match="run `deepme cluster`"):
        plan(recipe, Workspace(tmp_path))


def test_on_a_cpu_a_large_batch_is_measured_in_part(
    tiny_workspace, tiny_config, invoke, monkeypatch
):
    monkeypatch.setattr(measuring, "MEASURE_SECONDS", 0.01)
    sizes: list[int] = []

    def watched(*arguments, **options):
        network = create_network(*arguments, **options)
        network.register_forward_pre_hook(lambda _, seen: sizes.append(len(seen[0])))
        return network

    monkeypatch.setattr(measuring, "create_network", watched)
    memory = {}
    for batch in (2, 4, 8000):
        sizes.clear()
        arguments = ("plan", "--config", tiny_config, "--batch-size", batch, "--json")
        told = invoke(*arguments, "-w", tiny_workspace)
        assert told.code == 0, told.stderr
        memory[batch] = json.loads(told.stdout)["speed"]["memory"]
        assert set(sizes) == {min(batch, 4)}
    # Of vgg_tiny's first convolution alone the output: 8 channels of 8 × 8 numbers.
    assert memory[8000] - memory[4] > 7996 * 4 * 8 * 8 * 8
