"""The task of training the gate on frozen experts (method section 4)."""

# ruff: noqa: N803, N806
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepme.artifacts.origin import Origin
from deepme.artifacts.outputs import Outputs
from deepme.artifacts.split import ImageIndex
from deepme.config import GateSettings
from deepme.core.gate_loss import GateLossWeights, gate_objective
from deepme.core.mixture import (
    Members,
    class_log_probabilities,
    expert_confidences,
    flat_view,
    temper,
)
from deepme.devices import Compute
from deepme.images.loading import (
    Batch,
    ImageDataset,
    epoch_order,
    evaluation_batches,
    training_batches,
)
from deepme.images.unreadable import UnreadableImages
from deepme.inference import temperature_of
from deepme.networks import FeatureGate, Network
from deepme.training.run import Loss, Stage
from deepme.training.warmup import FrozenFeatures


@dataclass(frozen=True)
class GateImages:
    """A subset's images and what the frozen experts say of them.

    Attributes:
        rows: (R,) rows in the split, ascending.
        labels: (R,) int64, positions in the class list.
        outputs: of each expert, R rows.
        readable: (R,) bool; only these are used.
        flat: of the flat network, R rows with features, where the gate sees it.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    outputs: list[Outputs]
    readable: NDArray[np.bool_]
    flat: Outputs | None = None

    @classmethod
    def of(
        cls,
        images: ImageIndex,
        rows: NDArray[np.int64],
        outputs: list[Outputs],
        others: Iterable[Outputs] = (),
        flat: Outputs | None = None,
    ) -> GateImages:
        """Join the outputs of all experts on the rows of a subset.

        An image is readable if all of them and of the other networks read it.
        """
        readers = [*outputs, *others, *([flat] if flat else [])]
        readable = np.logical_and.reduce([output.readable for output in readers])
        labels = images.label[rows].astype(np.int64)
        return cls(rows, labels, outputs, readable, flat)

    @property
    def origins(self) -> list[Origin]:
        """Of all the outputs that a gate learns from."""
        read = [*self.outputs, *([self.flat] if self.flat else [])]
        return [output.origin for output in read]

    def logits(self, positions: NDArray[np.integer[Any]]) -> list[Tensor]:
        """Each expert's logits (B, C_t) at some positions."""
        return [torch.from_numpy(output.logits[positions]) for output in self.outputs]

    def features(self, positions: NDArray[np.integer[Any]]) -> Tensor:
        """All experts' features side by side, (B, Σd)."""
        parts = [output.features[positions] for output in self.outputs]  # type: ignore[index]
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def seen(
        self, positions: NDArray[np.integer[Any]], *, input: str, members: Members
    ) -> Tensor:
        """What a gate sees that does not see images, as in `GateSettings.input`."""
        if input == "flat":
            assert self.flat is not None, "asked for by a gate that sees it"
            assert self.flat.features is not None, "asked for with features"
            features = torch.from_numpy(self.flat.features[positions])
            logits = torch.from_numpy(self.flat.logits[positions])
            return flat_view(features, logits, members=members)
        if input == "confidences":
            sure = expert_confidences(self.logits(positions))
            return torch.cat([self.features(positions), sure], dim=1)
        return self.features(positions)

    def feature_batches(
        self,
        positions: Sequence[NDArray[np.integer[Any]]],
        *,
        input: str,
        members: Members,
    ) -> Iterator[Batch]:
        """What the gate sees instead of images, in the same form."""
        for some in positions:
            yield Batch(
                inputs=self.seen(some, input=input, members=members),
                rows=torch.from_numpy(self.rows[some]),
                labels=torch.from_numpy(self.labels[some]),
                unreadable={},
            )


