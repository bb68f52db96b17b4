"""groups.json and memberships.h5: which classes each expert learns.

groups.json is what every later stage reads; memberships.h5 keeps the memberships, and
the embedding where there is one, for pictures and for placing new classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, with_config

from deepme.artifacts.origin import Origin
from deepme.errors import ArtifactError, UsageError
from deepme.storage.hdf5 import dataset, open_hdf5, write_hdf5
from deepme.storage.header import Header, class_digest, validated
from deepme.storage.json import read_json, write_json
from deepme.text import clean

KIND, SCHEMA = "groups", 1
MEMBERSHIPS_KIND, MEMBERSHIPS_SCHEMA = "memberships", 1


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Group:
    """One group of classes, learned by one expert.

    Attributes:
        number: 1 to T, as in the paper.
        name: the synset that fits it best, its medoid, or what it is a group of.
        classes: its class ids, in the order of the class list.
    """

    number: int
    name: str
    classes: tuple[str, ...]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class GroupsContent:
    """What groups.json holds.

    Attributes:
        delta: the threshold in force (found from the overlap where that was given);
            None where no memberships were cut.
        classes: (N,) ids of all classes, in order.
        names: (N,) names for people.
        groups: the T groups.
        summary: coverage, fallbacks, overlap and the like, for people.
    """

    delta: float | None
    classes: tuple[str, ...]
    names: tuple[str, ...]
    groups: tuple[Group, ...]
    summary: dict[str, float]


_CONTENT = TypeAdapter(GroupsContent)


@dataclass(frozen=True)
class Groups:
    """The grouping, with its arrays.

    Attributes:
        origin: the file.
        content: what it holds.
    """

    origin: Origin
    content: GroupsContent

    @property
    def num_classes(self) -> int:
        """N."""
        return len(self.content.classes)

    @property
    def num_groups(self) -> int:
        """T."""
        return len(self.content.groups)

    @cached_property
    def index(self) -> dict[str, int]:
        """Class id -> position in the class list."""
        return {name: i for i, name in enumerate(self.content.classes)}

    @cached_property
    def members(self) -> tuple[NDArray[np.int64], ...]:
        """Per group, the positions (C_t,) of its classes, ascending."""
        return tuple(
            np.array([self.index[name] for name in group.classes], dtype=np.int64)
            for group in self.content.groups
        )

    def group(self, number: int) -> Group:
        """The group of a number.

        Raises:
            UsageError: no such group.
        """
        if not 1 <= number <= self.num_groups:
            raise UsageError(
                f"--group names group {number}, expected 1 to {self.num_groups}"
            )
        return self.content.groups[number - 1]

    def name_of(self, index: int) -> str:
        """Class id and name, for messages."""
        content = self.content
        return f"{clean(content.classes[index])} ({clean(content.names[index])})"


@dataclass(frozen=True)
class Memberships:
    """The memberships behind a grouping; E is T, or 0 where nothing was clustered.

    Attributes:
        p: (N, T) float32, rows sum to 1.
        embedding: (N, E) float32, the spectral embedding.
        eigenvalues: (E,) float64, descending.
    """

    p: NDArray[np.float32]
    embedding: NDArray[np.float32]
    eigenvalues: NDArray[np.float64]


def groups_header(
    classes: str, settings: dict[str, Any], made_from: dict[str, str]
) -> Header:
    """The header of a groups.json of these settings and inputs."""
    return Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings=settings,
        classes=classes,
        made_from=made_from,
    )


def save_groups(path: Path, header: Header, content: GroupsContent) -> str:
    """Write groups.json and return its sha256."""
    return write_json(path, header, asdict(content))


def load_groups(path: Path) -> Groups:
    """Load groups.json.

    Raises:
        ArtifactError: missing, corrupt, or groups that do not fit the class list.
    """
    header, values, sha256 = read_json(path, KIND, SCHEMA)
    content = validated(_CONTENT, values, path)
    groups = Groups(Origin(path, header, sha256), content)
    known = set(content.classes)
    numbers = [group.number for group in content.groups]
    in_groups = {name for group in content.groups for name in group.classes}
    if (
        class_digest(content.classes) != header.classes
        or len(content.names) != len(content.classes)
        or numbers != list(range(1, len(numbers) + 1))
        or in_groups != known
    ):
        raise ArtifactError(
            f"{clean(str(path))}: its groups do not cover its class list exactly",
            "rerun `deepme cluster`",
        )
    return groups


def save_memberships(
    path: Path, memberships: Memberships, header_from: dict[str, str], classes: str
) -> str:
    """Write memberships.h5 and return its sha256."""
    header = Header(
        kind=MEMBERSHIPS_KIND,
        schema_version=MEMBERSHIPS_SCHEMA,
        classes=classes,
        made_from=header_from,
    )

    def fill(file: h5py.File) -> None:
        for name, array in asdict(memberships).items():
            file.create_dataset(name, data=array)

    return write_hdf5(path, header, fill)


def load_memberships(path: Path, num_classes: int, num_groups: int) -> Memberships:
    """Load memberships.h5 of a grouping.

    Raises:
        ArtifactError: missing, corrupt or of another size.
    """
    with open_hdf5(path, MEMBERSHIPS_KIND, MEMBERSHIPS_SCHEMA) as (_, file, _sha256):
        p = dataset(file, "p", np.float32, (num_classes, num_groups))[()]
        eigenvalues = dataset(file, "eigenvalues", np.float64, (None,))[()]
        embedding = dataset(
            file, "embedding", np.float32, (num_classes, len(eigenvalues))
        )[()]
        return Memberships(p=p, embedding=embedding, eigenvalues=eigenvalues)
