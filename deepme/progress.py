"""What people are told while work goes on, on stderr.

Progress is a bar on a terminal and plain lines elsewhere. ``--quiet`` leaves warnings
and errors, ``--verbose`` adds why something is done anew and how long it took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Protocol

from deepme.text import clean

LINE_SECONDS = 10.0
BAR_COLUMNS = 80
"""On a narrower terminal numbers alone are shown."""


class Verbosity(IntEnum):
    """How much is told; the processes after the first of a training are silent."""

    SILENT = -2
    QUIET = -1
    NORMAL = 0
    VERBOSE = 1


_verbosity = Verbosity.NORMAL


def set_verbosity(verbosity: Verbosity) -> None:
    """Choose for the rest of this process how much is told."""
    global _verbosity
    _verbosity = verbosity


def verbosity() -> Verbosity:
    """How much is told."""
    return _verbosity


class Advance(Protocol):
    """Report that `steps` more units are done; `figures` are shown beside."""

    def __call__(self, steps: int, figures: str = "") -> None:
        """Advance the bar, or print a line when one is due."""


def note(text: str) -> None:
    """Print one line for people on stderr, cleaned; not with ``--quiet``."""
    if _verbosity > Verbosity.QUIET:
        tell(text)


def detail(text: str) -> None:
    """Print one line on stderr with ``--verbose`` only, cleaned."""
    if _verbosity == Verbosity.VERBOSE:
        tell(text)


def warn(text: str) -> None:
    """Print one warning on stderr, cleaned."""
    if _verbosity > Verbosity.SILENT:
        tell(f"warning: {text}")


def tell(text: str) -> None:
    """Print one line on stderr, cleaned, however quiet it is to be."""
    print(clean(text), file=sys.stderr, flush=True)


@contextmanager
def progress(
    label: str, total: int | None, unit: str, done: int = 0
) -> Iterator[Advance]:
    """Show how far a piece of work is.

    Args:
        label: what is being done.
        total: how many units it takes; None if nobody knows.
        unit: what a unit is called, in the plural.
        done: units done in an earlier run.

    Yields:
        The function to call after each unit or batch of units.
    """
    if _verbosity <= Verbosity.QUIET:
        yield lambda steps, figures="": None
    elif sys.stderr.isatty():
        with _bar(label, total, unit, done) as advance:
            yield advance
    else:
        yield _Lines(label, total, unit, done)


@contextmanager
def _bar(label: str, total: int | None, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bars = (BarColumn(bar_width=24),) if console.width >= BAR_COLUMNS else ()
    columns = (
        TextColumn("{task.description}", markup=False),
        *bars,
        TextColumn("{task.completed:,.0f}", markup=False),
        TextColumn(unit if total is None else f"of {total:,} {unit}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(clean(label), total=total, completed=done, figures="")
        yield lambda steps, figures="": bar.update(
            task, advance=steps, figures=clean(figures)
        )


class _Lines:
    """A timestamped line every ten seconds and one at the end."""

    def __init__(self, label: str, total: int | None, unit: str, done: int) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.done_before = done
        self.started = self.printed = time.monotonic()

    def __call__(self, steps: int, figures: str = "") -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.printed < LINE_SECONDS and self.done != self.total:
            return
        self.printed = now
        rate = (self.done - self.done_before) / max(now - self.started, 1e-9)
        line = f"{datetime.now():%H:%M:%S} {self.label}: {self.done:,}"
        if self.total is not None:
            seconds = (self.total - self.done) / max(rate, 1e-9)
            line += f"/{self.total:,}, {timedelta(seconds=round(seconds))} left"
        note(f"{line}, {rate:,.0f} {self.unit}/s{f', {figures}' if figures else ''}")
