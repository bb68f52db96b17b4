"""Read a user's own similarity matrix, for classes that WordNet does not know."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from deepme.errors import InputError
from deepme.images.sources import read_classes, require_distinct
from deepme.text import clean, composed

_ROUNDING = 1e-6


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
            labels, matrix = _labels_of_npy(path, classes), np.load(path)
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
            f"cannot read --matrix {clean(str(path))}: {clean(str(error))}"
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


def _read_csv(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    labels = header[1:]
    if [row[0] for row in rows if row] != labels:
        raise ValueError("its first column and first row name different labels")
    return labels, np.array([row[1:] for row in rows], dtype=np.float64)


def _read_hdf5(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    with h5py.File(path, "r") as file:
        labels = np.asarray(file["label"])
        if labels.ndim != 1:
            raise ValueError("its label is no list of texts")
        texts = [value.decode() for value in labels.astype("S")]
        return texts, np.asarray(file["similarity"])


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
