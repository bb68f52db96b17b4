from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepme.artifacts.split import ImageIndex
from deepme.images.index import find_images
from deepme.images.loading import (
    Batch,
    ImageDataset,
    epoch_order,
    evaluation_batches,
    training_batches,
)
from deepme.images.reading import decode, read_bytes
from deepme.images.views import centre_view

CLASSES = {"a": 0, "b": 1}
SIZE = 6
ROWS = np.arange(1, 20, 2)
BATCH_SIZE = 4
STEPS = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """Twenty pictures, ten of each class."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(20):
        folder = root / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return find_images(root, CLASSES, lambda _, figures="": None).images


def train(
    images: ImageIndex,
    epochs: range = range(2),
    first_step: int = 0,
    *,
    seed: int = 0,
    augment: bool = True,
    workers: int = 0,
) -> list[Batch]:
    dataset = ImageDataset(images, size=SIZE, augment=augment, seed=seed)
    return list(
        training_batches(
            dataset,
            ROWS,
            BATCH_SIZE,
            epochs=epochs,
            first_step=first_step,
            workers=workers,
        )
    )


def assert_same(found: Iterable[Batch], expected: Iterable[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.labels, other.labels)
        assert one.unreadable == other.unreadable


def rows_of(batches: Iterable[Batch]) -> list[int]:
    return [row for batch in batches for row in batch.rows.tolist()]


def test_every_row_comes_once_an_epoch(images: ImageIndex) -> None:
    batches = train(images)
    assert len(batches) == 2 * STEPS
    first, second = rows_of(batches[:STEPS]), rows_of(batches[STEPS:])
    assert sorted(first) == sorted(second) == ROWS.tolist()
    assert first != second


def test_a_batch_has_pixels_labels_and_rows(images: ImageIndex) -> None:
    for batch in train(images):
        assert batch.inputs.shape == (len(batch.rows), 3, SIZE, SIZE)
        assert batch.inputs.dtype == torch.uint8
        assert batch.labels.tolist() == images.label[batch.rows.numpy()].tolist()
        assert batch.unreadable == {}


@pytest.mark.parametrize("step", range(2 * STEPS))
def test_resuming_at_any_step_gives_the_same_remaining_batches(
    images: ImageIndex, step: int
) -> None:
    epoch, first_step = divmod(step, STEPS)
    resumed = train(images, range(epoch, 2), first_step)
    assert_same(resumed, train(images)[step:])


def test_workers_change_nothing(images: ImageIndex) -> None:
    assert_same(train(images, workers=2), train(images))


def test_batches_do_not_touch_the_global_random_state(images: ImageIndex) -> None:
    before = torch.get_rng_state()
    train(images)
    assert torch.equal(torch.get_rng_state(), before)


def test_order_and_views_follow_the_seed(images: ImageIndex) -> None:
    assert_same(train(images, seed=5), train(images, seed=5))
    assert rows_of(train(images, seed=5)) != rows_of(train(images, seed=6))


def test_a_view_is_a_function_of_seed_epoch_and_row(images: ImageIndex) -> None:
    def views(batches: list[Batch]) -> dict[int, torch.Tensor]:
        return {
            row: view
            for batch in batches
            for row, view in zip(batch.rows.tolist(), batch.inputs, strict=True)
        }

    epochs = views(train(images, range(1))), views(train(images, range(1, 2)))
    other_seed = views(train(images, range(1), seed=1))
    alone = ImageDataset(images, size=SIZE, augment=True, seed=0)
    for row in ROWS.tolist():
        assert not torch.equal(epochs[0][row], epochs[1][row])
        assert not torch.equal(epochs[0][row], other_seed[row])
        _, view = alone[row, 1]
        assert torch.equal(epochs[1][row], torch.from_numpy(view))


def test_without_augmentation_training_sees_the_centre(images: ImageIndex) -> None:
    for batch in train(images, augment=False):
        for row, view in zip(batch.rows.tolist(), batch.inputs, strict=True):
            pixels = np.array(decode(read_bytes(images, row)))
            assert np.array_equal(view.numpy(), centre_view(pixels, SIZE))


def test_evaluation_sees_the_centre_in_order(images: ImageIndex) -> None:
    dataset = ImageDataset(images, size=SIZE, augment=True, seed=0)
    batches = list(evaluation_batches(dataset, ROWS, BATCH_SIZE, 0))
    assert [len(batch.rows) for batch in batches] == [4, 4, 2]
    assert rows_of(batches) == ROWS.tolist()
    expected = centre_view(np.array(decode(read_bytes(images, int(ROWS[0])))), SIZE)
    assert np.array_equal(batches[0].inputs[0].numpy(), expected)


@pytest.mark.parametrize(
    ("num_rows", "sizes"), [(1, [1]), (8, [4, 4]), (9, [3, 3, 3]), (10, [4, 3, 3])]
)
def test_batches_differ_by_at_most_one_image(num_rows: int, sizes: list[int]) -> None:
    order = epoch_order(np.arange(num_rows), BATCH_SIZE, seed=0, epoch=0)
    assert [len(batch) for batch in order] == sizes
    assert sorted(np.concatenate(order).tolist()) == list(range(num_rows))


class TestUnreadable:
    """A bad image is reported under its row, and no other takes its place."""

    @pytest.fixture
    def damaged(self, tmp_path: Path) -> ImageIndex:
        (tmp_path / "a").mkdir()
        for number in range(6):
            path = tmp_path / "a" / f"{number}.png"
            if number in (1, 4, 5):
                path.write_bytes(b"")
            else:
                Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        return find_images(tmp_path, CLASSES, lambda _, figures="": None).images

    @pytest.mark.parametrize("workers", [0, 2])
    def test_is_left_out_of_its_batch(self, damaged: ImageIndex, workers: int) -> None:
        dataset = ImageDataset(damaged, size=SIZE, augment=False, seed=0)
        batches = list(evaluation_batches(dataset, np.arange(6), 2, workers))
        reason = "the file is empty"
        assert [batch.rows.tolist() for batch in batches] == [[0], [2, 3], []]
        assert [batch.unreadable for batch in batches] == [
            {1: reason},
            {},
            {4: reason, 5: reason},
        ]
        assert batches[1].inputs[:, 0, 0, 0].tolist() == [2, 3]
        assert batches[2].inputs.shape == (0, 3, SIZE, SIZE)


class _DiesInAWorker(ImageDataset):
    def __getitem__(self, sample):
        os._exit(3)


def test_a_lost_worker_ends_the_stream(images: ImageIndex) -> None:
    dataset = _DiesInAWorker(images, size=SIZE, augment=False, seed=0)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(evaluation_batches(dataset, ROWS, BATCH_SIZE, 1))
