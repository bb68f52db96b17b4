"""The flat network, and experts that build on it or know images of other groups."""

# ruff: noqa: N806
from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from injection import die, in_child
from safetensors.torch import load_file
from torch.nn import functional

from deepme.artifacts.expert import NONE_OF_THESE
from deepme.config import (
    EvaluateSettings,
    ExpertSettings,
    FlatSettings,
    GateSettings,
    MachineSettings,
)
from deepme.errors import ArtifactError, UsageError
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.inference import load_network
from deepme.steps import evaluate, train_expert, train_flat, train_gate
from deepme.training.classifier import ClassifierTask
from deepme.workspace import Workspace

SETTINGS = {
    "backbone": "vgg_small",
    "weights": "none",
    "image_size": 8,
    "warmup_epochs": 1,
    "epochs": 1,
    "batch_size": 16,
}
MACHINE = MachineSettings(device="cpu", workers=0)


@pytest.fixture
def workspace(finished_workspace: Path, tmp_path: Path) -> Workspace:
    """Classes, images and groups; nothing is trained."""
    root = tmp_path / "workspace"
    root.mkdir()
    for name in ("similarity.h5", "groups.json", "memberships.h5", "split.h5"):
        shutil.copy(finished_workspace / name, root)
    return Workspace(root)


def flat(workspace: Workspace, **settings: object) -> Path:
    return train_flat.run(FlatSettings(**(SETTINGS | settings)), MACHINE, workspace)


def expert(workspace: Workspace, **settings: object) -> Path:
    chosen = ExpertSettings(**(SETTINGS | settings))
    return train_expert.run(chosen, MACHINE, workspace, 1)


class TestFlat:
    def test_it_needs_no_groups_and_knows_all_classes(self, workspace):
        (workspace.root / "groups.json").unlink()
        assert flat(workspace) == workspace.flat_path
        training = workspace.flat().training
        assert training.outputs == workspace.similarity().classes
        split = workspace.split(workspace.similarity().origin)
        assert training.images == len(split.rows("train"))
        assert set(training.history[-1].losses) == {"total", "cross_entropy", "ridge"}

    def test_its_loss_is_cross_entropy_and_ridge(self, workspace, monkeypatch):
        seen = []
        real = ClassifierTask.loss

        def watched(task: ClassifierTask, batch: object) -> object:
            task.network.eval()
            with torch.no_grad():
                logits_BC, _ = task.network(batch.inputs)
            ce = functional.cross_entropy(logits_BC, batch.labels)
            ridge = task.network.head.weight.detach().square().sum()
            loss = real(task, batch)
            seen.append((float(loss.total.detach()), float(ce + 0.25 * ridge)))
            return loss

        monkeypatch.setattr(ClassifierTask, "loss", watched)
        flat(workspace, lambda1=0.25, augment="none")
        assert len(seen) > 2
        assert np.allclose(*np.transpose(seen), rtol=1e-4)

    def test_again_it_trains_nothing_and_killed_it_goes_on(self, workspace, capsys):
        flat(workspace)
        weights = workspace.flat().weights.read_bytes()
        flat(workspace)
        assert "the flat network is up to date" in capsys.readouterr().err
        shutil.rmtree(workspace.flat_path.parent)

        def killed() -> None:
            real, calls = ClassifierTask.loss, iter(range(100))

            def loss(task: ClassifierTask, batch: object) -> object:
                if next(calls) == 8:
                    die()
                return real(task, batch)

            ClassifierTask.loss = loss  # type: ignore[method-assign]
            flat(workspace)

        assert in_child(killed).code == -signal.SIGKILL
        assert workspace.flat_path.with_name("checkpoint.safetensors").exists()
        flat(workspace)
        assert workspace.flat().weights.read_bytes() == weights

    def test_it_cannot_start_from_itself(self):
        with pytest.raises(UsageError, match="--weights is flat, but it is the flat"):
            FlatSettings(weights="flat")

    def test_evaluated_it_is_the_networks_own_answer(self, workspace):
        flat(workspace)
        settings = EvaluateSettings(topk=(1,), fusion=("flat",))
        (result,) = evaluate.run(settings, MACHINE, workspace)
        split = workspace.split(workspace.similarity().origin)
        dataset = ImageDataset(split.images, size=8, augment=False, seed=0)
        network = load_network(workspace.flat(), workspace)
        right = [
            network(batch.inputs)[0].argmax(dim=1) == batch.labels
            for batch in evaluation_batches(dataset, split.rows("test"), 7, 0)
        ]
        assert result.micro["1"] == torch.cat(right).double().mean()
        assert result.system == "vgg16-ext"
        assert all(group.expert == {} for group in result.groups)


