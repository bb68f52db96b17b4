"""cluster --select: T and δ by cross-validation, as the paper says it chose them."""

# ruff: noqa: N806
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from deepme.affinity import TINY, affinity, estimator
from deepme.artifacts.selection import (
    KIND,
    SCHEMA,
    Candidate,
    SelectionContent,
    load_selection,
    save_selection,
)
from deepme.artifacts.similarity import Similarity
from deepme.artifacts.split import Split
from deepme.config import ClusterSettings, MachineSettings, SelectSettings
from deepme.core.methods import Grouping, cut_softly
from deepme.core.mixture import Members, coarse_weights
from deepme.core.selection import FeatureHeads, HeadAccuracy, balance, xie_beni
from deepme.core.spectral import leading_eigenvectors
from deepme.devices import choose_compute
from deepme.errors import InputError, UsageError
from deepme.figures.render import svg_bytes
from deepme.figures.selection import plot_selection
from deepme.outputs import features_of, outputs_of_flat
from deepme.progress import note, progress
from deepme.storage.atomic import atomic_write
from deepme.storage.header import Header
from deepme.text import counted
from deepme.workspace import Workspace

MAX_IMAGES = 100_000
"""Training images that the cheap heads see; an even share of every class."""

MAX_FEATURES = 256
"""Features after principal component analysis."""


def run(
    settings: ClusterSettings,
    grid: SelectSettings,
    machine: MachineSettings,
    workspace: Workspace,
) -> SelectionContent:
    """Try a grid of T and δ, write selection.json and draw its curve.

    A candidate with a group of fewer than two classes or more than ``max_classes``, or
    with collapsed memberships, is refused by its groups alone. The others are
    measured: linear heads on the flat network's features of training images, one for
    each group, weighed by the flat network's probabilities, on validation images. The
    best accuracy wins; of equal ones the smaller T and overlap, then the larger δ.

    Args:
        settings: method and fuzzifier; its T, δ and overlap are what is looked for.
        grid: the candidates.
        machine: where the flat network is asked for its features.
        workspace: with similarity.h5, split.h5 and the flat network.

    Returns:
        All candidates and the choice.

    Raises:
        UsageError: a method without T and δ, or no candidate is left.
        ArtifactError: similarity.h5, split.h5 or the flat network is missing or stale.
        InputError: no image to train or validate on.
    """
    if settings.method not in ("ssc", "confusion"):
        raise UsageError(
            f"--select with --method {settings.method}, expected ssc or confusion",
            "other methods take the T and δ of ssc as they are",
        )
    similarity = workspace.similarity()
    split = workspace.split(similarity.origin)
    flat = workspace.flat()
    header = Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings=_identifying(settings) | grid.to_dict(),
        classes=similarity.origin.header.classes,
        made_from=workspace.made_from(similarity.origin, split.origin, flat.origin),
    )
    with workspace.lock():
        path = workspace.selection_path
        if workspace.is_current(path, header):
            note(f"the selection is up to date: {path}")
            return load_selection(path).content
        trials = _trials(settings, grid, workspace, similarity, machine)
        content = _measure(trials, workspace, split, machine)
        save_selection(path, header, content)
        with atomic_write(workspace.figure_path("selection.svg")) as file:
            file.write(svg_bytes(_figure(content)))
    return content


@dataclass(frozen=True)
class _Trial:
    """A candidate and its groups."""

    candidate: Candidate
    grouping: Grouping

    @property
    def members(self) -> Members:
        """The classes of each group."""
        assigned_NT = self.grouping.assigned_NT
        return Members.of(
            [np.flatnonzero(column).tolist() for column in assigned_NT.T],
            num_classes=len(assigned_NT),
        )


def _identifying(settings: ClusterSettings) -> dict[str, object]:
    """The settings that are not looked for."""
    ours = ("method", "fuzzifier", "max_classes", "seed")
    return {name: value for name, value in settings.to_dict().items() if name in ours}


def _trials(
    settings: ClusterSettings,
    grid: SelectSettings,
    workspace: Workspace,
    similarity: Similarity,
    machine: MachineSettings,
) -> list[_Trial]:
    wanted = _numbers_of_groups(grid, len(similarity.classes))
    affinity_NN = affinity(settings, workspace, similarity, machine)
    spectrum = leading_eigenvectors(
        affinity_NN, wanted[-1] + 1, random_state=settings.seed
    )
    trials: list[_Trial] = []
    with progress("clustering", len(wanted), "groupings") as advance:
        for num_groups in wanted:
            chosen = replace(settings, num_groups=num_groups)
            model = estimator(chosen).fit(affinity_NN)
            pair = spectrum.eigenvalues_T[num_groups - 1 : num_groups + 1]
            index = xie_beni(
                model.embedding_,
                model.cluster_centers_,
                model.memberships_,
                fuzzifier=settings.fuzzifier,
            )
            for delta in sorted(grid.grid_delta, reverse=True):
                grouping = cut_softly(
                    model,
                    delta=delta,
                    overlap=None,
                    max_classes=settings.max_classes,
                )
                candidate = _candidate(grouping, settings)
                candidate = replace(
                    candidate,
                    eigengap=float(pair[0] - pair[1]),
                    xie_beni=index if np.isfinite(index) else None,
                )
                trials.append(_Trial(candidate, grouping))
            advance(1)
    return trials


