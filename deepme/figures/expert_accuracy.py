# ruff: noqa: N803, N806
"""The accuracy of every expert on the classes of its own group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from deepme.figures.style import BAR, BLUE, INK, ORANGE, house_style, new_plot
from deepme.text import shorten

_NAME_WIDTH = 30


@house_style()
def plot_expert_accuracy(
    names: Sequence[str],
    accuracies: NDArray[np.floating],
    num_classes: Sequence[int],
    *,
    k: int,
) -> Figure:
    """Plot one bar an expert, best on top, with the mean and each one's chance level.

    Args:
        names: T groups' names.
        accuracies: (T,) in [0, 1], each expert's top-k accuracy within its group.
        num_classes: T sizes of the groups, ≥ 1.
        k: predictions that may name the class.

    Returns:
        The figure.

    Raises:
        ValueError: no expert, or the three do not have the same length.
    """
    if not len(names) == len(accuracies) == len(num_classes) > 0:
        raise ValueError(
            f"{len(names)} names, {len(accuracies)} accuracies and {len(num_classes)} "
            "sizes, expected the same number of each, above 0"
        )
    order = np.argsort(-np.asarray(accuracies), kind="stable")
    percent_T = 100 * np.asarray(accuracies)[order]
    chance_T = 100 * np.minimum(1, k / np.asarray(num_classes)[order])
    labels = [f"{shorten(names[t], _NAME_WIDTH)}  ({num_classes[t]:,})" for t in order]
    figure, axes = new_plot(8, 1.6 + 0.29 * len(names))
    rows = np.arange(len(names))
    mean = percent_T.mean()
    _draw_bars(axes, percent_T)
    axes.vlines(chance_T, rows - 0.34, rows + 0.34, color=INK, lw=1.5, label="chance")
    axes.axvline(mean, color=ORANGE, lw=1.5, ls="--", label=f"mean {mean:.1f}%")
    axes.set_yticks(rows, labels=labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_xlabel(f"top-{k} accuracy within the group; classes in parentheses")
    axes.grid(True, axis="x")
    figure.suptitle(f"Top-{k} accuracy of each expert", x=0.01, ha="left")
    figure.legend(loc="outside lower right", ncols=2)
    return figure


def _draw_bars(axes: Axes, percent_T: NDArray[np.floating]) -> None:
    """Draw the bars and write their values beside the axes, naming best and worst."""
    words = ["" for _ in percent_T]
    if len(words) > 1:
        words[0], words[-1] = "best", "worst"
    colours = [BLUE if word else BAR for word in words]
    axes.barh(range(len(words)), percent_T, height=0.68, color=colours)
    for row, (value, word) in enumerate(zip(percent_T, words, strict=True)):
        axes.annotate(
            f"{value:.1f}%  {word}",
            (100, row),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
