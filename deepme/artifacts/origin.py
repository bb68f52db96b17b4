"""Where an artifact came from, and how its file is told from another's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepme.storage.hdf5 import hdf5_digest, hdf5_header
from deepme.storage.header import Header
from deepme.storage.json import json_header


@dataclass(frozen=True)
class Origin:
    """The file an artifact was loaded from.

    Attributes:
        path: the file.
        header: what the file says about itself.
        sha256: what identifies its content.
    """

    path: Path
    header: Header
    sha256: str


def digest_of(path: Path) -> str:
    """Read the sha256 that identifies an artifact file.

    Raises:
        ArtifactError: missing or corrupt.
    """
    if path.suffix == ".h5":
        return hdf5_digest(path)
    if path.suffix == ".json":
        return json_header(path)[1]
    # torch takes seconds to import, and most commands never come here.
    from deepme.storage.tensors import tensors_digest

    return tensors_digest(path)


def origin_of(path: Path) -> Origin:
    """Read an HDF5 or JSON artifact's header, its content checked.

    Raises:
        ArtifactError: missing or corrupt.
    """
    read = hdf5_header if path.suffix == ".h5" else json_header
    return Origin(path, *read(path))
