"""Coloured pictures of four classes, split, for tasks that train in a blink."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepme.artifacts.origin import Origin
from deepme.artifacts.split import Split
from deepme.images.index import find_images
from deepme.images.subsets import assign_subsets
from deepme.storage.header import Header

COLOURS = {
    "a": (200, 30, 30),
    "b": (200, 180, 30),
    "c": (30, 30, 200),
    "d": (30, 180, 200),
}


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Ten 8 × 8 pictures a class: 7 to train on, 1 to validate with, 2 to test."""
    root = tmp_path_factory.mktemp("coloured")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(10):
            noise = rng.integers(-30, 31, (8, 8, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return split_of(root)


def split_of(root: Path) -> Split:
    """Index and split a folder, without an artifact file."""
    classes = {name: index for index, name in enumerate(COLOURS)}
    images = find_images(root, classes, lambda _, figures="": None).images
    return Split(
        origin=Origin(root / "split.h5", Header(kind="split", schema_version=1), "0"),
        images=images,
        subset=assign_subsets(images, val=0.1, test=0.2, seed=0),
        num_classes=len(classes),
    )