def _numbers_of_groups(grid: SelectSettings, num_classes: int) -> list[int]:
    """T in ascending order; an expert needs two classes."""
    most = num_classes // TINY
    wanted = sorted(number for number in grid.grid_groups if number <= most)
    if not wanted:
        raise UsageError(
            f"--grid-T begins at {min(grid.grid_groups):,}, expected at most {most:,}: "
            f"similarity.h5 has {num_classes:,} classes"
        )
    if left_out := len(grid.grid_groups) - len(wanted):
        note(f"{counted(left_out, 'number')} of groups above {most:,} left out")
    return wanted


def _candidate(grouping: Grouping, settings: ClusterSettings) -> Candidate:
    summary = grouping.summarize()
    smallest, largest = min(summary.sizes_T), max(summary.sizes_T)
    refused = ""
    if grouping.collapsed:
        refused = "the memberships collapsed"
    elif smallest < TINY:
        refused = f"a group of {smallest} classes"
    elif largest > settings.max_classes:
        refused = f"a group of {largest:,} classes"
    assert grouping.delta is not None
    return Candidate(
        num_groups=len(summary.sizes_T),
        delta=grouping.delta,
        eigengap=0.0,
        xie_beni=None,
        balance=balance([size for size in summary.sizes_T if size]),
        overlap=summary.overlap,
        smallest=smallest,
        largest=largest,
        refused=refused,
    )


def _measure(
    trials: list[_Trial],
    workspace: Workspace,
    split: Split,
    machine: MachineSettings,
) -> SelectionContent:
    if all(trial.candidate.refused for trial in trials):
        reasons = {trial.candidate.refused for trial in trials}
        raise UsageError(
            f"no grouping of the grid can be used: {', '.join(sorted(reasons))}",
            "widen --grid-T, or use another --fuzzifier",
        )
    heads, val, labels_V = _features(workspace, split, machine)
    probability_VN = torch.from_numpy(val).softmax(dim=1)
    every = Members.of([list(range(split.num_classes))], num_classes=split.num_classes)
    flat = heads.accuracy(every, np.ones((len(val), 1))).mixture
    known: dict[bytes, HeadAccuracy] = {}
    measured = []
    with progress("heads on frozen features", len(trials), "groupings") as advance:
        for trial in trials:
            candidate = trial.candidate
            if not candidate.refused:
                # Several values of δ may give the same groups.
                key = trial.grouping.assigned_NT.tobytes()
                if key not in known:
                    weights_VT = coarse_weights(probability_VN, members=trial.members)
                    known[key] = heads.accuracy(trial.members, weights_VT.numpy())
                candidate = replace(candidate, **known[key]._asdict())
            measured.append(candidate)
            advance(1)
    return SelectionContent(
        flat=flat,
        train_images=heads.num_images,
        val_images=len(labels_V),
        candidates=tuple(measured),
        chosen=_best(measured),
    )


def _figure(content: SelectionContent) -> Figure:
    by_delta: dict[float, dict[int, float]] = {}
    for item in content.candidates:
        if item.mixture is not None:
            by_delta.setdefault(item.delta, {})[item.num_groups] = item.mixture
    by_T = {item.num_groups: item for item in content.candidates}
    best = content.best
    return plot_selection(
        by_delta,
        chosen=(best.num_groups, best.delta),
        flat=content.flat,
        standard_error=content.standard_error,
        eigengaps={T: item.eigengap for T, item in by_T.items()},
        xie_beni={T: item.xie_beni for T, item in by_T.items()},
    )


def _best(candidates: list[Candidate]) -> int:
    """The most accurate; of equal ones the smaller T and overlap, then the first."""

    def merit(index: int) -> tuple[float, int, float]:
        candidate = candidates[index]
        accuracy = -1.0 if candidate.mixture is None else candidate.mixture
        return accuracy, -candidate.num_groups, -candidate.overlap

    return max(range(len(candidates)), key=merit)


def _features(
    workspace: Workspace, split: Split, machine: MachineSettings
) -> tuple[FeatureHeads, NDArray[np.float32], NDArray[np.int64]]:
    """Heads to fit, and the flat network's logits of the readable validation images."""
    flat = workspace.flat()
    compute = choose_compute(machine, "auto")
    rows = _even_rows(split)
    features_Rd, readable_R = features_of(
        flat, workspace, split, rows, compute=compute, machine=machine
    )
    val = outputs_of_flat(workspace, split, "val", compute=compute, machine=machine)
    val_rows = split.rows("val")[val.readable]
    if not len(val_rows) or not readable_R.any():
        raise InputError(
            "the split has no image to train or to validate heads on",
            "rerun `deepme split` with a larger --val",
        )
    labels = split.images.label
    reduce = PCA(min(MAX_FEATURES, *features_Rd[readable_R].shape), random_state=0).fit(
        features_Rd[readable_R]
    )
    assert val.features is not None
    heads = FeatureHeads(
        reduce.transform(features_Rd[readable_R]),
        labels[rows][readable_R].astype(np.int64),
        val_features_Vd=reduce.transform(val.features[val.readable]),
        val_labels_V=labels[val_rows].astype(np.int64),
    )
    return heads, val.logits[val.readable], labels[val_rows].astype(np.int64)


def _even_rows(split: Split) -> NDArray[np.int64]:
    """Training images, the first of every class up to its share of `MAX_IMAGES`."""
    rows = split.rows("train")
    labels = split.images.label[rows]
    counts = np.bincount(labels, minlength=split.num_classes)
    rank = np.arange(len(rows)) - (np.cumsum(counts) - counts)[labels]
    share = max(2, MAX_IMAGES // split.num_classes)
    return rows[rank < share]
