"""The gate learns to trust the expert that knows the image's class."""

# ruff: noqa: N803, N806
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepme.artifacts.origin import Origin
from deepme.artifacts.outputs import Outputs
from deepme.artifacts.split import Split
from deepme.config import GateSettings
from deepme.core.gate_loss import gate_objective
from deepme.core.mixture import Members, coarse_weights, gate_confidences
from deepme.devices import Compute
from deepme.errors import TrainingError
from deepme.images.loading import ImageDataset
from deepme.images.unreadable import UnreadableImages
from deepme.networks import FeatureGate, FlatGate, create_network
from deepme.storage.header import Header
from deepme.training import gate as gate_module
from deepme.training.gate import GateImages, GateTask, gate_batches
from deepme.training.loop import fit
from deepme.training.run import Run, Stage

GROUPS = ([0, 1, 2], [2, 3])
"""Class 2 is shared."""
WIDTHS = (4, 3)


def outputs(labels: NDArray[np.int64], group: list[int], width: int) -> Outputs:
    """An expert sure of its own classes, with features that tell the label."""
    rng = np.random.default_rng(len(group))
    logits = rng.normal(size=(len(labels), len(group)))
    for position, label in enumerate(group):
        logits[labels == label, position] += 5
    features = np.eye(4)[labels][:, :width] + rng.normal(0, 0.05, (len(labels), width))
    return Outputs(
        origin=Origin(
            Path("outputs.h5"), Header(kind="outputs", schema_version=1), "0"
        ),
        logits=logits.astype(np.float32),
        features=features.astype(np.float32),
        readable=np.ones(len(labels), dtype=np.bool_),
    )


def gate_images(split: Split, subset: str) -> GateImages:
    rows = split.rows(subset)
    labels = split.images.label[rows]
    found = [outputs(labels, *pair) for pair in zip(GROUPS, WIDTHS, strict=True)]
    flat = outputs(labels, [0, 1, 2, 3], 4)
    return GateImages.of(split.images, rows, found, flat=flat)


Make = Callable[..., GateTask]


@pytest.fixture
def make(coloured: Split) -> Make:
    def make_task(source: str = "features", **settings: Any) -> GateTask:
        torch.manual_seed(0)
        network = FeatureGate(sum(WIDTHS), len(GROUPS))
        if source == "flat":
            network = FlatGate(4, len(GROUPS))
        if source == "images":
            network = create_network("vgg_small", 2, weights="none", image_size=8)
        given = {"weights": "none", "batch_size": 7} | settings
        return GateTask(
            GateSettings(input=source, **given),
            network,
            Compute(torch.device("cpu"), False),
            train=gate_images(coloured, "train"),
            val=gate_images(coloured, "val"),
            dataset=ImageDataset(coloured.images, size=8, augment=True, seed=0),
            members=Members.of(GROUPS, num_classes=4),
            unreadable=UnreadableImages(coloured.images, 32, False, 0.0),
            workers=0,
        )

    return make_task


def run_of(task: GateTask, folder: Path, epochs: int = 8) -> Run:
    return Run(
        label="gate",
        task=task,
        stages=(Stage(name="gate", epochs=epochs, lr=0.01, lr_end=0.005),),
        unreadable=task.unreadable,
        checkpoint=folder / "checkpoint.safetensors",
        identity=Header(kind="gate", schema_version=1),
        device=torch.device("cpu"),
        batch_size=7,
        checkpoint_seconds=0,
    )


@pytest.mark.parametrize("source", ["features", "images", "flat"])
def test_the_gate_picks_the_right_group(
    make: Make, tmp_path: Path, source: str
) -> None:
    task = make(source)
    history = fit(run_of(task, tmp_path))
    assert history[-1].losses["total"] < history[0].losses["total"]
    assert task.validate() == 1.0
    task.network.eval()
    positions = np.arange(len(task.val.rows))
    for batch in gate_batches(
        task.val, positions, task.settings, task.dataset, 0, members=task.members
    ):
        s_BT, _ = gate_confidences(task.network(batch.inputs)[0].detach())
        only_first = (batch.labels == 0) | (batch.labels == 1)
        assert (s_BT[only_first, 0] > 0.8).all()
        assert (s_BT[batch.labels == 3, 1] > 0.8).all()


