# ruff: noqa: N806
"""The curve behind the choice of T and δ."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, PercentFormatter

from deepme.artifacts.selection import SelectionContent
from deepme.figures.style import INK, MUTED, PALETTE, house_style


@house_style()
def plot_selection(content: SelectionContent) -> Figure:
    """Plot accuracy, and what the clustering itself says, over the number of groups.

    Args:
        content: a finished selection.

    Returns:
        The figure: accuracy above, Xie–Beni index and eigengap below.
    """
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
    _draw_accuracy(above, content)
    _draw_criteria(below, content)
    ticks = sorted({candidate.num_groups for candidate in content.candidates})
    below.xaxis.set_major_locator(FixedLocator(ticks))
    below.set_xlabel("number of groups T")
    return figure


def _draw_accuracy(axes: Axes, content: SelectionContent) -> None:
    deltas = sorted({candidate.delta for candidate in content.candidates}, reverse=True)
    for i, delta in enumerate(deltas):
        line = [
            (candidate.num_groups, 100 * candidate.mixture)
            for candidate in content.candidates
            if candidate.delta == delta and candidate.mixture is not None
        ]
        if line:
            colour = PALETTE[i % len(PALETTE)]
            axes.plot(*np.array(line).T, "o-", color=colour, label=f"δ = {delta:g}")
    best = content.best
    assert best.mixture is not None, "a refused candidate is never chosen"
    axes.axhline(
        100 * content.flat, color=MUTED, ls="--", lw=1.2, label="one head, no groups"
    )
    axes.plot(
        best.num_groups,
        100 * best.mixture,
        "o",
        markersize=14,
        markerfacecolor="none",
        markeredgecolor=INK,
        label=f"chosen: T = {best.num_groups}, δ = {best.delta:g}",
    )
    axes.set_title(
        f"Cheap heads on frozen features: {content.val_images:,} validation images, "
        f"standard error {content.standard_error:.1%}"
    )
    axes.set_ylabel("macro top-1")
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=1))
    axes.grid(True)
    axes.legend()


def _draw_criteria(axes: Axes, content: SelectionContent) -> None:
    by_T = {candidate.num_groups: candidate for candidate in content.candidates}
    numbers = sorted(by_T)
    gaps = [by_T[number].eigengap for number in numbers]
    axes.plot(numbers, gaps, "s-", color=PALETTE[0])
    axes.set_ylabel("eigengap", color=PALETTE[0])
    other = axes.twinx()
    other.spines["right"].set_visible(True)
    indices = [by_T[number].xie_beni or np.nan for number in numbers]
    other.plot(numbers, indices, "^-", color=PALETTE[1])
    other.set_ylabel("Xie–Beni", color=PALETTE[1])
    axes.grid(True, axis="x")
