from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deepme.artifacts.expert import load_omega
from deepme.config import ClusterSettings, ExpertSettings, MachineSettings
from deepme.errors import InputError, Interrupted, UsageError
from deepme.inference import load_network
from deepme.steps import cluster
from deepme.steps import split as split_step
from deepme.steps.train_expert import run
from deepme.training.expert import ExpertTask
from deepme.workspace import Workspace

SETTINGS = {
    "backbone": "vgg_small",
    "weights": "none",
    "image_size": 8,
    "warmup_epochs": 1,
    "epochs": 1,
    "batch_size": 16,
}
MACHINE = MachineSettings(device="cpu", workers=0, on_bad="skip", max_bad=0.5)


@pytest.fixture
def workspace(finished_workspace: Path, tmp_path: Path) -> Workspace:
    """A workspace with groups and split, yet without experts."""
    root = tmp_path / "workspace"
    root.mkdir()
    for name in ("similarity.h5", "groups.json", "memberships.h5", "split.h5"):
        shutil.copy(finished_workspace / name, root)
    return Workspace(root)


def train(workspace: Workspace, number: int = 1, **settings: object) -> Path:
    return run(ExpertSettings(**(SETTINGS | settings)), MACHINE, workspace, number)


def weights_of(workspace: Workspace, number: int = 1) -> bytes:
    return workspace.expert(number).weights.read_bytes()


class TestResult:
    def test_training_json_tells_what_was_trained(self, workspace):
        path = train(workspace, 2)
        assert path == workspace.expert_path(2)
        training = workspace.expert(2).training
        group = workspace.groups().group(2)
        assert training.group == 2
        assert training.outputs == group.classes
        assert training.backbone == "vgg_small"
        assert training.image_size == 8
        assert training.num_features == 256
        split = workspace.split(workspace.groups().origin)
        members = workspace.groups().members[1]
        assert training.images == len(split.rows("train", members))
        assert [(e.stage, e.epoch) for e in training.history] == [
            ("warmup", 1),
            ("finetune", 1),
        ]
        assert training.skipped == ()
        assert training.versions["torch"] == torch.__version__

    def test_the_resolved_settings_are_beside_the_weights(self, workspace):
        train(workspace, lambda2=0.125)
        settings = ExpertSettings(**SETTINGS, lambda2=0.125)
        assert workspace.expert(1).origin.header.settings == settings.to_dict()

    def test_the_weights_make_the_network_that_was_trained(self, workspace):
        train(workspace)
        network = load_network(workspace.expert(1), workspace)
        images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
        logits, _ = network(images)
        assert logits.shape == (2, len(workspace.groups().group(1).classes))
        saved = load_file(workspace.expert(1).weights)
        assert torch.equal(network.head.weight, saved["head.weight"])

    def test_omega_is_kept(self, workspace):
        train(workspace)
        size = len(workspace.groups().group(1).classes)
        path = workspace.expert_path(1).with_name("visual_similarity.h5")
        omega = load_omega(path, size)
        assert np.array_equal(omega, omega.T)
        assert 0 < omega.max() <= 1

    def test_no_checkpoint_is_left(self, workspace):
        train(workspace)
        names = {p.name for p in workspace.expert_path(1).parent.iterdir()}
        assert {name for name in names if not name.startswith(".")} == {
            "training.json",
            "weights.safetensors",
            "visual_similarity.h5",
        }

    def test_it_is_reproducible_to_the_byte(self, workspace):
        train(workspace)
        first = weights_of(workspace)
        shutil.rmtree(workspace.root / "experts")
        train(workspace)
        assert weights_of(workspace) == first

    def test_experts_start_from_different_weights(self, workspace):
        for number in (1, 2):
            train(workspace, number, warmup_epochs=0, epochs=0)
        one, two = (
            load_file(workspace.expert(number).weights)["trunk.blocks.0.weight"]
            for number in (1, 2)
        )
        assert not torch.equal(one, two)

    def test_a_group_of_one_class(self, workspace):
        cluster.run(ClusterSettings(num_groups=12), MACHINE, workspace)
        train(workspace, 5)
        assert len(workspace.expert(5).training.outputs) == 1


