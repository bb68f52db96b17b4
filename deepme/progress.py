"""Progress of long work, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Protocol

from deepme.text import clean

LINE_SECONDS = 10.0


class Advance(Protocol):
    """Report that `steps` more units are done; `figures` are shown beside."""

    def __call__(self, steps: int, figures: str = "") -> None:
        """Advance the bar, or print a line when one is due."""


def note(text: str) -> None:
    """Print one line for people on stderr, cleaned."""
    print(clean(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print one warning on stderr, cleaned."""
    note(f"warning: {text}")


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
    if sys.stderr.isatty():
        with _bar(label, total, unit, done) as advance:
            yield advance
    else:
        yield _Lines(label, total, unit, done)


@contextmanager
def _bar(label: str, total: int | None, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f}", markup=False),
        TextColumn(unit if total is None else f"of {total:,} {unit}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
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
