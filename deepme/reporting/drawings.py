# ruff: noqa: N806
"""The figures of the page, each with what it shows in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepme.figures.reliability import plot_reliability
from deepme.figures.render import svg_bytes
from deepme.reporting.samples import data_uri
from deepme.reporting.sources import Sources
from deepme.reporting.tables import Table
from deepme.steps.plot_accuracy import class_accuracy, group_map
from deepme.text import clean, counted, listing

_SYSTEMS_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One figure.

    Attributes:
        name: a word, unique on the page.
        caption: its title.
        words: what it shows, for those who do not see it.
        uri: the SVG as a data URI.
    """

    name: str
    caption: str
    words: str
    uri: str


def draw_groups(sources: Sources) -> Drawing:
    """Draw Figure 2: the classes in their groups."""
    groups = sources.groups
    sizes = [
        f"{group.number} {group.name} with {counted(len(group.classes), 'class')}"
        for group in groups.content.groups
    ]
    in_several = int((np.bincount(np.concatenate(groups.members)) > 1).sum())
    return Drawing(
        name="groups",
        caption="Figure 2. The classes in their groups",
        words=f"{counted(groups.num_classes, 'class')} in "
        f"{counted(groups.num_groups, 'group')}, drawn as discs in a ring: "
        f"{listing(sizes, 30)}. {counted(in_several, 'class')} in several groups, "
        "joined by lines.",
        uri=data_uri("image/svg+xml", svg_bytes(group_map(groups))),
    )


def draw_classes(sources: Sources) -> Drawing:
    """Draw Figure 3: the accuracy of every class, a line a system."""
    k = sources.rank
    shown = [
        evaluation for evaluation in sources.evaluations if k in evaluation.counts.topk
    ]
    means = [
        f"{clean(evaluation.content.system)} {evaluation.content.macro[str(k)]:.1%}"
        for evaluation in shown
    ]
    figure = class_accuracy(
        {evaluation.content.system: [evaluation] for evaluation in shown}, k
    )
    return Drawing(
        name="class-accuracy",
        caption=f"Figure 3. Top-{k} accuracy of every class",
        words="One ascending line a system, each sorted by itself. Means over the "
        f"classes: {listing(means, _SYSTEMS_NAMED)}.",
        uri=data_uri("image/svg+xml", svg_bytes(figure)),
    )


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How sure the system is against how often it is right.

    Attributes:
        drawing: the diagram.
        table: its figures.
    """

    drawing: Drawing
    table: Table


def draw_reliability(sources: Sources) -> list[Reliability]:
    """Draw the reliability diagram as it is, and under the temperature if there is one.

    Both are of test images; the temperature was fitted on validation images.
    """
    content, counts = sources.shown.content, sources.shown.counts
    found = [
        _reliability(
            "before",
            f"Before calibration: ECE {content.calibration_error:.1%}",
            (counts.bin_images, counts.bin_hits, counts.bin_confidence),
        )
    ]
    if content.temperature is not None and content.calibrated_error is not None:
        found.append(
            _reliability(
                "after",
                f"After calibration: ECE {content.calibrated_error:.1%}",
                (
                    counts.calibrated_images,
                    counts.calibrated_hits,
                    counts.calibrated_confidence,
                ),
            )
        )
    return found


Bins = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _reliability(name: str, title: str, bins: Bins) -> Reliability:
    images_M, hits_M, confidence_M = bins
    rows = []
    words = []
    for m in np.flatnonzero(images_M).tolist():
        images = int(images_M[m])
        sure = float(confidence_M[m]) / images
        right = int(hits_M[m]) / images
        edges = f"{m / len(images_M):.0%} to {(m + 1) / len(images_M):.0%}"
        rows.append([edges, f"{images:,}", f"{sure:.1%}", f"{right:.1%}"])
        words.append(f"{sure:.0%} sure, {right:.0%} right")
    figure = plot_reliability(images_M, hits_M, confidence_M, title=title)
    return Reliability(
        drawing=Drawing(
            name=f"reliability-{name}",
            caption=title,
            words=f"Bars of how often the system was right: {'; '.join(words)}.",
            uri=data_uri("image/svg+xml", svg_bytes(figure)),
        ),
        table=Table(
            caption=title,
            header=("probability", "images", "mean probability", "right"),
            align="lrrr",
            rows=rows,
        ),
    )
