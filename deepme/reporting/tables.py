"""Tables as data, for the page to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """A share of something, drawn as a bar beside its percentage.

    Attributes:
        value: in [0, 1].
    """

    value: float

    def __str__(self) -> str:
        """Write it as a percentage."""
        return percent(self.value)


Cell = str | Share | None
"""What stands in a table; None where there is nothing to say."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the page; the first cell of a row is its header.

    Attributes:
        caption: what it shows.
        header: titles of the columns.
        align: a letter a column, l or r.
        rows: cells, cleaned.
        marked: positions of the rows that the page is about.
    """

    caption: str
    header: Sequence[str]
    align: str
    rows: Sequence[Sequence[Cell]]
    marked: frozenset[int] = frozenset()


def share(value: float | None) -> Cell:
    """A share for a table; None stays None."""
    return None if value is None else Share(value)


def ratio(part: int, whole: int) -> Cell:
    """A share of a whole that may be empty."""
    return Share(part / whole) if whole else None


def percent(value: float) -> str:
    """Write a share as a percentage, with more digits where it is next to nothing."""
    return f"{value:.2%}" if 0 < value < 0.001 else f"{value:.1%}"
