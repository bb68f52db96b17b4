"""What a training run is made of: stages, a task, and the place it has reached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from deepme.artifacts.expert import Epoch
from deepme.images.loading import Batch
from deepme.images.unreadable import UnreadableImages
from deepme.storage.header import Header
from deepme.training.average import Average
from deepme.training.events import EpochEvents


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of epochs with one choice of trained layers.

    Attributes:
        name: warmup, finetune or gate.
        epochs: how many.
        lr: learning rate at the first step.
        lr_end: and at the last; exponential in between.
    """

    name: str
    epochs: int
    lr: float
    lr_end: float

    def lr_at(self, step: int, num_steps: int) -> float:
        """The learning rate of one of the stage's steps."""
        share = step / max(1, num_steps - 1)
        return float(self.lr * (self.lr_end / self.lr) ** share)


class Loss(NamedTuple):
    """What a task computes of a batch.

    Attributes:
        total: scalar to minimise.
        parts: its named parts, for the history.
        correct: how many images are classified rightly.
    """

    total: Tensor
    parts: dict[str, Tensor]
    correct: Tensor


class Task(Protocol):
    """What differs between training an expert and training the gate.

    Attributes:
        steps_per_epoch: batches of an epoch.
    """

    steps_per_epoch: int

    @property
    def flops(self) -> int:
        """Floating-point operations that an image takes in the stage; 0 if unknown."""

    @property
    def is_cached(self) -> bool:
        """Whether the stage learns from a cache, in epochs of a second or so."""

    @property
    def network(self) -> nn.Module:
        """What is trained."""

    def start(self, stage: Stage) -> list[dict[str, Any]]:
        """Freeze or free layers for a stage; return its optimizer's groups."""

    def batches(self, epochs: range, first_step: int) -> Iterable[Batch]:
        """Stream the batches of some epochs; numbers run on over the stages."""

    def loss(self, batch: Batch) -> Loss:
        """Compute the loss of a batch of at least one image."""

    def end_epoch(self) -> None:
        """Update what changes once an epoch."""

    def validate(self) -> float | None:
        """Top-1 accuracy on validation images, None without any."""

    def state(self) -> dict[str, Tensor]:
        """Tensors beside the network's that a resumed run needs.

        Names that begin with ``means.`` are sums over this process's images.
        """

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned."""


@dataclass
class Position:
    """The next step of a run, and the figures of its unfinished epoch.

    Attributes:
        stage: counted from 0.
        epoch: counted from 0 within the stage.
        step: counted from 0 within the epoch.
        sums: sums over images of each part of the loss.
        correct: images classified rightly.
        seen: images.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    correct: int = 0
    seen: int = 0

    def means(self) -> dict[str, float]:
        """Each part's mean over the images seen."""
        return {name: total / max(1, self.seen) for name, total in self.sums.items()}


@dataclass
class Run:
    """A training run and where its checkpoint lies.

    Attributes:
        label: for progress and messages.
        task: what is trained.
        stages: in order.
        unreadable: the policy for bad images, and those met.
        checkpoint: the file.
        identity: settings and inputs; a checkpoint of another identity is not taken up.
        device: where the tensors are.
        batch_size: named when memory runs out.
        checkpoint_seconds: longest time between two checkpoints within an epoch.
        accumulate: micro-batches that a batch is computed in.
        average: of the weights over the steps, which then is the result.
        events: where TensorBoard is told of every epoch, if it is.
        history: the epochs made.
        position: the next step.
    """

    label: str
    task: Task
    stages: tuple[Stage, ...]
    unreadable: UnreadableImages
    checkpoint: Path
    identity: Header
    device: torch.device
    batch_size: int
    checkpoint_seconds: float
    accumulate: int = 1
    average: Average | None = None
    events: EpochEvents | None = None
    history: list[Epoch] = field(default_factory=list)
    position: Position = field(default_factory=Position)
