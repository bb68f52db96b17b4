"""Decoded images kept in memory between epochs, shared by the loader's processes.

Reading and decoding a small image takes longer than cutting a view from it. The kept
pixels are the decoded ones, so keeping changes no view.
"""

from __future__ import annotations

import mmap
import multiprocessing

import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.split import ImageIndex
from deepme.images.reading import UnreadableImage, opened, read_bytes
from deepme.progress import detail

SAMPLE = 32
"""Images whose size is looked at before."""
MARGIN = 1.1
"""Room for others that are larger."""
GIGABYTE = 10**9


class KeptImages:
    """Room for pixels that processes forked later fill and read together.

    The memory is taken page by page, as images come. What finds no room is decoded
    anew each time.

    Args:
        num_images: M, of the index.
        num_bytes: room for pixels.
    """

    def __init__(self, num_images: int, num_bytes: int) -> None:
        """Reserve addresses; nothing is taken yet."""
        self._pixels = mmap.mmap(-1, max(1, num_bytes))
        # Of each row where its pixels end, 0 for none yet; and its width and height.
        self._end = np.frombuffer(mmap.mmap(-1, 8 * num_images), np.int64)
        self._size = np.frombuffer(mmap.mmap(-1, 4 * num_images), np.uint16)
        self._used = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._lock = multiprocessing.Lock()

    def get(self, row: int) -> NDArray[np.uint8] | None:
        """The pixels of a row's image, (height, width, 3), if it is kept."""
        end = int(self._end[row])
        if not end:
            return None
        width, height = (int(side) for side in self._size[2 * row : 2 * row + 2])
        raw = memoryview(self._pixels)[end - 3 * width * height : end]
        return np.frombuffer(raw, np.uint8).reshape(height, width, 3)

    def put(self, row: int, pixels: NDArray[np.uint8]) -> None:
        """Keep the pixels of an RGB image, if there is room."""
        raw = pixels.tobytes()
        with self._lock:
            end = int(self._used[0]) + len(raw)
            if self._end[row] or end > len(self._pixels):
                return
            self._used[0] = end
        self._pixels[end - len(raw) : end] = raw
        self._size[2 * row : 2 * row + 2] = pixels.shape[1], pixels.shape[0]
        # The lock orders this after the pixels, for whoever sees it.
        with self._lock:
            self._end[row] = end


def room_for(
    images: ImageIndex, rows: NDArray[np.int64], *, gigabytes: float
) -> KeptImages | None:
    """Make room for the images of some rows, if all of them will fit.

    Args:
        images: the index.
        rows: (R,) of the images that are read in every epoch.
        gigabytes: the limit, 10⁹ bytes each.

    Returns:
        Empty room, or None where they would not fit, by the size of a few.
    """
    limit = int(gigabytes * GIGABYTE)
    if not limit or not len(rows):
        return None
    step = max(1, len(rows) // SAMPLE)
    sizes = [_num_bytes(images, int(row)) for row in rows[::step]]
    needed = int(MARGIN * len(rows) * np.mean(sizes))
    told = f"decoded, {len(rows):,} images take about {needed / GIGABYTE:,.2f} GB"
    if needed > limit:
        detail(f"{told}: decoded anew in every epoch")
        return None
    detail(f"{told}: kept in memory")
    return KeptImages(len(images), needed)


def _num_bytes(images: ImageIndex, row: int) -> int:
    try:
        with opened(read_bytes(images, row)) as picture:
            width, height = picture.size
    except UnreadableImage:
        return 0  # whoever needs it will say so
    return 3 * width * height
