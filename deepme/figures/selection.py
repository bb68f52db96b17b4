"""The curve behind the choice of T and δ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, PercentFormatter

from deepme.figures.style import INK, MUTED, PALETTE, house_style


@house_style()
def plot_selection(
    accuracies: Mapping[float, Mapping[int, float]],
    *,
    chosen: tuple[int, float],
    flat: float,
    standard_error: float,
    eigengaps: Mapping[int, float],
    xie_beni: Mapping[int, float | None],
) -> Figure:
    """Plot accuracy, and what the clustering itself says, over the number of groups.

    Args:
        accuracies: for each δ, T -> accuracy in [0, 1].
        chosen: T and δ of one of them.
        flat: accuracy without groups.
        standard_error: of one accuracy.
        eigengaps: for each T.
        xie_beni: for each T; None where it is infinite.

    Returns:
        The figure: accuracy above, eigengap and Xie–Beni index below.

    Raises:
        ValueError: the chosen pair has no accuracy.
    """
    T, delta = chosen  # noqa: N806
    if T not in accuracies.get(delta, {}):
        raise ValueError(f"chosen is T = {T}, δ = {delta}, which has no accuracy")
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
    for i, (value, by_T) in enumerate(sorted(accuracies.items(), reverse=True)):  # noqa: N806
        percents = [100 * share for share in by_T.values()]
        # Thinner from line to line: several values of δ may give the same groups.
        width = 1.4 + 2.6 * (len(accuracies) - 1 - i) / len(accuracies)
        colour = PALETTE[i % len(PALETTE)]
        label = f"δ = {value:g}"
        above.plot([*by_T], percents, "o-", color=colour, lw=width, label=label)
    above.axhline(100 * flat, color=MUTED, ls="--", lw=1.2, label="one head, no groups")
    above.plot(
        *(T, 100 * accuracies[delta][T]),
        "o",
        markersize=14,
        markerfacecolor="none",
        markeredgecolor=INK,
        label=f"chosen: T = {T}, δ = {delta:g}",
    )
    above.set_title(
        f"Cheap heads on validation images, standard error {standard_error:.1%}"
    )
    above.set_ylabel("macro top-1")
    above.yaxis.set_major_formatter(PercentFormatter(decimals=1))
    above.grid(True)
    above.legend()
    _draw_criteria(below, eigengaps, xie_beni)
    return figure


def _draw_criteria(
    axes: Axes, eigengaps: Mapping[int, float], xie_beni: Mapping[int, float | None]
) -> None:
    axes.plot([*eigengaps], [*eigengaps.values()], "s-", color=PALETTE[0])
    axes.set_ylabel("eigengap", color=PALETTE[0])
    other = axes.twinx()
    other.spines["right"].set_visible(True)
    indices = [np.nan if index is None else index for index in xie_beni.values()]
    other.plot([*xie_beni], indices, "^-", color=PALETTE[1])
    other.set_ylabel("Xie–Beni", color=PALETTE[1])
    axes.xaxis.set_major_locator(FixedLocator(sorted(eigengaps)))
    axes.grid(True, axis="x")
    axes.set_xlabel("number of groups T")
