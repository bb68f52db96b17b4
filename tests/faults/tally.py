"""The cases of one tier, and what is wrong about each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from multiprocessing import current_process
from pathlib import Path
from typing import Any

from injection import Child, ChildEnd
from recording import RESULTS, record

NAME = "faults"


@dataclass
class Tally:
    """The cases of one tier.

    Attributes:
        cases: tried.
        failed: with something wrong about them.
        tracebacks: shown to the user, or kept in a file as a bug.
        figures: what else the row tells.
    """

    cases: int = 0
    failed: int = 0
    tracebacks: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def case(self, name: str, *problems: str, output: str = "") -> None:
        """Count one case, with what is wrong about it and what it printed."""
        self.cases += 1
        told = [problem for problem in problems if problem]
        if "Traceback" in output or "bug of deepme" in output:
            self.tracebacks += 1
            told.append("a traceback")
        if told:
            self.failed += 1
            self.problems.append(f"{name}: {'; '.join(told)}\n{output[-2000:]}")
            print(self.problems[-1], flush=True)

    def add(self, other: dict[str, Any]) -> None:
        """Take over the counts of a child; what its figures count is added up."""
        self.cases += other["cases"]
        self.failed += other["failed"]
        self.tracebacks += other["tracebacks"]
        self.problems += other["problems"]
        for name, figure in other["figures"].items():
            self.figures[name] = self.figures.get(name, 0) + figure

    def row(self) -> dict[str, object]:
        """The row of the table."""
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "cases": self.cases,
            "passed": self.cases - self.failed,
            "failed": self.failed,
            "tracebacks": self.tracebacks,
            "seconds": round(self.seconds),
            **self.figures,
        }


def side_by_side(
    tally: Tally, folder: Path, jobs: dict[str, Callable[[Tally, Path], None]]
) -> None:
    """Do jobs at the same time, each in a child that counts for itself.

    Args:
        tally: gets the counts of all.
        folder: an empty one, for a folder of each job.
        jobs: name -> what to do with a tally and the job's folder.
    """

    def work(name: str) -> None:
        current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        own, place = Tally(), folder / name
        place.mkdir()
        jobs[name](own, place)
        (folder / f"{name}.json").write_text(json.dumps(asdict(own)))

    children = {name: Child(partial(work, name)) for name in jobs}
    for name, child in children.items():
        end = child.wait(3000)
        assert end.code == 0, f"{name}: {end.output}"
        tally.add(json.loads((folder / f"{name}.json").read_text()))


def one_error(end: ChildEnd, *codes: int) -> str:
    """What is wrong with a command that must end with a code and one error line."""
    if end.code not in codes:
        return f"exit code {end.code}, expected {codes}"
    lines = end.output.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if end.code and len(errors) != 1:
        return f"{len(errors)} error lines"
    return "an escape character" if "\x1b" in end.output else ""


def record_rows(rows: dict[str, dict[str, object]]) -> None:
    """Write the rows of the tiers that were run; the others stay as they are."""
    path = RESULTS / f"{NAME}.json"
    known = json.loads(path.read_text())["tiers"] if path.exists() else {}
    record(
        NAME,
        command="uv run pytest tests/faults --record",
        packages=("deepme", "torch", "h5py", "safetensors", "pillow"),
        figures={"tiers": dict(sorted((known | rows).items()))},
    )
