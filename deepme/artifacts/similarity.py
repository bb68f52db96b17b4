"""similarity.h5: how near the classes are to each other (the matrix Θ).

In WordNet or a user's own hierarchy Θ is a function of the path length, a small
integer: the file holds N² bytes and a table, never N² floats. A user's own matrix is
held as float32. A hierarchy is in the file too, for the stages after this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.origin import Origin
from deepme.core.hierarchy import Hierarchy
from deepme.core.twins import TwinAffinity
from deepme.errors import ArtifactError
from deepme.storage.hdf5 import (
    Block,
    dataset,
    open_hdf5,
    read_strings,
    write_hdf5,
    write_strings,
)
from deepme.storage.header import Header, class_digest
from deepme.text import clean

KIND, SCHEMA = "similarity", 1

_TWINS = 2
"""The path length between classes that are all alike: up and down again."""

Rows = Iterable[tuple[slice, NDArray[np.uint8] | NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """The classes and access to their similarities.

    Attributes:
        origin: the file.
        classes: (N,) wnids, or the names in the user's hierarchy or matrix.
        names: (N,) names for people.
        theta_of_path_length: (256,) float64 in [0, 1], or None for a user's matrix.
        hierarchy: the user's, or None for WordNet and for a matrix.
    """

    origin: Origin
    classes: tuple[str, ...]
    names: tuple[str, ...]
    theta_of_path_length: NDArray[np.float64] | None
    hierarchy: Hierarchy | None

    def theta(self, indices: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Read Θ of all classes, or the block of some.

        Args:
            indices: (C,) ascending positions in the class list; None for all.

        Returns:
            (C, C) or (N, N) float32, symmetric, in [0, 1]. All of it takes 4 N² bytes.

        Raises:
            ArtifactError: the file is no longer the one that was loaded.
        """
        size = len(self.classes) if indices is None else len(indices)
        theta = np.empty((size, size), dtype=np.float32)
        for rows, block in self._theta_rows(indices, indices):
            theta[rows] = block
        return theta

    def theta_to_all(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read the rows of Θ of some classes.

        Args:
            indices: (C,) ascending positions in the class list.

        Returns:
            (C, N) float32, in [0, 1].
        """
        return np.concatenate([block for _, block in self._theta_rows(indices, None)])

    def medoid(self, indices: NDArray[np.int64]) -> int:
        """Find the class of some that is most similar to the others.

        argmax_i Σ_{j≠i} θ_ij, from a few rows of Θ at a time.

        Args:
            indices: (C,) ascending positions in the class list, C ≥ 1.

        Returns:
            Its position in the class list, the lowest where several are equal.
        """
        nearness = np.empty(len(indices), dtype=np.float32)
        for rows, block in self._theta_rows(indices, indices):
            own = np.arange(len(block)), np.arange(len(indices))[rows]
            nearness[rows] = block.sum(axis=1) - block[own]
        return int(indices[nearness.argmax()])

    def rows(self, indices: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Read what the file holds of some classes, a few rows at a time.

        Args:
            indices: (C,) ascending positions in the class list.

        Yields:
            Which of the indices, and their rows (B, N): uint8 path lengths, 255 for no
            path, or float32 similarities of a user's matrix.

        Raises:
            ArtifactError: the file is no longer the one that was loaded.
        """
        with self._opened() as file:
            yield from _read_rows(file, indices)

    def affinity(self) -> TwinAffinity | NDArray[np.float32]:
        """Read what is clustered: Θ with zeros on its diagonal.

        Returns:
            (N, N), for WordNet classes as codes of the rows that differ, U² + 8 N
            bytes; for a user's matrix dense, 4 N² bytes.
        """
        if self.theta_of_path_length is None:
            theta = self.theta()
            np.fill_diagonal(theta, 0)
            return theta
        every = np.arange(len(self.classes))
        with self._opened() as file:
            return TwinAffinity.of(
                lambda: _read_rows(file, every),
                self.theta_of_path_length,
                num_classes=len(every),
                twin_code=_TWINS,
            )

    def _theta_rows(
        self,
        indices: NDArray[np.int64] | None,
        columns: NDArray[np.int64] | None,
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        chosen = np.arange(len(self.classes)) if indices is None else indices
        with self._opened() as file:
            for rows, values in _read_rows(file, chosen):
                block = values if columns is None else values[:, columns]
                if self.theta_of_path_length is None:
                    yield rows, block.astype(np.float32, copy=False)
                else:
                    yield rows, self.theta_of_path_length.astype(np.float32)[block]

    @contextmanager
    def _opened(self) -> Iterator[h5py.File]:
        with open_hdf5(self.origin.path, KIND, SCHEMA) as (_, file, sha256):
            if sha256 != self.origin.sha256:
                raise ArtifactError(
                    f"{clean(str(self.origin.path))} was replaced while this command "
                    "was running",
                    "run it again",
                )
            yield file


def similarity_header(classes: list[str], settings: dict[str, object]) -> Header:
    """The header of a similarity.h5 of these classes and settings."""
    return Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings=settings,
        classes=class_digest(classes),
    )


def save_similarity(
    path: Path,
    *,
    header: Header,
    classes: list[str],
    names: list[str],
    rows: Rows,
    tables: dict[str, NDArray[np.float64]] | None,
    hierarchy: Hierarchy | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> str:
    """Stream the rows into similarity.h5.

    Args:
        path: the final name.
        header: from `similarity_header`.
        classes: N class ids.
        names: N names for people.
        rows: blocks of rows in order: uint8 path lengths with `tables`, else float32.
        tables: `theta_of_path_length` and `raw_theta_of_path_length`, each (256,).
        hierarchy: that the path lengths are from, if it is the user's.
        advance: called with the number of rows after each block.

    Returns:
        The sha256 of the file.
    """
    num_classes = len(classes)

    def fill(file: h5py.File) -> Iterator[Block]:
        write_strings(file, "class", classes)
        write_strings(file, "name", names)
        for name, table in (tables or {}).items():
            file[name] = table
        if hierarchy is not None:
            write_strings(file, "node", list(hierarchy.names))
            file["parent_start"] = hierarchy.hypernym_start
            file["parent_index"] = hierarchy.hypernym_index
        matrix = file.create_dataset(
            "path_length" if tables else "theta",
            shape=(num_classes, num_classes),
            dtype=np.uint8 if tables else np.float32,
            # A row or a few of them are what an expert reads; 64 KiB to 1 MiB a chunk.
            chunks=(min(num_classes, max(1, 2**19 // num_classes)), num_classes),
            compression="gzip",
            compression_opts=1,
        )
        return blocks(matrix)

    def blocks(matrix: h5py.Dataset) -> Iterator[Block]:
        for where, block in rows:
            yield matrix, where, block
            advance(len(block))

    return write_hdf5(path, header, fill)


def load_similarity(path: Path) -> Similarity:
    """Load the class list and check the file; Θ is read when asked for.

    Raises:
        ArtifactError: missing, corrupt or inconsistent.
    """
    with open_hdf5(path, KIND, SCHEMA) as (header, file, sha256):
        classes = read_strings(file, "class")
        num_classes = len(classes)
        names = read_strings(file, "name", num_classes)
        table = None
        if "theta_of_path_length" in file:
            table = dataset(file, "theta_of_path_length", np.float64, (256,))[()]
        hierarchy = _hierarchy(file, path) if "node" in file else None
        _matrix(file, num_classes)
    if class_digest(classes) != header.classes:
        raise ArtifactError(f"{path} lists other classes than its header says")
    return Similarity(
        origin=Origin(path, header, sha256),
        classes=tuple(classes),
        names=tuple(names),
        theta_of_path_length=table,
        hierarchy=hierarchy,
    )


def _hierarchy(file: h5py.File, path: Path) -> Hierarchy:
    names = read_strings(file, "node")
    start = dataset(file, "parent_start", np.int64, (len(names) + 1,))[()]
    parents = dataset(file, "parent_index", np.int64, (None,))[()]
    try:
        return Hierarchy.of(names, start, parents)
    except ValueError as error:
        raise ArtifactError(
            f"{clean(str(path))} holds no hierarchy: {error}"
        ) from error


def _matrix(file: h5py.File, num_classes: int) -> h5py.Dataset:
    shape = (num_classes, num_classes)
    if "path_length" in file:
        return dataset(file, "path_length", np.uint8, shape)
    return dataset(file, "theta", np.float32, shape)


def _read_rows(
    file: h5py.File, chosen: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Read the chosen rows chunk by chunk, so that each is decompressed once."""
    name = "path_length" if "path_length" in file else "theta"
    matrix = file[name]
    step = matrix.chunks[0]
    start = 0
    while start < len(chosen):
        first = int(chosen[start]) // step * step
        stop = int(np.searchsorted(chosen, first + step))
        yield (
            slice(start, stop),
            matrix[first : first + step][chosen[start:stop] - first],
        )
        start = stop
