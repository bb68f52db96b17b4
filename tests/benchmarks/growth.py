"""Measure how time and memory of every stage grow with classes and with images.

    python tests/benchmarks/growth.py --classes imagenet10k_synsets.txt

One axis at a time. *Classes* are 1,000 random ones of the list, all of its 10,184, and
the 21,841 of ImageNet-22k; *images* are 10,000, 100,000 and a million. Similarity and
cluster (T = 15) see no images. Split reads names and sizes: of files of one byte in
1,000 class folders, just made, so that the file system's cache is warm. The experts'
outputs are drawn (tests/benchmarks/synthetic.py): *gate* is train-gate on so many
training images for two epochs, *evaluate* is for so many test images, both over the
classes with 10,000 images and over the images with 100 classes.

Every point is one fresh process on one thread: seconds by the clock and of the
processor, and peak memory. ``floor`` is what a process takes that only imports the
stage. Exponents are slopes of least squares in logarithms, of the whole process and of
what lies ``over_floor``, which is left out where a point is not above the floor. Needs
5 GB in $TMPDIR. With ``--points FILE`` a run that was stopped goes on from the points
it has measured. Writes docs/benchmarks/growth.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Light on purpose: a child's peak memory starts at its parent's.
from recording import measure, record
from split import make_images

PACKAGES = ("deepme", "numpy", "scipy", "torch", "h5py")
GROUPS = 15
OF_IMAGES, OF_FILES = 100, 1_000
"""Classes where images grow: of drawn outputs, and of files."""

LARGEST = ("imagenet22k", 21_841)
SIZES = (10_000, 100_000, 1_000_000)
MODULES = {
    "similarity": ("deepme.steps.similarity", "deepme.tables"),
    "cluster": ("deepme.steps.cluster", "deepme.tables"),
    "split": ("deepme.steps.split", "deepme.tables"),
    "gate": ("synthetic", "deepme.steps.train_gate"),
    "evaluate": ("synthetic", "deepme.steps.evaluate"),
}
MEASURES = ("cpu_s", "peak_mb")
HERE = Path(__file__).parent
Row = dict[str, Any]


def deepme(*arguments: object) -> dict[str, float]:
    """Run a command, and measure it."""
    return measure([sys.executable, "-m", "deepme", *map(str, arguments), "--json"])[0]


def floors() -> dict[str, dict[str, float]]:
    """What each stage's process takes before it does anything."""
    found = {}
    for stage, modules in MODULES.items():
        program = f"import sys; sys.path.insert(0, {str(HERE)!r}); import deepme.cli"
        imports = "; ".join(f"import {module}" for module in modules)
        found[stage] = measure([sys.executable, "-c", f"{program}; {imports}"])[0]
    return found


def make_workspace(root: Path, classes: str) -> dict[str, dict[str, float]]:
    """Make a workspace by the two stages without images, and measure both."""
    similarity = deepme("similarity", "--classes", classes, "-w", root)
    cluster = deepme("cluster", "--T", GROUPS, "-w", root)
    return {"similarity": similarity, "cluster": cluster}


def of_files(workspace: Path, images: int) -> dict[str, dict[str, float]]:
    """Measure split on so many files."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_images(root, workspace, per_class=images // OF_FILES)
        return {"split": deepme("split", "--data", root, "-w", workspace)}


def of_outputs(workspace: Path, images: int) -> dict[str, dict[str, float]]:
    """Measure train-gate and evaluate on drawn outputs."""
    own = [sys.executable, __file__, "--workspace", str(workspace)]
    subprocess.run([*own, "--prepare", str(images)], check=True)
    step = [sys.executable, str(HERE / "evaluate_scale.py"), "--form", "auto"]
    step += ["--workspace", str(workspace), "--stage"]
    measure([*step, "outputs"])
    stages = {"gate": "train-gate", "evaluate": "evaluate"}
    found = {name: measure([*step, stage])[0] for name, stage in stages.items()}
    for name in ("experts", "outputs", "gate", "evaluation", "calibration"):
        shutil.rmtree(workspace / name, ignore_errors=True)
    return found


def prepare(root: Path, images: int) -> None:
    """Write split and experts for so many training and so many test images."""
    import synthetic

    from deepme.workspace import Workspace

    workspace = Workspace(root)
    counts = {"train": images, "val": images // 20, "test": images}
    synthetic.write_split(workspace, counts)
    synthetic.write_experts(workspace)


class Points:
    """The rows measured so far, kept in a file.

    Args:
        path: of one JSON row a line; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        """Read what an earlier run has left."""
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def have(self, stages: tuple[str, ...], place: Row) -> bool:
        """Whether a point is there for each stage."""
        return all(
            any(row.items() >= {"stage": stage, **place}.items() for row in self.rows)
            for stage in stages
        )

    def add(self, place: Row, found: dict[str, dict[str, float]]) -> None:
        """Keep the rows of some stages."""
        rows = [{"stage": stage, **place, **each} for stage, each in found.items()]
        with self.path.open("a") as file:
            for row in rows:
                print(row, file=sys.stderr)
                file.write(json.dumps(row) + "\n")
        self.rows += rows


