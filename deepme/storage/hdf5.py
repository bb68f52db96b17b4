"""HDF5 artifacts with a seal in front: plain h5py opens them, deepme checks first.

The first 512 bytes are HDF5's user block. It holds one JSON line with the sha256
and the size of everything behind it, the sha256 of that line, and zeros. HDF5
itself notices only part of what can happen to a file (measured: 30 % of single bit
flips load silently, some hang the reader), so the seal is verified before h5py
touches the content.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedReader, FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepme.errors import ArtifactError
from deepme.storage.atomic import atomic_path, cannot_write
from deepme.storage.header import (
    Header,
    corrupt,
    expect,
    parse_header,
    reading,
    require_file,
)
from deepme.storage.rows import FileRows, OpenFile
from deepme.storage.sink import SignalsHeld, Sink, Source
from deepme.text import clean

_BLOCK = 512
_ATTRIBUTE = "deepme"

MAX_EXPANSION = 1000
"""A dataset may declare so many times the bytes that are stored of it."""
_PLAIN = "biufS"
"""Kinds of numpy types that hold their values themselves: no references, no heap."""
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_LZF,
}
"""Those that h5py brings along: for another HDF5 would load a library by its number."""

Block = tuple[h5py.Dataset, slice, NDArray[Any]]
"""A dataset, some of its rows, and the values to write there."""


def write_hdf5(
    path: Path,
    header: Header,
    fill: Callable[[h5py.File], Iterator[Block] | None],
) -> str:
    """Write an HDF5 artifact atomically.

    Args:
        path: the final name.
        header: what it is and from what it was made.
        fill: creates the datasets in the open file. What takes long to make it does
            not write itself but returns as (dataset, rows, values), one after the
            other: between them a full disk or a signal ends the work.

    Returns:
        The sha256 that identifies it.

    Raises:
        EnvironmentFault: the file system refused.
    """
    return write_hdf5_files([(path, header)], lambda files: fill(files[0]))[0]


def write_hdf5_files(
    artifacts: Sequence[tuple[Path, Header]],
    fill: Callable[[list[h5py.File]], Iterator[Block] | None],
) -> list[str]:
    """Write several HDF5 artifacts that are made together, each atomically.

    Args:
        artifacts: the final name and the header of each.
        fill: as in `write_hdf5`, but given all open files in their order.

    Returns:
        The sha256 of each.

    Raises:
        EnvironmentFault: the file system refused; what stood under the names is
            there still, or else the new content, whole.
    """
    paths = [path for path, _ in artifacts]
    with ExitStack() as temporaries:
        raws = [temporaries.enter_context(_temporary(path)) for path in paths]
        sinks = [_sink(raw, path) for raw, path in zip(raws, paths, strict=True)]
        with SignalsHeld() as signals, ExitStack() as opened:
            files = []
            for sink, (_, header) in zip(sinks, artifacts, strict=True):
                file = h5py.File(sink, "w", userblock_size=_BLOCK)
                files.append(opened.enter_context(file))
                file.attrs[_ATTRIBUTE] = json.dumps(header.to_dict(), sort_keys=True)
            blocks = fill(files) or iter(())
            while True:
                with signals.released():
                    block = next(blocks, None)
                if block is None:
                    break
                target, rows, values = block
                target[rows] = values
                _check_sinks(sinks, paths)
        _check_sinks(sinks, paths)
        digests = []
        for raw, path in zip(raws, paths, strict=True):
            with _writing(path):
                digests.append(_seal_file(raw))
        return digests


@contextmanager
def _temporary(path: Path) -> Iterator[FileIO]:
    with atomic_path(path) as temporary, temporary.open("r+b", buffering=0) as raw:
        yield raw


def _sink(raw: FileIO, path: Path) -> Sink:
    with _writing(path):
        return Sink(raw.fileno())


def _check_sinks(sinks: Sequence[Sink], paths: Sequence[Path]) -> None:
    for sink, path in zip(sinks, paths, strict=True):
        with _writing(path):
            sink.check()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Name the file that could not be written, where several are open."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def open_hdf5(
    path: Path, kind: str, schema_version: int
) -> Iterator[tuple[Header, h5py.File, str]]:
    """Open an HDF5 artifact after checking its digest.

    The very bytes that were checked are the ones read: a writer that replaces the
    file meanwhile does not disturb the reader.

    Args:
        path: the file.
        kind: the expected kind.
        schema_version: the layout the caller reads.

    Yields:
        Header, the file open for reading, and its sha256.

    Raises:
        ArtifactError: missing, corrupt, of another kind or layout.
        EnvironmentFault: the file system refused.
    """
    with _open_checked(path) as (header, file, digest):
        expect(header, path, kind, schema_version)
        yield header, file, digest


def hdf5_header(path: Path) -> tuple[Header, str]:
    """Read header and sha256 of an HDF5 artifact of any kind, content checked.

    Raises:
        ArtifactError: missing or corrupt.
    """
    with _open_checked(path) as (header, _, digest):
        return header, digest


@contextmanager
def _open_checked(path: Path) -> Iterator[tuple[Header, h5py.File, str]]:
    require_file(path)
    with reading(path):
        source = Source(path)
    try:
        with BufferedReader(source) as raw:
            with reading(path):
                digest = _check(raw, path)
            with _open_file(raw, path) as file:
                yield _header(file, path), file, digest
    except Exception:
        # What HDF5 makes of it may have any type: here is what it was.
        with reading(path):
            source.check()
        raise


def _open_file(raw: BufferedReader[Any], path: Path) -> h5py.File:
    try:
        return h5py.File(raw, "r")
    except BaseException as error:
        # h5py's frames hold a property list that refers to `raw`. An exception lives up
        # to the end of the process, and HDF5 crashes if it frees the list after Python.
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, OSError):
            raise corrupt(path, "no HDF5 behind the seal") from error
        raise


def _header(file: h5py.File, path: Path) -> Header:
    try:
        values = json.loads(str(file.attrs.get(_ATTRIBUTE, "null")))
    except (ValueError, RecursionError) as error:
        raise corrupt(path, "its header is not JSON") from error
    return parse_header(values, path)


def _check(raw: BufferedReader[Any], path: Path) -> str:
    digest, size = _read_seal(raw, path)
    if size != os.fstat(raw.fileno()).st_size:
        raise corrupt(path, "it was cut short or lengthened")
    if digest != _digest_behind_block(raw):
        raise corrupt(path, "its content does not match its sha256")
    return digest


def hdf5_digest(path: Path) -> str:
    """The sha256 an HDF5 artifact was sealed with; the content is not read."""
    require_file(path)
    with reading(path), path.open("rb") as raw:
        return _read_seal(raw, path)[0]


def dataset(
    file: h5py.File, name: str, dtype: Any, shape: tuple[int | None, ...]
) -> h5py.Dataset:
    """Look up a dataset and check its type and shape.

    Args:
        file: an open artifact.
        name: the dataset's name.
        dtype: the expected numpy type.
        shape: the expected shape; None stands for any length.

    Returns:
        The dataset, not yet read.

    Raises:
        ArtifactError: absent or different.
    """
    wanted = f"{name}: {np.dtype(dtype)} {shape}"
    try:
        found = plain_dataset(file, name)
    except KeyError:
        about = clean(str(file.attrs[_ATTRIBUTE])[:80])
        raise ArtifactError(f"{about}… lacks {wanted}") from None
    except ValueError as error:
        raise ArtifactError(f"{error}, expected {wanted}") from error
    fits = len(found.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, found.shape, strict=True)
    )
    if not fits or found.dtype != np.dtype(dtype):
        raise ArtifactError(f"found {name}: {found.dtype} {found.shape}, not {wanted}")
    return found


def plain_dataset(file: h5py.File, name: str, *, texts: bool = False) -> h5py.Dataset:
    """Look up a dataset that lies in the file itself, at most as large as it says.

    HDF5 can point to other files and declare exabytes in a kilobyte (CVE-2026-1669,
    CVE-2026-0897); every dataset that deepme reads is taken from here.

    Args:
        file: open for reading, its content from anyone.
        name: at the top of the file.
        texts: may hold texts of any length, as h5py writes a list of str.

    Returns:
        The dataset, not yet read.

    Raises:
        KeyError: there is no dataset of this name.
        ValueError: it is a link, lies in other files, holds references or values of
            any length, needs a filter of others, or declares far more than is stored.
    """
    link = file.get(name, getlink=True)
    if link is None:
        raise KeyError(name)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is a link to elsewhere")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(name)
    made = found.id.get_create_plist()
    if made.get_external_count() or found.is_virtual:
        raise ValueError(f"{name} lies in other files")
    is_text = h5py.check_string_dtype(found.dtype) is not None
    if not _is_plain(found.dtype) and not (texts and is_text):
        raise ValueError(f"{name} holds {found.dtype}, no plain numbers or texts")
    filters = {made.get_filter(number)[0] for number in range(made.get_nfilters())}
    if filters - _FILTERS:
        raise ValueError(f"{name} needs the HDF5 filter {max(filters - _FILTERS)}")
    size = math.prod(found.shape or ()) * found.dtype.itemsize
    if size > MAX_EXPANSION * found.id.get_storage_size() and size:
        raise ValueError(f"{name} declares {size:,} bytes and stores hardly any")
    return found


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether values of a type, or of all its fields, are numbers or texts."""
    if dtype.fields is None:
        return dtype.base.kind in _PLAIN
    return all(_is_plain(field[0]) for field in dtype.fields.values())


