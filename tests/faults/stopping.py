"""A training that stops itself at a chosen step, for what is taken up again."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from typing import Any

from injection import Child, ChildEnd


class Stopping:
    """Work in a child that sends itself a signal after a step.

    Args:
        work: a command that trains.
        at: the step, counted over all epochs from 1; 0 for none.
        number: the signal.
        saving: send it while the checkpoint after that step is put in place.
    """

    def __init__(
        self, work: Callable[[], None], at: int, number: int, *, saving: bool = False
    ) -> None:
        self._work, self._at, self._number, self._saving = work, at, number, saving
        self._memory = mmap.mmap(-1, 16)

    def run(self) -> ChildEnd:
        return Child(self).wait(120)

    def __call__(self) -> None:
        from deepme.training.stepping import Stepper

        step, replace, due = Stepper.__call__, os.replace, []

        def stop() -> None:
            self._memory[8:] = struct.pack("d", time.monotonic())
            os.kill(os.getpid(), self._number)

        def counted(stepper: Any, *given: Any, **options: Any) -> None:
            step(stepper, *given, **options)
            made = steps(stepper._run) + 1
            self._memory[:8] = struct.pack("q", made)
            if made == self._at:
                due.append(made)
                if not self._saving:
                    stop()

        def replacing(source: Any, target: Any, **options: Any) -> None:
            if self._saving and due:
                due.clear()
                stop()
            replace(source, target, **options)

        Stepper.__call__, os.replace = counted, replacing  # type: ignore[method-assign]
        self._work()

    @property
    def steps(self) -> int:
        """Made so far, those of earlier lives included; 0 before the first."""
        return int(struct.unpack("q", self._memory[:8])[0])

    @property
    def stopped(self) -> float:
        """When the signal was sent, by the monotonic clock; 0 if it was not."""
        return float(struct.unpack("d", self._memory[8:])[0])


def steps(run: Any) -> int:
    """The steps before this one, over all stages."""
    place, per_epoch = run.position, run.task.steps_per_epoch
    epochs = sum(stage.epochs for stage in run.stages[: place.stage])
    return int((epochs + place.epoch) * per_epoch + place.step)
