"""Find a user's images: class folders, tar files, or a folder of tar files.

The class is the first folder of an image's path that names one, in a folder as in a
tar file: ``CLASS/anything/below.jpg``, ``order/family/CLASS/image.jpg``. ``CLASS.tar``
holds that class. What the file system returns first does not matter: rows are ordered
by class, then path.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepme.artifacts.paths import PackedPaths
from deepme.artifacts.split import ImageIndex
from deepme.errors import InputError
from deepme.images.parts import split_folders
from deepme.images.reading import SUFFIXES
from deepme.progress import Advance
from deepme.storage.given import open_given
from deepme.text import clean, composed

_MAX_SIZE = 2**32 - 1
"""What the index can hold; reading refuses far smaller members."""


class Entry(NamedTuple):
    """One image as found on disk.

    Attributes:
        label: position of its class in the class list.
        path: relative to the root; inside a tar file, the member's name.
        archive: which of the tar files, 0 without any.
        offset: first byte inside the tar file.
        size: bytes.
    """

    label: int
    path: str
    archive: int
    offset: int
    size: int


@dataclass(frozen=True)
class Found:
    """What an image source holds.

    Attributes:
        images: all images of known classes.
        fingerprint: sha256 over every image's path and size.
        unknown: folders (or tar members' folders) that name no class, sorted.
        parts: the folders of a split that the user has made -> train, val or test; or
            empty.
    """

    images: ImageIndex
    fingerprint: str
    unknown: tuple[str, ...]
    parts: dict[str, str]


def find_images(root: Path, classes: Mapping[str, int], advance: Advance) -> Found:
    """Index a folder or a tar file.

    Args:
        root: the folder or tar file.
        classes: class id -> position in the class list.
        advance: called with the number of images found.

    Returns:
        The images in packed arrays, and what was left out.

    Raises:
        InputError: no such place, a tar file that cannot be read, or no image.
    """
    root = root.absolute()
    unknown: set[str] = set()
    entries: list[Entry] = []
    try:
        base, archives = _archives_of(root)
        parts = split_folders(root)
        if not parts.keys().isdisjoint(classes):
            parts = {}  # a class may be called train
        for entry in _entries(root, base, archives, classes, parts, unknown):
            entries.append(entry)
            advance(1)
    except OSError as error:
        raise InputError(
            f"cannot list {clean(str(error.filename))}: {error.strerror}"
        ) from error
    if not entries:
        raise InputError(
            f"{clean(str(root))} holds no image of the {len(classes):,} classes",
            "expected CLASS/image.jpg with CLASS as in the class list; formats: "
            + " ".join(SUFFIXES),
        )
    entries.sort()
    if archives:
        # As for tar itself: of members with one name the last counts.
        entries = list({(e.label, e.archive, e.path): e for e in entries}.values())
    return Found(
        _pack(base, entries, tuple(archives)),
        _fingerprint(entries, archives),
        tuple(sorted(unknown)),
        parts,
    )


def class_folders(root: Path) -> list[str]:
    """The names of a folder's class folders (or ``CLASS.tar`` files), sorted.

    Of a split that the user has made, those of its training part.

    Raises:
        InputError: no folder, or nothing in it.
    """
    try:
        parts = {part: name for name, part in split_folders(root).items()}
        names = sorted(
            composed(path.name.removesuffix(".tar"))
            for path in (root / parts.get("train", "")).iterdir()
            if path.is_dir() or path.suffix == ".tar"
        )
    except OSError as error:
        raise InputError(
            f"{clean(str(root))} is no folder of class folders: {error.strerror}",
            "give a folder, or name the classes with --classes",
        ) from error
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise InputError(f"{clean(str(root))} holds no class folder")
    return names


def _archives_of(root: Path) -> tuple[Path, list[str]]:
    """The folder that paths start from, and the names of the tar files in it."""
    if root.is_dir():
        return root, sorted(p.name for p in root.iterdir() if p.suffix == ".tar")
    if root.is_file():
        return root.parent, [root.name]
    raise InputError(
        f"--data is {clean(str(root))}, expected a folder of class folders or a "
        "tar file"
    )


def _entries(
    root: Path,
    base: Path,
    archives: list[str],
    classes: Mapping[str, int],
    parts: Mapping[str, str],
    unknown: set[str],
) -> Iterator[Entry]:
    for part in parts or ("",) if root.is_dir() else ():
        prefix = part and f"{part}/"
        for entry in _folder_entries(root / part, prefix, classes, unknown):
            if archives:
                raise InputError(
                    f"{clean(str(root))} holds both class folders and tar files "
                    f"({clean(archives[0])})",
                    "keep the images in one form",
                )
            yield entry
    for number, name in enumerate(archives):
        yield from _tar_entries(base / name, number, classes, unknown)


def _folder_entries(
    folder: Path | str, prefix: str, classes: Mapping[str, int], unknown: set[str]
) -> Iterator[Entry]:
    """Find class folders at any depth; links to others are not followed."""
    with os.scandir(folder) as listing:
        folders = [item for item in listing if item.is_dir()]
    for item in folders:
        if item.name.startswith("."):
            continue
        name = f"{prefix}{item.name}"
        label = classes.get(composed(item.name))
        if label is not None:
            for path, size in _files_below(item.path, name):
                yield Entry(label, path, 0, 0, size)
            continue
        below: set[str] = set()
        any_found = False
        if not item.is_symlink():
            for entry in _folder_entries(item.path, f"{name}/", classes, below):
                any_found = True
                yield entry
        unknown |= below if any_found else {name}


def _files_below(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Walk one class folder; links to folders are not followed (they may loop)."""
    with os.scandir(folder) as listing:
        for item in listing:
            name = f"{prefix}/{item.name}"
            if item.is_dir(follow_symlinks=False):
                yield from _files_below(item.path, name)
            elif item.name.lower().endswith(SUFFIXES):
                try:
                    yield name, item.stat().st_size
                except OSError:
                    # A dangling link: listed, so that reading it names the file.
                    yield name, 0


def _tar_entries(
    path: Path, number: int, classes: Mapping[str, int], unknown: set[str]
) -> Iterator[Entry]:
    own = classes.get(composed(path.name.removesuffix(".tar")))
    try:
        with open_given(path) as raw, tarfile.open(fileobj=raw, mode="r:") as archive:
            for member in archive:
                # As tar writes a folder's own files; with it the split would differ.
                name = member.name.removeprefix("./")
                if not member.isfile() or not name.lower().endswith(SUFFIXES):
                    continue
                label = own if own is not None else _label_of(name, classes)
                if label is None:
                    unknown.add(name.rpartition("/")[0])
                else:
                    size = min(member.size, _MAX_SIZE)
                    yield Entry(label, name, number, member.offset_data, size)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(
            f"cannot read {clean(str(path))} as a tar file: {error}",
            "compressed archives allow no random access: unpack it with gunzip first",
        ) from error


def _label_of(member: str, classes: Mapping[str, int]) -> int | None:
    folders = map(composed, member.split("/")[:-1])
    return next((classes[name] for name in folders if name in classes), None)


def _pack(root: Path, entries: list[Entry], archives: tuple[str, ...]) -> ImageIndex:
    in_tar = entries if archives else []
    return ImageIndex(
        root=root,
        paths=PackedPaths.pack(entry.path for entry in entries),
        label=np.array([entry.label for entry in entries], dtype=np.int32),
        archives=archives,
        archive=np.array([entry.archive for entry in in_tar], dtype=np.int16),
        offset=np.array([entry.offset for entry in in_tar], dtype=np.int64),
        size=np.array([entry.size for entry in in_tar], dtype=np.uint32),
    )


def _fingerprint(entries: list[Entry], archives: list[str]) -> str:
    sha = hashlib.sha256("\n".join(archives).encode("utf-8", "surrogateescape"))
    for entry in entries:
        line = f"{entry.path}\0{entry.archive}\0{entry.offset}\0{entry.size}\n"
        sha.update(line.encode("utf-8", "surrogateescape"))
    return sha.hexdigest()
