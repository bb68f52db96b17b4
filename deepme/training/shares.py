"""The gradient of a batch whose images are shared out.

Among the processes of a training, and within each of them among micro-batches that are
computed one after the other. A loss is a mean over images plus terms without images, so
the shares' losses, weighed by their numbers of images, add up to the whole batch's.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from deepme import ranks
from deepme.images.loading import Batch
from deepme.training.run import Loss, Run, Task


class _LossOf(nn.Module):
    """A task's loss as a module, whose parameters others can watch."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network, self._task = task.network, task

    def forward(self, batch: Batch) -> Loss:
        return self._task.loss(batch)


class SharedLoss:
    """Computes losses and gradients of a stage's batches.

    Args:
        run: with the stage's parameters free and all others frozen.
    """

    def __init__(self, run: Run) -> None:
        """Have gradients summed over the processes, if there are several."""
        self._run, self._loss = run, _LossOf(run.task)
        self._shared = ranks.synchronised(self._loss) if ranks.size() > 1 else None

    def backward(self, batch: Batch, num_images: int) -> Loss:
        """Add the gradient of the whole batch to the parameters'.

        Args:
            batch: this process's share.
            num_images: of all processes' shares, at least one.

        Returns:
            The loss of the whole batch; only its numbers are of use.
        """
        if not len(batch.rows):
            return self._without_images(batch)
        parts = batch.parts(self._run.accumulate)
        losses = []
        for number, part in enumerate(parts, 1):
            with self._alone(number < len(parts)):
                loss = (self._shared or self._loss)(part)
                weight = len(part.rows) / num_images
                # The processes' gradients are averaged, and are to be summed.
                (weight * ranks.size() * loss.total).backward()
            losses.append(_weighed(loss, weight))
        return _summed(losses)

    def _without_images(self, batch: Batch) -> Loss:
        """Take part in a step none of whose images this process could read.

        A blank picture stands in for them, without weight in anything.
        """
        row = next(iter(batch.unreadable))
        blank = replace(
            batch,
            inputs=batch.inputs.new_zeros(1, *batch.inputs.shape[1:]),
            rows=torch.tensor([row]),
            labels=torch.tensor([int(self._run.unreadable.images.label[row])]),
        )
        task = self._run.task
        before = {name: value.clone() for name, value in task.state().items()}
        loss = (self._shared or self._loss)(blank)
        (0 * loss.total).backward()
        task.load_state(before)
        return _summed([_weighed(loss, 0)])

    def _alone(self, alone: bool) -> AbstractContextManager[None]:
        """Leave the exchange of gradients to the last micro-batch."""
        return self._shared.no_sync() if self._shared and alone else nullcontext()


def _weighed(loss: Loss, weight: float) -> Loss:
    return Loss(
        weight * loss.total.detach(),
        {name: weight * value for name, value in loss.parts.items()},
        loss.correct if weight else torch.zeros_like(loss.correct),
    )


def _summed(losses: list[Loss]) -> Loss:
    """Add up micro-batches and processes."""
    names = losses[0].parts.keys()
    total = torch.stack([loss.total for loss in losses]).sum()
    parts = {
        name: torch.stack([loss.parts[name] for loss in losses]).sum() for name in names
    }
    correct = torch.stack([loss.correct for loss in losses]).sum()
    if ranks.size() == 1:
        return Loss(total, parts, correct)
    together: Tensor = ranks.summed(
        torch.stack([value.double() for value in (total, correct, *parts.values())])
    )
    total, correct, *values = together.unbind()
    return Loss(total, dict(zip(names, values, strict=True)), correct.long())
