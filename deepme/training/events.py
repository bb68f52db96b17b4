"""Each epoch's loss, accuracy and learning rate as TensorBoard reads them.

TensorBoard's record writer is used without its event writer, which would start a
thread: nothing that trains here may hold one when it forks.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from deepme import ranks
from deepme.artifacts.expert import Epoch
from deepme.config import MachineSettings
from deepme.errors import UsageError
from deepme.storage.atomic import cannot_write

NAME = "events.out.tfevents.0.deepme"
"""TensorBoard knows its files by the middle of their names."""


class EpochEvents:
    """The event file of one training, beside its checkpoint.

    A killed process may leave half a record, behind which TensorBoard reads nothing:
    the first write of a process starts the file anew, with all epochs so far.
    """

    def __init__(self, folder: Path) -> None:
        """Write into a folder; TensorBoard names the run after it."""
        self._path, self._written = folder / NAME, 0

    def write(self, history: Sequence[Epoch]) -> None:
        """Write the epochs that are not in the file yet.

        Raises:
            EnvironmentFault: the file system refused.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab" if self._written else "wb") as file:
                writer = RecordWriter(file)
                if not self._written:
                    first = Event(wall_time=time.time(), file_version="brain.Event:2")
                    writer.write(first.SerializeToString())
                for step in range(self._written, len(history)):
                    event = Event(wall_time=time.time(), step=step + 1)
                    for tag, value in scalars(history[step]):
                        event.summary.value.add(tag=tag, simple_value=value)
                    writer.write(event.SerializeToString())
                writer.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._written = len(history)


def scalars(epoch: Epoch) -> Iterator[tuple[str, float]]:
    """Name what an epoch came to: ``loss/total``, ``top-1/train``, ``lr``, …."""
    for name, value in epoch.losses.items():
        yield f"loss/{name}", value
    yield "top-1/train", epoch.train_top1
    if epoch.val_top1 is not None:
        yield "top-1/validation", epoch.val_top1
    yield "lr", epoch.lr


def events_of(machine: MachineSettings, checkpoint: Path) -> EpochEvents | None:
    """Prepare the events of a training, if they are asked for, in its first process.

    Raises:
        UsageError: TensorBoard is not installed.
    """
    if not machine.tensorboard or not ranks.is_first():
        return None
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "--tensorboard needs tensorboard, which is not installed",
            "pip install 'deepme[tensorboard]'",
        )
    return EpochEvents(checkpoint.parent)
