"""Deal each class's images into train, validation and test, or as they were dealt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.split import SUBSETS, ImageIndex


def assign_subsets(
    images: ImageIndex, *, val: float, test: float, seed: int
) -> NDArray[np.uint8]:
    """Split every class on its own, by a keyed hash of each image's path.

    The hash orders a class's images: the first go to test, the next to validation.
    So the result depends on seed and names only, not on the machine, the order of the
    file system or numpy's version, and one more image moves at most a few others.
    A class with 3 images and more has at least one in each subset whose share is not
    0; one with 2 has one for training and one for testing.

    Args:
        images: all images.
        val: share for validation, in [0, 0.9].
        test: share for testing, in [0, 0.9].
        seed: the key.

    Returns:
        (M,) uint8: 0 train, 1 val, 2 test.
    """
    return _deal(images, np.arange(len(images)), val=val, test=test, seed=seed)


def given_subsets(
    images: ImageIndex, parts: Mapping[str, str], *, val: float, seed: int
) -> NDArray[np.uint8]:
    """Take over a split that the user has made as folders.

    Args:
        images: all images, each below one of the folders.
        parts: folder -> train, val or test. Without val, that is dealt from the
            training images as by `assign_subsets`.
        val: share for validation, in [0, 0.9].
        seed: the key.

    Returns:
        (M,) uint8: 0 train, 1 val, 2 test.
    """
    number = {folder: SUBSETS.index(part) for folder, part in parts.items()}
    folders = (path.partition("/")[0] for path in images.paths)
    subset = np.array([number[folder] for folder in folders], dtype=np.uint8)
    if "val" not in parts.values():
        rows = np.flatnonzero(subset == SUBSETS.index("train"))
        subset[rows] = _deal(images, rows, val=val, test=0, seed=seed)
    return subset


def _deal(
    images: ImageIndex, rows: NDArray[np.int64], *, val: float, test: float, seed: int
) -> NDArray[np.uint8]:
    """Deal some images, given by their rows."""
    key, label = seed.to_bytes(8, "little"), images.label[rows]
    every = (_hash(path, key) for path in images.paths)
    hashes = np.fromiter(every, np.uint64, len(images))[rows]
    order = np.lexsort((hashes, label))
    counts = np.bincount(label)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(rows), dtype=np.int64)
    rank[order] = np.arange(len(rows)) - starts[label[order]]
    num_test, num_val = _sizes(counts, val=val, test=test)
    first_train = (num_test + num_val)[label]
    in_test = rank < num_test[label]
    subset = np.where(in_test, 2, np.where(rank < first_train, 1, 0))
    return subset.astype(np.uint8)


def _sizes(
    counts: NDArray[np.int64], *, val: float, test: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Test and validation images per class, at least one left for training."""
    wants_val = (counts >= 3) & (val > 0)
    num_test = np.maximum(np.rint(counts * test), (counts >= 2) & (test > 0))
    num_test = np.minimum(num_test, np.maximum(counts - 1 - wants_val, 0))
    num_test = num_test.astype(np.int64)
    num_val = np.maximum(np.rint(counts * val), wants_val)
    num_val = np.minimum(num_val, np.maximum(counts - num_test - 1, 0))
    return num_test, num_val.astype(np.int64)


def _hash(path: str, key: bytes) -> int:
    raw = path.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8, key=key).digest())
