"""Measure what the fitted temperature does to the calibration error on test images.

    python tests/benchmarks/calibration.py IMAGES --seeds 3 [--keep FOLDER]
        [--backbone vgg_medium] [--name NAME]
    python tests/benchmarks/calibration.py --workspace WORKSPACE...

IMAGES is a folder of class folders, all of WordNet. Of each class 40 % of the images
are for training, 20 % for validation, on which the temperature is fitted, and 40 % for
the test, so that chance adds little to an error. Under each seed `deepme run` trains
everything and `deepme evaluate` tests the three ways to answer that people predict
with, and the gate that asks two experts an image, which has a temperature of its own
(``deepme-routed``). ``chance`` is the error that a perfectly calibrated classifier
would show on as many images by chance alone: the mean over 200 draws of right and wrong
answers at the bins' confidences; an error of less than twice that cannot be halved.
``the_same_beyond_chance`` is the ratio of what is left of both errors without it.
With ``--backbone vgg_medium`` the networks have weights enough to fit their training
images, as large ones do: they are surer than right, where ``vgg_tiny`` hardly is.
Writes docs/benchmarks/calibration.json, or NAME.json. With --workspace the
gate, the route that `deepme route` chooses, and the flat network of mixtures that are
trained already are tested, on whatever images they have, into
docs/benchmarks/calibration-real.json.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from extend import command
from recording import record

from deepme.artifacts.routing import load_routing
from deepme.workspace import Workspace

PACKAGES = ("deepme", "torch", "torchvision", "timm")
SYSTEMS = ("vgg16-ext", "deepme", "deepme-routed", "deepme-attention")
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


def trial(images: Path, backbone: str, seed: int, root: Path) -> list[dict[str, Any]]:
    """One seed: a row for each way to answer."""
    (root / "settings.toml").write_text(SETTINGS.replace("vgg_tiny", backbone))
    options = ("--config", root / "settings.toml", "--seed", seed)
    place = ("-w", root / "workspace")
    command("run", "--data", images, *place, *options)
    command("evaluate", "--fusion", "gate", "--route-top", 2, *place)
    rows = of_workspace(Workspace(root / "workspace"))
    assert {row["system"] for row in rows} == set(SYSTEMS)
    return [{"system": row.pop("system"), "seed": seed, **row} for row in rows]


def of_workspace(workspace: Workspace) -> list[dict[str, Any]]:
    """A row for each evaluation that has a temperature."""
    rows = []
    for evaluation in workspace.evaluations():
        content, counts = evaluation.content, evaluation.counts
        if content.calibrated_error is None:
            continue
        chance = by_chance(counts.calibrated_images, counts.calibrated_confidence)
        before, after = content.calibration_error, content.calibrated_error
        rows.append(
            {
                "system": evaluation.origin.path.stem,
                "experts": content.expert_passes,
                "top1": content.macro["1"],
                "temperature": content.temperature,
                "temperature_slope": content.temperature_slope,
                "before": before,
                "after": after,
                "after_to_before": after / before,
                "chance": chance,
                "images": content.images,
            }
        )
    return rows


def record_workspaces(workspaces: list[Workspace]) -> None:
    """Write what trained workspaces come to."""
    settings, rows = [], []
    for number, workspace in enumerate(workspaces, start=1):
        place = ("-w", workspace.root)
        command("route", *place)
        route = shlex.split(load_routing(workspace.routing_path).best.options)
        command("evaluate", "--fusion", "gate,flat", *place)
        command("evaluate", "--fusion", "gate", *route, *place)
        groups = workspace.groups()
        split = workspace.split(groups.origin)
        sees = workspace.gate().origin.header.settings["input"]
        settings.append(
            {
                "workspace": number,
                "classes": split.num_classes,
                "experts": len(groups.members),
                "gate": f"on {sees}",
                "validation_images": len(split.rows("val")),
                "test_images": len(split.rows("test")),
            }
        )
        for row in of_workspace(workspace):
            if row["system"] not in SYSTEMS:
                continue
            if row["experts"]:
                row["system"] += f", gate on {sees}"
            rows.append({"workspace": number, **row})
    record(
        "calibration-real",
        command="python tests/benchmarks/calibration.py --workspace WORKSPACE...",
        packages=PACKAGES,
        figures={"settings": settings, "runs": rows, "means": means_of(rows)},
    )
    print(means_of(rows))


def means_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each system, over its rows."""
    means = {}
    for system in dict.fromkeys(row["system"] for row in rows):
        of_system = [row for row in rows if row["system"] == system]
        figures = ("before", "after", "chance")
        mean = {name: fmean(row[name] for row in of_system) for name in figures}
        mean["after_to_before"] = mean["after"] / mean["before"]
        beyond = [mean[name] - mean["chance"] for name in ("after", "before")]
        mean["the_same_beyond_chance"] = max(beyond[0], 0.0) / beyond[1]
        if len(of_system) > 1:
            mean["after_sd"] = stdev(row["after"] for row in of_system)
        means[system] = mean
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder that keeps what was trained")
    parser.add_argument("--backbone", default="vgg_tiny")
    parser.add_argument("--name", default="calibration", help="of the record")
    parser.add_argument("--workspace", type=Path, nargs="+", help="of trained mixtures")
    asked = parser.parse_args()
    if asked.workspace:
        return record_workspaces(list(map(Workspace, asked.workspace)))
    if not asked.images:
        parser.error("expected IMAGES or --workspace")
    rows: list[dict[str, Any]] = []
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            root = (asked.keep or Path(folder)) / str(seed)
            root.mkdir(parents=True, exist_ok=True)
            rows += trial(asked.images.absolute(), asked.backbone, seed, root)
        print(*rows[-len(SYSTEMS) :], sep="\n", file=sys.stderr)
    means = means_of(rows)
    options = "".join(
        f" --{name} {getattr(asked, name)}"
        for name in ("backbone", "name")
        if getattr(asked, name) != parser.get_default(name)
    )
    record(
        asked.name,
        command="python tests/benchmarks/calibration.py IMAGES "
        f"--seeds {asked.seeds}{options}",
        packages=PACKAGES,
        figures={"runs": rows, "means": means},
    )
    print(means)


if __name__ == "__main__":
    main()
