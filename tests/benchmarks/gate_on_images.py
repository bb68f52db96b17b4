"""Measure gates on images: after a warm-up or without one, and on smaller images.

    python tests/benchmarks/gate_on_images.py WORKSPACE...

Each WORKSPACE is a finished mixture with a flat network, from whose trunk every gate
starts; it stays as it is. Gates are trained that see the images as the experts do, or
with half the pixels a side (a quarter of the cost): all layers from the first epoch, or
after a warm-up of the head alone on the trunk's cached features. With ``--trunk`` they
start from another network's, of other classes for instance. Points are those ahead of
the first gate. Writes docs/benchmarks/gate-on-images.json.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from extend import command
from recording import record

from deepme.workspace import Workspace

PACKAGES = ("deepme", "torch", "torchvision", "timm")
GATES = {
    "4 epochs": (1, 0, 4),
    "20 epochs": (1, 0, 20),
    "warm-up alone": (1, 20, 0),
    "warm-up, then 2 epochs": (1, 20, 2),
    "warm-up, then 4 epochs": (1, 20, 4),
    "half the side": (2, 0, 4),
    "half the side, warm-up, then 2 epochs": (2, 20, 2),
}
"""What it divides an image's sides by, epochs of warm-up, and epochs of all layers."""

SCHEDULE = (
    *("--batch-size", 64, "--lr", 0.02, "--lr-end", 0.0002),
    *("--warmup-lr", 0.1, "--warmup-lr-end", 0.001),
    *("--device", "cpu", "--workers", 0, "--threads", 1),
)
LINKED = ("*.h5", "*.json", "flat/*", "experts/*/*", "outputs/*/*")


def trial(
    finished: Workspace, number: int, root: Path, trunk: str
) -> list[dict[str, Any]]:
    """A row for each gate of a mixture."""
    copy = Workspace(root)
    copy.adopt(finished, *LINKED)
    groups = copy.groups()
    split = copy.split(groups.origin)
    rows = []
    for name, (shrink, warmup, epochs) in GATES.items():
        shape = ("--shrink", shrink, "--weights", trunk)
        length = ("--warmup-epochs", warmup, "--epochs", epochs)
        # A cache that another gate has left would make this one cheaper.
        shutil.rmtree(root / "features", ignore_errors=True)
        _, seconds = command("train-gate", "-w", root, *shape, *length, *SCHEDULE)
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
    parser.add_argument("--trunk", default="flat", help="flat, or a weights file")
    parser.add_argument("--name", default="gate-on-images", help="of the record")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(options.workspaces, start=1):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            root = Path(folder) / "workspace"
            rows += trial(Workspace(path), number, root, options.trunk)
        print(*rows[-len(GATES) :], sep="\n")
    trunk = "" if options.trunk == "flat" else " --trunk WEIGHTS"
    name = "" if options.name == "gate-on-images" else f" --name {options.name}"
    record(
        options.name,
        command=f"python tests/benchmarks/gate_on_images.py WORKSPACE...{trunk}{name}",
        packages=PACKAGES,
        figures={"runs": rows, "means": summary(rows)},
    )


if __name__ == "__main__":
    main()
