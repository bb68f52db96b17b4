"""Measure what a gate on images loses where it sees them smaller.

    python tests/benchmarks/gate_shrink.py WORKSPACE...

Each WORKSPACE is a finished mixture with a flat network, from whose trunk every gate
starts; it stays as it is. Gates are trained that see the images as the experts do, or
with half the pixels a side (a quarter of the cost), as long or twice as long. Writes
docs/benchmarks/gate-shrink.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from extend import command
from recording import record

from deepme.workspace import Workspace

PACKAGES = ("deepme", "torch", "torchvision", "timm")
GATES = {
    "as the experts see them": (1, 4),
    "half the side": (2, 4),
    "half the side, twice the epochs": (2, 8),
}
"""What it divides an image's sides by, and its epochs."""

SCHEDULE = (
    *("--weights", "flat", "--batch-size", 64, "--lr", 0.02, "--lr-end", 0.0002),
    *("--device", "cpu", "--workers", 0, "--threads", 1),
)
LINKED = ("*.h5", "*.json", "flat/*", "experts/*/*", "outputs/*/*")


def trial(finished: Workspace, number: int, root: Path) -> list[dict[str, Any]]:
    """A row for each gate of a mixture."""
    copy = Workspace(root)
    copy.adopt(finished, *LINKED)
    groups = copy.groups()
    split = copy.split(groups.origin)
    rows = []
    for name, (shrink, epochs) in GATES.items():
        shape = ("--shrink", shrink, "--epochs", epochs)
        _, seconds = command("train-gate", "-w", root, *shape, *SCHEDULE)
        ((result,), _) = command("evaluate", "-w", root, "--device", "cpu")
        rows.append(
            {
                "workspace": number,
                "gate": name,
                "classes": groups.num_classes,
                "image_size": copy.expert(1).training.image_size,
                "test_images": len(split.rows("test")),
                "cpu_s": seconds,
                "top1": result["macro"]["1"],
                "right_group": result["right_group"],
            }
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over the workspaces, and how far behind the first gate each is."""
    whole = [row["top1"] for row in rows if row["gate"] == next(iter(GATES))]
    found = {}
    for name in GATES:
        some = [row for row in rows if row["gate"] == name]
        points = [
            100 * (row["top1"] - best) for row, best in zip(some, whole, strict=True)
        ]
        found[name] = {
            "top1": fmean(row["top1"] for row in some),
            "right_group": fmean(row["right_group"] for row in some),
            "cpu_s": fmean(row["cpu_s"] for row in some),
            "points": fmean(points),
            "points_sd": stdev(points) if len(points) > 1 else 0.0,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspaces", type=Path, nargs="+")
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(parser.parse_args().workspaces, start=1):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            rows += trial(Workspace(path), number, Path(folder) / "workspace")
        print(*rows[-len(GATES) :], sep="\n")
    record(
        "gate-shrink",
        command="python tests/benchmarks/gate_shrink.py WORKSPACE...",
        packages=PACKAGES,
        figures={"runs": rows, "means": summary(rows)},
    )


if __name__ == "__main__":
    main()