def measure_all(root: Path, classes: Path, sizes: list[int], points: Points) -> None:
    """Measure what is missing of every stage along its axes."""
    wnids = classes.read_text().split()
    lists = {len(wnids): str(classes), LARGEST[1]: LARGEST[0]}
    for count in (OF_FILES, OF_IMAGES):
        part = root / f"{count}.txt"
        part.write_text("\n".join(random.Random(0).sample(wnids, count)) + "\n")
        lists[count] = str(part)
    if not points.have((*MODULES,), {"axis": "none"}):
        points.add({"axis": "none"}, floors())
    for count in sorted(lists):
        workspace, place = root / str(count), {"axis": "classes", "classes": count}
        made = make_workspace(workspace, lists[count])
        if count == OF_IMAGES:
            continue
        if not points.have(("similarity", "cluster"), place):
            points.add(place, made)
        place["images"] = sizes[0]
        if not points.have(("gate", "evaluate"), place):
            points.add(place, of_outputs(workspace, sizes[0]))
    for images in sizes:
        place = {"axis": "images", "images": images}
        if not points.have(("split",), place | {"classes": OF_FILES}):
            found = of_files(root / str(OF_FILES), images)
            points.add(place | {"classes": OF_FILES}, found)
        if not points.have(("gate", "evaluate"), place | {"classes": OF_IMAGES}):
            found = of_outputs(root / str(OF_IMAGES), images)
            points.add(place | {"classes": OF_IMAGES}, found)


def tables(points: list[Row]) -> dict[str, Any]:
    """The floors, the points in order, and the exponents."""
    floor = {
        row["stage"]: {name: row[name] for name in MEASURES}
        for row in points
        if row["axis"] == "none"
    }
    order = [*MODULES]
    rows = sorted(
        (row for row in points if row["axis"] != "none"),
        key=lambda row: (order.index(row["stage"]), row["axis"], row[row["axis"]]),
    )
    return {
        "setting": {"groups": GROUPS, "threads": 1},
        "floor": floor,
        "growth": rows,
        "exponents": exponents(rows, floor),
    }


def exponents(rows: list[Row], floor: dict[str, dict[str, float]]) -> list[Row]:
    """Fit each stage along each of its axes."""
    found = []
    for stage, axis in dict.fromkeys((row["stage"], row["axis"]) for row in rows):
        points = [row for row in rows if (row["stage"], row["axis"]) == (stage, axis)]
        sizes = [row[axis] for row in points]
        fitted: Row = {"exponent_of": stage, "over": axis}
        for name in MEASURES:
            values = [row[name] for row in points]
            fitted[name] = slope(sizes, values)
            beyond = [value - floor[stage][name] for value in values]
            if min(beyond) > 0:
                fitted[f"{name}_over_floor"] = slope(sizes, beyond)
        found.append(fitted)
    return found


def slope(sizes: list[int], values: list[float]) -> float:
    """The slope of the values over the sizes, both in logarithms."""
    logs = [[math.log(each) for each in some] for some in (sizes, values)]
    return statistics.linear_regression(*logs).slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--classes", type=Path, help="text file of more than 1,000 wnids"
    )
    parser.add_argument("--images", type=int, nargs="+", default=SIZES)
    parser.add_argument("--points", type=Path, help="keep what is measured here")
    parser.add_argument("--workspace", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        return prepare(options.workspace, options.prepare)
    if options.classes is None:
        parser.error("give --classes")
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        points = Points(options.points or Path(folder) / "points")
        measure_all(Path(folder), options.classes, options.images, points)
    figures = tables(points.rows)
    given = f"--classes {options.classes.name}"
    if tuple(options.images) != SIZES:
        given += " --images " + " ".join(map(str, options.images))
    record(
        "growth",
        command=f"python tests/benchmarks/growth.py {given}",
        packages=PACKAGES,
        figures=figures,
    )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
