"""The training loop, used for experts and gate alike, and what makes it resumable.

A task brings the network, the batches and the loss; the loop brings learning rates,
the order of things, checkpoints and the ways to stop. Order and views of the images
are functions of seed, epoch and row, so a checkpoint holds (stage, epoch, step), the
tensors and the random state, and a resumed run continues bit for bit on the CPU.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType

import torch
from torch import Tensor

from deepme import ranks
from deepme.artifacts.expert import Epoch
from deepme.errors import (
    EnvironmentFault,
    Interrupted,
    TrainingError,
    UsageError,
)
from deepme.images.loading import Batch
from deepme.progress import Advance, note, progress
from deepme.training.checkpoint import resume, save, set_momenta
from deepme.training.run import Position, Run, Stage
from deepme.training.stepping import Stepper

SHOW_SECONDS = 1.0
"""Between two looks at the loss, each of which makes a GPU wait."""


def fit(run: Run) -> list[Epoch]:
    """Train through all stages, from the checkpoint where there is one.

    Args:
        run: what to train; its task's network holds the result.

    Returns:
        The history of all epochs, those before an interruption included.

    Raises:
        TrainingError: the loss is not finite, or a decoding process is lost.
        EnvironmentFault: out of memory.
        InputError: an unreadable image, by the policy.
        Interrupted: SIGINT or SIGTERM; a checkpoint was written.
    """
    _draw_apart()
    momenta = resume(run)
    per_epoch = run.task.steps_per_epoch
    total = sum(stage.epochs for stage in run.stages) * per_epoch
    done = _steps_before(run) + run.position.step
    with (
        _stop_signals() as stopped,
        _explained(run),
        progress(run.label, total, "steps", done) as advance,
    ):
        while run.position.stage < len(run.stages):
            _train_stage(run, momenta, stopped, advance)
            momenta = []
            run.position = Position(stage=run.position.stage + 1)
    if run.average:
        run.average.exchange()
    return run.history


def _train_stage(
    run: Run, momenta: list[Tensor], stopped: list[int], advance: Advance
) -> None:
    task, stage, position = run.task, run.stages[run.position.stage], run.position
    # A fused optimizer can skip a step on the device (see stepping).
    optimizer = torch.optim.SGD(task.start(stage), lr=stage.lr, fused=True)
    set_momenta(optimizer, momenta)
    before = sum(earlier.epochs for earlier in run.stages[: position.stage])
    epochs = range(before + position.epoch, before + stage.epochs)
    saved = shown = time.monotonic()
    step, clock, figures = Stepper(run, optimizer), _Clock(), ""
    for batch in clock.watch(task.batches(epochs, position.step)):
        lr = _set_lr(optimizer, stage, position, task.steps_per_epoch)
        num_images, num_bad = ranks.totals(len(batch.rows), len(batch.unreadable))
        if num_bad:
            run.unreadable.record(ranks.union(batch.unreadable))
        if num_images:
            step(batch, num_images)
        position.step += 1
        clock.images += num_images
        if time.monotonic() - shown > SHOW_SECONDS:
            step.settle()
            shown = time.monotonic()
            loss = position.means().get("total", 0.0)
            figures = (
                f"{clock.rate:,.0f} images/s, {clock.waiting:.0%} waiting for data, "
                f"loss {loss:.3f}"
            )
        advance(1, figures)
        if position.step == task.steps_per_epoch:
            step.settle()
            position = _end_epoch(run, stage, lr, clock)
            step.start_epoch()
            clock.start()
        late = time.monotonic() - saved > run.checkpoint_seconds
        # Saving all weights may take longer than an epoch on a cache.
        often = not task.is_cached or position.epoch == stage.epochs
        ended = position.step == 0 and often
        # The first to find that it is time decides for all.
        if ranks.largest(bool(stopped or ended or late)):
            step.settle()
            save(run, optimizer)
            saved = time.monotonic()
            if number := ranks.largest(stopped[0] if stopped else 0):
                raise Interrupted(
                    number, f"{run.label} interrupted; its checkpoint is written"
                )


class _Clock:
    """Where an epoch's time goes.

    Attributes:
        images: trained on since the start.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self.images, self._waited, self._started = 0, 0.0, time.monotonic()

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass batches on and count the time that each was waited for."""
        iterator = iter(batches)
        while True:
            before = time.monotonic()
            batch = next(iterator, None)
            self._waited += time.monotonic() - before
            if batch is None:
                return
            yield batch

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / max(1e-9, time.monotonic() - self._started)

    @property
    def waiting(self) -> float:
        """Share of the time in which no batch was there."""
        return self._waited / max(1e-9, time.monotonic() - self._started)


def _end_epoch(run: Run, stage: Stage, lr: float, clock: _Clock) -> Position:
    position, task = run.position, run.task
    speed = f"{clock.rate:,.0f} images/s, {clock.waiting:.0%} waiting for data"
    if task.flops:
        speed += f", {clock.rate * task.flops / 1e12:,.3g} TFLOP/s"
    task.end_epoch()
    with run.average.in_place() if run.average else nullcontext():
        val_top1 = task.validate()
    epoch = Epoch(
        stage=stage.name,
        epoch=position.epoch + 1,
        lr=lr,
        losses=position.means(),
        train_top1=position.correct / max(1, position.seen),
        val_top1=val_top1,
    )
    run.history.append(epoch)
    if run.events and ranks.is_first():
        run.events.write(run.history)
    task.start(stage)
    run.position = Position(stage=position.stage, epoch=position.epoch + 1)
    val = "" if val_top1 is None else f", val top-1 {val_top1:.1%}"
    note(
        f"{run.label}: {stage.name} epoch {epoch.epoch}/{stage.epochs}, "
        f"loss {epoch.losses.get('total', 0.0):.4f}, "
        f"train top-1 {epoch.train_top1:.1%}{val}; {speed}"
    )
    return run.position


def _draw_apart() -> None:
    """Give each process after the first a random state of its own, for dropout."""
    if ranks.rank():
        torch.manual_seed((torch.initial_seed() + ranks.rank()) % 2**63)


def _set_lr(
    optimizer: torch.optim.Optimizer, stage: Stage, position: Position, per_epoch: int
) -> float:
    step = position.epoch * per_epoch + position.step
    lr = stage.lr_at(step, stage.epochs * per_epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def _steps_before(run: Run) -> int:
    position, per_epoch = run.position, run.task.steps_per_epoch
    epochs = sum(stage.epochs for stage in run.stages[: position.stage])
    return (epochs + position.epoch) * per_epoch


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM for the next step border; a second one acts at once."""
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, remember) for number in watched}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _explained(run: Run) -> Iterator[None]:
    """Turn what torch raises for memory and lost workers into our errors."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).splitlines()[0] if str(error) else ""
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
            "allocate memory" in text
        ):
            raise EnvironmentFault(
                f"{run.label}: out of memory with --batch-size {run.batch_size} on "
                f"{run.device}",
                "use a smaller --batch-size or --image-size",
            ) from error
        if "deterministic" in text:
            raise UsageError(
                f"{run.label}: --deterministic with this backbone and device: {text}",
                "use another backbone, or --no-deterministic",
            ) from error
        if "DataLoader worker" in text:
            raise TrainingError(
                f"{run.label}: a process that decodes images was lost: {text}",
                "rerun the command, it continues from the checkpoint; "
                "if it happens again use fewer --workers",
            ) from error
        raise
