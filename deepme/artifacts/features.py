"""features/SUBSET.h5: a frozen trunk's features of every image of a subset.

In warm-up the trunk does not change, so its features are computed once, of the centre
view, and the heads of all experts learn from them. Half precision: 8 KB an image for
VGG16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.origin import Origin
from deepme.storage.hdf5 import Block, dataset, file_rows, open_hdf5, write_hdf5_files
from deepme.storage.header import Header
from deepme.storage.rows import FileRows, OpenFile, half

KIND, SCHEMA = "features", 1


@dataclass(frozen=True, kw_only=True)
class Features:
    """A trunk's features on one subset; read when asked for.

    Attributes:
        origin: the file.
        features: (R, d) float16, by rows.
        readable: (R,) bool; rows of unreadable images are zero.
    """

    origin: Origin
    features: FileRows
    readable: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class NewFeatures:
    """A trunk's features that are about to be written.

    Attributes:
        path: the final name.
        header: its origin.
        shape: (R, d).
    """

    path: Path
    header: Header
    shape: tuple[int, int]


Batch = tuple[slice, Sequence[NDArray[np.float32]], NDArray[np.bool_]]


def save_features(
    new: Sequence[NewFeatures],
    batches: Iterator[Batch],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Stream the features of trunks that are asked together into a file each.

    Args:
        new: the files.
        batches: (rows, of each trunk features (B, d), readable (B,)) in order.
        advance: called with the number of rows after each batch.
    """

    def fill(files: list[h5py.File]) -> Iterator[Block]:
        targets = [
            (
                file.create_dataset("features", one.shape, np.float16),
                file.create_dataset("readable", one.shape[:1], np.bool_),
            )
            for file, one in zip(files, new, strict=True)
        ]
        return blocks(targets)

    def blocks(targets: list[tuple[h5py.Dataset, h5py.Dataset]]) -> Iterator[Block]:
        for where, found, some_readable in batches:
            for (features, readable), some in zip(targets, found, strict=True):
                yield features, where, half(some)
                yield readable, where, some_readable
            advance(len(some_readable))

    write_hdf5_files([(one.path, one.header) for one in new], fill)


def load_features(path: Path, num_rows: int, num_features: int) -> Features:
    """Load a trunk's features on one subset.

    Raises:
        ArtifactError: missing, corrupt or of another size.
    """
    with open_hdf5(path, KIND, SCHEMA) as (header, file, sha256):
        features = dataset(file, "features", np.float16, (num_rows, num_features))
        return Features(
            origin=Origin(path, header, sha256),
            features=file_rows(OpenFile(path), features),
            readable=dataset(file, "readable", np.bool_, (num_rows,))[()],
        )
