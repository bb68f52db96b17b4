"""Measure what the fitted temperature does to the calibration error on test images.

    python tests/benchmarks/calibration.py IMAGES --seeds 3

IMAGES is a folder of class folders, all of WordNet. Of each class 40 % of the images
are for training, 20 % for validation, on which the temperature is fitted, and 40 % for
the test, so that chance adds little to an error. Under each seed `deepme run` trains
everything and `deepme evaluate` tests the three ways to answer that people predict
with. ``chance`` is the error that a perfectly calibrated classifier would show on as
many images by chance alone: the mean over 200 draws of right and wrong answers at the
bins' confidences. Writes docs/benchmarks/calibration.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from extend import command
from recording import record

from deepme.workspace import Workspace

PACKAGES = ("deepme", "torch", "torchvision", "timm")
WAYS = ("flat", "gate", "attention")
SETTINGS = """\
[cluster]
T = 4
overlap = 1.1

[split]
val = 0.2
test = 0.4

[train-flat]
backbone = "vgg_tiny"
weights = "none"
image-size = 32
warmup-epochs = 0
epochs = 40
batch-size = 64
lr = 0.1
lr-end = 0.001

[train-expert]
backbone = "vgg_tiny"
weights = "flat"
image-size = 32
warmup-epochs = 0
epochs = 16
batch-size = 64
lr = 0.05
lr-end = 0.0005

[train-gate]
weights = "flat"
epochs = 4
batch-size = 64
lr = 0.02
lr-end = 0.0002

[train-attention]
epochs = 0

[evaluate]
fusion = ["flat", "gate", "attention"]

[machine]
device = "cpu"
workers = 0
threads = 1
"""


def by_chance(images: np.ndarray, confidence: np.ndarray) -> float:
    """The mean error of a classifier that is right as often as it says.

    Args:
        images: (M,) int64, by bin.
        confidence: (M,) float64, the sum of their probabilities.
    """
    filled = images > 0
    images, confidence = images[filled], confidence[filled]
    share = (confidence / images).clip(0, 1)
    hits = np.random.default_rng(0).binomial(images, share, (200, len(images)))
    return float(np.abs(hits - confidence).sum(axis=1).mean() / images.sum())


def trial(images: Path, seed: int, root: Path) -> list[dict[str, Any]]:
    """One seed: a row for each way to answer."""
    (root / "settings.toml").write_text(SETTINGS)
    options = ("--config", root / "settings.toml", "--seed", seed)
    command("run", "--data", images, "-w", root / "workspace", *options)
    workspace = Workspace(root / "workspace")
    rows = []
    for evaluation in workspace.evaluations():
        content, counts = evaluation.content, evaluation.counts
        assert content.calibrated_error is not None
        rows.append(
            {
                "way": content.fusion,
                "seed": seed,
                "top1": content.macro["1"],
                "temperature": content.temperature,
                "before": content.calibration_error,
                "after": content.calibrated_error,
                "after_to_before": content.calibrated_error / content.calibration_error,
                "chance": by_chance(
                    counts.calibrated_images, counts.calibrated_confidence
                ),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows += trial(asked.images.absolute(), seed, Path(folder))
        print(*rows[-len(WAYS) :], sep="\n", file=sys.stderr)
    means = {}
    for way in WAYS:
        of_way = [row for row in rows if row["way"] == way]
        figures = ("before", "after", "after_to_before", "chance")
        means[way] = {name: fmean(row[name] for row in of_way) for name in figures}
        if asked.seeds > 1:
            means[way]["after_to_before_sd"] = stdev(
                row["after_to_before"] for row in of_way
            )
    record(
        "calibration",
        command=f"python tests/benchmarks/calibration.py IMAGES --seeds {asked.seeds}",
        packages=PACKAGES,
        figures={"runs": rows, "means": means},
    )
    print(means)


if __name__ == "__main__":
    main()
