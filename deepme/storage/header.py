"""What every artifact says about itself, and how its digest is checked."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from deepme import __version__
from deepme.errors import ArtifactError, EnvironmentFault
from deepme.text import clean

T = TypeVar("T")
Json = Any
"""A value that JSON can hold: None, bool, int, finite float, str, list, dict."""


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True, kw_only=True)
class Header:
    """The origin of an artifact.

    Attributes:
        kind: what the file holds, for example ``similarity``.
        schema_version: version of the kind's layout.
        settings: the settings it was made with.
        classes: digest of the ordered class list (`class_digest`), or empty.
        made_from: name of each input artifact -> its sha256 at that time.
        deepme: the version that wrote it.
    """

    kind: str
    schema_version: int
    settings: dict[str, Json] = field(default_factory=dict)
    classes: str = ""
    made_from: dict[str, str] = field(default_factory=dict)
    deepme: str = __version__

    def to_dict(self) -> dict[str, Json]:
        """The header as plain JSON values."""
        # Not asdict: it copies a checkpoint's whole history, value by value.
        return {each.name: getattr(self, each.name) for each in fields(self)}


_HEADER = TypeAdapter(Header)


def parse_header(values: Json, path: Path) -> Header:
    """Validate a header.

    Raises:
        ArtifactError: not a header.
    """
    return validated(_HEADER, values, path)


def expect(header: Header, path: Path, kind: str, schema_version: int) -> None:
    """Compare a header with what the reader expects.

    Args:
        header: of the file.
        path: the file, for the message.
        kind: the expected kind.
        schema_version: the layout this version of deepme reads.

    Raises:
        ArtifactError: another kind or layout.
    """
    if header.kind != kind:
        raise ArtifactError(
            f"{clean(str(path))} holds {clean(header.kind)}, expected {kind}",
            "the file was renamed or copied; remove it and rerun its command",
        )
    if header.schema_version != schema_version:
        raise ArtifactError(
            f"{clean(str(path))} has layout {header.schema_version} of {kind}, this "
            f"deepme reads layout {schema_version}",
            "rerun the command that makes it with this version",
        )


def validated(adapter: TypeAdapter[T], values: Json, path: Path) -> T:
    """Turn parsed JSON into a typed value, or say which field is wrong.

    Raises:
        ArtifactError: a field is missing, unknown or of another type.
    """
    try:
        # JSON mode: strict about numbers and strings, yet lists may become tuples.
        return adapter.validate_json(canonical(values), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise corrupt(path, f"{where}: {first['msg']}") from error


def canonical(value: Json) -> bytes:
    """Serialise JSON in the one form whose digest is compared.

    Raises:
        ValueError: the value holds NaN or an infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def class_digest(classes: Iterable[str]) -> str:
    """The sha256 of an ordered class list."""
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()


def require_file(path: Path) -> None:
    """Refuse what is no regular file before anything opens it (a FIFO would hang).

    Raises:
        ArtifactError: missing, or a folder, device or pipe.
        EnvironmentFault: the file system refused.
    """
    with reading(path):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise corrupt(path, "it is not a regular file")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Word what the file system has against reading `path`.

    Raises:
        ArtifactError: it is missing.
        EnvironmentFault: no permission, or an I/O error.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(
            f"{clean(str(path))} is missing", "run the command that makes it"
        ) from error
    except OSError as error:
        raise EnvironmentFault(
            f"cannot read {clean(str(path))}: {clean(error.strerror or str(error))}",
            "correct the permissions or the disk, then run the same command again",
        ) from error


def corrupt(path: Path, reason: str) -> ArtifactError:
    """Word a file whose content cannot be trusted."""
    return ArtifactError(
        f"{clean(str(path))} is corrupt: {clean(reason)}",
        "remove it and rerun the command that makes it",
    )
