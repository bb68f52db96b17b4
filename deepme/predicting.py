"""predict: what a trained workspace says of a user's images."""

# ruff: noqa: N803, N806
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deepme.artifacts.groups import Groups
from deepme.artifacts.split import ImageIndex
from deepme.config import MachineSettings, PredictSettings
from deepme.devices import choose_compute
from deepme.errors import InputError
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.images.reading import SUFFIXES
from deepme.inference import load_network
from deepme.mixture import Mixture
from deepme.progress import progress, warn
from deepme.text import clean
from deepme.workspace import Workspace

CHUNK = 1024
"""Images routed together, so that each expert sees many at once."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """One guess.

    Attributes:
        label: class id.
        name: for people.
        probability: in [0, 1].
    """

    label: str
    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Voice:
    """How far an expert was trusted.

    Attributes:
        group: its number.
        name: of the group.
        weight: in (0, 1].
        labels: what it says by itself; empty unless explained.
    """

    group: int
    name: str
    weight: float
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What is said of one image.

    Attributes:
        path: of the image.
        labels: the most probable first.
        experts: those that were asked, the most trusted first; none with ``--fusion
            flat`` or ``attention``.
    """

    path: str
    labels: tuple[Label, ...]
    experts: tuple[Voice, ...]


def find(arguments: Sequence[str], lines: Iterable[str]) -> list[Path]:
    """The images that a user names.

    Args:
        arguments: files, folders (all images below them), or ``-`` for the lines.
        lines: paths, one each, read where an argument is ``-``.

    Raises:
        InputError: no such file, or nothing named.
    """
    paths: list[Path] = []
    for argument in arguments:
        if argument == "-":
            paths += [Path(line.rstrip("\n")) for line in lines if line.strip()]
        elif Path(argument).is_dir():
            below = sorted(Path(argument).rglob("*"))
            paths += [path for path in below if path.suffix.lower() in SUFFIXES]
        else:
            paths.append(Path(argument))
    for path in paths:
        if not path.exists():
            raise InputError(
                f"there is no image {clean(str(path))}",
                "name image files, folders of them, or - for paths on standard input",
            )
    if not paths:
        raise InputError(f"no image in {clean(', '.join(arguments))}")
    return paths


def predict(
    settings: PredictSettings,
    machine: MachineSettings,
    workspace: Workspace,
    paths: Sequence[Path],
    *,
    explain: bool = False,
) -> Iterator[Prediction]:
    """Say what is on some images, in their order.

    An unreadable image is warned of and left out.

    Args:
        settings: how many guesses, and who is asked.
        machine: device and workers.
        workspace: with what the fusion needs trained.
        paths: of the images.
        explain: also say what each expert that was asked says by itself.

    Raises:
        ArtifactError: a network is missing or stale.
    """
    groups = workspace.groups()
    compute = choose_compute(machine, "auto")
    network, size = _network(settings, workspace)
    network.to(compute.device)
    dataset = ImageDataset(_index(paths), size=size, augment=False, seed=0)
    rows = np.arange(len(paths))
    with progress("predicting", len(paths), "images") as advance:
        for batch in evaluation_batches(dataset, rows, CHUNK, machine.workers):
            for row, reason in batch.unreadable.items():
                warn(f"skipped {clean(str(paths[row]))}: {reason}")
            images = batch.inputs.to(compute.device)
            with torch.inference_mode(), compute.autocast():
                P_BN, weights_BT = _ask(network, images)
                votes = None
                if explain and isinstance(network, Mixture):
                    votes = [vote.cpu() for vote in network.votes(images)]
            chosen = P_BN.cpu().topk(min(settings.guesses, P_BN.shape[1]), dim=1)
            for b, row in enumerate(batch.rows.tolist()):
                yield Prediction(
                    path=str(paths[row]),
                    labels=_labels(groups, chosen.values[b], chosen.indices[b]),
                    experts=_voices(settings, groups, weights_BT, votes, b),
                )
            advance(len(batch.rows) + len(batch.unreadable))


def _network(settings: PredictSettings, workspace: Workspace) -> tuple[nn.Module, int]:
    """Who answers, and the image size it sees."""
    if settings.answer_by == "gate":
        mixture = Mixture.load(
            workspace, top=settings.route_top, least=settings.route_least
        )
        return mixture, workspace.gate().training.image_size
    trained = (
        workspace.flat() if settings.answer_by == "flat" else workspace.attention()
    )
    return load_network(trained, workspace), trained.training.image_size


def _ask(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Probabilities (B, N), and weights (B, T) of a mixture."""
    if isinstance(network, Mixture):
        P_BN, weights_BT = network(images)
        return P_BN, weights_BT.cpu()
    parts = [network(part)[0].float() for part in torch.split(images, 256)]
    return torch.cat(parts).softmax(dim=1), None


def _labels(groups: Groups, values: Tensor, indices: Tensor) -> tuple[Label, ...]:
    content = groups.content
    return tuple(
        Label(label=content.classes[k], name=content.names[k], probability=p)
        for p, k in zip(values.tolist(), indices.tolist(), strict=True)
    )


def _voices(
    settings: PredictSettings,
    groups: Groups,
    weights_BT: Tensor | None,
    votes: list[Tensor] | None,
    b: int,
) -> tuple[Voice, ...]:
    if weights_BT is None:
        return ()
    voices = []
    for t in weights_BT[b].argsort(descending=True, stable=True).tolist():
        weight = float(weights_BT[b, t])
        if weight == 0:
            continue
        labels: tuple[Label, ...] = ()
        if votes is not None:
            best = votes[t][b].topk(min(settings.guesses, votes[t].shape[1]))
            classes = torch.from_numpy(groups.members[t])[best.indices]
            labels = _labels(groups, best.values, classes)
        group = groups.content.groups[t]
        voices.append(
            Voice(group=group.number, name=group.name, weight=weight, labels=labels)
        )
    return tuple(voices)


def _index(paths: Sequence[Path]) -> ImageIndex:
    """Files anywhere, as an index below the root folder."""
    raw = [os.fsencode(path.absolute())[1:] for path in paths]
    none = np.empty(0, dtype=np.int64)
    return ImageIndex(
        root=Path("/"),
        path_bytes=np.frombuffer(b"".join(raw), dtype=np.uint8),
        path_end=np.cumsum([len(path) for path in raw]),
        label=np.zeros(len(paths), dtype=np.int32),
        archives=(),
        archive=none.astype(np.int16),
        offset=none,
        size=none.astype(np.uint32),
    )
