"""selection.json: the groupings that were tried, and which one was chosen."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, with_config

from deepme.artifacts.origin import Origin
from deepme.storage.header import Header, validated
from deepme.storage.json import read_json, write_json

KIND, SCHEMA = "selection", 1


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One grouping of the grid.

    Attributes:
        num_groups: T.
        delta: δ.
        eigengap: λ_T − λ_{T+1} of the affinity.
        xie_beni: compactness over separation, low is good; None where centres
            coincide.
        balance: evenness of the sizes, 1 for equal ones.
        overlap: mean number of groups a class.
        smallest: classes of the smallest group.
        largest: classes of the largest.
        refused: why no heads were trained on it, or nothing.
        mixture: macro top-1 of cheap heads on validation images, the flat network's
            probabilities as the gate; None where refused.
        oracle: the same under the true groups.
    """

    num_groups: int
    delta: float
    eigengap: float
    xie_beni: float | None
    balance: float
    overlap: float
    smallest: int
    largest: int
    refused: str
    mixture: float | None = None
    oracle: float | None = None


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class SelectionContent:
    """What selection.json holds.

    Attributes:
        flat: macro top-1 of a single cheap head over all classes.
        train_images: that the heads learned from.
        val_images: that they were measured on.
        candidates: the grid, by T, then δ.
        chosen: position of the best of them.
    """

    flat: float
    train_images: int
    val_images: int
    candidates: tuple[Candidate, ...]
    chosen: int

    @property
    def best(self) -> Candidate:
        """The chosen candidate."""
        return self.candidates[self.chosen]

    @property
    def standard_error(self) -> float:
        """Of one accuracy: differences well below it say nothing."""
        return math.sqrt(self.flat * (1 - self.flat) / self.val_images)


@dataclass(frozen=True)
class Selection:
    """A selection with its file.

    Attributes:
        origin: the file.
        content: what it holds.
    """

    origin: Origin
    content: SelectionContent


_CONTENT = TypeAdapter(SelectionContent)


def save_selection(path: Path, header: Header, content: SelectionContent) -> str:
    """Write selection.json and return its sha256."""
    return write_json(path, header, asdict(content))


def load_selection(path: Path) -> Selection:
    """Load selection.json.

    Raises:
        ArtifactError: missing or corrupt.
    """
    header, values, sha256 = read_json(path, KIND, SCHEMA)
    return Selection(Origin(path, header, sha256), validated(_CONTENT, values, path))
