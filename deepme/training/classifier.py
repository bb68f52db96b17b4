"""The task of training one network to tell classes apart (method section 3)."""

# ruff: noqa: N803, N806
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepme import ranks
from deepme.artifacts.split import Split
from deepme.config import ScheduleSettings
from deepme.core.regularizers import expert_objective
from deepme.devices import Compute
from deepme.images.keeping import room_for
from deepme.images.loading import (
    Batch,
    ImageDataset,
    Share,
    evaluation_batches,
    training_batches,
)
from deepme.images.unreadable import UnreadableImages
from deepme.networks import (
    PASSES_A_STEP,
    AttentionNetwork,
    Network,
    forward_flops,
    with_shared_statistics,
)
from deepme.training.run import Loss, Stage
from deepme.training.warmup import FrozenFeatures

S = TypeVar("S", bound=ScheduleSettings)


class ClassifierTask(Generic[S]):
    """A network, the images of its classes, and cross-entropy with λ₁'s ridge.

    As it is, the paper's VGG16-Ext over all classes; `ExpertTask` adds Eq. 1's
    regularisers.

    Args:
        settings: the schedule.
        network: with an output for each class, and perhaps one for all others.
        compute: the device.
        image_size: S, pixels a side.
        split: the images.
        members: (C,) int64, positions of the classes in the class list, ascending.
        unreadable: the policy for bad images.
        workers: processes that decode.
        keep_images: GB for decoded images.
        other_rows: (M,) int64, rows of images of other classes, for the output beyond
            the classes.
        frozen: the trunk's features for warm-up, where they are cached.
    """

    def __init__(
        self,
        settings: S,
        network: Network | AttentionNetwork,
        compute: Compute,
        *,
        image_size: int,
        split: Split,
        members: NDArray[np.int64],
        unreadable: UnreadableImages,
        workers: int,
        keep_images: float,
        other_rows: NDArray[np.int64],
        frozen: FrozenFeatures | None = None,
    ) -> None:
        """Move the network to the device, and list the images."""
        self.settings, self.compute, self.workers = settings, compute, workers
        self.unreadable, self.frozen = unreadable, frozen
        self.in_warmup = False
        self.num_classes = len(members)
        self._forward_flops = forward_flops(network, image_size)
        if group := ranks.gpu_group():
            # PyTorch has none for CPUs: there each process takes those of its share.
            network = with_shared_statistics(network, group)
        self.network = network.to(compute.device)
        own_rows = split.rows("train", members)
        self.train_rows = np.sort(np.concatenate([own_rows, other_rows]))
        self.val_rows = split.rows("val", members)
        read = np.concatenate([self.train_rows, self.val_rows])
        self.dataset = ImageDataset(
            split.images,
            size=image_size,
            augment=settings.augment == "crop",
            seed=settings.seed,
            kept=room_for(split.images, read, gigabytes=keep_images),
        )
        self.steps_per_epoch = -(-len(self.train_rows) // settings.batch_size)
        self.position_N = torch.full((split.num_classes,), len(members))
        self.position_N[torch.from_numpy(members)] = torch.arange(len(members))

    @property
    def flops(self) -> int:
        """Operations of an image in a step of this stage."""
        head = 2 * self.network.head.weight.numel()
        if not self.in_warmup:
            return PASSES_A_STEP * self._forward_flops
        if self.is_cached:
            return PASSES_A_STEP * head
        return self._forward_flops + (PASSES_A_STEP - 1) * head

    @property
    def is_cached(self) -> bool:
        """Whether the stage learns from the frozen trunk's cached features."""
        return self.frozen is not None and self.in_warmup

    def start(self, stage: Stage) -> list[dict[str, Any]]:
        """Warm-up trains the head on a frozen trunk, fine-tuning trains all.

        λ1 is the head's weight decay, so the optimizer applies none to it.
        """
        head_only = self.in_warmup = stage.name == "warmup"
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
        """Stream this process's training views, or the frozen trunk's features."""
        share = Share(ranks.rank(), ranks.size())
        if self.frozen and self.is_cached:
            return self.frozen.training_batches(
                self.train_rows,
                self.settings.batch_size,
                seed=self.dataset.seed,
                epochs=epochs,
                first_step=first_step,
                share=share,
            )
        return training_batches(
            self.dataset,
            self.train_rows,
            self.settings.batch_size,
            epochs=epochs,
            first_step=first_step,
            workers=self.workers,
            share=share,
        )

    def loss(self, batch: Batch) -> Loss:
        """Compute the objective of a batch."""
        labels_B = self._move(self.position_N[batch.labels])
        logits_BC, features_Bd = self._forward(batch)
        # bfloat16 would round the loss; float32 and float64 stay.
        logits_BC = logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32))
        total, parts = self.objective(logits_BC, features_Bd.detach(), labels_B)
        return Loss(total, parts, (logits_BC.argmax(dim=1) == labels_B).sum())

    def objective(
        self, logits_BC: Tensor, features_Bd: Tensor, labels_B: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute cross-entropy and ridge, and name the parts."""
        return expert_objective(
            logits_BC=logits_BC,
            labels_B=labels_B,
            weight_Cd=self.network.head.weight,
            laplacian_omega=None,
            laplacian_theta=None,
            lambda1=self.settings.lambda1,
            lambda2=0,
            lambda3=0,
        )

    def end_epoch(self) -> None:
        """Nothing changes once an epoch."""

    @torch.inference_mode()
    def validate(self) -> float | None:
        """Top-1 among the network's classes on their validation images."""
        if not len(self.val_rows):
            return None
        self.network.eval()
        ranks.keep_first_buffers(self.network)
        correct = seen = 0
        for batch in self._validation_batches():
            self.unreadable.record(batch.unreadable)
            logits_BC, _ = self._forward(batch)
            predicted_B = logits_BC[:, : self.num_classes].argmax(dim=1).cpu()
            labels_B = self.position_N[batch.labels]
            correct += int((predicted_B == labels_B).sum())
            seen += len(labels_B)
        correct, seen = ranks.totals(correct, seen)
        self.unreadable.record(ranks.union(self.unreadable.reasons))
        return correct / seen if seen else None

    def _validation_batches(self) -> Iterator[Batch]:
        size = self.settings.batch_size
        rows = self.val_rows[ranks.rank() :: ranks.size()]
        if self.frozen and self.is_cached:
            return self.frozen.validation_batches(rows, size)
        return evaluation_batches(self.dataset, rows, size, self.workers)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and features of images, or of features that are there already."""
        inputs = self._move(batch.inputs)
        with self.compute.autocast():
            if self.is_cached:
                return self.network.of_features(inputs)
            logits_BC, features_Bd = self.network(inputs)
        return logits_BC, features_Bd

    def state(self) -> dict[str, Tensor]:
        """Nothing beside the network."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing beside the network."""

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.compute.device, non_blocking=True)
