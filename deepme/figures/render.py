"""Figures to bytes: the same figure gives the same bytes."""

from __future__ import annotations

import io
import warnings
from typing import Any

from matplotlib.figure import Figure

from deepme.figures.style import house_style

_RASTER_DPI = 200


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """Render a figure as PNG, without date or version.

    Args:
        figure: one of this package's figures.
        dpi: pixels an inch.

    Returns:
        The file's content.
    """
    return _render(figure, format="png", dpi=dpi, metadata={"Software": None})


def svg_bytes(figure: Figure) -> bytes:
    """Render a figure as SVG with text as text, without date or version.

    Args:
        figure: one of this package's figures.

    Returns:
        The file's content.
    """
    nothing = {"Date": None, "Creator": None}
    return _render(figure, format="svg", dpi=_RASTER_DPI, metadata=nothing)


def _render(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with house_style(), warnings.catch_warnings():
        # Names may use scripts the font lacks: they show as boxes in the PNG, and
        # as themselves in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, **options)
    return buffer.getvalue()
