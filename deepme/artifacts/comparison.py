"""comparison.json: Table 1 of the paper, over several seeds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, with_config

from deepme.storage.header import Header, validated
from deepme.storage.json import read_json, write_json

KIND, SCHEMA = "comparison", 1


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a system takes.

    Attributes:
        parameters: weights of all its networks.
        training_gflop: 10⁹ floating-point operations of all its trainings, the experts'
            outputs for the gate included, pre-training not.
        inference_gflop: the same of one image.
    """

    parameters: int
    training_gflop: float
    inference_gflop: float


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One system under one seed; accuracies are shares in [0, 1].

    Attributes:
        seed: of groups and training; the split is the same for all.
        macro: top-k -> mean over classes of the accuracy per class.
        micro: top-k -> share of images.
        right_group: share of images whose heaviest expert holds the true class.
        calibration_error: expected calibration error, 15 bins.
        experts: name -> macro top-1 of each expert among its own classes.
    """

    seed: int
    macro: dict[str, float]
    micro: dict[str, float]
    right_group: float
    calibration_error: float
    experts: dict[str, float]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class SystemResult:
    """One row of the table.

    Attributes:
        system: its name in `deepme.systems.SYSTEMS`.
        label: for people.
        cost: of the first seed.
        seeds: one entry a seed.
    """

    system: str
    label: str
    cost: Cost
    seeds: tuple[SeedResult, ...]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class ComparisonContent:
    """What comparison.json holds.

    Attributes:
        classes: N.
        train_images: of the split.
        test_images: of the split.
        groups: T of the recipe.
        systems: the rows.
    """

    classes: int
    train_images: int
    test_images: int
    groups: int
    systems: tuple[SystemResult, ...]


_CONTENT = TypeAdapter(ComparisonContent)


def save_comparison(path: Path, header: Header, content: ComparisonContent) -> str:
    """Write comparison.json and return its sha256."""
    return write_json(path, header, asdict(content))


def load_comparison(path: Path) -> ComparisonContent:
    """Load comparison.json.

    Raises:
        ArtifactError: missing or corrupt.
    """
    _, values, _ = read_json(path, KIND, SCHEMA)
    return validated(_CONTENT, values, path)
