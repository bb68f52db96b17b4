"""JSON artifacts: ``{"content": …, "deepme": {header, sha256}}`` in canonical form.

The digest covers header and content, and a file must equal its own serialisation
byte for byte: a changed space is found like a changed digit, and NaN, duplicate
keys or numbers beyond the range of a double cannot occur.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

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

MAX_BYTES = 64 * 2**20


def write_json(path: Path, header: Header, content: Json) -> str:
    """Write a JSON artifact atomically.

    Args:
        path: the final name.
        header: what it is and from what it was made.
        content: JSON values; floats must be finite.

    Returns:
        The sha256 that identifies it.

    Raises:
        EnvironmentFault: the file system refused.
        ValueError: the content holds NaN or an infinity.
    """
    digest = _digest(header.to_dict(), content)
    with atomic_write(path) as file:
        file.write(_serialise(header.to_dict(), content, digest))
    return digest


def read_json(path: Path, kind: str, schema_version: int) -> tuple[Header, Json, str]:
    """Read a JSON artifact after checking its digest.

    Args:
        path: the file.
        kind: the expected kind.
        schema_version: the layout the caller reads.

    Returns:
        Header, content and sha256.

    Raises:
        ArtifactError: missing, corrupt, of another kind or layout.
    """
    header, content, digest = _parse(path)
    expect(header, path, kind, schema_version)
    return header, content, digest


def json_header(path: Path) -> tuple[Header, str]:
    """Read header and sha256 of a JSON artifact of any kind.

    Raises:
        ArtifactError: missing or corrupt.
    """
    header, _, digest = _parse(path)
    return header, digest


def parse_strict(raw: str | bytes) -> Json:
    """Parse JSON of anyone, by the standard and not beyond it.

    Args:
        raw: the text; its size is for the caller to bound.

    Returns:
        The values.

    Raises:
        ValueError: not JSON, a key twice, NaN, an infinity or a number beyond a
            double's range, or nested too deep.
    """
    try:
        return json.loads(
            raw,
            object_pairs_hook=_distinct,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def _distinct(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = next(
            key for key, n in Counter(key for key, _ in pairs).items() if n > 1
        )
        raise ValueError(f"{twice!r} stands there twice")
    return table


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _parse(path: Path) -> tuple[Header, Json, str]:
    require_file(path)
    with reading(path), path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise corrupt(path, f"it has more than the {MAX_BYTES:,} bytes allowed")
    try:
        document: Any = json.loads(raw)
        header, content = dict(document["deepme"]), document["content"]
        digest = str(header.pop("sha256"))
        same = _serialise(header, content, digest) == raw
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise corrupt(path, f"no deepme JSON ({type(error).__name__})") from error
    if not same:
        raise corrupt(path, "it is not in the canonical form that deepme writes")
    if digest != _digest(header, content):
        raise corrupt(path, "its content does not match its sha256")
    return parse_header(header, path), content, digest


def _serialise(header: dict[str, Json], content: Json, digest: str) -> bytes:
    document = {"deepme": {**header, "sha256": digest}, "content": content}
    text = json.dumps(document, sort_keys=True, indent=1, allow_nan=False)
    return (text + "\n").encode()


def _digest(header: dict[str, Json], content: Json) -> str:
    return hashlib.sha256(canonical([header, content])).hexdigest()
