"""Millions of sorted paths in a few bytes each.

Of a path only that is kept which the one before it does not begin with (front coding).
Every 16th is kept whole, so that any path is found by decoding at most 16. Names like
ImageNet's, of 30 bytes, take about 12.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Self

import numpy as np
from numpy.typing import NDArray

from deepme.errors import InputError
from deepme.text import clean

BLOCK = 16
LONGEST = 2**16 - 1
_AT_ONCE = 64 * BLOCK
_DOTS = re.compile(rb"\.\.")


@dataclass(frozen=True)
class PackedPaths:
    """Paths relative to one folder; any order, but sorted they take least room.

    Attributes:
        shared: (M,) uint16, how many bytes a path has in common with the one before; 0
            for every 16th.
        length: (M,) uint16, bytes of its rest.
        rest: (R,) uint8, the rests one after the other.
    """

    shared: NDArray[np.uint16]
    length: NDArray[np.uint16]
    rest: NDArray[np.uint8]
    _starts: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find where each block's rests begin; processes forked later share it."""
        blocks = np.arange(0, len(self), BLOCK)
        sizes = np.add.reduceat(self.length, blocks, dtype=np.int64)
        object.__setattr__(self, "_starts", np.cumsum(sizes) - sizes)

    @classmethod
    def pack(cls, paths: Iterable[str]) -> Self:
        """Encode paths as they come.

        Raises:
            InputError: one has more than 65,535 bytes.
        """
        parts = [_encode(some) for some in _batched(paths, _AT_ONCE)]
        shared, length, rest = zip(*parts, strict=True) if parts else ((), (), ())
        return cls(
            np.concatenate([np.empty(0, np.uint16), *shared]),
            np.concatenate([np.empty(0, np.uint16), *length]),
            np.concatenate([np.empty(0, np.uint8), *rest]),
        )

    def __len__(self) -> int:
        """Number of paths."""
        return len(self.length)

    def __getitem__(self, row: int) -> str:
        """Decode one path."""
        row = range(len(self))[row]
        *_, raw = self._block(row // BLOCK, row % BLOCK + 1)
        return raw.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        """Decode them in order, each once."""
        for block in range(len(self._starts)):
            for raw in self._block(block, BLOCK):
                yield raw.decode("utf-8", "surrogateescape")

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        arrays = (self.shared, self.length, self.rest, self._starts)
        return sum(one.nbytes for one in arrays)

    def _block(self, block: int, count: int) -> Iterator[bytes]:
        """The first few paths of a block."""
        first = block * BLOCK
        shared = self.shared[first : first + count].tolist()
        length = self.length[first : first + count].tolist()
        start, end, path = int(self._starts[block]), 0, b""
        rests = self.rest[start : start + sum(length)].tobytes()
        for same, more in zip(shared, length, strict=True):
            path = path[:same] + rests[end : end + more]
            end += more
            yield path

    def are_whole(self) -> bool:
        """Whether the arrays (of M, M and R) are such as `pack` makes."""
        size = self.shared.astype(np.int64) + self.length
        return bool(
            np.all(size > 0)
            and np.all(self.shared[::BLOCK] == 0)
            and np.all(self.shared[1:] <= size[:-1])
            and self.length.sum(dtype=np.int64) == len(self.rest)
        )

    def leading_out(self) -> str | None:
        """The first path that is absolute, climbs by ``..`` or holds a NUL, if any.

        For untrusted files; that they `are_whole` is known. What a path shares with the
        one before was looked at there, so that few of millions are decoded.
        """
        ends = np.cumsum(self.length, dtype=np.int64)
        starts = ends - self.length
        some = self.length > 0
        first = np.zeros(len(self), np.uint8)
        first[some] = self.rest[starts[some]]
        dots = np.array(
            [found.start() for found in _DOTS.finditer(self.rest.data)], dtype=np.int64
        )
        places = np.concatenate([dots, np.flatnonzero(self.rest == 0)])
        within = np.searchsorted(ends, places, "right")
        # Dots that were shared end a name only here, or another dot comes to them.
        at_the_seam = np.flatnonzero(~some | (first == ord(".")) | (first == ord("/")))
        rows = np.unique(np.concatenate([within, at_the_seam])).tolist()
        return next((path for row in rows if leads_out(path := self[row])), None)


def _batched(paths: Iterable[str], number: int) -> Iterator[list[str]]:
    paths = iter(paths)
    while some := list(islice(paths, number)):
        yield some


def _encode(
    paths: Sequence[str],
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint8]]:
    """Encode whole blocks, and perhaps a last one that is not full."""
    raw = [path.encode("utf-8", "surrogateescape") for path in paths]
    sizes = np.array([len(each) for each in raw])
    width = int(sizes.max())
    if width > LONGEST:
        longest = paths[int(sizes.argmax())]
        raise InputError(
            f"an image's path has {width:,} bytes, expected at most {LONGEST:,}: "
            f"{clean(longest[:80])}…"
        )
    letters = np.array(raw, dtype=f"S{width}").view(np.uint8).reshape(len(raw), width)
    same = np.zeros(letters.shape, dtype=bool)
    same[1:] = letters[1:] == letters[:-1]
    same[::BLOCK] = False
    shared = np.logical_and.accumulate(same, axis=1).sum(axis=1)
    # Behind the shorter of two are zeros, which a longer one may hold as well.
    shared[1:] = np.minimum(shared[1:], np.minimum(sizes[1:], sizes[:-1]))
    column = np.arange(width)
    rest = letters[(column >= shared[:, None]) & (column < sizes[:, None])]
    return shared.astype(np.uint16), (sizes - shared).astype(np.uint16), rest


def leads_out(path: str) -> bool:
    """Whether a relative path is none, climbs by ``..`` or holds a NUL."""
    return path.startswith("/") or "\0" in path or ".." in path.split("/")
