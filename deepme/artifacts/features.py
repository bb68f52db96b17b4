"""features/SUBSET.h5: a frozen trunk's features of every image of a subset.

In warm-up the trunk does not change, so its features are computed once, of the centre
view, and the heads of all experts learn from them. Half precision: 8 KB an image for
VGG16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.origin import Origin
from deepme.storage.hdf5 import Block, dataset, mapped, open_hdf5, write_hdf5
from deepme.storage.header import Header

KIND, SCHEMA = "features", 1


@dataclass(frozen=True, kw_only=True)
class Features:
    """A trunk's features on one subset; mapped, not read.

    Attributes:
        origin: the file.
        features: (R, d) float16.
        readable: (R,) bool; rows of unreadable images are zero.
    """

    origin: Origin
    features: NDArray[np.float16]
    readable: NDArray[np.bool_]


Batch = tuple[slice, NDArray[np.float32], NDArray[np.bool_]]


def save_features(
    path: Path,
    header: Header,
    batches: Iterator[Batch],
    *,
    shape: tuple[int, int],
    advance: Callable[[int], None] = lambda _: None,
) -> str:
    """Stream features into a file.

    Args:
        path: the final name.
        header: its origin.
        batches: (rows, features (B, d), readable (B,)) in order.
        shape: (R, d).
        advance: called with the number of rows after each batch.

    Returns:
        The sha256 of the file.
    """

    def fill(file: h5py.File) -> Iterator[Block]:
        features = file.create_dataset("features", shape, np.float16)
        readable = file.create_dataset("readable", shape[:1], np.bool_)
        return blocks(features, readable)

    def blocks(features: h5py.Dataset, readable: h5py.Dataset) -> Iterator[Block]:
        largest = np.finfo(np.float16).max
        for where, some_features, some_readable in batches:
            bounded = some_features.clip(-largest, largest)
            yield features, where, bounded.astype(np.float16)
            yield readable, where, some_readable
            advance(len(some_readable))

    return write_hdf5(path, header, fill)


def load_features(path: Path, num_rows: int, num_features: int) -> Features:
    """Load a trunk's features on one subset.

    Raises:
        ArtifactError: missing, corrupt or of another size.
    """
    with open_hdf5(path, KIND, SCHEMA) as (header, file, sha256):
        features = dataset(file, "features", np.float16, (num_rows, num_features))
        return Features(
            origin=Origin(path, header, sha256),
            features=mapped(path, features),
            readable=dataset(file, "readable", np.bool_, (num_rows,))[()],
        )
