"""routing.json: accuracy against the number of experts asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, with_config

from deepme.storage.header import Header, validated
from deepme.storage.json import read_json, write_json

KIND, SCHEMA = "routing", 1


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Route:
    """One way to ask fewer experts, and what it costs and loses on validation images.

    Attributes:
        top: experts asked at most; None where the weight decides.
        least: the smallest weight that asks an expert; 0 where the number decides.
        passes: experts asked an image, on average.
        macro: macro top-1, in [0, 1].
    """

    top: int | None
    least: float
    passes: float
    macro: float

    @property
    def options(self) -> str:
        """As ``evaluate`` takes it."""
        if self.top is not None:
            return f"--route-top {self.top}"
        return f"--route-least {self.least:g}"


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class RoutingContent:
    """What routing.json holds.

    Attributes:
        experts: T.
        images: validation images.
        dense: macro top-1 when all experts are asked.
        tolerance: the largest loss that was allowed.
        routes: by number, then by weight, each from few experts to many.
        chosen: position of the cheapest route within the tolerance.
    """

    experts: int
    images: int
    dense: float
    tolerance: float
    routes: tuple[Route, ...]
    chosen: int

    @property
    def best(self) -> Route:
        """The chosen route."""
        return self.routes[self.chosen]


_CONTENT = TypeAdapter(RoutingContent)


def save_routing(path: Path, header: Header, content: RoutingContent) -> str:
    """Write routing.json and return its sha256."""
    return write_json(path, header, asdict(content))


def load_routing(path: Path) -> RoutingContent:
    """Load routing.json.

    Raises:
        ArtifactError: missing or corrupt.
    """
    _, values, _ = read_json(path, KIND, SCHEMA)
    return validated(_CONTENT, values, path)
