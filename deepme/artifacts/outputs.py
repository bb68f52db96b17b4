"""outputs/SUBSET/NN.h5: what a frozen expert says of every image of a subset.

Rows follow the split's rows of that subset. The arrays lie contiguous in the file, so
that training the gate can map them and read any row without holding the file.
Subsets are apart from each other: the gate's training never opens the test file.
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

KIND, SCHEMA = "outputs", 1


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """One expert's outputs on one subset; the large arrays are mapped, not read.

    Attributes:
        origin: the file.
        logits: (R, C_t) float32.
        features: (R, d) float32, or None where they were not asked for.
        readable: (R,) bool; rows of unreadable images are zero.
    """

    origin: Origin
    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None
    readable: NDArray[np.bool_]


Batch = tuple[slice, NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]


def save_outputs(
    path: Path,
    header: Header,
    batches: Iterator[Batch],
    *,
    shape: tuple[int, int],
    num_features: int | None,
    advance: Callable[[int], None] = lambda _: None,
) -> str:
    """Stream an expert's outputs into a file.

    Args:
        path: the final name.
        header: its origin.
        batches: (rows, logits (B, C_t), features (B, d), readable (B,)) in order.
        shape: (R, C_t).
        num_features: d, or None to leave the features out.
        advance: called with the number of rows after each batch.

    Returns:
        The sha256 of the file.
    """

    def fill(file: h5py.File) -> Iterator[Block]:
        logits = file.create_dataset("logits", shape, np.float32)
        readable = file.create_dataset("readable", shape[:1], np.bool_)
        features = None
        if num_features is not None:
            wide = (shape[0], num_features)
            features = file.create_dataset("features", wide, np.float32)
        return blocks(logits, readable, features)

    def blocks(
        logits: h5py.Dataset, readable: h5py.Dataset, features: h5py.Dataset | None
    ) -> Iterator[Block]:
        for where, some_logits, some_features, some_readable in batches:
            yield logits, where, some_logits
            yield readable, where, some_readable
            if features is not None:
                yield features, where, some_features
            advance(len(some_readable))

    return write_hdf5(path, header, fill)


def load_outputs(path: Path, num_rows: int, num_classes: int) -> Outputs:
    """Load one expert's outputs on one subset.

    Raises:
        ArtifactError: missing, corrupt or of another size.
    """
    with open_hdf5(path, KIND, SCHEMA) as (header, file, sha256):
        logits = dataset(file, "logits", np.float32, (num_rows, num_classes))
        features = None
        if "features" in file:
            features = dataset(file, "features", np.float32, (num_rows, None))
        return Outputs(
            origin=Origin(path, header, sha256),
            logits=mapped(path, logits),
            features=None if features is None else mapped(path, features),
            readable=dataset(file, "readable", np.bool_, (num_rows,))[()],
        )
