"""Read a user's own hierarchy of classes, and find its classes among folders."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from deepme.core.hierarchy import Hierarchy, pack_hierarchy
from deepme.errors import InputError
from deepme.images.index import class_folders
from deepme.images.parts import split_folders
from deepme.images.reading import SUFFIXES
from deepme.storage.given import read_given
from deepme.text import clean, composed

_HEADER = ("child", "parent")


def read_hierarchy(path: Path) -> Hierarchy:
    """Read a CSV file of child and parent.

    Args:
        path: two columns, perhaps with a header ``child,parent``. A child with several
            parents has a row for each. The root needs none; it may have one without a
            parent.

    Returns:
        The hierarchy.

    Raises:
        InputError: unreadable, not two columns, or no hierarchy: a row twice, a cycle,
            several roots, or only one level.
    """
    where = f"--hierarchy {clean(str(path))}"
    try:
        return pack_hierarchy(_read_edges(path))
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"cannot use {where}: {clean(str(reason))}",
            "expected a CSV file with the columns child,parent",
        ) from error


def _read_edges(path: Path) -> list[tuple[str, str]]:
    edges: list[tuple[str, str]] = []
    reader = csv.reader(io.StringIO(read_given(path), newline=""))
    for row in reader:
        cells = [composed(cell.strip()) for cell in row]
        if not any(cells):
            continue
        if len(cells) != 2:
            raise ValueError(
                f"line {reader.line_num:,} has {len(cells)} columns, expected 2"
            )
        child, parent = cells
        is_header = not edges and (child.lower(), parent.lower()) == _HEADER
        if parent and not is_header:
            edges.append((child, parent))
    return edges


def named_folders(root: Path, hierarchy: Hierarchy) -> list[str]:
    """The class folders among nested ones: leaves, and folders that hold images.

    The folders above them are levels between, whether the hierarchy names them or not.

    Args:
        root: the image folder, perhaps with parts (`split_folders`), or a folder of
            ``CLASS.tar`` files.
        hierarchy: tells the leaves.

    Returns:
        Names, sorted; a folder of images that the hierarchy does not know is among
        them.

    Raises:
        InputError: a folder cannot be listed, or there is no class folder.
    """
    leaves = set(hierarchy.wnids(hierarchy.leaves))
    found: set[str] = set()
    try:
        parts = split_folders(root)
        for part in parts or ("",):
            _walk(root / part, leaves, found)
    except OSError as error:
        raise InputError(
            f"cannot list {clean(str(error.filename))}: {error.strerror}"
        ) from error
    return sorted(found) or class_folders(root)


def _walk(folder: Path | str, leaves: set[str], found: set[str]) -> None:
    with os.scandir(folder) as listing:
        items = [item for item in listing if not item.name.startswith(".")]
    for item in items:
        name = composed(item.name)
        if not item.is_dir():
            continue
        if name in leaves or _holds_images(item.path):
            found.add(name)
        elif not item.is_symlink():
            _walk(item.path, leaves, found)


def _holds_images(folder: str) -> bool:
    with os.scandir(folder) as listing:
        return any(item.name.lower().endswith(SUFFIXES) for item in listing)
