"""One update after the other, without making the device wait for the host.

What a step comes to (loss, gradient norm, right answers) stays on the device. Nothing
that is not finite reaches the weights, for the optimizer itself skips such a step on
the device; the host hears of it a few steps later, at the latest before anything is
written, and stops.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from deepme import ranks
from deepme.errors import TrainingError
from deepme.images.loading import Batch
from deepme.training.run import Loss, Position, Run
from deepme.training.shares import SharedLoss

AHEAD = 8
"""Steps that a GPU may be ahead of the host's checks."""


@dataclass(frozen=True)
class _Check:
    """A step whose numbers the host has yet to see.

    Attributes:
        where: stage, epoch and step, for the message.
        numbers: (2,) float32 on the host, loss and gradient norm.
        arrived: when they are there; None on a CPU.
    """

    where: str
    numbers: Tensor
    arrived: torch.cuda.Event | None


class Stepper:
    """Makes the updates of a stage and adds up what those of an epoch come to.

    Args:
        run: its position holds the figures of an epoch that was interrupted.
        optimizer: a fused one, which skips a step where ``found_inf`` says so.
    """

    def __init__(self, run: Run, optimizer: torch.optim.Optimizer) -> None:
        """Go on from the position's figures."""
        self._run, self._optimizer = run, optimizer
        self._checks: deque[_Check] = deque()
        self._ahead = AHEAD if run.device.type == "cuda" else 0
        self._loss = SharedLoss(run)
        self.start_epoch()

    def start_epoch(self) -> None:
        """Add up anew, from the position's figures."""
        self._sums: dict[str, Tensor] = {}
        self._correct = torch.tensor(
            self._run.position.correct, device=self._run.device
        )

    def __call__(self, batch: Batch, num_images: int | None = None) -> None:
        """Make one update.

        Args:
            batch: this process's share.
            num_images: of all processes' shares, by default this one's.

        Raises:
            TrainingError: the loss or the gradient of this step, or of one a little
                earlier, is not finite.
        """
        num_images = len(batch.rows) if num_images is None else num_images
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss.backward(batch, num_images)
        gradients = [
            parameter.grad
            for group in self._optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        numbers = torch.stack([loss.total.detach().float(), norm.float()])
        self._optimizer.found_inf = (  # type: ignore[attr-defined]
            1 - numbers.isfinite().all().float()
        )
        self._optimizer.step()
        if self._run.average:
            self._run.average.update()
        self._add(loss, num_images)
        place = self._run.position
        stage = self._run.stages[place.stage].name
        where = f"{stage} epoch {place.epoch + 1} step {place.step + 1}"
        self._checks.append(_sent(where, numbers))
        if len(self._checks) > self._ahead:
            self._look()

    def settle(self) -> Position:
        """Wait for the device; the position then holds the figures so far.

        Raises:
            TrainingError: as for a step.
        """
        while self._checks:
            self._look()
        position = self._run.position
        position.sums |= {name: float(value) for name, value in self._sums.items()}
        position.correct = int(self._correct)
        return position

    def _add(self, loss: Loss, num_images: int) -> None:
        position = self._run.position
        for name, value in {"total": loss.total, **loss.parts}.items():
            if name not in self._sums:
                so_far = position.sums.get(name, 0.0)
                self._sums[name] = torch.tensor(
                    so_far, dtype=torch.float64, device=self._run.device
                )
            self._sums[name] += value.detach().double() * num_images
        self._correct += loss.correct
        position.seen += num_images

    def _look(self) -> None:
        """Read the numbers of the oldest step that is unchecked."""
        check = self._checks.popleft()
        if check.arrived and ranks.size() > 1:
            ranks.until(check.arrived.query)
        elif check.arrived:
            check.arrived.synchronize()
        value, norm = check.numbers.tolist()
        if not math.isfinite(value) or not math.isfinite(norm):
            raise TrainingError(
                f"{self._run.label}: loss {value:g} and gradient norm {norm:g} in "
                f"{check.where}, expected finite numbers",
                "lower the learning rate; the last checkpoint is kept",
            )


def _sent(where: str, numbers: Tensor) -> _Check:
    """Send a step's numbers to the host without waiting for them."""
    if numbers.device.type == "cpu":
        return _Check(where, numbers, None)
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(numbers.device))
    return _Check(where, host, arrived)
