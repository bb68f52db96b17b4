"""What is written when a training has ended, and what identifies it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from deepme.artifacts.expert import (
    WEIGHTS_KIND,
    WEIGHTS_SCHEMA,
    Training,
    save_training,
)
from deepme.errors import InputError
from deepme.storage.given import open_given
from deepme.storage.header import Header
from deepme.storage.tensors import write_tensors
from deepme.text import clean
from deepme.workspace import Workspace


def identifying_settings(settings: Any) -> dict[str, Any]:
    """Settings as recorded: with the digest of a local weights file, not its place.

    Raises:
        InputError: `weights` names a file that cannot be read.
    """
    recorded: dict[str, Any] = settings.to_dict()
    weights = settings.weights
    if weights not in ("hub", "none", "flat", "before"):
        try:
            with open_given(Path(weights)) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InputError(
                f"cannot read --weights {clean(weights)}: {reason}",
                "expected hub, none, or a .safetensors or .pth file",
            ) from error
        recorded["weights"] = f"sha256:{digest}"
    return recorded


def versions() -> dict[str, str]:
    """What the numbers of a training depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
    }


def save_result(
    workspace: Workspace,
    path: Path,
    identity: Header,
    network: nn.Module,
    training: Training,
    *,
    beside: Mapping[Path, str],
) -> None:
    """Write the weights, then training.json, which commits them.

    Args:
        workspace: that the files belong to.
        path: of training.json; the weights lie beside it.
        identity: kind, settings and inputs of the training.
        network: what was trained.
        training: what training.json holds.
        beside: further files already written -> sha256.
    """
    weights_path = path.with_name("weights.safetensors")
    header = replace(identity, kind=WEIGHTS_KIND, schema_version=WEIGHTS_SCHEMA)
    weights = write_tensors(weights_path, header, network.state_dict())
    written = {
        workspace.name_of(file): sha256
        for file, sha256 in {weights_path: weights, **beside}.items()
    }
    complete = replace(identity, made_from=identity.made_from | written)
    save_training(path, complete, training)
