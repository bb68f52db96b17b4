"""Attention over the experts' features, and joint training."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from injection import die, in_child
from safetensors.torch import load_file

from deepme import asking
from deepme.artifacts.split import ImageIndex
from deepme.config import AttentionSettings, EvaluateSettings, MachineSettings
from deepme.errors import ArtifactError, InputError
from deepme.images import loading
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.images.reading import read_bytes
from deepme.inference import load_experts, load_network
from deepme.steps import evaluate
from deepme.steps.train_attention import run
from deepme.training.attention import AttentionTask
from deepme.workspace import Workspace

SETTINGS = {"warmup_epochs": 1, "epochs": 1, "batch_size": 16}
MACHINE = MachineSettings(device="cpu", workers=0)


@pytest.fixture
def workspace(tiny_workspace: Path) -> Workspace:
    return Workspace(tiny_workspace)


def train(workspace: Workspace, **settings: object) -> Path:
    return run(AttentionSettings(**(SETTINGS | settings)), MACHINE, workspace)


def trunks(workspace: Workspace) -> dict[str, torch.Tensor]:
    """The trained experts' weights under the names they have within attention."""
    return {
        f"trunk.{number - 1}.{name}": value
        for number in (1, 2, 3)
        for name, value in load_file(workspace.expert(number).weights).items()
        if name.startswith("trunk.")
    }


def test_training_json_tells_what_was_trained(workspace):
    assert train(workspace, warmup_epochs=2) == workspace.attention_path
    training = workspace.attention().training
    groups = workspace.groups()
    assert training.outputs == groups.content.classes
    assert training.num_features == 3 * 64
    assert training.images == len(workspace.split(groups.origin).rows("train"))
    stages = [(epoch.stage, epoch.epoch) for epoch in training.history]
    assert stages == [("warmup", 1), ("warmup", 2), ("finetune", 1)]
    assert set(training.history[0].losses) == {"total", "cross_entropy", "ridge"}
    assert 0 <= training.history[-1].val_top1 <= 1


def test_without_joint_training_the_experts_stay_bit_for_bit(workspace):
    """Running means of batch normalisation included."""
    train(workspace, epochs=0)
    ours, theirs = load_file(workspace.attention().weights), trunks(workspace)
    assert len(theirs) > 60
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert not [name for name in ours if name.endswith("head.weight")][1:]


def test_joint_training_changes_its_own_copy_alone(workspace):
    before = {path: path.read_bytes() for path in workspace.root.glob("experts/*/*")}
    train(workspace, lr=0.01)
    ours, theirs = load_file(workspace.attention().weights), trunks(workspace)
    assert not torch.equal(*(some["trunk.1.trunk.blocks.0.weight"]
                             for some in (ours, theirs)))  # fmt: skip
    assert all(path.read_bytes() == raw for path, raw in before.items())


@pytest.mark.parametrize("attention", ["learned", "equal"])
def test_it_learns(workspace, attention):
    train(workspace, warmup_epochs=40, epochs=0, attention=attention)
    history = workspace.attention().training.history
    assert history[-1].losses["cross_entropy"] < history[0].losses["cross_entropy"] / 2
    assert history[-1].val_top1 > 0.9
    ours = load_file(workspace.attention().weights)
    assert ("attention.weight" in ours) == (attention == "learned")
    if attention == "learned":
        assert ours["attention.weight"].abs().max() > 0


@pytest.mark.parametrize("attention", ["learned", "equal"])
def test_from_the_cache_it_learns_what_it_learns_from_the_centre_view(
    workspace, attention
):
    weights = {}
    for warmup in ("cache", "views"):
        train(
            workspace,
            warmup=warmup,
            augment="none",
            warmup_epochs=3,
            epochs=0,
            precision="float32",
            attention=attention,
        )
        weights[warmup] = load_file(workspace.attention().weights)
        assert len(workspace.attention().training.history) == 3
    for name in ("head.weight", "head.bias"):
        ours, theirs = weights["cache"][name], weights["views"][name]
        # The cache is in half precision.
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=float(theirs.abs().max()) / 100
        )