class GateTask:
    """The gate's network, its inputs and Eq. 4.

    Args:
        settings: loss, schedule and input.
        network: on images or on what other networks make of them.
        compute: the device.
        train: images to learn from, with the experts' outputs.
        val: images to validate on, with the experts' outputs.
        dataset: the images as the gate sees them; not used if it sees none.
        members: the classes of the experts, on the device.
        unreadable: the policy for bad images.
        workers: processes that decode.
        frozen: the trunk's features for warm-up, where they are cached.
    """

    def __init__(
        self,
        settings: GateSettings,
        network: Network | FeatureGate,
        compute: Compute,
        *,
        train: GateImages,
        val: GateImages,
        dataset: ImageDataset,
        members: Members,
        unreadable: UnreadableImages,
        workers: int,
        frozen: FrozenFeatures | None = None,
    ) -> None:
        """Keep to the images that every expert could read."""
        self.settings, self.compute, self.workers = settings, compute, workers
        self.network: Network | FeatureGate = network.to(compute.device)
        self.train, self.val, self.dataset = train, val, dataset
        self.members, self.unreadable = members, unreadable
        self.frozen, self.in_warmup = frozen, False
        self.positions = np.flatnonzero(train.readable)
        self.steps_per_epoch = -(-len(self.positions) // settings.batch_size)
        self.weights = GateLossWeights(
            selection=settings.selection,
            relevance=settings.relevance,
            consistency=settings.consistency,
            margin=settings.margin,
            likelihood=settings.likelihood,
            kappa=settings.kappa,
            beta=settings.beta,
        )

    @property
    def flops(self) -> int:
        """Not counted: a gate's step also mixes the votes of all experts."""
        return 0

    @property
    def is_cached(self) -> bool:
        """Whether the stage learns from what caches hold, and decodes no image."""
        return self.settings.input != "images" or self._features is not None

    @property
    def _features(self) -> FrozenFeatures | None:
        """What the stage learns from in place of images, if its trunk is cached."""
        return self.frozen if self.in_warmup else None

    def start(self, stage: Stage) -> list[dict[str, Any]]:
        """Warm-up trains all but a trunk, where there is one; then all layers."""
        self.in_warmup = stage.name == "warmup"
        self.network.train()
        if isinstance(self.network, Network):
            trunk = self.network.trunk
            trunk.train(not self.in_warmup).requires_grad_(not self.in_warmup)
        return [
            {
                "params": [
                    weight
                    for weight in self.network.parameters()
                    if weight.requires_grad
                ],
                "momentum": self.settings.momentum,
                "weight_decay": self.settings.weight_decay,
            }
        ]

    def batches(self, epochs: range, first_step: int) -> Iterator[Batch]:
        """Stream training views, or the cached features."""
        size, seed = self.settings.batch_size, self.settings.seed
        rows = self.train.rows[self.positions]
        if features := self._features:
            return features.training_batches(
                rows, size, seed=seed, epochs=epochs, first_step=first_step
            )
        if self.settings.input == "images":
            return training_batches(
                self.dataset,
                rows,
                size,
                epochs=epochs,
                first_step=first_step,
                workers=self.workers,
            )
        return self._feature_batches(epochs, first_step, size, seed)

    def _feature_batches(
        self, epochs: range, first_step: int, size: int, seed: int
    ) -> Iterator[Batch]:
        for epoch in epochs:
            order = epoch_order(self.positions, size, seed=seed, epoch=epoch)
            yield from self.train.feature_batches(
                order[first_step:],
                input=self.settings.input,
                members=self.members.to(torch.device("cpu")),
            )
            first_step = 0

    def loss(self, batch: Batch) -> Loss:
        """Compute Eq. 4 with the experts' cached outputs."""
        labels_B = batch.labels.to(self.compute.device)
        gate_logits_BT = self._forward(batch).float()
        positions = np.searchsorted(self.train.rows, batch.rows.numpy())
        expert_logits = [
            logits_BC.to(self.compute.device)
            for logits_BC in self.train.logits(positions)
        ]
        total, parts = gate_objective(
            gate_logits_BT,
            log_probabilities=class_log_probabilities(
                temper(expert_logits, temperature_of(self.network)),
                members=self.members,
            ),
            labels_B=labels_B,
            members=self.members,
            weights=self.weights,
        )
        return Loss(total, parts, self._right_groups(gate_logits_BT, labels_B))

    def _forward(self, batch: Batch) -> Tensor:
        """Logits (B, T) of what the gate sees, or of its trunk's features of it."""
        inputs = batch.inputs.to(self.compute.device)
        with self.compute.autocast():
            if self._features and isinstance(self.network, Network):
                logits_BT, _ = self.network.of_features(inputs)
            else:
                logits_BT, _ = self.network(inputs)
        return logits_BT

    def _right_groups(self, gate_logits_BT: Tensor, labels_B: Tensor) -> Tensor:
        """For how many images the most trusted expert holds the true class."""
        chosen_B1 = gate_logits_BT.argmax(dim=1, keepdim=True)
        return self.members.holds(labels_B).gather(1, chosen_B1).sum()

    def end_epoch(self) -> None:
        """Nothing of the gate changes once an epoch."""

    @torch.inference_mode()
    def validate(self) -> float | None:
        """The share of validation images whose most trusted expert is a right one."""
        positions = np.flatnonzero(self.val.readable)
        if not len(positions):
            return None
        self.network.eval()
        correct = 0
        for batch in self._validation_batches(positions):
            labels_B = batch.labels.to(self.compute.device)
            correct += int(self._right_groups(self._forward(batch), labels_B))
        return correct / len(positions)

    def _validation_batches(self, positions: NDArray[np.int64]) -> Iterator[Batch]:
        if features := self._features:
            rows = self.val.rows[positions]
            return features.validation_batches(rows, self.settings.batch_size)
        return gate_batches(
            self.val,
            positions,
            self.settings,
            self.dataset,
            self.workers,
            members=self.members.to(torch.device("cpu")),
        )

    def state(self) -> dict[str, Tensor]:
        """Nothing beside the network."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing beside the network."""


def gate_batches(
    images: GateImages,
    positions: NDArray[np.int64],
    settings: GateSettings,
    dataset: ImageDataset,
    workers: int,
    *,
    members: Members,
) -> Iterator[Batch]:
    """Stream what the gate sees of some images, in order and without augmentation."""
    size = settings.batch_size
    if settings.input == "images":
        return evaluation_batches(dataset, images.rows[positions], size, workers)
    starts = range(0, len(positions), size)
    return images.feature_batches(
        [positions[start : start + size] for start in starts],
        input=settings.input,
        members=members,
    )
