"""Measure what the fitted temperature does to the calibration error on test images.

    python tests/benchmarks/calibration.py IMAGES --seeds 3
    python tests/benchmarks/calibration.py --workspace WORKSPACE

IMAGES is a folder of class folders, all of WordNet. Of each class 40 % of the images
are for training, 20 % for validation, on which the temperature is fitted, and 40 % for
the test, so that chance adds little to an error. Under each seed `deepme run` trains
everything and `deepme evaluate` tests the three ways to answer that people predict
with. ``chance`` is the error that a perfectly calibrated classifier would show on as
many images by chance alone: the mean over 200 draws of right and wrong answers at the
bins' confidences. Writes docs/benchmarks/calibration.json. With --workspace the
gate and the flat network of a mixture that is trained already are tested, on whatever
images it has, into docs/benchmarks/calibration-real.json; its ``deepme-routed`` asks
few experts and has the temperature of the mixture that asks all, which does not suit.
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
    rows = of_workspace(Workspace(root / "workspace"))
    assert len(rows) == len(WAYS)
    return [{"way": row.pop("way"), "seed": seed, **row} for row in rows]


def of_workspace(workspace: Workspace) -> list[dict[str, Any]]:
    """A row for each evaluation that has a temperature."""
    rows = []
    for evaluation in workspace.evaluations():
        content, counts = evaluation.content, evaluation.counts
        if content.calibrated_error is None:
            continue
        rows.append(
            {
                "way": content.fusion,
                "system": evaluation.origin.path.stem,
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


def record_workspace(workspace: Workspace) -> None:
    """Write what a workspace's own evaluations came to."""
    command("evaluate", "--fusion", "gate,flat", "-w", workspace.root)
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    setting = {
        "classes": split.num_classes,
        "experts": len(groups.members),
        "validation_images": len(split.rows("val")),
        "test_images": len(split.rows("test")),
    }
    figures = {"setting": setting, "runs": of_workspace(workspace)}
    record(
        "calibration-real",
        command="python tests/benchmarks/calibration.py --workspace WORKSPACE",
        packages=PACKAGES,
        figures=figures,
    )
    print(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workspace", type=Path, help="of a trained mixture")
    asked = parser.parse_args()
    if asked.workspace:
        return record_workspace(Workspace(asked.workspace))
    if not asked.images:
        parser.error("expected IMAGES or --workspace")
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