class TestRerun:
    def test_the_same_again_trains_nothing(self, workspace, capsys):
        path = train(workspace)
        before = path.stat().st_mtime_ns
        assert train(workspace) == path
        assert path.stat().st_mtime_ns == before
        assert "expert 1 is up to date" in capsys.readouterr().err

    @pytest.mark.parametrize("change", ["lambda3", "weights lost", "weights changed"])
    def test_what_is_not_current_is_trained_anew(self, workspace, change):
        path = train(workspace)
        before = path.stat().st_mtime_ns
        weights = workspace.expert(1).weights
        if change == "weights lost":
            weights.unlink()
        elif change == "weights changed":
            shutil.copy(_other_weights(workspace), weights)
        train(workspace, **({"lambda3": 0.5} if change == "lambda3" else {}))
        assert path.stat().st_mtime_ns != before
        load_network(workspace.expert(1), workspace)

    def test_local_weights_are_known_by_content_not_place(self, workspace, tmp_path):
        train(workspace, 2)
        first = shutil.copy(workspace.expert(2).weights, tmp_path / "a.safetensors")
        path = train(workspace, weights=str(first))
        before = path.stat().st_mtime_ns
        moved = Path(first).rename(tmp_path / "b.safetensors")
        train(workspace, weights=str(moved))
        assert path.stat().st_mtime_ns == before
        recorded = workspace.expert(1).origin.header.settings["weights"]
        assert recorded.startswith("sha256:")

    def test_local_weights_start_the_trunk(self, workspace, tmp_path):
        train(workspace, 2)
        local = shutil.copy(workspace.expert(2).weights, tmp_path / "a.safetensors")
        train(workspace, warmup_epochs=0, epochs=0, weights=str(local))
        ours, theirs = load_file(workspace.expert(1).weights), load_file(local)
        trunk = [name for name in theirs if name.startswith("trunk.")]
        assert trunk
        assert all(torch.equal(ours[name], theirs[name]) for name in trunk)


def _other_weights(workspace: Workspace) -> Path:
    train(workspace, 2)
    return workspace.expert(2).weights


def test_interrupted_and_continued_it_is_the_same_to_the_byte(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(workspace)
    quiet = weights_of(workspace), workspace.expert_path(1).read_bytes()
    shutil.rmtree(workspace.root / "experts")
    loss, steps = ExpertTask.loss, iter(range(100))

    def interrupted_at_2(task: ExpertTask, batch: object) -> object:
        if next(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(task, batch)

    monkeypatch.setattr(ExpertTask, "loss", interrupted_at_2)
    with pytest.raises(Interrupted) as caught:
        train(workspace)
    assert caught.value.exit_code == 143
    assert not workspace.expert_path(1).exists()
    assert workspace.expert_path(1).with_name("checkpoint.safetensors").exists()
    train(workspace)
    assert (weights_of(workspace), workspace.expert_path(1).read_bytes()) == quiet


class TestRefusals:
    @pytest.mark.parametrize("number", [0, 4, -1])
    def test_no_such_group(self, workspace, number):
        with pytest.raises(UsageError, match=f"names group {number}, expected 1 to 3"):
            train(workspace, number)

    def test_a_class_without_training_images(self, workspace, tiny_images, tmp_path):
        images = shutil.copytree(tiny_images, tmp_path / "images")
        victim = workspace.groups().group(1).classes[0]
        for path in (images / victim).iterdir():
            path.unlink()
        settings = split_step.SplitSettings()
        split_step.run(settings, MACHINE, workspace, data=images, scan=False)
        message = (
            f"1 of the 4 classes of group 1 have no training image, first {victim}"
        )
        with pytest.raises(InputError, match=message):
            train(workspace)
        train(workspace, 2)

    def test_no_such_device(self, workspace):
        machine = MachineSettings(device="cuda:99", workers=0)
        with pytest.raises(
            UsageError, match="--device is cuda:99, expected auto or one"
        ):
            run(ExpertSettings(**SETTINGS), machine, workspace, 1)

    def test_a_weights_file_that_is_not_there(self, workspace):
        with pytest.raises(InputError, match=r"--weights nowhere\.pth: No"):
            train(workspace, weights="nowhere.pth")


class TestCommand:
    @pytest.mark.parametrize(
        ("which", "numbers"), [("all", [1, 2, 3]), ("2-3,1", [2, 3, 1]), ("3", [3])]
    )
    def test_trains_the_groups_asked_for(
        self, workspace, invoke, tiny_config, which, numbers
    ):
        ended = invoke(
            *("train-expert", "--group", which, "--epochs", 0, "--warmup-epochs", 0),
            *("-w", workspace.root, "--config", tiny_config),
        )
        assert ended.code == 0, ended.stderr
        expected = [str(workspace.expert_path(number)) for number in numbers]
        assert ended.stdout.splitlines() == expected
