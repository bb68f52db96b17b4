"""split: index the images and deal them into train, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepme.artifacts.similarity import Similarity
from deepme.artifacts.split import Split, save_split, split_header
from deepme.config import MachineSettings, SplitSettings
from deepme.images.index import Found, find_images
from deepme.images.subsets import assign_subsets, given_subsets
from deepme.progress import note, progress
from deepme.storage.header import Header
from deepme.workspace import Workspace


@dataclass(frozen=True)
class SplitReport:
    """What a split came to, for people and scripts.

    Attributes:
        images: in all.
        train: of them.
        val: of them.
        test: of them.
        classes: N.
        empty_classes: classes of the list without an image.
        unknown_folders: folders that name no class of the list.
        parts: folders of a split that the user has made -> train, val or test; or
            empty.
        bytes_per_image: memory of the index.
        unreadable: path and reason of each bad image; None unless scanned.
    """

    images: int
    train: int
    val: int
    test: int
    classes: int
    empty_classes: list[str]
    unknown_folders: list[str]
    parts: dict[str, str]
    bytes_per_image: float
    unreadable: list[tuple[str, str]] | None


def run(
    settings: SplitSettings,
    machine: MachineSettings,
    workspace: Workspace,
    *,
    data: Path,
    scan: bool,
) -> SplitReport:
    """Write split.h5.

    Args:
        settings: shares and seed. A folder with parts of its own (`split_folders`)
            keeps them, and only a missing val is dealt.
        machine: workers for the scan.
        workspace: with similarity.h5.
        data: a folder of class folders, a tar file, or a folder of tar files.
        scan: decode every image once and list the bad ones.

    Returns:
        Counts, and what did not fit the class list.

    Raises:
        InputError: no image of any class.
    """
    similarity = workspace.similarity()
    index = {name: position for position, name in enumerate(similarity.classes)}
    with workspace.lock():
        with progress("indexing", None, "images") as advance:
            found = find_images(data, index, advance)
        recorded = {"data": str(found.images.root), "fingerprint": found.fingerprint}
        header = split_header(
            similarity.origin.header.classes,
            settings.to_dict()
            | recorded
            | ({"parts": found.parts} if found.parts else {}),
        )
        if workspace.is_current(workspace.split_path, header):
            note(f"the split is up to date: {workspace.split_path}")
        else:
            _save(settings, workspace, len(index), found, header)
    split = workspace.split(similarity.origin)
    bad = _scan(split, machine.workers) if scan else None
    return _report(similarity, split, found, bad)


def _save(
    settings: SplitSettings,
    workspace: Workspace,
    num_classes: int,
    found: Found,
    header: Header,
) -> None:
    images, val, seed = found.images, settings.val, settings.seed
    if found.parts:
        subset = given_subsets(images, found.parts, val=val, seed=seed)
    else:
        subset = assign_subsets(images, val=val, test=settings.test, seed=seed)
    path = workspace.split_path
    save_split(path, header, images, subset, num_classes)


def _report(
    similarity: Similarity,
    split: Split,
    found: Found,
    bad: list[tuple[str, str]] | None,
) -> SplitReport:
    per_class = split.counts.sum(axis=0)
    train, val, test = (int(count) for count in split.counts.sum(axis=1))
    classes = similarity.classes
    return SplitReport(
        images=len(split.images),
        train=train,
        val=val,
        test=test,
        classes=len(classes),
        empty_classes=[classes[index] for index in np.flatnonzero(per_class == 0)],
        unknown_folders=list(found.unknown),
        parts=found.parts,
        bytes_per_image=(split.images.nbytes + split.subset.nbytes)
        / max(1, len(split.images)),
        unreadable=bad,
    )


def _scan(split: Split, workers: int) -> list[tuple[str, str]]:
    """Decode every image fully and collect the reasons of those that fail."""
    # Here, because it imports torch, which takes longer than a split without it.
    from deepme.images.loading import ImageDataset, evaluation_batches

    dataset = ImageDataset(split.images, size=8, augment=False, seed=0)
    rows = np.arange(len(split.images))
    bad: dict[int, str] = {}
    with progress("decoding", len(rows), "images") as advance:
        for batch in evaluation_batches(dataset, rows, 256, workers):
            bad |= batch.unreadable
            advance(len(batch.rows) + len(batch.unreadable), f"{len(bad):,} bad")
    return [(split.images.display_path(row), bad[row]) for row in sorted(bad)]
