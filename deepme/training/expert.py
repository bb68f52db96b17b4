"""The task of training one expert (method section 3)."""

# ruff: noqa: N806
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepme.artifacts.split import Split
from deepme.config import ExpertSettings
from deepme.core.regularizers import (
    ClassMeans,
    blend,
    expert_objective,
    normalized_laplacian,
    visual_similarity,
)
from deepme.devices import Compute
from deepme.images.loading import (
    Batch,
    ImageDataset,
    evaluation_batches,
    training_batches,
)
from deepme.images.unreadable import UnreadableImages
from deepme.networks import create_network
from deepme.training.run import Loss, Stage


class ExpertTask:
    """One group's network, its images and Eq. 1.

    Args:
        settings: network, objective and schedule.
        compute: the device.
        split: the images.
        members: (C,) int64, the group's positions in the class list, ascending.
        theta: (C, C) float32, their semantic similarity.
        unreadable: the policy for bad images.
        workers: processes that decode.
    """

    def __init__(
        self,
        settings: ExpertSettings,
        compute: Compute,
        *,
        split: Split,
        members: NDArray[np.int64],
        theta: NDArray[np.float32],
        unreadable: UnreadableImages,
        workers: int,
    ) -> None:
        """Build the network with weights drawn from torch's global random state."""
        self.settings, self.compute, self.workers = settings, compute, workers
        self.unreadable = unreadable
        self.network = create_network(
            settings.backbone,
            len(members),
            weights=settings.weights,
            image_size=settings.image_size,
        ).to(compute.device)
        self.dataset = ImageDataset(
            split.images,
            size=settings.image_size,
            augment=settings.augment == "crop",
            seed=settings.seed,
        )
        self.train_rows = split.rows("train", members)
        self.val_rows = split.rows("val", members)
        self.steps_per_epoch = -(-len(self.train_rows) // settings.batch_size)
        self.position_N = torch.full((split.num_classes,), -1)
        self.position_N[torch.from_numpy(members)] = torch.arange(len(members))
        self.laplacian_theta = normalized_laplacian(self._move(torch.from_numpy(theta)))
        self.omega = torch.zeros_like(self.laplacian_theta)
        self.omega_epochs = torch.zeros((), dtype=torch.int64)
        self.laplacian_omega = normalized_laplacian(self.omega)
        self.means = self._no_means()

    def start(self, stage: Stage) -> list[dict[str, Any]]:
        """Warm-up trains the head on a frozen trunk, fine-tuning trains all.

        λ1 is the head's weight decay, so the optimizer applies none to it.
        """
        head_only = stage.name == "warmup"
        trunk = self.network.trunk
        self.network.train()
        trunk.train(not head_only).requires_grad_(not head_only)
        common = {"momentum": self.settings.momentum}
        groups = [{"params": self.network.head.parameters(), **common}]
        if not head_only:
            decay = {"weight_decay": self.settings.weight_decay}
            groups.insert(0, {"params": trunk.parameters(), **common, **decay})
        return groups

    def batches(self, epochs: range, first_step: int) -> Iterator[Batch]:
        """Stream training views."""
        return training_batches(
            self.dataset,
            self.train_rows,
            self.settings.batch_size,
            epochs=epochs,
            first_step=first_step,
            workers=self.workers,
        )

    def loss(self, batch: Batch) -> Loss:
        """Compute Eq. 1, and gather the features for the next Ω."""
        labels_B = self._move(self.position_N[batch.labels])
        with self.compute.autocast():
            logits_BC, features_Bd = self.network(self._move(batch.inputs))
        logits_BC = logits_BC.float()
        self.means.update(features_Bd.detach(), labels_B=labels_B)
        total, parts = expert_objective(
            logits_BC=logits_BC,
            labels_B=labels_B,
            weight_Cd=self.network.head.weight,
            laplacian_omega=self.laplacian_omega,
            laplacian_theta=self.laplacian_theta,
            lambda1=self.settings.lambda1,
            lambda2=self.settings.lambda2,
            lambda3=self.settings.lambda3,
        )
        return Loss(total, parts, (logits_BC.argmax(dim=1) == labels_B).sum())

    def end_epoch(self) -> None:
        """Renew Ω from the epoch's class means; there is none before the first."""
        newest = visual_similarity(self.means.means(), seen_C=self.means.seen())
        momentum = self.settings.omega_momentum if self.omega_epochs else 0.0
        self.omega = blend(self.omega, newest, momentum=momentum)
        self.omega_epochs += 1
        self.laplacian_omega = normalized_laplacian(self.omega)
        self.means = self._no_means()

    @torch.inference_mode()
    def validate(self) -> float | None:
        """Top-1 among the group's classes on its validation images."""
        if not len(self.val_rows):
            return None
        self.network.eval()
        correct = seen = 0
        for batch in evaluation_batches(
            self.dataset, self.val_rows, self.settings.batch_size, self.workers
        ):
            self.unreadable.record(batch.unreadable)
            with self.compute.autocast():
                logits_BC, _ = self.network(self._move(batch.inputs))
            labels_B = self.position_N[batch.labels]
            correct += int((logits_BC.argmax(dim=1).cpu() == labels_B).sum())
            seen += len(labels_B)
        return correct / seen if seen else None

    def state(self) -> dict[str, Tensor]:
        """Ω and the class means of the unfinished epoch."""
        means = {
            f"means.{key}": value for key, value in self.means.state_dict().items()
        }
        return {"omega": self.omega, "omega_epochs": self.omega_epochs, **means}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned."""
        self.omega = self._move(state["omega"])
        self.omega_epochs = state["omega_epochs"]
        self.laplacian_omega = normalized_laplacian(self.omega)
        means = {key: state[f"means.{key}"] for key in self.means.state_dict()}
        self.means = ClassMeans(**{k: self._move(v) for k, v in means.items()})

    def _no_means(self) -> ClassMeans:
        head = self.network.head
        return ClassMeans.zeros(
            head.out_features, width=head.in_features, device=self.compute.device
        )

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.compute.device, non_blocking=True)
