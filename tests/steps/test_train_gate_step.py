from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deepme import asking, outputs
from deepme.artifacts.evaluation import load_evaluation
from deepme.artifacts.split import ImageIndex
from deepme.config import EvaluateSettings, GateSettings, MachineSettings
from deepme.errors import ArtifactError, InputError, Interrupted
from deepme.images import loading
from deepme.images.reading import read_bytes
from deepme.steps import evaluate
from deepme.steps.train_gate import run
from deepme.training.gate import GateTask
from deepme.workspace import Workspace

SETTINGS = {
    "weights": "none",
    "warmup_epochs": 0,
    "epochs": 1,
    "batch_size": 16,
    "lr": 0.05,
}
MACHINE = MachineSettings(device="cpu", workers=0)


@pytest.fixture
def workspace(tiny_workspace: Path) -> Workspace:
    return Workspace(tiny_workspace)


def train(
    workspace: Workspace, *, machine: MachineSettings = MACHINE, **settings: object
) -> Path:
    return run(GateSettings(**(SETTINGS | settings)), machine, workspace)


def times(workspace: Workspace) -> dict[str, int]:
    """When each file of expert outputs was written."""
    return {
        workspace.name_of(path): path.stat().st_mtime_ns
        for path in sorted((workspace.root / "outputs").rglob("*.h5"))
    }


def logits(workspace: Workspace) -> list[np.ndarray]:
    """What each expert says of the training images."""
    found = []
    for number in range(1, workspace.groups().num_groups + 1):
        path = workspace.outputs_path("train", workspace.expert(number))
        with h5py.File(path) as file:
            found.append(file["logits"][()])
    return found


def retrain_expert(workspace: Workspace, number: int, invoke, config: Path) -> None:
    ended = invoke(
        *("train-expert", "--group", number, "--seed", 9, "--epochs", 0),
        *("--config", config, "-w", workspace.root),
    )
    assert ended.code == 0, ended.stderr