def file_rows(file: OpenFile, array: h5py.Dataset) -> FileRows:
    """The rows of a contiguous dataset, which are read when asked for.

    Args:
        file: the artifact, open for reading.
        array: the dataset in it.

    Raises:
        ArtifactError: it lies in pieces.
    """
    offset = array.id.get_offset()
    if offset is None and array.size:
        raise corrupt(file.path, f"{array.name} lies in pieces")
    return FileRows(file, offset=offset or 0, dtype=array.dtype, shape=array.shape)


def write_strings(group: h5py.Group, name: str, values: list[str]) -> None:
    """Store strings as one UTF-8 byte array and its offsets (``NAME``, ``NAME_end``).

    Packed, since 10,000 variable-length strings cost HDF5 a heap object each.
    """
    encoded = [value.encode("utf-8", "surrogateescape") for value in values]
    ends = np.cumsum([len(value) for value in encoded], dtype=np.int64)
    group[name] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    group[f"{name}_end"] = ends


def read_strings(file: h5py.File, name: str, count: int | None = None) -> list[str]:
    """Read what `write_strings` stored."""
    raw = dataset(file, name, np.uint8, (None,))[()].tobytes()
    ends = dataset(file, f"{name}_end", np.int64, (count,))[()]
    return unpack_strings(raw, ends)


