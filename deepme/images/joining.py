"""Put the images of further classes after those of an index."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from deepme.artifacts.paths import PackedPaths
from deepme.artifacts.split import ImageIndex
from deepme.errors import InputError
from deepme.text import clean


def join_images(first: ImageIndex, second: ImageIndex) -> ImageIndex:
    """Join two indexes; the rows of the first stay as they are.

    Args:
        first: images of the first classes.
        second: images of classes that come after those in the class list.

    Returns:
        All images, with paths from the folder that holds both.

    Raises:
        InputError: files in one, tar files in the other, or no folder holds both.
    """
    if bool(first.archives) != bool(second.archives):
        raise InputError(
            f"{clean(str(first.root))} and {clean(str(second.root))} hold images as "
            "files and as tar files, expected one form",
            "unpack the tar files, or pack the new classes",
        )
    root = _common(first.root, second.root)
    one, other = (_from(root, images) for images in (first, second))
    return ImageIndex(
        root=root,
        paths=PackedPaths.pack(chain(one.paths, other.paths)),
        label=np.concatenate([one.label, other.label]),
        archives=(*one.archives, *other.archives),
        archive=np.concatenate(
            [one.archive, other.archive + np.int16(len(one.archives))]
        ),
        offset=np.concatenate([one.offset, other.offset]),
        size=np.concatenate([one.size, other.size]),
    )


def _common(first: Path, second: Path) -> Path:
    try:
        return Path(os.path.commonpath([first, second]))
    except ValueError as error:  # other drives
        raise InputError(
            f"no folder holds both {clean(str(first))} and {clean(str(second))}",
            "move the new images near the others",
        ) from error


def _from(root: Path, images: ImageIndex) -> ImageIndex:
    """The same images with paths, or names of tar files, from a folder above."""
    if images.root == root:
        return images
    prefix = f"{images.root.relative_to(root).as_posix()}/"
    if images.archives:
        archives = tuple(f"{prefix}{name}" for name in images.archives)
        return replace(images, root=root, archives=archives)
    paths = PackedPaths.pack(f"{prefix}{path}" for path in images.paths)
    return replace(images, root=root, paths=paths)
