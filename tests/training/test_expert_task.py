"""What is particular to an expert: the two stages, Ω, Θ and its own classes."""

# ruff: noqa: N806
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from deepme.artifacts.split import Split
from deepme.config import ExpertSettings
from deepme.core.regularizers import normalized_laplacian, visual_similarity
from deepme.devices import Compute
from deepme.images.unreadable import UnreadableImages
from deepme.networks import create_network
from deepme.training.expert import ExpertTask
from deepme.training.run import Stage

WARMUP = Stage(name="warmup", epochs=1, lr=0.05, lr_end=0.05)
FINETUNE = Stage(name="finetune", epochs=1, lr=0.05, lr_end=0.05)
MEMBERS = np.array([0, 2, 3])
SIMILAR, OTHER = (1, 2), (0, 1)
"""Outputs of classes that Θ says are near each other, and far apart."""
NO_ROWS = np.empty(0, dtype=np.int64)
THETA = np.array([[1, 0.0, 0.0], [0.0, 1, 0.9], [0.0, 0.9, 1]], dtype=np.float32)


@pytest.fixture
def make(coloured: Split) -> Callable[..., ExpertTask]:
    def make_task(
        other_rows: NDArray[np.int64] = NO_ROWS,
        backbone: str = "vgg_small",
        size: int = 8,
        **settings: object,
    ) -> ExpertTask:
        torch.manual_seed(0)
        num_outputs = len(MEMBERS) + bool(len(other_rows))
        return ExpertTask(
            ExpertSettings(**({"batch_size": 7} | settings)),
            create_network(backbone, num_outputs, weights="none", image_size=size),
            Compute(torch.device("cpu"), False),
            image_size=size,
            split=coloured,
            members=MEMBERS,
            theta=THETA,
            unreadable=UnreadableImages(coloured.images, 24, False, 0.0),
            workers=0,
            keep_images=0,
            other_rows=other_rows,
        )

    return make_task


def train(task: ExpertTask, stage: Stage, epochs: range = range(1)) -> None:
    """The bare loop: no checkpoints, no schedule."""
    optimizer = torch.optim.SGD(task.start(stage), lr=stage.lr)
    for epoch in epochs:
        for batch in task.batches(range(epoch, epoch + 1), 0):
            optimizer.zero_grad()
            task.loss(batch).total.backward()
            optimizer.step()
        task.end_epoch()


def trunk_state(task: ExpertTask) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in task.network.trunk.state_dict().items()}


class TestStages:
    def test_warm_up_leaves_the_trunk_untouched_and_trains_the_head(self, make):
        task = make()
        trunk, head = trunk_state(task), task.network.head.weight.clone()
        train(task, WARMUP)
        after = trunk_state(task)
        assert any("running_mean" in name for name in after)
        assert all(torch.equal(trunk[name], after[name]) for name in trunk)
        assert not torch.equal(head, task.network.head.weight)

    def test_fine_tuning_changes_every_layer_and_the_statistics(self, make):
        task = make()
        train(task, WARMUP)
        before = trunk_state(task)
        train(task, FINETUNE)
        after = trunk_state(task)
        assert not any(torch.equal(before[name], after[name]) for name in before)

    def test_weight_decay_is_for_all_layers_but_the_head(self, make):
        task = make(weight_decay=0.25, momentum=0.5)
        trunk, head = task.start(FINETUNE)
        assert list(head["params"]) == list(task.network.head.parameters())
        assert list(trunk["params"]) == list(task.network.trunk.parameters())
        assert trunk["weight_decay"] == 0.25
        assert "weight_decay" not in head
        assert trunk["momentum"] == head["momentum"] == 0.5
        (only,) = task.start(WARMUP)
        assert list(only["params"]) == list(task.network.head.parameters())

    def test_dropout_stays_off_in_a_frozen_trunk(self, make):
        task = make(backbone="test_vit", size=16)
        task.start(WARMUP)
        drops = [m for m in task.network.modules() if isinstance(m, nn.Dropout)]
        assert drops
        assert not any(module.training for module in drops)
        task.start(FINETUNE)
        assert all(module.training for module in drops)