def unpack_strings(raw: bytes, ends: NDArray[np.int64]) -> list[str]:
    """Cut packed UTF-8 bytes at their offsets."""
    stops = [0, *ends.tolist()]
    return [
        raw[start:stop].decode("utf-8", "surrogateescape")
        for start, stop in pairwise(stops)
    ]


def _seal_file(raw: FileIO) -> str:
    digest = _digest_behind_block(raw)
    size = raw.seek(0, os.SEEK_END)
    sink = Sink(raw.fileno())
    sink.write(_seal(digest, size))
    sink.check()
    return digest


def _digest_behind_block(raw: BufferedReader[Any] | FileIO) -> str:
    raw.seek(_BLOCK)
    return hashlib.file_digest(raw, "sha256").hexdigest()


def _seal(digest: str, size: int) -> bytes:
    line = json.dumps({"sha256": digest, "size": size}).encode() + b"\n"
    return (line + hashlib.sha256(line).hexdigest().encode() + b"\n").ljust(
        _BLOCK, b"\0"
    )


def _read_seal(raw: BufferedReader[Any] | FileIO, path: Path) -> tuple[str, int]:
    raw.seek(0)
    block = raw.read(_BLOCK)
    try:
        values = json.loads(block.split(b"\n", 1)[0])
        digest, size = str(values["sha256"]), int(values["size"])
    except (ValueError, TypeError, KeyError) as error:
        raise corrupt(path, "it does not begin with deepme's seal") from error
    if block != _seal(digest, size):
        raise corrupt(path, "its seal was changed")
    return digest, size
