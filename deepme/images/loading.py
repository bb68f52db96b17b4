"""Batches of images in a fixed order that can be taken up at any step.

Order and views are functions of (seed, epoch, row): neither the number of worker
processes nor an interruption changes them, and resuming needs no loader state.
An unreadable image is reported to the loop, never replaced by another.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepme.artifacts.split import ImageIndex
from deepme.images.keeping import KeptImages
from deepme.images.reading import UnreadableImage, opened, preload, read_bytes
from deepme.images.views import Crop, centre_crop, random_crop, view_of

WORKER_TIMEOUT = 120.0
EVALUATION = -1
"""The epoch number that asks for the centre view."""


class Share(NamedTuple):
    """Which part of every batch a process sees.

    Attributes:
        number: of the part, counted from 0.
        of: how many parts there are.
    """

    number: int
    of: int


WHOLE: Share = Share(0, 1)


class Sample(NamedTuple):
    """Which image, and which view of it.

    Attributes:
        row: of the image in the split.
        epoch: whose view it is, or `EVALUATION`.
    """

    row: int
    epoch: int


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        inputs: (B, 3, S, S) uint8 images, or (B, d) float32 features.
        rows: (B,) int64, their rows in the split.
        labels: (B,) int64, their positions in the class list.
        unreadable: row -> reason, for the images of this step that are missing.
    """

    inputs: Tensor
    rows: Tensor
    labels: Tensor
    unreadable: dict[int, str]

    def parts(self, number: int) -> list[Batch]:
        """Divide it into so many batches, or one an image; sizes differ by one."""
        number = max(1, min(number, len(self.rows)))
        if number == 1:
            return [self]
        tensors = (self.inputs, self.rows, self.labels)
        split = (tensor.tensor_split(number) for tensor in tensors)
        return [
            Batch(inputs, rows, labels, {})
            for inputs, rows, labels in zip(*split, strict=True)
        ]

    def pin_memory(self) -> Batch:
        """Let the loader copy it to the GPU without waiting."""
        pinned = (self.inputs.pin_memory(), self.rows, self.labels.pin_memory())
        return Batch(*pinned, self.unreadable)


class ImageDataset(Dataset[Any]):
    """The images of a split as the network sees them.

    Args:
        images: the index.
        size: pixels a side.
        augment: whether training views are random.
        seed: the views' seed.
        kept: room for decoded images, where they are read in several epochs.
    """

    def __init__(
        self,
        images: ImageIndex,
        *,
        size: int,
        augment: bool,
        seed: int,
        kept: KeptImages | None = None,
    ) -> None:
        """Keep the packed index; workers share its memory."""
        self.images, self.size, self.augment, self.seed = images, size, augment, seed
        self.kept = kept

    def __getitem__(self, sample: Sample) -> tuple[int, NDArray[np.uint8] | str]:
        """Read one view, or the reason why it cannot be read."""
        row, epoch = sample
        pixels = self.kept.get(row) if self.kept else None
        if pixels is not None:
            full = pixels.shape[1], pixels.shape[0]
            return row, view_of(pixels, self._crop(full, row, epoch), full, self.size)
        try:
            with opened(read_bytes(self.images, row)) as picture:
                crop = self._crop(picture.size, row, epoch)
                pixels = picture.pixels(crop.shrink(self.size))
        except UnreadableImage as error:
            return row, str(error)
        if self.kept and self._always_whole(picture.size):
            self.kept.put(row, pixels)
        return row, view_of(pixels, crop, picture.size, self.size)

    def _crop(self, full: tuple[int, int], row: int, epoch: int) -> Crop:
        if epoch == EVALUATION or not self.augment:
            return centre_crop(*full)
        entropy = np.random.SeedSequence([self.seed, epoch, row])
        return random_crop(*full, np.random.default_rng(entropy))

    def _always_whole(self, full: tuple[int, int]) -> bool:
        """Whether no view of the image is decoded smaller: only then may it be kept."""
        return Crop((0, 0, *full), False).shrink(self.size) == 1

    def collate(self, samples: list[tuple[int, NDArray[np.uint8] | str]]) -> Batch:
        """Stack what could be read."""
        read = [(row, view) for row, view in samples if not isinstance(view, str)]
        rows = torch.tensor([row for row, _ in read], dtype=torch.int64)
        empty = np.empty((0, 3, self.size, self.size), dtype=np.uint8)
        views = np.stack([view for _, view in read]) if read else empty
        return Batch(
            inputs=torch.from_numpy(views),
            rows=rows,
            labels=torch.from_numpy(self.images.label[rows.numpy()].astype(np.int64)),
            unreadable={row: view for row, view in samples if isinstance(view, str)},
        )


