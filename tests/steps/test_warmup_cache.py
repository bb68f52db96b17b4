"""Warm-up from cached features: the same training, the trunk asked once."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from injection import die, in_child
from safetensors.torch import load_file

from deepme.config import ExpertSettings, FlatSettings, MachineSettings
from deepme.errors import EnvironmentFault, UsageError
from deepme.steps import train_expert, train_flat
from deepme.training import loop, warmup
from deepme.training.classifier import ClassifierTask
from deepme.training.expert import ExpertTask
from deepme.workspace import Workspace

SETTINGS = {
    "backbone": "vgg_small",
    "image_size": 8,
    "warmup_epochs": 3,
    "epochs": 0,
    "batch_size": 16,
    "warmup_lr": 0.1,
}
MACHINE = MachineSettings(device="cpu", workers=0)


@pytest.fixture
def workspace(finished_workspace: Path, tmp_path: Path) -> Workspace:
    """Classes, images, groups and a flat network."""
    root = tmp_path / "workspace"
    root.mkdir()
    for name in ("similarity.h5", "groups.json", "memberships.h5", "split.h5"):
        shutil.copy(finished_workspace / name, root)
    flat = FlatSettings(**SETTINGS | {"weights": "none", "epochs": 2})
    train_flat.run(flat, MACHINE, Workspace(root))
    return Workspace(root)


def train(workspace: Workspace, number: int = 1, **settings: object) -> Path:
    given = SETTINGS | {"weights": "flat", "warmup": "cache"} | settings
    return train_expert.run(ExpertSettings(**given), MACHINE, workspace, number)


def heads(workspace: Workspace, number: int = 1) -> torch.Tensor:
    return load_file(workspace.expert(number).weights)["head.weight"]


def test_it_is_warm_up_on_centre_views_in_half_precision(workspace):
    train(workspace)
    cached, history = heads(workspace), workspace.expert(1).training.history
    train(workspace, warmup="views", augment="none")
    plain = workspace.expert(1).training.history
    scale = heads(workspace).abs().max()
    assert torch.allclose(cached, heads(workspace), atol=float(0.01 * scale))
    for ours, theirs in zip(history, plain, strict=True):
        assert ours.losses["total"] == pytest.approx(theirs.losses["total"], rel=1e-3)
        assert ours.val_top1 == pytest.approx(theirs.val_top1, abs=0.13)
    assert len(history) == 3


def test_all_experts_share_one_pass(workspace, asked):
    split = workspace.split(workspace.groups().origin)
    for number in (1, 2, 3):
        train(workspace, number)
    assert asked == [len(split.rows("train")), len(split.rows("val"))]
    with h5py.File(workspace.features_path("train")) as file:
        assert file["features"].dtype == np.float16
        assert file["features"].shape == (len(split.rows("train")), 256)


def test_the_flat_network_takes_it_too(workspace, asked):
    train(workspace)
    weights = str(workspace.flat().weights)
    given = SETTINGS | {"weights": weights, "warmup": "cache"}
    train_flat.run(FlatSettings(**given), MACHINE, workspace)
    # Of another file, even if the weights in it are the same.
    assert len(asked) == 4


def test_fine_tuning_sees_images_again(workspace):
    train(workspace, epochs=2)
    stages = [epoch.stage for epoch in workspace.expert(1).training.history]
    assert stages == ["warmup"] * 3 + ["finetune"] * 2
    ours = load_file(workspace.expert(1).weights)["trunk.blocks.0.weight"]
    assert not torch.equal(ours, load_file(workspace.flat().weights)[
        "trunk.blocks.0.weight"])  # fmt: skip


def test_without_warm_up_there_is_no_cache(workspace):
    train(workspace, warmup_epochs=0, epochs=1)
    assert not workspace.features_path("train").exists()


def test_other_weights_make_it_anew(workspace, asked):
    train(workspace)
    again = FlatSettings(**SETTINGS | {"weights": "none", "epochs": 1})
    train_flat.run(again, MACHINE, workspace)
    train(workspace)
    assert len(asked) == 4


def test_every_expert_draws_its_own_trunk(workspace):
    with pytest.raises(UsageError, match="--weights is none: every expert draws"):
        train(workspace, weights="none")


def test_no_room_for_it(workspace, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(warmup.shutil, "disk_usage", lambda _: usage(9, 9, 9))
    with pytest.raises(EnvironmentFault, match=r"images take 0\.\d+ GB, 0.00 GB are"):
        train(workspace)
    assert not workspace.features_path("train").exists()


@pytest.mark.parametrize(("minutes", "saves"), [(10.0, 1), (1e-9, 6)])
def test_its_short_epochs_are_saved_by_the_clock_and_in_the_end(
    workspace, monkeypatch, minutes, saves
):
    saved = []
    monkeypatch.setattr(loop, "save", lambda run, _: saved.append(run.position.epoch))
    machine = dataclasses.replace(MACHINE, checkpoint_minutes=minutes)
    given = SETTINGS | {"weights": "flat", "warmup": "cache"}
    train_expert.run(ExpertSettings(**given), machine, workspace, 1)
    assert len(saved) == saves
    assert saved[-1] == SETTINGS["warmup_epochs"]


def test_killed_in_warm_up_it_goes_on(workspace):
    train(workspace)
    whole = workspace.expert(1).weights.read_bytes()
    shutil.rmtree(workspace.expert_path(1).parent)

    def killed() -> None:
        real, calls = ClassifierTask.loss, iter(range(100))

        def loss(task: ClassifierTask, batch: object) -> object:
            if next(calls) == 5:
                die()
            return real(task, batch)

        ExpertTask.loss = loss  # type: ignore[method-assign]
        machine = dataclasses.replace(MACHINE, checkpoint_minutes=1e-9)
        given = SETTINGS | {"weights": "flat", "warmup": "cache"}
        train_expert.run(ExpertSettings(**given), machine, workspace, 1)

    assert in_child(killed).code == -signal.SIGKILL
    assert workspace.expert_path(1).with_name("checkpoint.safetensors").exists()
    train(workspace)
    assert workspace.expert(1).weights.read_bytes() == whole


def test_unreadable_images_are_listed(workspace, tiny_images, tmp_path):
    split = workspace.split(workspace.groups().origin)
    members = workspace.groups().members[0]
    row = int(split.rows("train", members)[0])
    path = Path(split.images.display_path(row))
    kept = path.read_bytes()
    try:
        path.write_bytes(b"no image")
        machine = MachineSettings(device="cpu", workers=0, on_bad="skip", max_bad=0.5)
        given = SETTINGS | {"weights": "flat", "warmup": "cache"}
        train_expert.run(ExpertSettings(**given), machine, workspace, 1)
    finally:
        path.write_bytes(kept)
    ((name, reason),) = workspace.expert(1).training.skipped
    assert name == split.images.paths[row]
    assert reason == "could not be read for the cache of features"
