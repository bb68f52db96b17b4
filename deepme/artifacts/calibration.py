"""calibration/WAY.json: the temperature of a way to answer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, with_config

from deepme.artifacts.origin import Origin
from deepme.storage.header import Header, validated
from deepme.storage.json import read_json, write_json

KIND, SCHEMA = "calibration", 2


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class CalibrationContent:
    """What calibration/WAY.json holds; all of it is of validation images.

    Attributes:
        temperature: base of `core.calibration.Temperature`, which log P is divided by.
        temperature_slope: its slope.
        images: that it was fitted on.
        loss_before: mean of −log P_y.
        loss_after: the same under τ.
        error_before: expected calibration error, 15 bins.
        error_after: the same under τ.
    """

    temperature: float
    temperature_slope: float
    images: int
    loss_before: float
    loss_after: float
    error_before: float
    error_after: float

    @property
    def fitted(self) -> tuple[float, float]:
        """Base and slope of `core.calibration.Temperature`."""
        return self.temperature, self.temperature_slope

    @property
    def ends(self) -> tuple[float, float]:
        """Of an image that is certain, and of one on which all classes are alike."""
        return self.temperature, self.temperature * math.exp(self.temperature_slope)


@dataclass(frozen=True)
class Calibration:
    """The temperature of a fusion, perhaps of one that asks few experts.

    Attributes:
        origin: its file.
        content: what that holds.
    """

    origin: Origin
    content: CalibrationContent


_CONTENT = TypeAdapter(CalibrationContent)


def save_calibration(path: Path, header: Header, content: CalibrationContent) -> str:
    """Write calibration/WAY.json and return its sha256."""
    return write_json(path, header, asdict(content))


def load_calibration(path: Path) -> Calibration:
    """Load calibration/WAY.json.

    Raises:
        ArtifactError: missing or corrupt.
    """
    header, values, sha256 = read_json(path, KIND, SCHEMA)
    return Calibration(Origin(path, header, sha256), validated(_CONTENT, values, path))
