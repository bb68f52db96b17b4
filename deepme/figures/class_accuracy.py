# ruff: noqa: N803, N806
"""Figure 3 of the paper: the accuracy of every class, in ascending order.

Each system is sorted by itself, so a rank is not the same class in two systems.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from deepme.figures.style import PALETTE, house_style, new_plot
from deepme.text import shorten

_FEW = 60
_MANY = 5
"""Systems beside which a legend hides no line."""
_DASHES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")


@house_style()
def plot_class_accuracy(
    accuracies: Mapping[str, NDArray[np.floating]], *, k: int
) -> Figure:
    """Plot the top-k accuracy of all classes, one ascending line a system.

    Args:
        accuracies: (N,) in [0, 1] for each system, by the system's name.
        k: predictions that may name the class.

    Returns:
        The figure; the legend gives each system's mean over classes.

    Raises:
        ValueError: no system, no class, or systems with different numbers of classes.
    """
    sizes = {len(accuracy_N) for accuracy_N in accuracies.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"systems have {sorted(sizes)} classes, expected one number above 0"
        )
    num_classes = sizes.pop()
    crowded = len(accuracies) > _MANY
    figure, axes = new_plot(11.5 if crowded else 8, max(4.8, 0.24 * len(accuracies)))
    span = 0.8 if crowded else 2.6
    lines = {}
    for i, (name, accuracy_N) in enumerate(accuracies.items()):
        label = f"{np.mean(accuracy_N):.1%}  {shorten(name, 40)}"
        # Thinner from line to line, so that one under another shows on both sides.
        width = 1.4 + span * (len(accuracies) - 1 - i) / len(accuracies)
        line = _draw_ascending(axes, accuracy_N, label=label, width=width)
        line.set_color(PALETTE[i % len(PALETTE)])
        line.set_linestyle(_DASHES[i // len(PALETTE) % len(_DASHES)])
        lines[line] = float(np.mean(accuracy_N))
    axes.set_title(f"Top-{k} accuracy of each of {num_classes:,} classes")
    axes.set_xlabel("class rank, each system sorted by itself")
    axes.set_ylabel(f"top-{k} accuracy")
    axes.set_xlim(0.5, num_classes + 0.5)
    axes.set_ylim(-1.5, 101.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.grid(True)
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    axes.legend(
        # From top to bottom as the lines lie.
        handles=sorted(lines, key=lambda line: -lines[line]),
        title="macro mean",
        alignment="left",
        **(place if crowded else {}),
    )
    return figure


def _draw_ascending(
    axes: Axes, accuracy_N: NDArray[np.floating], *, label: str, width: float
) -> Line2D:
    """Draw one system: steps with a dot a class where they are few, else a line."""
    few = len(accuracy_N) <= _FEW
    (line,) = axes.plot(
        np.arange(1, len(accuracy_N) + 1),
        100 * np.sort(accuracy_N),
        linewidth=width,
        drawstyle="steps-mid" if few else "default",
        marker="o" if few else "",
        markersize=2 + 1.5 * width,
        label=label,
    )
    return line