def epoch_order(
    rows: NDArray[np.int64],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    share: Share = WHOLE,
) -> list[NDArray[np.int32]]:
    """Shuffle the rows of one epoch into batches.

    Batches differ by at most one image, so that none is too small for batch
    normalisation.

    Args:
        rows: (R,) rows to train on.
        batch_size: largest size of a batch.
        seed: the order's seed.
        epoch: the epoch's number.
        share: which part of each batch.

    Returns:
        The batches, int32; every row is in one of them, or in another share of one.
    """
    generator = torch.Generator().manual_seed(_mixed(seed, epoch))
    order = torch.randperm(len(rows), generator=generator).numpy()
    num_batches = max(1, -(-len(rows) // batch_size))
    # They stay for a whole epoch: of 9 million rows int64 would take 72 MB.
    batches = np.array_split(rows.astype(np.int32)[order], num_batches)
    if share == WHOLE:
        return batches
    return [np.array_split(batch, share.of)[share.number] for batch in batches]


def training_batches(
    dataset: ImageDataset,
    rows: NDArray[np.int64],
    batch_size: int,
    *,
    epochs: range,
    first_step: int,
    workers: int,
    share: Share = WHOLE,
) -> Iterator[Batch]:
    """Stream the batches of several epochs, from any step on.

    Args:
        dataset: the images.
        rows: (R,) rows to train on.
        batch_size: largest size of a batch.
        epochs: the epochs still to come; their numbers choose order and views.
        first_step: batches of the first of them that are already done.
        workers: decoding processes, 0 for none.
        share: which part of each batch.

    Yields:
        The batches in order.
    """
    steps = _TrainingSteps(rows, batch_size, dataset.seed, epochs, first_step, share)
    yield from _loader(dataset, steps, workers)


@dataclass(frozen=True)
class _TrainingSteps:
    """The samples of each step, made when asked for: epochs × images may be 10⁹."""

    rows: NDArray[np.int64]
    batch_size: int
    seed: int
    epochs: range
    first_step: int
    share: Share

    def __iter__(self) -> Iterator[list[Sample]]:
        skip = self.first_step
        for epoch in self.epochs:
            batches = epoch_order(
                self.rows,
                self.batch_size,
                seed=self.seed,
                epoch=epoch,
                share=self.share,
            )
            for batch in batches[skip:]:
                yield [Sample(int(row), epoch) for row in batch]
            skip = 0


def evaluation_batches(
    dataset: ImageDataset, rows: NDArray[np.int64], batch_size: int, workers: int
) -> Iterator[Batch]:
    """Stream centre views of the rows, in their order."""
    # Made when asked for: 9 million samples would take a gigabyte.
    steps = (
        [Sample(int(row), EVALUATION) for row in rows[start : start + batch_size]]
        for start in range(0, len(rows), batch_size)
    )
    yield from _loader(dataset, steps, workers)


def _loader(
    dataset: ImageDataset, steps: Iterable[list[Sample]], workers: int
) -> Iterator[Batch]:
    if workers:
        preload()
        # What is garbage stays so: collecting it in a worker would copy its pages.
        gc.freeze()
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=steps,
        collate_fn=dataset.collate,
        num_workers=workers,
        timeout=WORKER_TIMEOUT if workers else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_signals,
        # Without a generator of its own the loader draws from the global one, and a
        # resumed run would see other dropout masks.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except RuntimeError:
        # A worker that hangs ignores the loader's own SIGTERM (see below).
        for child in multiprocessing.active_children():
            child.kill()
        raise


def _ignore_signals(_worker: int) -> None:
    """Leave Ctrl-C to the main process: it ends the workers after its checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
