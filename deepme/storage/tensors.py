"""safetensors artifacts with a digest over names, types, shapes and bytes.

safetensors itself holds no checksum (measured: 92 % of single bit flips load
silently). One metadata key only: with two or more, safetensors writes them in random
order and equal content gives unequal files.

Files are read with plain reads, not through ``safe_open``. It maps them, and tells an
I/O error in the words of a malformed file or, in a page read late, by SIGBUS.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save

from deepme.storage.atomic import atomic_write
from deepme.storage.header import (
    Header,
    Json,
    canonical,
    corrupt,
    expect,
    parse_header,
    reading,
    require_file,
)

_KEY = "deepme"
_PLAIN_KEY = "__metadata__"
_MAX_HEADER = 100 * 2**20
"""Bytes, as safetensors itself allows."""
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_TYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16},
    **{"BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32},
    **{"I16": torch.int16, "I8": torch.int8, "U64": torch.uint64},
    **{"U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
    **{"BOOL": torch.bool, "C64": torch.complex64},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}


def write_tensors(
    path: Path, header: Header, tensors: Mapping[str, torch.Tensor]
) -> str:
    """Write named tensors atomically.

    Args:
        path: the final name.
        header: what it is and from what it was made.
        tensors: any dense tensors; stored from the CPU, contiguous.

    Returns:
        The sha256 that identifies it.

    Raises:
        EnvironmentFault: the file system refused.
    """
    plain = {
        name: tensor.detach().to("cpu", copy=False).contiguous()
        for name, tensor in tensors.items()
    }
    digest = _digest(header.to_dict(), plain)
    metadata = canonical({"header": header.to_dict(), "sha256": digest}).decode()
    content = save(plain, metadata={_KEY: metadata})
    with atomic_write(path) as file:
        file.write(content)
    return digest


def read_tensors(
    path: Path, kind: str, schema_version: int
) -> tuple[Header, dict[str, torch.Tensor], str]:
    """Read named tensors after checking their digest.

    Args:
        path: the file.
        kind: the expected kind.
        schema_version: the layout the caller reads.

    Returns:
        Header, tensors on the CPU, and sha256.

    Raises:
        ArtifactError: missing, corrupt, of another kind or layout.
        EnvironmentFault: the file system refused.
    """
    header, tensors, digest = _read_checked(path)
    expect(header, path, kind, schema_version)
    return header, tensors, digest


def tensors_header(path: Path) -> tuple[Header, str]:
    """Read header and sha256 of a tensor artifact of any kind, content checked.

    Raises:
        ArtifactError: missing or corrupt.
        EnvironmentFault: the file system refused.
    """
    header, _, digest = _read_checked(path)
    return header, digest


def tensors_digest(path: Path) -> str:
    """The sha256 a tensor artifact was written with; the tensors are not read.

    Raises:
        ArtifactError: missing or corrupt.
        EnvironmentFault: the file system refused.
    """
    with _open(path) as file:
        return _read_metadata(_read_head(file)[0])[1]


def read_plain(
    file: io.BufferedReader,
) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Read a safetensors file of anyone.

    Args:
        file: at its beginning.

    Returns:
        The metadata, and the tensors by name, on the CPU.

    Raises:
        ValueError: not a safetensors file, or one whose tensors do not lie one after
            the other up to its end.
        OSError: the file system refused.
    """
    metadata, entries = _read_head(file)
    tensors = {}
    for name, dtype, shape, _start, length in entries:
        # Each in memory of its own: torch takes a random state from the beginning of
        # its block, wherever in that the tensor lies.
        raw = torch.empty(length, dtype=torch.uint8)
        _fill(file, raw.numpy().data)
        tensors[name] = raw.view(dtype).reshape(shape)
    return metadata, tensors


Entry = tuple[str, torch.dtype, list[int], int, int]
"""Name, type, shape, first byte behind the head, and number of bytes."""


def _read_head(file: io.BufferedReader) -> tuple[dict[str, str], list[Entry]]:
    """The metadata, and where each tensor lies, in this order up to the end."""
    size = os.fstat(file.fileno()).st_size
    first = bytearray(8)
    _fill(file, first)
    length = int.from_bytes(first, "little")
    if length > min(_MAX_HEADER, size - 8):
        raise ValueError("its head is longer than the file")
    raw = bytearray(length)
    _fill(file, raw)
    try:
        head = json.loads(raw.decode())
        metadata = head.pop(_PLAIN_KEY, None) or {}
        entries = [_entry(name, values) for name, values in head.items()]
    except _MALFORMED as error:
        raise ValueError(f"its head is malformed ({type(error).__name__})") from error
    entries.sort(key=lambda entry: entry[3:])
    ends = itertools.accumulate((entry[4] for entry in entries), initial=0)
    starts = [*(entry[3] for entry in entries), size - 8 - length]
    if starts != list(ends):
        raise ValueError("its tensors do not lie one after the other")
    return metadata, entries


def _entry(name: str, values: Json) -> Entry:
    dtype, shape = _TYPES[values["dtype"]], values["shape"]
    start, stop = values["data_offsets"]
    if not all(type(value) is int and value >= 0 for value in (*shape, start, stop)):
        raise ValueError("sizes and offsets must not be negative")
    if math.prod(shape) * dtype.itemsize != stop - start:
        raise ValueError("shape and offsets do not agree")
    return name, dtype, shape, start, stop - start


def _fill(file: io.BufferedReader, buffer: bytearray | memoryview) -> None:
    rest = memoryview(buffer)
    while len(rest):
        count = file.readinto(rest)
        if not count:
            raise ValueError("it is cut short")
        rest = rest[count:]


def _read_checked(path: Path) -> tuple[Header, dict[str, torch.Tensor], str]:
    with _open(path) as file:
        metadata, tensors = read_plain(file)
        header, digest = _read_metadata(metadata)
        same = digest == _digest(header, tensors)
    if not same:
        raise corrupt(path, "its content does not match its sha256")
    return parse_header(header, path), tensors, digest


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    """Open an artifact; what is malformed in the block is told as corrupt."""
    require_file(path)
    try:
        with reading(path), path.open("rb") as file:
            yield file
    except ValueError as error:
        raise corrupt(path, f"no deepme tensors: {error}") from error


def _read_metadata(metadata: dict[str, str]) -> tuple[dict[str, Json], str]:
    try:
        values = json.loads(metadata[_KEY])
        same = canonical(values).decode() == metadata[_KEY]
        found = values["header"], str(values["sha256"])
    except _MALFORMED as error:
        raise ValueError(f"no header of deepme ({type(error).__name__})") from error
    if not same:
        raise ValueError("its header is not canonical")
    return found


def _digest(header: dict[str, Json], tensors: Mapping[str, torch.Tensor]) -> str:
    sha = hashlib.sha256(canonical(header))
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(canonical([name, str(tensor.dtype), list(tensor.shape)]))
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
