"""What the commands do, as calls from Python."""

# ruff: noqa: N806
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.evaluation import EvaluationContent
from deepme.classifier import Classifier, classifier_of, expert_of
from deepme.config import (
    EvaluateSettings,
    ExportSettings,
    MachineSettings,
    SimilaritySettings,
)
from deepme.core.similarity import path_length_rows, theta_table
from deepme.errors import UsageError
from deepme.hub import is_hub, load_hub
from deepme.steps import evaluate as evaluation
from deepme.wordnet.choice import load_chosen
from deepme.workspace import Workspace


def load(
    folder: str | os.PathLike[str],
    *,
    fusion: str = "gate",
    group: int | None = None,
    route_top: int | None = None,
    route_least: float = 0.0,
    calibrated: bool = True,
) -> Classifier:
    """Load a trained classifier, from a workspace or from ``export --format hub``.

    From a workspace the temperature is fitted on the validation images if nobody has
    done so yet; an exported folder holds it, and what answers is settled there.

    Args:
        folder: the workspace, or the exported folder.
        fusion: who answers: ``gate`` (the mixture), ``attention`` or ``flat``.
        group: number of a group whose expert shall answer alone, among its classes.
        route_top: show an image to this many experts at most; None for all.
        route_least: smallest weight of the gate that asks an expert, in [0, 1].
        calibrated: whether probabilities are calibrated.

    Returns:
        A module on the CPU, in evaluation mode. It maps (B, 3, S, S) uint8 images, as
        its ``transform`` makes them, to logits (B, N) float32.

    Raises:
        UsageError: no such fusion or group, a route or a fusion where no gate answers,
            or one asked of an exported folder.
        ArtifactError: what is needed is missing, stale or corrupt.
    """
    root = Path(folder)
    if is_hub(root):
        asked = (fusion, group, route_top, route_least, calibrated)
        if asked != ("gate", None, None, 0.0, True):
            raise UsageError(
                f"{root} is an exported model, whose answers are settled",
                "choose fusion, group, routes and calibration when exporting",
            )
        return load_hub(root)
    workspace = Workspace(root)
    # As in exporting: what answers, and by which route.
    settings = ExportSettings(
        answer_by=fusion, only=group, route_top=route_top, route_least=route_least
    )
    if group is not None:
        return expert_of(workspace, group)
    return classifier_of(
        workspace,
        MachineSettings(workers=0),
        fusion=settings.answer_by,
        route_top=settings.route_top,
        route_least=settings.route_least,
        calibrated=calibrated,
    )


def evaluate(
    workspace: str | os.PathLike[str],
    *,
    fusion: Sequence[str] = ("gate",),
    topk: Sequence[int] = (1, 3, 5),
    route_top: int | None = None,
    route_least: float = 0.0,
    device: str = "auto",
    workers: int = 2,
) -> list[EvaluationContent]:
    """Measure a trained workspace on its test images, as ``deepme evaluate`` does.

    Args:
        workspace: the folder; the results are written there as well.
        fusion: how the experts are weighed; any of `deepme.config.FUSIONS`.
        topk: ranks of the accuracies.
        route_top: show an image to this many experts at most; None for all.
        route_least: smallest weight of the gate that asks an expert, in [0, 1].
        device: auto (CUDA if there is one), cpu, cuda or cuda:1.
        workers: processes that decode images.

    Returns:
        One result a fusion, in their order; accuracies are shares in [0, 1].

    Raises:
        UsageError: a value outside its range.
        ArtifactError: a network is missing, stale or corrupt.
        InputError: no test image, or one that cannot be read.
    """
    settings = EvaluateSettings(
        fusion=tuple(fusion),
        topk=tuple(topk),
        route_top=route_top,
        route_least=route_least,
    )
    machine = MachineSettings(device=device, workers=workers)
    return evaluation.run(settings, machine, Workspace(Path(workspace)))


def similarity(
    classes: Sequence[str], *, formula: str = "standard", wordnet: str = ""
) -> NDArray[np.float32]:
    """Compute Θ, how near classes are to each other in WordNet (method section 1).

    Args:
        classes: N wnids, as ``n02084071``.
        formula: ``standard`` (Leacock and Chodorow, as NLTK has it) or ``paper``.
        wordnet: folder of another WordNet, read through NLTK; empty for the built-in
            WordNet 3.0.

    Returns:
        (N, N) float32, symmetric, in [0, 1].

    Raises:
        UsageError: no such formula.
        InputError: an unknown wnid, or no WordNet in the folder.
    """
    settings = SimilaritySettings(formula=formula, wordnet=wordnet)
    taxonomy = load_chosen(settings.wordnet)
    theta_of_length = theta_table(
        taxonomy.depth, formula=settings.formula, scaled=True
    ).astype(np.float32)
    theta_NN = np.empty((len(classes), len(classes)), dtype=np.float32)
    for rows, lengths in path_length_rows(taxonomy, taxonomy.index_of(classes)):
        theta_NN[rows] = theta_of_length[lengths]
    return theta_NN
