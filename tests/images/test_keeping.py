from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepme.artifacts.split import ImageIndex
from deepme.images import loading
from deepme.images.index import find_images
from deepme.images.keeping import KeptImages, room_for
from deepme.images.loading import Batch, ImageDataset, training_batches

ROWS = np.arange(12)
SIZE = 6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    (root / "a").mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (10, 12 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "a" / f"{number:02}.jpg")
    return find_images(root, {"a": 0}, lambda _, figures="": None).images


def train(images: ImageIndex, kept: KeptImages | None, workers: int) -> list[Batch]:
    dataset = ImageDataset(images, size=SIZE, augment=True, seed=0, kept=kept)
    return list(
        training_batches(
            dataset, ROWS, 4, epochs=range(3), first_step=0, workers=workers
        )
    )


def assert_same(found: Iterable[Batch], expected: Iterable[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.rows, other.rows)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("num_bytes", [10**6, 1000, 0])
def test_keeping_changes_no_view(
    images: ImageIndex, num_bytes: int, workers: int
) -> None:
    """Whether all, some or no image finds room."""
    kept = KeptImages(len(images), num_bytes)
    assert_same(train(images, kept, workers), train(images, None, 0))
    found = [kept.get(int(row)) for row in ROWS]
    assert sum(image is not None for image in found) in (
        range(12, 13) if num_bytes == 10**6 else range(1, 4) if num_bytes else [0]
    )


def test_an_image_that_is_kept_is_not_read_again(
    images: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptImages(len(images), 10**6)
    expected = train(images, kept, 0)
    monkeypatch.setattr(loading, "read_bytes", lambda *_: pytest.fail("read again"))
    assert_same(train(images, kept, 0), expected)


def test_workers_share_what_one_of_them_has_decoded(images: ImageIndex) -> None:
    kept = KeptImages(len(images), 10**6)
    train(images, kept, 2)
    for row in ROWS.tolist():
        pixels = kept.get(row)
        assert pixels is not None
        assert pixels.shape == (10, 12 + row, 3)


def test_there_is_room_if_all_fit(images: ImageIndex) -> None:
    needed = sum(3 * 10 * (12 + number) for number in range(12)) / 1e9
    assert room_for(images, ROWS, gigabytes=1.2 * needed)
    assert room_for(images, ROWS, gigabytes=needed) is None
    assert room_for(images, ROWS, gigabytes=0) is None
    assert room_for(images, ROWS[:0], gigabytes=1) is None


def test_what_is_decoded_smaller_is_not_kept(tmp_path: Path) -> None:
    """Its views differ from those of the whole image."""
    (tmp_path / "a").mkdir()
    for name, side in (("large", 8 * SIZE), ("small", 2 * SIZE)):
        Image.new("RGB", (side, side)).save(tmp_path / "a" / f"{name}.jpg")
    images = find_images(tmp_path, {"a": 0}, lambda _, figures="": None).images
    kept = KeptImages(2, 10**6)
    dataset = ImageDataset(images, size=SIZE, augment=True, seed=0, kept=kept)
    for row in range(2):
        dataset[loading.Sample(row, 0)]
    assert kept.get(0) is None
    assert kept.get(1) is not None


def test_an_unreadable_image_takes_no_room(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bad.jpg").write_bytes(b"bad")
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "JPEG")
    (tmp_path / "a" / "good.jpg").write_bytes(stream.getvalue())
    images = find_images(tmp_path, {"a": 0}, lambda _, figures="": None).images
    assert room_for(images, np.arange(2), gigabytes=1)
