"""verify: every artifact of a workspace, its content and its lineage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepme.artifacts.layouts import LAYOUTS
from deepme.artifacts.origin import origin_of
from deepme.errors import ArtifactError, InputError
from deepme.progress import progress
from deepme.storage.header import Header
from deepme.storage.tensors import tensors_header
from deepme.text import clean
from deepme.workspace import Workspace

PATTERNS = (
    *("*.h5", "*.json", "flat/*", "gate/*", "attention/*", "experts/*/*"),
    *("features/*", "outputs/*/*", "evaluation/*", "calibration/*"),
)
SUFFIXES = (".h5", ".json", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found of one file.

    Attributes:
        file: its path within the workspace.
        state: ``intact``, ``stale`` (what it was made from has changed, or another
            version wrote it in another layout), ``corrupt``, or ``unfinished`` (a
            checkpoint).
        reason: why, or empty.
        command: that makes it anew, or empty.
    """

    file: str
    state: str
    reason: str
    command: str


def verify(workspace: Workspace) -> list[Verdict]:
    """Read every artifact of a workspace; check seals, contents and lineage.

    Args:
        workspace: nothing in it is changed.

    Returns:
        A verdict for each file, by path.

    Raises:
        InputError: the folder holds no artifact.
    """
    paths = sorted(
        {
            path
            for pattern in PATTERNS
            for path in workspace.root.glob(pattern)
            if path.suffix in SUFFIXES and not path.name.startswith(".")
        }
    )
    if not paths:
        raise InputError(
            f"{clean(str(workspace.root))} holds no artifact of deepme",
            "name a workspace",
        )
    verdicts = []
    with progress("verifying", len(paths), "files") as advance:
        for path in paths:
            verdicts.append(verdict_of(workspace, path))
            advance(1)
    return verdicts


def verdict_of(workspace: Workspace, path: Path) -> Verdict:
    """Read one artifact; check seal, content and lineage."""
    name = workspace.name_of(path)
    try:
        command = workspace.command_for(path)
    except KeyError:
        command = ""
    try:
        header = _reader(path)(path)
    except ArtifactError as error:
        # The file has a column of its own; beside it the path would hide the reason.
        reason = str(error.args[0]).removeprefix(f"{clean(str(path))} is corrupt: ")
        return Verdict(file=name, state="corrupt", reason=reason, command=command)
    if header.kind == "checkpoint":
        reason = "a training that has not ended"
        return Verdict(file=name, state="unfinished", reason=reason, command=command)
    if (reads := LAYOUTS.get(header.kind)) not in (None, header.schema_version):
        reason = f"layout {header.schema_version}, this deepme reads layout {reads}"
        return Verdict(file=name, state="stale", reason=reason, command=command)
    if changed := workspace.changed(header.made_from):
        reason = f"{clean(changed)} has changed since it was made"
        return Verdict(file=name, state="stale", reason=reason, command=command)
    return Verdict(file=name, state="intact", reason="", command="")


def _reader(path: Path) -> Callable[[Path], Header]:
    if path.suffix == ".safetensors":
        return lambda file: tensors_header(file)[0]
    return lambda file: origin_of(file).header