def test_the_loss_is_equation_4_of_the_cached_outputs(make: Make) -> None:
    task = make(consistency=0.5, margin=2.0)
    batch = next(iter(task.batches(range(1), 0)))
    loss = task.loss(batch)
    positions = [task.train.rows.tolist().index(row) for row in batch.rows.tolist()]
    logits = [torch.from_numpy(one.logits[positions]) for one in task.train.outputs]
    expected, _ = gate_objective(
        task.network(batch.inputs)[0],
        log_probabilities=[one.log_softmax(dim=1) for one in logits],
        labels_B=batch.labels,
        members=task.members,
        weights=task.weights,
    )
    torch.testing.assert_close(loss.total, expected)
    assert task.weights.consistency == 0.5
    assert task.weights.margin == 2.0


@pytest.mark.parametrize("source", ["features", "images", "flat"])
def test_interrupted_and_resumed_it_is_the_same(
    make: Make, tmp_path: Path, source: str
) -> None:
    whole = run_of(make(source), tmp_path / "whole", epochs=2)
    fit(whole)
    cut = run_of(make(source), tmp_path / "cut", epochs=2)
    loss, steps = cut.task.loss, iter(range(100))

    def fail_at_6(batch: object) -> object:
        if next(steps) == 6:
            raise SystemError
        return loss(batch)

    cut.task.loss = fail_at_6
    with pytest.raises(SystemError):
        fit(cut)
    resumed = run_of(make(source), tmp_path / "cut", epochs=2)
    assert fit(resumed) == whole.history
    ours, theirs = resumed.task.network.state_dict(), whole.task.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_gate_on_the_flat_network_starts_as_its_coarse_classifier(make: Make) -> None:
    task = make("flat")
    batch = next(iter(task.batches(range(1), 0)))
    positions = np.searchsorted(task.train.rows, batch.rows.numpy())
    logits = torch.from_numpy(task.train.flat.logits[positions])
    expected = coarse_weights(logits.softmax(dim=1), members=task.members)
    assert torch.equal(batch.inputs[:, 4:], expected)
    logits_BT, _ = task.network(batch.inputs)
    torch.testing.assert_close(logits_BT.softmax(dim=1), expected)


def test_what_the_flat_network_excludes_has_a_finite_loss(make: Make) -> None:
    network = make("flat").network
    seen = torch.tensor([[0.1, 0.2, 0.3, 0.4, 1.0, 0.0]])
    assert network(seen)[0].isfinite().all()


class TestFeatureBatches:
    def test_every_image_comes_once_an_epoch(self, make):
        task = make()
        batches = list(task.batches(range(1), 0))
        assert len(batches) == task.steps_per_epoch == 4
        rows = [row for batch in batches for row in batch.rows.tolist()]
        assert sorted(rows) == task.train.rows.tolist()
        assert rows != task.train.rows.tolist()

    def test_are_the_features_of_all_experts_side_by_side(self, make):
        task = make()
        batch = next(iter(task.batches(range(1), 0)))
        assert batch.inputs.shape == (7, sum(WIDTHS))
        row = task.train.rows.tolist().index(int(batch.rows[0]))
        parts = [one.features[row] for one in task.train.outputs]
        assert np.array_equal(batch.inputs[0].numpy(), np.concatenate(parts))

    def test_resume_at_any_step(self, make):
        task = make()
        whole = [batch.rows.tolist() for batch in task.batches(range(2), 0)]
        rest = [batch.rows.tolist() for batch in task.batches(range(1, 2), 3)]
        assert rest == whole[4 + 3 :]


def test_an_image_that_one_expert_could_not_read_is_left_out(make: Make) -> None:
    task = make()
    second = task.train.outputs[1]
    readable = second.readable.copy()
    readable[3] = False
    damaged = [task.train.outputs[0], replace(second, readable=readable)]
    images = GateImages.of(task.dataset.images, task.train.rows, damaged)
    assert np.flatnonzero(~images.readable).tolist() == [3]


def test_a_loss_that_is_not_finite_stops_the_run(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(logits_BT: torch.Tensor, **_: object) -> tuple[torch.Tensor, dict]:
        return logits_BT.sum() * float("nan"), {}

    monkeypatch.setattr(gate_module, "gate_objective", broken)
    message = r"gate: loss nan .* in gate epoch 1 step 1"
    with pytest.raises(TrainingError, match=message):
        fit(run_of(make(), tmp_path))


def test_there_is_no_validation_without_images(make: Make) -> None:
    task = make()
    task.val = replace(task.val, readable=np.zeros_like(task.val.readable))
    assert task.validate() is None