class TestObjective:
    def test_equals_equation_1_of_the_batch(self, make):
        task = make(lambda1=0.5, lambda2=0.25, lambda3=0.125)
        train(task, FINETUNE)
        task.network.eval()
        batch = next(task.batches(range(1, 2), 0))
        loss = task.loss(batch)
        position = {int(label): i for i, label in enumerate(MEMBERS)}
        labels = torch.tensor([position[label] for label in batch.labels.tolist()])
        logits, _ = task.network(batch.inputs)
        W = task.network.head.weight
        L_omega = normalized_laplacian(task.omega)
        L_theta = normalized_laplacian(torch.from_numpy(THETA))
        expected = (
            functional.cross_entropy(logits, labels)
            + 0.5 * (W @ W.T).trace()
            + 0.25 / 2 * (W.T @ L_omega @ W).trace()
            + 0.125 / 2 * (W.T @ L_theta @ W).trace()
        )
        assert_close(loss.total, expected)
        assert int(loss.correct) == int((logits.argmax(1) == labels).sum())

    def test_only_the_groups_images_are_trained_on(self, make, coloured):
        seen = {
            label for b in make().batches(range(1), 0) for label in b.labels.tolist()
        }
        assert seen == set(MEMBERS.tolist())

    def test_a_large_lambda3_draws_the_weights_of_similar_classes_together(self, make):
        def distances(lambda3: float) -> tuple[float, float]:
            task = make(lambda1=0, lambda2=0, lambda3=lambda3, momentum=0)
            train(task, WARMUP, range(4))
            W = task.network.head.weight.detach()
            one, other = (float((W[i] - W[j]).norm()) for i, j in (SIMILAR, OTHER))
            return one, other

        near_without, far_without = distances(0)
        near_with, far_with = distances(5)
        assert near_with < near_without / 5
        assert far_with > far_without / 2


class TestVisualSimilarity:
    def test_is_zero_in_the_first_epoch_and_a_similarity_after_it(self, make):
        task = make(lambda2=1000.0)
        assert not task.omega.any()
        first = task.loss(next(task.batches(range(1), 0)))
        assert float(first.parts["visual"]) == 0
        train(task, FINETUNE)
        omega = task.omega
        assert omega.shape == (3, 3)
        assert torch.equal(omega, omega.T)
        assert not omega.diagonal().any()
        assert (omega >= 0).all()
        assert (omega <= 1).all()
        assert omega.sum() > 0
        second = task.loss(next(task.batches(range(1, 2), 0)))
        assert float(second.parts["visual"]) > 0

    def test_comes_from_the_means_of_the_epochs_features(self, make):
        task = make(omega_momentum=0.0)
        features: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}
        task.network.register_forward_hook(
            lambda _m, _i, outputs: seen.append(outputs[1].detach())
        )
        seen: list[torch.Tensor] = []
        task.start(WARMUP)
        for batch in task.batches(range(1), 0):
            task.loss(batch)
            for label, vector in zip(batch.labels.tolist(), seen[-1], strict=True):
                features[MEMBERS.tolist().index(label)].append(vector / vector.norm())
        task.end_epoch()
        means = torch.stack([torch.stack(features[c]).mean(0) for c in range(3)])
        expected = visual_similarity(means, seen_C=torch.ones(3, dtype=torch.bool))
        assert_close(task.omega, expected, atol=1e-5, rtol=1e-4)

    def test_moves_on_by_an_exponential_mean_from_the_second_epoch(self, make):
        def omegas(momentum: float) -> list[torch.Tensor]:
            """With the trunk frozen and no random views, the same Ω every epoch."""
            task = make(omega_momentum=momentum, lambda2=0.0)
            found = []
            for epoch in range(2):
                train(task, FINETUNE if epoch else WARMUP, range(epoch, epoch + 1))
                found.append(task.omega)
            return found

        first, newest = omegas(0.0)
        same_first, blended = omegas(0.75)
        assert_close(same_first, first)
        assert_close(blended, 0.75 * first + 0.25 * newest)

    def test_state_carries_it_with_the_unfinished_epochs_means(self, make):
        task = make()
        train(task, FINETUNE)
        task.loss(next(task.batches(range(1, 2), 0)))
        other = make()
        other.load_state({k: v.clone() for k, v in task.state().items()})
        for one in (task, other):
            one.end_epoch()
        assert torch.equal(other.omega, task.omega)
        assert torch.equal(other.laplacian_omega, task.laplacian_omega)


class TestValidation:
    def test_is_top_1_among_the_groups_classes(self, make, coloured):
        task = make()
        rows = coloured.rows("val", MEMBERS)
        assert task.val_rows.tolist() == rows.tolist()
        task.network.eval()
        head = task.network.head
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
        right = (coloured.images.label[rows] == MEMBERS[1]).mean()
        assert task.validate() == pytest.approx(right)

    def test_there_is_none_without_images(self, make):
        task = make()
        task.val_rows = task.val_rows[:0]
        assert task.validate() is None

    def test_a_colour_is_learned(self, make):
        task = make()
        train(task, replace(FINETUNE, lr=0.003), range(10))
        assert task.validate() == 1.0
