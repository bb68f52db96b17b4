"""What status and --dry-run print for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepme.tables import print_table
from deepme.text import clean, counted

if TYPE_CHECKING:
    from deepme.rehearsal import Rehearsed
    from deepme.status import Status


def print_status(found: Status) -> None:
    """Print a line a stage, and the next command."""
    rows = [(stage.stage, stage.state, stage.told) for stage in found.stages]
    print_table(("stage", "state", ""), rows, "lll")
    print(f"next: {clean(found.next)}")


def print_rehearsal(stages: Sequence[Rehearsed]) -> None:
    """Print a line a stage: whether it would run, and why."""
    rows = [
        (stage.stage, "runs" if stage.runs else "current", stage.why)
        for stage in stages
    ]
    print_table(("stage", "", "why"), rows, "lll")
    print(f"{counted(sum(stage.runs for stage in stages), 'stage')} would run")
