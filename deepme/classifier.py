"""A trained classifier as people use it: pixels in, logits of named classes out."""

# ruff: noqa: N803, N806
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from deepme.artifacts.groups import Group, Groups
from deepme.calibrating import Way, calibrate
from deepme.config import MachineSettings
from deepme.core.calibration import Temperature, doubt, temper_probabilities
from deepme.images.reading import upright_rgb
from deepme.images.views import centre_view
from deepme.inference import load_network
from deepme.mixture import Mixture
from deepme.workspace import Workspace


class ClassName(NamedTuple):
    """A class.

    Attributes:
        label: its id, as folders and artifacts have it.
        name: for people.
    """

    label: str
    name: str


@dataclass(frozen=True)
class CentreView:
    """Turn a picture into what a classifier sees; the view that evaluate measures on.

    The picture is turned upright and made RGB, the centre square of 7/8 of its shorter
    side is scaled to the classifier's size. Pixels stay bytes: the classifier subtracts
    mean and deviation itself. (Of a JPEG four times as large and more evaluate decodes
    no more than it needs, which changes a pixel by 2 of 255 on average.)

    Attributes:
        size: S, pixels a side.
    """

    size: int

    def __call__(self, image: Image.Image) -> Tensor:
        """Map a Pillow image of any mode to (3, S, S) uint8."""
        return torch.from_numpy(centre_view(np.array(upright_rgb(image)), self.size))


class Classifier(nn.Module):
    """A trained network with the names of its classes; `deepme.load` makes one.

    Called on (B, 3, S, S) uint8 images it gives logits (B, N) float32, whose softmax is
    the calibrated probabilities. Of a mixture they are log P / τ, so −inf for a class
    whose experts are not asked.

    Args:
        network: a mixture, or a network whose logits are of the classes.
        classes: the N classes.
        groups: the experts' groups; none for a single network.
        image_size: S.
        temperature: base of τ, 1 for probabilities as the network gives them.
        temperature_slope: how log τ grows with an image's entropy.
        batch_size: images that a single network sees at once, None for all.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: tuple[ClassName, ...],
        groups: tuple[Group, ...] = (),
        image_size: int,
        temperature: float = 1.0,
        temperature_slope: float = 0.0,
        batch_size: int | None = 256,
    ) -> None:
        """Keep the network, ready to answer: no dropout, no gradients."""
        super().__init__()
        self.network = network
        self.classes, self.groups = classes, groups
        self.image_size = image_size
        self.temperature, self.temperature_slope = temperature, temperature_slope
        self.batch_size = batch_size
        self.eval().requires_grad_(False)

    @property
    def transform(self) -> CentreView:
        """What turns a Pillow image into one of the images of a batch."""
        return CentreView(self.image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits.

        Args:
            images: (B, 3, S, S) uint8, as `transform` makes them.

        Returns:
            (B, N) float32.

        Raises:
            TypeError: images of another type than uint8.
        """
        if isinstance(self.network, Mixture):
            P_BN = self._mixed(images)[0]
            return P_BN.log() / self._tau(P_BN)
        logits_BN = self._logits(images)
        return logits_BN / self._tau(logits_BN.softmax(dim=1))

    def probabilities(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map images to probabilities, and to the experts' weights if it is a mixture.

        Args:
            images: (B, 3, S, S) uint8.

        Returns:
            P (B, N) float32, each row sums to 1; and (B, T) float32 that sum to 1
            where all experts are asked, 0 for an expert that is not; or None.

        Raises:
            TypeError: images of another type than uint8.
        """
        if isinstance(self.network, Mixture):
            P_BN, weights_BT = self._mixed(images)
            return temper_probabilities(P_BN, self._temperature), weights_BT
        P_BN = self._logits(images).softmax(dim=1)
        return temper_probabilities(P_BN, self._temperature), None

    @property
    def _temperature(self) -> Temperature:
        return Temperature(self.temperature, self.temperature_slope)

    def _tau(self, P_BN: Tensor) -> Tensor:
        """τ (B, 1) of each image."""
        return self._temperature.of(doubt(P_BN))[:, None]

    def _mixed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        P_BN, weights_BT = self.network(_bytes(images))
        return P_BN, weights_BT

    def _logits(self, images: Tensor) -> Tensor:
        images = _bytes(images)
        parts: tuple[Tensor, ...] = (images,)
        if self.batch_size is not None:
            parts = torch.split(images, self.batch_size)
        logits = [self.network(part)[0].float() for part in parts]
        # An expert may have one output more, for images of other groups.
        return torch.cat(logits)[:, : len(self.classes)]


def _bytes(images: Tensor) -> Tensor:
    """Refuse pixels that are scaled already: the answers would be wrong, not absent."""
    if images.dtype != torch.uint8:
        raise TypeError(
            f"images are {images.dtype}, expected torch.uint8 as the classifier's "
            "transform gives them"
        )
    return images


def classifier_of(
    workspace: Workspace,
    machine: MachineSettings,
    *,
    fusion: str = "gate",
    route_top: int | None = None,
    route_least: float = 0.0,
    calibrated: bool = True,
) -> Classifier:
    """Load what a workspace has trained as one classifier of all classes.

    Args:
        workspace: with what the fusion needs trained.
        machine: for the validation images, if a temperature has to be fitted first.
        fusion: who answers: gate (the mixture), attention or flat.
        route_top: experts asked at most, None for all.
        route_least: smallest weight that asks an expert.
        calibrated: whether to use the temperature.

    Returns:
        The classifier, on the CPU.

    Raises:
        ArtifactError: a network is missing, stale or corrupt.
    """
    groups = workspace.groups()
    network: nn.Module
    if fusion == "gate":
        network = Mixture.load(workspace, top=route_top, least=route_least)
        size = workspace.gate().training.image_size
    else:
        trained = workspace.flat() if fusion == "flat" else workspace.attention()
        network, size = load_network(trained, workspace), trained.training.image_size
    way = Way.of(fusion, route_top, route_least)
    found = calibrate(workspace, way, machine) if calibrated else None
    temperature, slope = found.content.fitted if found else Temperature()
    return Classifier(
        network,
        classes=class_names(groups),
        groups=groups.content.groups if fusion == "gate" else (),
        image_size=size,
        temperature=temperature,
        temperature_slope=slope,
    )


def expert_of(workspace: Workspace, number: int) -> Classifier:
    """Load one expert as a classifier of its group's classes, not calibrated.

    Raises:
        UsageError: no such group.
        ArtifactError: the expert is missing, stale or corrupt.
    """
    groups = workspace.groups()
    group = groups.group(number)
    expert = workspace.expert(number)
    names = dict(class_names(groups))
    return Classifier(
        load_network(expert, workspace),
        classes=tuple(ClassName(label, names[label]) for label in group.classes),
        image_size=expert.training.image_size,
    )


def class_names(groups: Groups) -> tuple[ClassName, ...]:
    """The classes of a grouping with their names."""
    content = groups.content
    return tuple(map(ClassName, content.classes, content.names))
