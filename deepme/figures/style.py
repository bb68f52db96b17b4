"""The shared look of all figures: light, plain, safe for the colour-blind.

Figures are built with `matplotlib.figure.Figure`, never pyplot. matplotlib keeps its
settings in one global table; `house_style` replaces it while a figure is built or
rendered and puts it back, so neither side sees the other's settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK = "#22262b"
MUTED = "#6b727c"
GRID = "#e3e6ea"
PANEL = "#f4f5f7"
BAR = "#a9c6de"
BLUE = "#0072b2"
ORANGE = "#d55e00"
PALETTE = (BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, told apart with every common colour vision."""

_STYLE: dict[RcKeyType, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "deepme",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Put the house's settings in force for a block, or for a decorated function."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_plot(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure of one axes that leaves room for its own labels; inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