class TestResult:
    def test_training_json_tells_what_was_trained(self, workspace):
        path = train(workspace)
        assert path == workspace.gate_path
        training = workspace.gate().training
        assert training.group == 0
        assert training.outputs == ("1", "2", "3")
        assert training.backbone == "vgg_tiny"
        split = workspace.split(workspace.groups().origin)
        assert training.images == len(split.rows("train"))
        assert [(e.stage, e.epoch) for e in training.history] == [("gate", 1)]
        assert 0 <= training.history[0].val_top1 <= 1

    def test_settings_name_the_backbone_in_force(self, workspace):
        train(workspace)
        settings = GateSettings(**SETTINGS, backbone="vgg_tiny").to_dict()
        assert workspace.gate().origin.header.settings == settings

    def test_it_is_made_from_the_outputs_of_training_and_validation(self, workspace):
        train(workspace)
        made_from = workspace.gate().origin.header.made_from
        outputs = {name for name in made_from if name.startswith("outputs/")}
        assert outputs == {
            f"outputs/{subset}/{number:02d}.h5"
            for subset in ("train", "val")
            for number in (1, 2, 3)
        }

    def test_on_features_it_is_a_small_network_on_all_experts(self, workspace):
        train(workspace, input="features")
        weights = load_file(workspace.gate().weights)
        assert weights["hidden.weight"].shape == (256, 3 * 64)
        assert workspace.gate().training.num_features == 256

    def test_with_confidences_there_are_three_more_an_expert(self, workspace):
        train(workspace, input="confidences")
        weights = load_file(workspace.gate().weights)
        assert weights["hidden.weight"].shape == (256, 3 * 64 + 3 * 3)

    def test_on_the_flat_network_it_begins_as_its_coarse_classifier(
        self, workspace, invoke, tiny_config
    ):
        common = ("--config", tiny_config, "-w", workspace.root)
        assert not invoke("train-flat", *common).code
        train(workspace, input="flat", epochs=0)
        made_from = workspace.gate().origin.header.made_from
        assert "outputs/train/flat.h5" in made_from
        assert "outputs/val/flat.h5" in made_from
        settings = EvaluateSettings(topk=(1,), fusion=("gate", "coarse"))
        gate, coarse = evaluate.run(settings, MACHINE, workspace)
        path = workspace.evaluation_path("deepme")
        tested = load_evaluation(path).origin.header.made_from
        assert "outputs/test/flat.h5" in tested
        assert gate.macro == coarse.macro
        assert gate.right_group == coarse.right_group
        assert gate.calibration_error == pytest.approx(coarse.calibration_error)
        train(workspace, input="flat", epochs=3)
        assert load_file(workspace.gate().weights)["head.weight"].abs().max() > 0
        assert not invoke("train-flat", "--seed", 5, *common).code
        with pytest.raises(ArtifactError, match=r"gate/training\.json is stale"):
            workspace.gate()

    def test_without_the_flat_network(self, workspace):
        with pytest.raises(ArtifactError, match="run `deepme train-flat`"):
            train(workspace, input="flat")

    def test_the_flat_network_must_see_what_the_experts_see(
        self, workspace, invoke, tiny_config
    ):
        larger = ("--image-size", 16, "--epochs", 0)
        common = ("--config", tiny_config, "-w", workspace.root)
        assert not invoke("train-flat", *larger, *common).code
        message = r"sees 16 pixels, the experts 8; .* needs the same size"
        with pytest.raises(InputError, match=message):
            train(workspace, input="flat")

    @pytest.mark.parametrize("input", ["images", "features"])
    def test_a_temperature_is_learned_beside_it(self, workspace, input):
        train(workspace, input=input, temperature="learned")
        learned = load_file(workspace.gate().weights)
        assert learned["log_temperature"].shape == (3,)
        assert learned["log_temperature"].abs().min() > 0
        train(workspace, input=input)
        assert "log_temperature" not in load_file(workspace.gate().weights)

    def test_from_held_out_images_it_is_not_validated_on_them(self, workspace):
        train(workspace, learn_from="val")
        gate = workspace.gate()
        split = workspace.split(workspace.groups().origin)
        assert gate.training.images == len(split.rows("val"))
        assert gate.training.history[-1].val_top1 is None
        outputs = {
            name for name in gate.origin.header.made_from if name.startswith("outputs")
        }
        assert outputs == {f"outputs/val/{number:02d}.h5" for number in (1, 2, 3)}

    def test_it_learns(self, workspace):
        train(workspace, input="features", epochs=30)
        history = workspace.gate().training.history
        assert history[-1].losses["likelihood"] < history[0].losses["likelihood"]
        assert history[-1].train_top1 > 0.8


class TestCachedOutputs:
    def test_are_used_again(self, workspace, monkeypatch):
        before = times(workspace)
        assert len(before) == 9
        monkeypatch.setattr(outputs, "load_network", _must_not_run)
        train(workspace, lr=0.01)
        assert times(workspace) == before

    def test_are_computed_anew_for_the_expert_that_changed(
        self, workspace, invoke, tiny_config
    ):
        before = times(workspace)
        retrain_expert(workspace, 2, invoke, tiny_config)
        train(workspace)
        changed = {name for name, at in times(workspace).items() if at != before[name]}
        assert changed == {"outputs/train/02.h5", "outputs/val/02.h5"}

    def test_decode_each_image_once_for_all_experts(self, workspace, monkeypatch):
        expected = logits(workspace)
        read: list[int] = []

        def counted(images: ImageIndex, row: int) -> bytes:
            read.append(row)
            return read_bytes(images, row)

        monkeypatch.setattr(loading, "read_bytes", counted)
        rows = workspace.split(workspace.groups().origin).rows("train")
        for room, times in ((asking.WEIGHTS_BYTES, 1), (1, 3)):
            monkeypatch.setattr(asking, "WEIGHTS_BYTES", room)
            shutil.rmtree(workspace.root / "outputs")
            read.clear()
            train(workspace, input="features")
            assert [read.count(row) for row in rows] == [times] * len(rows)
            for found, exact in zip(logits(workspace), expected, strict=True):
                np.testing.assert_array_equal(found, exact)

    def test_are_computed_anew_when_damaged(self, workspace):
        path = workspace.outputs_path("train", workspace.expert(1))
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        train(workspace)
        assert workspace.gate_path.exists()
        assert path.read_bytes() != raw

    def test_with_features_serve_where_none_are_needed(self, workspace, monkeypatch):
        train(workspace, input="features")
        before = times(workspace)
        monkeypatch.setattr(outputs, "load_network", _must_not_run)
        train(workspace, lr=0.02)
        assert times(workspace) == before

    def test_test_images_are_never_touched(self, workspace):
        path = workspace.outputs_path("test", workspace.expert(1))
        path.unlink()
        train(workspace)
        assert not path.exists()


