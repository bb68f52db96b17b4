"""Accuracy against the number of experts asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from deepme.figures.style import INK, MUTED, PALETTE, house_style


@house_style()
def plot_routing(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    dense: float,
    tolerance: float,
    chosen: tuple[float, float],
    label: str,
) -> Figure:
    """Plot macro top-1 over the experts asked an image.

    Args:
        curves: name -> points (experts asked, accuracy in [0, 1]).
        dense: accuracy when all experts are asked.
        tolerance: the loss that is allowed.
        chosen: one of the points.
        label: how to ask for it.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(curves.items()):
        passes, shares = zip(*sorted(points), strict=True)
        percents = [100 * share for share in shares]
        axes.plot(passes, percents, "o-", color=PALETTE[i % len(PALETTE)], label=name)
    axes.axhline(100 * dense, color=MUTED, ls="--", lw=1.2, label="all experts")
    axes.axhspan(100 * (dense - tolerance), 100 * dense, color=MUTED, alpha=0.15, lw=0)
    axes.plot(
        *(chosen[0], 100 * chosen[1]),
        "o",
        markersize=14,
        markerfacecolor="none",
        markeredgecolor=INK,
        label=f"chosen: {label}",
    )
    axes.set_title("How few experts an image needs, on validation images")
    axes.set_xlabel("experts asked an image")
    axes.set_ylabel("macro top-1")
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=1))
    axes.grid(True)
    axes.legend(loc="lower right")
    return figure
