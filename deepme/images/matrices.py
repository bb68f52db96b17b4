"""Read a user's own similarity matrix, for classes that WordNet does not know."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from deepme.errors import InputError
from deepme.images.sources import read_classes, require_distinct
from deepme.storage.given import open_given
from deepme.storage.hdf5 import plain_dataset
from deepme.text import clean, composed

_ROUNDING = 1e-6
MAX_CLASSES = 1_000_000
MAX_TEXT = 64 * 2**20
"""Bytes of all labels together."""
MAX_CSV = 2**30
"""Bytes of a matrix in text: 10,000 classes with nine digits a number."""


def read_matrix(path: Path, classes: str) -> tuple[list[str], NDArray[np.float32]]:
    """Read labels and matrix.

    Args:
        path: ``.csv`` (labels in the first row and the first column), ``.npy`` (labels
            from `classes`), or ``.h5`` with ``similarity`` and ``label``.
        classes: a class list for ``.npy``; empty for the others.

    Returns:
        N labels, and (N, N) float32, symmetric, in [0, 1].

    Raises:
        InputError: unreadable, not square, with values that are no similarities, or
            labels given twice or not at all.
    """
    readers = {".csv": _read_csv, ".h5": _read_hdf5, ".hdf5": _read_hdf5}
    try:
        if path.suffix == ".npy":
            labels, matrix = _labels_of_npy(path, classes), _mapped(path)
        elif path.suffix in readers:
            if classes:
                raise InputError(
                    f"{clean(str(path))} has labels of its own, and --classes is given",
                    "leave --classes out",
                )
            labels, matrix = readers[path.suffix](path)
        else:
            raise InputError(
                f"--matrix is {clean(str(path))}, expected a .csv, .npy or .h5 file"
            )
    except (OSError, ValueError, KeyError, EOFError, csv.Error) as error:
        raise InputError(
            f"cannot read --matrix {clean(str(path))}: {clean(str(error))}",
            "expected a number for each pair of labels, in rows and columns",
        ) from error
    labels = [composed(label) for label in labels]
    require_distinct(labels, str(path))
    return labels, _checked(path, labels, matrix)


def _labels_of_npy(path: Path, classes: str) -> list[str]:
    if not classes:
        raise InputError(
            f"{clean(str(path))} has no labels", "name them with --classes FILE"
        )
    return read_classes(classes)


def _mapped(path: Path) -> NDArray[np.float64]:
    with open_given(path):
        # Mapped: a header may declare any size, the file holds what it holds.
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _read_csv(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    first_column, rows = [], []
    with (
        open_given(path, MAX_CSV) as raw,
        io.TextIOWrapper(raw, "utf-8", newline="") as file,
    ):
        table = csv.reader(file)
        labels = next(table, [])[1:]
        # Row by row: as texts the numbers would take eight times the memory.
        for row in filter(None, table):
            first_column.append(row[0])
            rows.append(np.array(row[1:], dtype=np.float64))
    if first_column != labels:
        raise ValueError("its first column and first row name different labels")
    return labels, np.array(rows)


def _read_hdf5(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    with open_given(path), h5py.File(path, "r") as file:
        labels = _texts(plain_dataset(file, "label", texts=True))
        matrix = plain_dataset(file, "similarity")
        if matrix.shape != (len(labels), len(labels)):
            raise ValueError(
                f"it has {len(labels):,} labels and a matrix of shape {matrix.shape}"
            )
        return labels, np.asarray(matrix)


def _texts(labels: h5py.Dataset) -> list[str]:
    if labels.ndim != 1 or labels.size > MAX_CLASSES:
        raise ValueError(f"its label is no list of at most {MAX_CLASSES:,} texts")
    texts: list[str] = []
    length = 0
    # One by one: in HDF5 a million texts may be one and the same megabyte.
    for value in labels:
        raw = value if isinstance(value, bytes) else str(value).encode()
        length += len(raw)
        if length > MAX_TEXT:
            raise ValueError(f"its labels have more than {MAX_TEXT:,} bytes")
        texts.append(raw.decode())
    return texts


def _checked(path: Path, labels: list[str], matrix: object) -> NDArray[np.float32]:
    found = np.asarray(matrix)
    where, shape = clean(str(path)), (len(labels), len(labels))
    if found.shape != shape or found.dtype.kind not in "fiu":
        raise InputError(
            f"{where} holds {found.dtype} of shape {found.shape}, expected numbers of "
            f"shape {shape}, one row and column a label"
        )
    if not (found.min() >= 0 and found.max() <= 1):
        raise InputError(
            f"{where} holds values from {found.min():g} to {found.max():g}, "
            "expected similarities in [0, 1]",
            "scale them",
        )
    values = found.astype(np.float32)
    if not np.allclose(values, values.T, rtol=0, atol=_ROUNDING):
        raise InputError(f"{where} is not symmetric", "use (S + Sᵀ) / 2")
    return values
