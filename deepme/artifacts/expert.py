"""experts/NN/: one trained expert.

``weights.safetensors`` and ``visual_similarity.h5`` are written first;
``training.json`` names them by their sha256 and is the commit: without it, or with
another digest in it, the expert is unfinished.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, with_config

from deepme.artifacts.origin import Origin
from deepme.storage.hdf5 import dataset, open_hdf5, write_hdf5
from deepme.storage.header import Header, validated
from deepme.storage.json import read_json, write_json

KIND, SCHEMA = "expert", 1
OMEGA_KIND, OMEGA_SCHEMA = "visual-similarity", 1
WEIGHTS_KIND, WEIGHTS_SCHEMA = "weights", 1

NONE_OF_THESE = ""
"""What an expert's last output stands for if it learned images of other groups."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch of training came to.

    Attributes:
        stage: warmup, finetune or gate.
        epoch: counted from 1 within the stage.
        lr: learning rate at its last step.
        losses: mean over images of each part of the objective.
        train_top1: share of training views classified rightly.
        val_top1: the same on validation images; None without any.
    """

    stage: str
    epoch: int
    lr: float
    losses: dict[str, float]
    train_top1: float
    val_top1: float | None


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Training:
    """What training.json holds, for an expert or the gate.

    Attributes:
        group: the group's number; 0 for the gate and the flat network.
        outputs: what each output stands for: class ids, perhaps `NONE_OF_THESE` after
            them, or group numbers as text.
        num_features: width d of the last layer's input.
        images: training images.
        backbone: the network's timm name.
        image_size: pixels a side of its input.
        history: the epochs.
        skipped: unreadable images left out, with the reason.
        versions: of python, torch, torchvision and timm.
    """

    group: int
    outputs: tuple[str, ...]
    num_features: int
    images: int
    backbone: str
    image_size: int
    history: tuple[Epoch, ...]
    skipped: tuple[tuple[str, str], ...]
    versions: dict[str, str]


_TRAINING = TypeAdapter(Training)


@dataclass(frozen=True)
class Expert:
    """A finished expert.

    Attributes:
        origin: its training.json.
        training: what that holds.
    """

    origin: Origin
    training: Training

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.origin.path.with_name("weights.safetensors")


def save_training(path: Path, header: Header, training: Training) -> str:
    """Write training.json and return its sha256."""
    return write_json(path, header, asdict(training))


def load_training(path: Path, kind: str = KIND) -> Expert:
    """Load training.json of an expert, or with kind ``gate`` or ``flat`` of those.

    Raises:
        ArtifactError: missing or corrupt.
    """
    header, content, sha256 = read_json(path, kind, SCHEMA)
    return Expert(Origin(path, header, sha256), validated(_TRAINING, content, path))


def save_omega(
    path: Path, omega: NDArray[np.float32], made_from: dict[str, str]
) -> str:
    """Write visual_similarity.h5, the last Ω (C, C), and return its sha256."""
    header = Header(kind=OMEGA_KIND, schema_version=OMEGA_SCHEMA, made_from=made_from)

    def fill(file: h5py.File) -> None:
        file["omega"] = omega

    return write_hdf5(path, header, fill)


def load_omega(path: Path, num_classes: int) -> NDArray[np.float32]:
    """Load the last Ω (C, C) of an expert.

    Raises:
        ArtifactError: missing, corrupt or of another size.
    """
    with open_hdf5(path, OMEGA_KIND, OMEGA_SCHEMA) as (_, file, _sha256):
        matrix = dataset(file, "omega", np.float32, (num_classes, num_classes))
        return np.asarray(matrix)