class TestCompactOutputs:
    """The likelihood needs no more of an expert than its sum and the true class."""

    COMPACT = MachineSettings(device="cpu", workers=0, outputs="compact")

    @pytest.fixture(autouse=True)
    def one_kept(self, monkeypatch):
        monkeypatch.setattr(outputs, "KEPT", 1)

    def names(self, workspace):
        with h5py.File(workspace.outputs_path("train", workspace.expert(1))) as file:
            return set(file)

    def test_give_the_same_gate(self, workspace):
        train(workspace, lr=0.01)
        exact = load_file(workspace.gate().weights)
        train(workspace, lr=0.01, machine=self.COMPACT)
        found = load_file(workspace.gate().weights)
        for name, values in exact.items():
            torch.testing.assert_close(found[name], values, atol=1e-5, rtol=1e-4)
        assert self.names(workspace) == {"compact", "readable"}

    @pytest.mark.parametrize("form", ["exact", "compact"])
    def test_take_the_space_that_is_planned(self, workspace, form):
        machine = MachineSettings(device="cpu", workers=0, outputs=form)
        train(workspace, machine=machine)
        path = workspace.outputs_path("train", workspace.expert(1))
        rows = len(workspace.split(workspace.groups().origin).rows("train"))
        size = len(workspace.groups().members[0])
        needed = outputs.num_bytes(rows, size, machine)
        assert needed < path.stat().st_size < needed + 2**14

    def test_are_made_where_all_would_take_too_much(self, workspace, monkeypatch):
        monkeypatch.setattr(outputs, "EXACT_BYTES", 0)
        for path in (workspace.root / "outputs").rglob("*.h5"):
            path.unlink()
        train(workspace)
        assert "compact" in self.names(workspace)

    def test_serve_who_does_not_mind(self, workspace, monkeypatch):
        train(workspace, machine=self.COMPACT)
        before = times(workspace)
        with monkeypatch.context() as patch:
            patch.setattr(outputs, "load_network", _must_not_run)
            train(workspace, lr=0.02)
        assert times(workspace) == before
        exact = MachineSettings(device="cpu", workers=0, outputs="exact")
        train(workspace, lr=0.02, machine=exact)
        assert "logits" in self.names(workspace)


def _must_not_run(*_: object) -> None:
    raise AssertionError("an expert was asked again")


