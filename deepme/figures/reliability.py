# ruff: noqa: N803
"""A reliability diagram: how often a classifier is right against how sure it is."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from deepme.figures.style import BAR, BLUE, MUTED, ORANGE, house_style, new_plot


@house_style()
def plot_reliability(
    images_M: NDArray[np.integer],
    hits_M: NDArray[np.integer],
    confidence_M: NDArray[np.floating],
    *,
    title: str,
) -> Figure:
    """Plot a bar a bin, and a point at its mean probability (Guo et al., 2017).

    On the diagonal a classifier is right as often as it says; bars below it mean that
    it is surer than it should be. The points grow with the images they stand for.

    Args:
        images_M: (M,) images in bins of equal width over [0, 1] by the probability of
            the class predicted.
        hits_M: (M,) those of them whose class it was.
        confidence_M: (M,) the sum of their probabilities.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: no image, or arrays of different lengths.
    """
    if not len(images_M) == len(hits_M) == len(confidence_M) or not images_M.sum():
        raise ValueError("expected M images, hits and confidences, and one image")
    figure, axes = new_plot(4.8, 4.6)
    width = 100 / len(images_M)
    filled = np.flatnonzero(images_M)
    right = 100 * hits_M[filled] / images_M[filled]
    sure = 100 * confidence_M[filled] / images_M[filled]
    axes.bar(
        (filled + 0.5) * width,
        right,
        width=0.92 * width,
        color=BAR,
        label="share that is right",
    )
    axes.plot([0, 100], [0, 100], color=MUTED, ls="--", lw=1.2, label="ideal")
    size = 12 + 90 * images_M[filled] / images_M.max()
    axes.scatter(
        sure, right, s=size, color=BLUE, zorder=3, label="at the mean probability"
    )
    axes.vlines(sure, right, sure, color=ORANGE, lw=1.2, label="distance from ideal")
    axes.set_title(title)
    axes.set_xlabel("probability of the class predicted")
    axes.set_ylabel("images that are of it")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 103)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(decimals=0))
    axes.grid(True)
    axes.legend(loc="upper left", fontsize=9)
    return figure
