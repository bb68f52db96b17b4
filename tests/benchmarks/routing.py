"""Measure how few of 15 experts an image needs to be shown to.

    python tests/benchmarks/routing.py [--workspace WORKSPACE...]

Pictures of 60 classes are drawn (tests/benchmarks/pictures.py); the seven commands
train 15 experts and a gate, `deepme route` chooses a route on validation images, and
`deepme evaluate` measures it on test images beside asking all experts. ``routes`` is
the curve on validation images. The pictures are easy: with 99 % right, one expert is
enough, and little is said of harder ones. Writes docs/benchmarks/routing.json. With
--workspace the same is measured on mixtures that are trained already, on whatever
images they have learned, and written to routing-real.json.
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

from deepme.workspace import Workspace

PACKAGES = ("deepme", "torch", "torchvision", "timm")
IMAGES, SIZE = 60, 32
NETWORK = f"""\
backbone = "vgg_small"
image-size = {SIZE}
batch-size = 32
warmup-lr = 0.1
warmup-lr-end = 0.01
"""
CONFIG = f"""\
[cluster]
T = {warmup_cache.GROUPS}
overlap = 1.1

[split]
val = 0.25
test = 0.25

[train-flat]
{NETWORK}
weights = "none"
warmup-epochs = 0
epochs = 15
lr = 0.05
lr-end = 0.002

[train-expert]
{NETWORK}
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


def train(root: Path) -> list[str | Path]:
    """Make a mixture on drawn pictures; return the options for more."""
    common = warmup_cache.prepare(root, CONFIG, per_class=IMAGES, size=SIZE)
    deepme("train-expert", "--group", "all", *common)
    deepme("train-gate", *common)
    return common


def measure(common: list[str | Path], gate: str) -> dict[str, Any]:
    """Choose a route for a gate and evaluate it."""
    routing = as_json("route", *common)
    best = routing["routes"][routing["chosen"]]
    options = ["--route-least", best["least"]]
    if best["top"] is not None:
        options = ["--route-top", best["top"]]
    found = {}
    for name, route in (("all experts", []), ("the chosen route", options)):
        evaluate = ("evaluate", "--topk", "1", *map(str, route), *common)
        system = as_json(*evaluate)[0]
        found[f"{gate}: {name}"] = {
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
        {"gate": gate}
        | {key: "" if route[key] is None else route[key] for key in route}
        for route in routing["routes"]
    ]
    return {"test": found, "routing": {gate: comparison}, "routes": routes}


def of_workspaces(roots: list[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Setting and figures of mixtures that are trained already."""
    (setting, figures), *others = map(of_workspace, roots)
    for its_setting, more in others:
        if its_setting != setting:
            raise SystemExit(f"{setting} and {its_setting} are no one setting")
        figures["test"] |= more["test"]
        figures["routing"] |= more["routing"]
        figures["routes"] += more["routes"]
    return setting, figures


def of_workspace(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Setting and figures of one of them."""
    workspace = Workspace(root)
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    training = workspace.expert(1).training
    setting = {
        "backbone": training.backbone,
        "image_size": training.image_size,
        "classes": split.num_classes,
        "images": len(split.images),
        "experts": len(groups.members),
    }
    gate = f"gate on {workspace.gate().origin.header.settings['input']}"
    return setting, measure(["-w", root, "--device", "cpu", "--threads", "1"], gate)


def of_drawn_pictures() -> tuple[dict[str, Any], dict[str, Any]]:
    """Setting and figures of a mixture that is trained for it."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(train(Path(folder)), "gate on images")
    setting = {
        "backbone": "vgg_small",
        "image_size": SIZE,
        "classes": warmup_cache.CLASSES,
        "images": warmup_cache.CLASSES * IMAGES,
        "experts": warmup_cache.GROUPS,
    }
    return setting, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, nargs="+", help="of trained mixtures")
    trained = parser.parse_args().workspace
    setting, figures = of_workspaces(trained) if trained else of_drawn_pictures()
    given = " --workspace WORKSPACE..." if trained else ""
    record(
        "routing-real" if trained else "routing",
        command=f"python tests/benchmarks/routing.py{given}",
        packages=PACKAGES,
        figures={"setting": setting, **figures},
    )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
