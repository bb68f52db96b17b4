"""calibration/FUSION.json: the temperature of a way to answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, with_config

from deepme.artifacts.origin import Origin
from deepme.storage.header import Header, validated
from deepme.storage.json import read_json, write_json

KIND, SCHEMA = "calibration", 1


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class CalibrationContent:
    """What calibration/FUSION.json holds; all of it is of validation images.

    Attributes:
        temperature: τ, which log P is divided by.
        images: that it was fitted on.
        loss_before: mean of −log P_y.
        loss_after: the same under τ.
        error_before: expected calibration error, 15 bins.
        error_after: the same under τ.
    """

    temperature: float
    images: int
    loss_before: float
    loss_after: float
    error_before: float
    error_after: float


@dataclass(frozen=True)
class Calibration:
    """A fusion's temperature.

    Attributes:
        origin: its file.
        content: what that holds.
    """

    origin: Origin
    content: CalibrationContent


_CONTENT = TypeAdapter(CalibrationContent)


def save_calibration(path: Path, header: Header, content: CalibrationContent) -> str:
    """Write calibration/FUSION.json and return its sha256."""
    return write_json(path, header, asdict(content))


def load_calibration(path: Path) -> Calibration:
    """Load calibration/FUSION.json.

    Raises:
        ArtifactError: missing or corrupt.
    """
    header, values, sha256 = read_json(path, KIND, SCHEMA)
    return Calibration(Origin(path, header, sha256), validated(_CONTENT, values, path))
