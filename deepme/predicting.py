"""predict: what a trained workspace says of a user's images."""

# ruff: noqa: N803, N806, N815
from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepme.artifacts.paths import PackedPaths
from deepme.artifacts.split import ImageIndex
from deepme.classifier import Classifier, classifier_of
from deepme.config import MachineSettings, PredictSettings
from deepme.core.backoff import Backoff
from deepme.devices import choose_compute
from deepme.errors import InputError, UsageError
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.images.reading import SUFFIXES
from deepme.mixture import Mixture
from deepme.progress import progress, warn
from deepme.taxonomies import taxonomy_of
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
        path: names of its ancestors in the taxonomy, from the root down to it; empty
            unless asked for.
    """

    label: str
    name: str
    probability: float
    path: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Voice:
    """How far an expert was trusted.

    Attributes:
        group: its number.
        name: of the group.
        weight: in (0, 1].
        labels: what it says by itself, not calibrated; empty unless explained.
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
        answer: the nearest ancestor of the best guess that is sure enough, or the
            guess itself; None unless asked for, and where none is.
        steps: edges of the taxonomy from the best guess up to the answer.
        labels: the most probable first.
        experts: those that were asked, the most trusted first; none with ``--fusion
            flat`` or ``attention``.
    """

    path: str
    answer: Label | None
    steps: int | None
    labels: tuple[Label, ...]
    experts: tuple[Voice, ...]


def find(arguments: Sequence[str], lines: Iterable[str]) -> list[Path]:
    """The images that a user names.

    Args:
        arguments: files, folders (all images below them), patterns as ``*.jpg`` (``**``
            for folders at any depth), or ``-`` for the lines.
        lines: paths, one each, read where an argument is ``-``.

    Raises:
        InputError: no such file, or nothing named.
    """
    paths: list[Path] = []
    for argument in arguments:
        if argument == "-":
            paths += [Path(line.rstrip("\n")) for line in lines if line.strip()]
        elif Path(argument).is_dir():
            paths += sorted(_below(argument))
        elif not Path(argument).exists() and glob.has_magic(argument):
            # Path.glob takes no absolute patterns.
            matches = map(Path, sorted(glob.glob(argument, recursive=True)))  # noqa: PTH207
            paths += [path for path in matches if path.is_file()]
        else:
            paths.append(Path(argument))
    for path in paths:
        if not path.exists():
            raise InputError(
                f"there is no image {clean(str(path))}",
                "name image files, folders of them, patterns as '*.jpg', or - for "
                "paths on standard input",
            )
    if not paths:
        raise InputError(f"no image in {clean(', '.join(arguments))}")
    return paths


def _below(folder: str) -> Iterator[Path]:
    """The images below a folder; each folder once, for links to others may loop.

    Raises:
        InputError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    try:
        for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
            # Of two ways to a folder always the same one is taken.
            folders.sort()
            here = Path(place).stat()
            if (here.st_dev, here.st_ino) in seen:
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            paths = (Path(place, name) for name in names)
            yield from (path for path in paths if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise InputError(
            f"cannot list {clean(str(error.filename))}: {error.strerror}"
        ) from error


def predict(
    settings: PredictSettings,
    machine: MachineSettings,
    workspace: Workspace,
    paths: Sequence[Path],
    *,
    explain: bool = False,
    with_path: bool = False,
) -> Iterator[Prediction]:
    """Say what is on some images, in their order, with calibrated probabilities.

    An unreadable image is warned of and left out.

    Args:
        settings: how many guesses, who is asked, and how sure an answer must be.
        machine: device and workers.
        workspace: with what the fusion needs trained.
        paths: of the images.
        explain: also say what each expert that was asked says by itself.
        with_path: also give each guess its ancestors in the taxonomy.

    Raises:
        ArtifactError: a network is missing or stale.
        UsageError: the taxonomy is asked for, and the classes have none.
    """
    backoff = None
    if with_path or settings.backoff is not None:
        backoff = _backoff(workspace)
    compute = choose_compute(machine, "auto")
    classifier = classifier_of(
        workspace,
        machine,
        fusion=settings.answer_by,
        route_top=settings.route_top,
        route_least=settings.route_least,
    ).to(compute.device)
    speaker = _Speaker(settings, classifier, backoff, with_path)
    size = classifier.image_size
    dataset = ImageDataset(_index(paths), size=size, augment=False, seed=0)
    rows = np.arange(len(paths))
    with progress("predicting", len(paths), "images") as advance:
        for batch in evaluation_batches(dataset, rows, CHUNK, machine.workers):
            for row, reason in batch.unreadable.items():
                warn(f"skipped {clean(str(paths[row]))}: {reason}")
            images = batch.inputs.to(compute.device)
            with torch.inference_mode(), compute.autocast():
                answers = _ask(classifier, images, explain)
            names = [str(paths[row]) for row in batch.rows.tolist()]
            yield from speaker.say(names, answers)
            advance(len(batch.rows) + len(batch.unreadable))


class _Answers(NamedTuple):
    """What is said of a batch, on the CPU: P (B, N), weights (B, T), T times f_t."""

    P_BN: Tensor
    weights_BT: Tensor | None
    votes: list[Tensor] | None


def _ask(classifier: Classifier, images: Tensor, explain: bool) -> _Answers:
    P_BN, weights_BT = classifier.probabilities(images)
    votes = None
    if explain and isinstance(classifier.network, Mixture):
        votes = [vote.cpu() for vote in classifier.network.votes(images)]
    weights_BT = None if weights_BT is None else weights_BT.cpu()
    return _Answers(P_BN.cpu(), weights_BT, votes)


def _backoff(workspace: Workspace) -> Backoff:
    similarity = workspace.similarity()
    taxonomy = taxonomy_of(similarity)
    if taxonomy is None:
        raise UsageError(
            "--backoff and --path need a taxonomy, and these classes have a matrix of "
            "similarities instead",
            "leave them out",
        )
    return Backoff(taxonomy, taxonomy.index_of(similarity.classes))


@dataclass(frozen=True)
class _Speaker:
    """Turns numbers into what people are told."""

    settings: PredictSettings
    classifier: Classifier
    backoff: Backoff | None
    with_path: bool

    def say(self, paths: list[str], answers: _Answers) -> Iterator[Prediction]:
        """Yield a prediction an image."""
        P_BN, weights_BT = answers.P_BN, answers.weights_BT
        best = P_BN.topk(min(self.settings.guesses, P_BN.shape[1]), dim=1)
        # All rows at once: a call of torch for each image would take longer than it.
        values, indices = best.values.tolist(), best.indices.tolist()
        weights = None if weights_BT is None else weights_BT.tolist()
        for b, path in enumerate(paths):
            answer, steps = self._answer(P_BN[b].numpy())
            voices: tuple[Voice, ...] = ()
            if weights is not None:
                votes = answers.votes and [vote[b] for vote in answers.votes]
                voices = self._voices(weights[b], votes)
            yield Prediction(
                path=path,
                answer=answer,
                steps=steps,
                labels=self._labels(values[b], indices[b]),
                experts=voices,
            )

    def _labels(self, values: list[float], indices: list[int]) -> tuple[Label, ...]:
        named = self.classifier.classes
        return tuple(
            Label(
                label=named[k].label,
                name=named[k].name,
                probability=p,
                path=self._path(k),
            )
            for p, k in zip(values, indices, strict=True)
        )

    def _path(self, k: int) -> tuple[str, ...]:
        if not self.with_path or self.backoff is None:
            return ()
        return tuple(map(self.backoff.taxonomy.name, self.backoff.path(k)))

    def _answer(self, P_N: NDArray[np.float32]) -> tuple[Label | None, int | None]:
        if self.settings.backoff is None or self.backoff is None:
            return None, None
        found = self.backoff.answer(P_N, self.settings.backoff)
        if found is None:
            return None, None
        taxonomy = self.backoff.taxonomy
        label = Label(
            label=taxonomy.wnids([found.synset])[0],
            name=taxonomy.name(found.synset),
            probability=found.probability,
        )
        return label, found.steps

    def _voices(
        self, weights: list[float], votes: list[Tensor] | None
    ) -> tuple[Voice, ...]:
        voices = []
        for t in sorted(range(len(weights)), key=lambda t: -weights[t]):
            if weights[t] == 0:
                break
            labels = () if votes is None else self._votes(votes[t], t)
            group = self.classifier.groups[t]
            voices.append(
                Voice(
                    group=group.number,
                    name=group.name,
                    weight=weights[t],
                    labels=labels,
                )
            )
        return tuple(voices)

    def _votes(self, vote_C: Tensor, t: int) -> tuple[Label, ...]:
        network = self.classifier.network
        assert isinstance(network, Mixture), "nobody else has experts that vote"
        best = vote_C.topk(min(self.settings.guesses, len(vote_C)))
        classes_C = network.members.classes[t].cpu()
        return self._labels(best.values.tolist(), classes_C[best.indices].tolist())


def _index(paths: Sequence[Path]) -> ImageIndex:
    """Files anywhere, as an index below the root folder."""
    none = np.empty(0, dtype=np.int64)
    return ImageIndex(
        root=Path("/"),
        paths=PackedPaths.pack(str(path.absolute())[1:] for path in paths),
        label=np.zeros(len(paths), dtype=np.int32),
        archives=(),
        archive=none.astype(np.int16),
        offset=none,
        size=none.astype(np.uint32),
    )
