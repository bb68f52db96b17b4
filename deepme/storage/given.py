"""Open a file that the user names: settings, a list, a table, weights.

A pipe would block for ever and a device never end, so neither is opened; of a text no
more is read than a sane one has.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepme.errors import MACHINE, EnvironmentFault
from deepme.text import clean

MAX_BYTES = 16 * 2**20
"""Of settings, a list or a hierarchy; WordNet's 82,115 nouns take 2 MB."""


@contextmanager
def open_given(path: Path, limit: int | None = None) -> Iterator[io.BufferedReader]:
    """Open a regular file to read its bytes.

    Args:
        path: the file.
        limit: bytes it may have at most; None for any number.

    Yields:
        The open file.

    Raises:
        ValueError: a folder, pipe or device, or too large.
        OSError: there is no such file, or its name cannot be one.
        EnvironmentFault: no permission, or an I/O error.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ValueError(f"it is {_KINDS[stat.S_IFMT(state.st_mode)]}")
        if limit is not None and state.st_size > limit:
            raise ValueError(
                f"it has {state.st_size:,} bytes, expected at most {limit:,}"
            )
        with path.open("rb") as file:
            yield file
    except OSError as error:
        if error.errno not in MACHINE:
            raise
        raise EnvironmentFault(
            f"cannot read {clean(str(path))}: {clean(error.strerror or str(error))}",
            "correct the permissions or the disk, then run the same command again",
        ) from error


def read_given(path: Path, limit: int = MAX_BYTES) -> str:
    """Read a UTF-8 text, without the mark that some editors put in front.

    Args:
        path: the file.
        limit: bytes it may have at most.

    Returns:
        The text.

    Raises:
        ValueError: a folder, pipe or device, too large, or not UTF-8.
        OSError: there is no such file, or its name cannot be one.
        EnvironmentFault: no permission, or an I/O error.
    """
    with open_given(path, limit) as file:
        # A file of /proc has a size of 0 and yet no end.
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return raw.decode("utf-8-sig")


_KINDS = {
    stat.S_IFDIR: "a folder, expected a file",
    stat.S_IFIFO: "a pipe, expected a regular file",
    stat.S_IFCHR: "a device, expected a regular file",
    stat.S_IFBLK: "a device, expected a regular file",
    stat.S_IFSOCK: "a socket, expected a regular file",
}
