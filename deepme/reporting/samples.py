"""Sample images of the groups, small enough to lie inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from deepme.artifacts.split import SUBSETS
from deepme.images.reading import UnreadableImage, decode, read_bytes
from deepme.reporting.sources import Sources

A_GROUP = 6
"""Images shown of one group, each of another class."""

IN_ALL = 400
"""Images in the page at most, unless there are more groups; some 4 kB each."""

SIDE = 96
"""Pixels a side."""


@dataclass(frozen=True)
class Sample:
    """One image of the page.

    Attributes:
        name: its class's.
        uri: the image as a data URI.
    """

    name: str
    uri: str


def draw_samples(sources: Sources) -> tuple[list[list[Sample]], int]:
    """Read a few images of each group, of classes from all over it.

    Images of the test subset where a class has any, so that nobody has learned them.

    Args:
        sources: the artifacts; the images are where they were when they were split.

    Returns:
        T lists of samples, and how many images could not be read.
    """
    rows = _rows_of_classes(sources)
    members = sources.groups.members
    count = int(np.clip(IN_ALL // len(members), 1, A_GROUP))
    samples, unreadable = [], 0
    for indices in members:
        found = []
        with_images = indices[rows[indices] >= 0]
        for index in spread(with_images, count).tolist():
            uri = _thumbnail(sources, int(rows[index]))
            unreadable += uri is None
            if uri is not None:
                found.append(Sample(sources.class_name(index), uri))
        samples.append(found)
    return samples, unreadable


def _rows_of_classes(sources: Sources) -> NDArray[np.int64]:
    """(N,) a row of the split for each class, -1 for a class without images."""
    split = sources.split
    rows = np.full(split.num_classes, -1, dtype=np.int64)
    # What is assigned last stays: a test image, and of those the first.
    for subset in SUBSETS:
        of_subset = split.rows(subset)[::-1]
        rows[split.images.label[of_subset]] = of_subset
    return rows


def spread(indices: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose a few from all over a list, since neighbours are alike."""
    places = np.linspace(0, max(0, len(indices) - 1), min(count, len(indices)))
    return indices[places.round().astype(np.int64)]


def _thumbnail(sources: Sources, row: int) -> str | None:
    try:
        image = decode(read_bytes(sources.split.images, row))
    except UnreadableImage:
        return None
    if max(image.size) > SIDE:
        image = ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return data_uri("image/jpeg", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Write bytes as a ``data:`` address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
