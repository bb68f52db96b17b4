"""With which settings everything was made, and from what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepme.artifacts.origin import Origin, digest_of, origin_of
from deepme.reporting.sources import Sources
from deepme.text import clean, listing


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One artifact behind the results.

    Attributes:
        file: its path within the workspace.
        command: that made it.
        sha256: what identifies it.
        version: of deepme that wrote it.
        settings: name and value.
        made_from: what it was made from.
    """

    file: str
    command: str
    sha256: str
    version: str
    settings: list[tuple[str, str]]
    made_from: str


def trace(sources: Sources) -> list[Stage]:
    """Describe the artifacts that the system shown was made from, roots first."""
    stages = []
    for origin in _origins(sources):
        header = origin.header
        settings = [
            (clean(name), clean(_value(value)))
            for name, value in sorted(header.settings.items())
        ]
        stages.append(
            Stage(
                file=clean(sources.workspace.name_of(origin.path)),
                command=clean(sources.workspace.command_for(origin.path)),
                sha256=origin.sha256,
                version=clean(header.deepme),
                settings=settings,
                made_from=listing(sorted(header.made_from), 8),
            )
        )
    return stages


def digests(sources: Sources) -> list[tuple[str, str]]:
    """Name every file that the result depends on, and its sha256."""
    origin = sources.shown.origin
    files = origin.header.made_from | {
        sources.workspace.name_of(origin.path): digest_of(origin.path)
    }
    return [(clean(name), digest) for name, digest in sorted(files.items())]


def _origins(sources: Sources) -> Iterator[Origin]:
    """The artifacts with settings of their own; large ones are not read again."""
    loaded = (sources.similarity, sources.groups, sources.split)
    known = {
        sources.workspace.name_of(artifact.origin.path): artifact.origin
        for artifact in loaded
    }
    yield from known.values()
    for name in sources.shown.origin.header.made_from:
        if Path(name).suffix == ".json" and name not in known:
            yield origin_of(sources.workspace.root / name)
    yield sources.shown.origin


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
