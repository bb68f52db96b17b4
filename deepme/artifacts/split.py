"""split.h5: every image, its class and its subset, in packed arrays.

About 17 bytes an image (12 for a path of 30, 4 for the label, 1 for the subset; 14 more
for images inside tar files), never Python objects, so that 9 million images fit in
memory and are shared by the loader's processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.origin import Origin
from deepme.artifacts.paths import PackedPaths, leads_out
from deepme.errors import ArtifactError
from deepme.storage.hdf5 import (
    dataset,
    open_hdf5,
    read_strings,
    write_hdf5,
    write_strings,
)
from deepme.storage.header import Header, corrupt
from deepme.text import clean

KIND, SCHEMA = "split", 2

SUBSETS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    """Images in packed form, ordered by class, then path.

    Attributes:
        root: the folder all paths start from.
        paths: M relative paths; inside an archive, the member's name.
        label: (M,) int32, position in the class list.
        archives: relative paths of the tar files; empty for a folder of files, and
            then the three arrays that follow have length 0.
        archive: (M,) int16, position in `archives`.
        offset: (M,) int64, first byte inside the tar file.
        size: (M,) uint32, bytes inside the tar file.
    """

    root: Path
    paths: PackedPaths
    label: NDArray[np.int32]
    archives: tuple[str, ...]
    archive: NDArray[np.int16]
    offset: NDArray[np.int64]
    size: NDArray[np.uint32]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.label)

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        arrays = (self.paths, self.label, self.archive, self.offset, self.size)
        return sum(array.nbytes for array in arrays)

    def display_path(self, row: int) -> str:
        """The path for messages: ``ARCHIVE!MEMBER`` for images inside a tar file."""
        prefix = f"{self.archives[self.archive[row]]}!" if self.archives else ""
        return clean(f"{self.root}/{prefix}{self.paths[row]}")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and the subset each belongs to.

    Attributes:
        origin: the file.
        images: all images.
        subset: (M,) uint8: 0 train, 1 val, 2 test.
        num_classes: N of the class list the labels point into.
    """

    origin: Origin
    images: ImageIndex
    subset: NDArray[np.uint8]
    num_classes: int

    def rows(
        self, subset: str, classes: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """The images of a subset, ascending.

        Args:
            subset: train, val or test.
            classes: only images of these positions in the class list.

        Returns:
            (R,) int64 row numbers.
        """
        chosen = self.subset == SUBSETS.index(subset)
        if classes is not None:
            wanted = np.zeros(self.num_classes, dtype=bool)
            wanted[classes] = True
            chosen &= wanted[self.images.label]
        return np.flatnonzero(chosen)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(3, N) int64: images per subset and class."""
        key = self.subset.astype(np.int64) * self.num_classes + self.images.label
        return np.bincount(key, minlength=3 * self.num_classes).reshape(3, -1)


def split_header(classes: str, settings: dict[str, Any]) -> Header:
    """The header of a split of this class list, settings and data."""
    return Header(kind=KIND, schema_version=SCHEMA, settings=settings, classes=classes)


def save_split(
    path: Path,
    header: Header,
    images: ImageIndex,
    subset: NDArray[np.uint8],
    num_classes: int,
) -> str:
    """Write split.h5.

    Args:
        path: the final name.
        header: from `split_header`.
        images: all images.
        subset: (M,) uint8.
        num_classes: N.

    Returns:
        The sha256 of the file.
    """

    def fill(file: h5py.File) -> None:
        file.attrs["num_classes"] = num_classes
        write_strings(file, "root", [str(images.root)])
        write_strings(file, "archives", list(images.archives))
        for name in ("shared", "length", "rest"):
            file[f"path_{name}"] = getattr(images.paths, name)
        for name in _ARRAYS:
            file[name] = getattr(images, name)
        file["subset"] = subset

    return write_hdf5(path, header, fill)


def _require_inside(path: Path, images: ImageIndex) -> None:
    """Refuse paths that lead out of the root, which only a forged file has.

    What is inside a tar file is found by its offset, whatever its name is.
    """
    if not images.paths.are_whole():
        raise corrupt(path, "its paths do not fit each other")
    if images.archives:
        outside = next(filter(leads_out, images.archives), None)
    else:
        outside = images.paths.leading_out()
    if outside is not None:
        raise corrupt(path, f"{outside!r} leads out of {images.root}")


_ARRAYS = {
    "label": np.int32,
    "archive": np.int16,
    "offset": np.int64,
    "size": np.uint32,
}


def load_split(path: Path) -> Split:
    """Load split.h5.

    Raises:
        ArtifactError: missing, corrupt or inconsistent.
    """
    with open_hdf5(path, KIND, SCHEMA) as (header, file, sha256):
        subset = dataset(file, "subset", np.uint8, (None,))[()]
        archives = read_strings(file, "archives")
        count: dict[str, int | None] = dict.fromkeys(_ARRAYS, len(subset))
        if not archives:
            count |= dict.fromkeys(("archive", "offset", "size"), 0)
        arrays = {
            name: dataset(file, name, dtype, (count[name],))[()]
            for name, dtype in _ARRAYS.items()
        }
        paths = PackedPaths(
            dataset(file, "path_shared", np.uint16, (len(subset),))[()],
            dataset(file, "path_length", np.uint16, (len(subset),))[()],
            dataset(file, "path_rest", np.uint8, (None,))[()],
        )
        root = Path(read_strings(file, "root", 1)[0])
        images = ImageIndex(root=root, paths=paths, archives=tuple(archives), **arrays)
        num_classes = int(file.attrs["num_classes"])
    if len(subset) and (
        subset.max() > 2
        or images.label.min() < 0
        or images.label.max() >= num_classes
        or (archives and images.archive.max() >= len(archives))
    ):
        raise ArtifactError(f"{clean(str(path))} holds labels or subsets out of range")
    _require_inside(path, images)
    return Split(
        origin=Origin(path, header, sha256),
        images=images,
        subset=subset,
        num_classes=num_classes,
    )
