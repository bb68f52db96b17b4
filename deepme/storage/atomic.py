"""Write a file so that its name shows the old content or the new, never a part.

The content goes to a temporary name in the same folder, is fsynced and renamed over
the final name; then the folder is fsynced, which makes the rename itself durable.
A process killed on the way leaves at most one ``.tmp-…`` file, which the next writer
of the folder sweeps under its lock.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from deepme.errors import EnvironmentFault
from deepme.text import clean

_PREFIX = ".tmp-"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write; commit it to `path` when the block ends.

    For writers that insist on a file name (HDF5). The temporary file exists and is
    empty, with the permissions the umask asks for.

    Args:
        path: the final name; its folder is made if missing.

    Yields:
        The temporary name, in the same folder.

    Raises:
        EnvironmentFault: the file system refused (full, read-only, I/O error); the
            old content of `path` is untouched and the temporary file is gone.
    """
    temporary = path.parent / f"{_PREFIX}{path.name}-{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        os.close(os.open(temporary, flags, 0o666))
        try:
            yield temporary
            _fsync(temporary)
            temporary.replace(path)
        except BaseException:
            # What went wrong first is what the user must hear of; a temporary file
            # that cannot be deleted either is swept later.
            with suppress(OSError):
                temporary.unlink()
            raise
        _fsync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Give a binary file to write; commit it to `path` when the block ends.

    Args:
        path: the final name; its folder is made if missing.

    Yields:
        The open temporary file.

    Raises:
        EnvironmentFault: as `atomic_path`.
    """
    with atomic_path(path) as temporary, temporary.open("r+b") as file:
        yield file


def remove(path: Path) -> None:
    """Delete a file, if it is there.

    Raises:
        EnvironmentFault: the system refuses.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> EnvironmentFault:
    """Word a failed write of `path` for people."""
    return EnvironmentFault(
        f"cannot write {clean(str(path))}: {clean(error.strerror or str(error))}",
        "free space or correct the permissions, then run the same command again",
    )


def sweep(folder: Path) -> None:
    """Delete what killed writers left in `folder`; call it under the folder's lock.

    Raises:
        EnvironmentFault: the file system refused.
    """
    place = folder
    try:
        for place in folder.glob(f"{_PREFIX}*"):
            place.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(place, error) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
