"""Measure how few of 15 experts an image needs to be shown to.

    python tests/benchmarks/routing.py

Pictures of 60 classes are drawn (tests/benchmarks/pictures.py); the seven commands
train 15 experts and a gate, `deepme route` chooses a route on validation images, and
`deepme evaluate` measures it on test images beside asking all experts. ``routes`` is
the curve on validation images. The pictures are easy: with 99 % right, one expert is
enough, and little is said of harder ones. Writes docs/benchmarks/routing.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import warmup_cache
from pictures import deepme
from recording import record

PACKAGES = ("deepme", "torch", "torchvision", "timm")
CONFIG = f"""\
[cluster]
T = {warmup_cache.GROUPS}
overlap = 1.1

[split]
val = 0.25
test = 0.25

[train-flat]
{warmup_cache.NETWORK}
weights = "none"
warmup-epochs = 0
epochs = 15
lr = 0.05
lr-end = 0.002

[train-expert]
{warmup_cache.NETWORK}
weights = "flat"
warmup-epochs = 0
epochs = 10
lr = 0.05
lr-end = 0.002

[train-gate]
weights = "flat"
epochs = 15
batch-size = 32
lr = 0.05
lr-end = 0.002

[machine]
device = "cpu"
workers = 0
threads = 1
"""


def as_json(*arguments: str | Path) -> Any:
    """Run a command and read its result."""
    command = [sys.executable, "-m", "deepme", *map(str, arguments), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(root: Path) -> dict[str, Any]:
    """Train, choose a route and evaluate it."""
    warmup_cache.CONFIG = CONFIG
    common = warmup_cache.prepare(root)
    deepme("train-expert", "--group", "all", *common)
    deepme("train-gate", *common)
    routing = as_json("route", *common)
    best = routing["routes"][routing["chosen"]]
    options = ["--route-least", best["least"]]
    if best["top"] is not None:
        options = ["--route-top", best["top"]]
    found = {}
    for name, route in (("all experts", []), ("the chosen route", options)):
        evaluate = ("evaluate", "--topk", "1", *map(str, route), *common)
        system = as_json(*evaluate)[0]
        found[name] = {
            "macro_top1": system["macro"]["1"],
            "expert_passes": system["expert_passes"],
            "images": system["images"],
        }
    dense, sparse = found.values()
    comparison = {
        "chosen": " ".join(map(str, options)),
        "times_fewer_passes": dense["expert_passes"] / sparse["expert_passes"],
        "points_lost": 100 * (dense["macro_top1"] - sparse["macro_top1"]),
        "points_lost_on_validation": 100 * (routing["dense"] - best["macro"]),
    }
    routes = [
        {key: "" if route[key] is None else route[key] for key in route}
        for route in routing["routes"]
    ]
    return {"test": found, "routing": comparison, "routes": routes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    record(
        "routing",
        command="python tests/benchmarks/routing.py",
        packages=PACKAGES,
        figures={
            "setting": {
                "backbone": "vgg_small",
                "image_size": warmup_cache.SIZE,
                "classes": warmup_cache.CLASSES,
                "images": warmup_cache.CLASSES * warmup_cache.IMAGES,
                "experts": warmup_cache.GROUPS,
            },
            **figures,
        },
    )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
