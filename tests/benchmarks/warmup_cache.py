"""Compare the warm-up of 15 experts through the feature cache with 15 separate ones.

    python tests/benchmarks/warmup_cache.py

Pictures of 60 classes are drawn (tests/benchmarks/pictures.py), a flat network learns
them, and `deepme train-expert --group all --epochs 0` warms the heads of 15 experts up
on its frozen trunk: with `--warmup views` each epoch decodes the images and runs the
trunk anew, with `--warmup cache` that happens once. Seconds are of the processor for
the whole command, making the cache and writing 15 networks included, without what
importing PyTorch takes; accuracies are the means over the validation images of all
experts. With E epochs and groups that overlap by 1.1, 1.1 E passes over the images
become one. Writes docs/benchmarks/warmup-cache.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from pictures import deepme, write_classes, write_pictures
from recording import measure, record

from deepme.workspace import Workspace

PACKAGES = ("deepme", "torch", "torchvision", "timm")
CLASSES, IMAGES, SIZE, GROUPS = 60, 40, 64, 15
EPOCHS = (5, 20)
WAYS = ("views", "cache")
NETWORK = f"""\
backbone = "vgg_small"
image-size = {SIZE}
batch-size = 32
warmup-lr = 0.1
warmup-lr-end = 0.01
"""
CONFIG = f"""\
[cluster]
T = {GROUPS}
overlap = 1.1

[split]
val = 0.5
test = 0.1

[train-flat]
{NETWORK}
weights = "none"
warmup-epochs = 0
epochs = 4
lr = 0.05
lr-end = 0.002

[train-expert]
{NETWORK}
weights = "flat"
epochs = 0

[machine]
device = "cpu"
workers = 0
threads = 1
"""


def prepare(root: Path, config: str, *, per_class: int, size: int) -> list[str | Path]:
    """Draw, group, split and train the flat network; return the options for more."""
    write_classes(root / "classes.txt", CLASSES)
    (root / "settings.toml").write_text(config)
    common = ["--config", root / "settings.toml", "-w", root / "workspace"]
    deepme("similarity", "--classes", root / "classes.txt", *common)
    similarity = root / "workspace" / "similarity.h5"
    write_pictures(root / "images", similarity, per_class=per_class, size=size)
    deepme("cluster", *common)
    deepme("split", "--data", root / "images", *common)
    deepme("train-flat", *common)
    return common


def warm_up(root: Path, common: list[str | Path], way: str, epochs: int) -> dict:
    """Train all experts from nothing; return seconds, memory and accuracy."""
    shutil.rmtree(root / "workspace" / "experts", ignore_errors=True)
    shutil.rmtree(root / "workspace" / "features", ignore_errors=True)
    command = [sys.executable, "-m", "deepme", "train-expert", "--group", "all"]
    command += ["--warmup", way, "--warmup-epochs", str(epochs), *map(str, common)]
    used, _ = measure(command)
    return {**used, "val_top1": accuracy(Workspace(root / "workspace"))}


def accuracy(workspace: Workspace) -> float:
    """Top-1 over the validation images of all experts, each in its own group."""
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    right = images = 0.0
    for number, members in enumerate(groups.members, start=1):
        count = len(split.rows("val", members))
        last = workspace.expert(number).training.history[-1].val_top1
        assert last is not None
        right, images = right + last * count, images + count
    return right / images


def loading() -> float:
    """Processor seconds of importing alone."""
    program = "import deepme.experts"
    return measure([sys.executable, "-c", program])[0]["cpu_s"]


def compare(root: Path) -> dict[str, dict[str, Any]]:
    """Run both ways for each number of epochs."""
    common = prepare(root, CONFIG, per_class=IMAGES, size=SIZE)
    rows = {}
    for epochs in EPOCHS:
        views, cache = (warm_up(root, common, way, epochs) for way in WAYS)
        print(epochs, views, cache, file=sys.stderr)
        started = loading()
        separate_s, cache_s = views["cpu_s"] - started, cache["cpu_s"] - started
        rows[str(epochs)] = {
            "separate_cpu_s": separate_s,
            "cache_cpu_s": cache_s,
            "cache_is_times_as_fast": separate_s / cache_s,
            "separate_val_top1": views["val_top1"],
            "cache_val_top1": cache["val_top1"],
            "points": 100 * (cache["val_top1"] - views["val_top1"]),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder))
    record(
        "warmup-cache",
        command="python tests/benchmarks/warmup_cache.py",
        packages=PACKAGES,
        figures={
            "setting": {
                "backbone": "vgg_small",
                "image_size": SIZE,
                "classes": CLASSES,
                "images": CLASSES * IMAGES,
                "experts": GROUPS,
                "threads": 1,
            },
            "warmup_epochs": rows,
        },
    )
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