def test_the_cache_is_computed_once_and_leaves_the_gate_as_it_is(workspace):
    gate = workspace.gate().origin
    train(workspace)
    files = sorted(workspace.root.glob("features/*.h5"))
    assert [path.stem for path in files] == [
        f"{subset}-0{number}" for subset in ("train", "val") for number in (1, 2, 3)
    ]
    before = [path.stat().st_mtime_ns for path in files]
    train(workspace, seed=1)
    assert [path.stat().st_mtime_ns for path in files] == before
    assert workspace.gate().origin == gate


def test_evaluated_it_is_the_networks_own_answer(workspace):
    train(workspace)
    settings = EvaluateSettings(topk=(1,), fusion=("attention",))
    (result,) = evaluate.run(settings, MACHINE, workspace)
    split = workspace.split(workspace.similarity().origin)
    dataset = ImageDataset(split.images, size=8, augment=False, seed=0)
    network = load_network(workspace.attention(), workspace)
    right = [
        network(batch.inputs)[0].argmax(dim=1) == batch.labels
        for batch in evaluation_batches(dataset, split.rows("test"), 7, 0)
    ]
    assert result.micro["1"] == torch.cat(right).double().mean()
    assert result.system == "deepme-attention"


def test_before_any_training_it_sees_what_the_experts_see(workspace):
    train(workspace, warmup_epochs=0, epochs=0)
    network = load_network(workspace.attention(), workspace)
    experts = load_experts(workspace, workspace.groups())
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    with torch.inference_mode():
        parts = [expert.eval()(pixels)[1] for expert in experts]
        _, weighed = network(pixels)
    joined = torch.cat(parts, dim=1) / (1 + 1e-5) ** 0.5 * 16 / 192**0.5
    assert torch.allclose(weighed, joined, atol=1e-5)


def test_again_it_trains_nothing_and_killed_it_goes_on(workspace, capsys):
    train(workspace)
    weights = workspace.attention().weights.read_bytes()
    train(workspace)
    assert "attention is up to date" in capsys.readouterr().err
    shutil.rmtree(workspace.attention_path.parent)

    def killed() -> None:
        real, calls = AttentionTask.loss, iter(range(100))

        def loss(task: AttentionTask, batch: object) -> object:
            if next(calls) == 9:
                die()
            return real(task, batch)

        AttentionTask.loss = loss  # type: ignore[method-assign]
        train(workspace)

    assert in_child(killed).code == -signal.SIGKILL
    assert workspace.attention_path.with_name("checkpoint.safetensors").exists()
    train(workspace)
    assert workspace.attention().weights.read_bytes() == weights


def test_another_expert_makes_it_stale(workspace, invoke, tiny_config):
    train(workspace)
    ended = invoke(
        *("train-expert", "--group", 2, "--seed", 9, "--epochs", 0),
        *("--config", tiny_config, "-w", workspace.root),
    )
    assert ended.code == 0, ended.stderr
    with pytest.raises(ArtifactError, match=r"stale: experts/02/.* has changed"):
        workspace.attention()


def test_experts_of_different_image_sizes(workspace, invoke, tiny_config):
    ended = invoke(
        *("train-expert", "--group", 2, "--image-size", 16, "--epochs", 0),
        *("--config", tiny_config, "-w", workspace.root),
    )
    assert ended.code == 0, ended.stderr
    with pytest.raises(InputError, match=r"images of 2 sizes \(\[8, 16\] pixels\)"):
        train(workspace)
    assert not np.any([path.exists() for path in [workspace.attention_path]])


def test_each_image_is_decoded_once_for_all_experts(workspace, monkeypatch):
    read: list[int] = []

    def counted(images: ImageIndex, row: int) -> bytes:
        read.append(row)
        return read_bytes(images, row)

    monkeypatch.setattr(loading, "read_bytes", counted)
    split = workspace.split(workspace.groups().origin)
    rows = [*split.rows("train"), *split.rows("val")]
    settings = AttentionSettings(**(SETTINGS | {"epochs": 0}))
    weights = []
    for room, times in ((asking.WEIGHTS_BYTES, 1), (1, 3)):
        monkeypatch.setattr(asking, "WEIGHTS_BYTES", room)
        shutil.rmtree(workspace.root / "features", ignore_errors=True)
        shutil.rmtree(workspace.root / "attention", ignore_errors=True)
        read.clear()
        run(settings, MACHINE, workspace)
        assert [read.count(row) for row in rows] == [times] * len(rows)
        weights.append(load_file(workspace.attention().weights))
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])