class TestWarmUp:
    """All but the trunk learns, and the trunk is asked once."""

    def warm_up(self, workspace, **settings):
        given = {"warmup_epochs": 3, "warmup_lr": 0.1, "epochs": 0} | settings
        train(workspace, **given)
        return load_file(workspace.gate().weights)

    def rows(self, workspace, *subsets):
        split = workspace.split(workspace.groups().origin)
        return [len(split.rows(subset)) for subset in subsets]

    def trunk_of(self, workspace):
        with h5py.File(workspace.features_path("val")) as file:
            return json.loads(file.attrs["deepme"])["settings"]

    @pytest.mark.parametrize("temperature", ["one", "learned"])
    def test_is_on_centre_views_in_half_precision(self, workspace, temperature):
        cached = self.warm_up(workspace, temperature=temperature)
        history = workspace.gate().training.history
        assert [epoch.stage for epoch in history] == ["warmup"] * 3
        views = {"warmup": "views", "augment": "none", "temperature": temperature}
        plain = self.warm_up(workspace, **views)
        moved = 0
        for name, values in plain.items():
            if name.startswith("trunk"):
                torch.testing.assert_close(cached[name], values, atol=0, rtol=0)
            else:
                moved += 1
                scale = float(values.abs().max())
                torch.testing.assert_close(
                    cached[name], values, atol=0.01 * scale, rtol=0
                )
        assert moved == (3 if temperature == "learned" else 2)
        for ours, theirs in zip(
            history, workspace.gate().training.history, strict=True
        ):
            assert ours.losses["total"] == pytest.approx(
                theirs.losses["total"], rel=1e-3
            )
            assert ours.val_top1 == pytest.approx(theirs.val_top1, abs=0.1)

    def test_asks_the_trunk_once(self, workspace, asked):
        self.warm_up(workspace)
        assert asked == self.rows(workspace, "train", "val")
        self.warm_up(workspace, warmup_epochs=4)
        assert len(asked) == 2
        self.warm_up(workspace, seed=1)
        assert len(asked) == 4

    def test_shares_the_features_that_experts_have_warmed_up_with(
        self, workspace, asked, invoke, tiny_config
    ):
        common = ("--config", tiny_config, "-w", workspace.root)
        assert not invoke("train-flat", *common).code
        warm = ("--weights", "flat", "--warmup", "cache")
        assert not invoke("train-expert", "--group", 1, *warm, *common).code
        assert len(asked) == 2
        self.warm_up(workspace, weights="flat")
        assert len(asked) == 2

    def test_on_smaller_images_has_features_of_those(self, workspace, asked):
        self.warm_up(workspace)
        self.warm_up(workspace, shrink=2)
        assert len(asked) == 4
        assert self.trunk_of(workspace)["shrink"] == 2

    def test_from_held_out_images_asks_about_no_other(self, workspace, asked):
        self.warm_up(workspace, learn_from="val")
        assert asked == self.rows(workspace, "val")
        assert not workspace.features_path("train").exists()

    def test_all_layers_learn_after_it(self, workspace):
        warm = self.warm_up(workspace)
        whole = self.warm_up(workspace, epochs=1)
        stages = [epoch.stage for epoch in workspace.gate().training.history]
        assert stages == ["warmup"] * 3 + ["gate"]
        assert all(not torch.equal(whole[name], warm[name]) for name in warm)

    def test_without_it_no_features_are_kept(self, workspace, asked):
        train(workspace)
        self.warm_up(workspace, input="features")
        assert not asked
        assert not (workspace.root / "features").exists()


class TestRerun:
    def test_the_same_again_trains_nothing(self, workspace, capsys):
        path = train(workspace)
        before = path.stat().st_mtime_ns
        train(workspace)
        assert path.stat().st_mtime_ns == before
        assert "the gate is up to date" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "change",
        [{"margin": 1.0}, {"beta": 0.5}, {"input": "features"}, {"seed": 1}],
        ids=str,
    )
    def test_other_settings_train_anew(self, workspace, change):
        path = train(workspace)
        before = path.stat().st_mtime_ns
        train(workspace, **change)
        assert path.stat().st_mtime_ns != before

    def test_it_is_reproducible_to_the_byte(self, workspace):
        first = train(workspace).read_bytes()
        workspace.gate_path.unlink()
        assert train(workspace).read_bytes() == first


@pytest.mark.parametrize(
    ("source", "warmup_epochs"), [("images", 0), ("images", 2), ("features", 1)]
)
def test_interrupted_and_continued_it_is_the_same_to_the_byte(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    warmup_epochs: int,
) -> None:
    settings = {"input": source, "warmup_epochs": warmup_epochs, "epochs": 2}
    train(workspace, **settings)
    quiet = workspace.gate().weights.read_bytes()
    workspace.gate_path.unlink()
    loss, steps = GateTask.loss, iter(range(100))

    def interrupted_at_3(task: GateTask, batch: object) -> object:
        if next(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(task, batch)

    monkeypatch.setattr(GateTask, "loss", interrupted_at_3)
    with pytest.raises(Interrupted):
        train(workspace, **settings)
    torch.manual_seed(99)
    train(workspace, **settings)
    assert workspace.gate().weights.read_bytes() == quiet


class TestRefusals:
    def test_a_missing_expert_names_its_command(self, workspace):
        workspace.expert_path(2).unlink()
        with pytest.raises(ArtifactError, match="run `deepme train-expert --group 2`"):
            train(workspace)

    def test_an_expert_of_other_groups_is_stale(self, workspace, invoke):
        ended = invoke("cluster", "-w", workspace.root, "--T", 2)
        assert ended.code == 0
        message = "is stale: groups.json has changed .* `deepme train-expert --group 1`"
        with pytest.raises(ArtifactError, match=message):
            train(workspace)