class TestStartFromFlat:
    def test_the_trunk_is_its(self, workspace):
        flat(workspace)
        expert(workspace, weights="flat", warmup_epochs=0, epochs=0)
        ours = load_file(workspace.expert(1).weights)
        theirs = load_file(workspace.flat().weights)
        trunk = [name for name in ours if name.startswith("trunk.")]
        assert len(trunk) > 20
        assert all(torch.equal(ours[name], theirs[name]) for name in trunk)

    def test_the_head_is_its_rows_of_the_groups_classes(self, workspace):
        flat(workspace)
        expert(workspace, weights="flat", warmup_epochs=0, epochs=0, others=1.0)
        ours = load_file(workspace.expert(1).weights)
        theirs = load_file(workspace.flat().weights)
        members = torch.from_numpy(workspace.groups().members[0])
        for name in ("head.weight", "head.bias"):
            assert torch.equal(ours[name][: len(members)], theirs[name][members])
        assert len(ours["head.bias"]) == len(members) + 1
        assert ours["head.weight"][-1].abs().max() > 0

    def test_without_it_the_command_is_named(self, workspace):
        with pytest.raises(ArtifactError, match="run `deepme train-flat`"):
            expert(workspace, weights="flat")

    def test_another_flat_network_makes_expert_and_gate_stale(self, workspace):
        flat(workspace)
        for number in (1, 2, 3):
            chosen = ExpertSettings(**(SETTINGS | {"weights": "flat", "epochs": 0}))
            train_expert.run(chosen, MACHINE, workspace, number)
        gate = GateSettings(weights="flat", epochs=0, batch_size=16)
        train_gate.run(gate, MACHINE, workspace)
        ours = load_file(workspace.gate().weights)
        theirs = load_file(workspace.flat().weights)
        name = "trunk.blocks.0.weight"
        assert torch.equal(ours[name], theirs[name])
        flat(workspace, seed=1)
        with pytest.raises(ArtifactError, match=r"stale: flat/.* has changed"):
            workspace.expert(1)
        with pytest.raises(ArtifactError, match="stale"):
            workspace.gate()


class TestOthers:
    def test_a_last_output_stands_for_images_of_other_groups(self, workspace):
        expert(workspace, others=0.5, epochs=0)
        training = workspace.expert(1).training
        group = workspace.groups().group(1)
        assert training.outputs == (*group.classes, NONE_OF_THESE)
        members = workspace.groups().members[0]
        own = len(workspace.split(workspace.groups().origin).rows("train", members))
        assert training.images == own + round(0.5 * own)

    def test_there_are_no_more_than_the_others_have(self, workspace):
        expert(workspace, others=50, epochs=0)
        split = workspace.split(workspace.groups().origin)
        assert workspace.expert(1).training.images == len(split.rows("train"))

    def test_without_them_there_is_no_such_output(self, workspace):
        expert(workspace, others=0, epochs=0)
        training = workspace.expert(1).training
        assert training.outputs == workspace.groups().group(1).classes

    def test_they_are_recognised(self, workspace):
        """Other groups have other colours, which the network learns in a few epochs."""
        expert(workspace, others=1, epochs=8, lr=0.05, lr_end=0.01)
        members = workspace.groups().members[0]
        split = workspace.split(workspace.groups().origin)
        rows = split.rows("test")
        dataset = ImageDataset(split.images, size=8, augment=False, seed=0)
        network = load_network(workspace.expert(1), workspace)
        (batch,) = evaluation_batches(dataset, rows, 100, 0)
        none_B = network(batch.inputs)[0].argmax(dim=1) == len(members)
        outside_B = torch.from_numpy(~np.isin(batch.labels.numpy(), members))
        assert (none_B == outside_B).double().mean() > 0.9
