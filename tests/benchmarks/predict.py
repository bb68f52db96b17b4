"""Compare predict on 1,000 pictures with plain PyTorch loops over the same networks.

    python tests/benchmarks/predict.py

The pictures are drawn, the mixture has four experts and a gate of vgg_small that have
not learned anything. ``module`` is PyTorch's own DataLoader over torchvision's
ImageFolder, in batches of 256, through the module that `deepme.load` gives; ``by hand``
is the same with torchvision's transforms, float pixels and Eq. 3 written out, as one
would without deepme. Each round runs every loop once, in a process of its own; loading
the networks and decoding are in the time, importing is not. Writes
docs/benchmarks/predict.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recording import measure, record
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import deepme
from deepme.config import MachineSettings, PredictSettings
from deepme.predicting import find, predict
from deepme.workspace import Workspace

PACKAGES = ("deepme", "torch", "torchvision", "timm", "pillow")
IMAGES, SIDE, SIZE, GROUPS = 1000, 256, 64, 4
CLASSES = (
    *("n02084071", "n02121620", "n02118333", "n02374451", "n02958343"),
    *("n02924116", "n04490091", "n04467665", "n07739125", "n07753592"),
)
CONFIG = f"""\
[cluster]
T = {GROUPS}
overlap = 1.2

[train-expert]
backbone = "vgg_small"
weights = "none"
image-size = {SIZE}
warmup-epochs = 0
epochs = 0

[train-gate]
weights = "none"
epochs = 0

[machine]
device = "cpu"
workers = 0
threads = 1
"""


def prepare(root: Path) -> None:
    """Draw the pictures, and make a workspace of networks with random weights."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in CLASSES:
        folder = root / "images" / label
        folder.mkdir(parents=True)
        for number in range(IMAGES // len(CLASSES)):
            coarse = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((SIDE, SIDE))
            picture.save(folder / f"{number:03d}.jpg", quality=90)
    (root / "settings.toml").write_text(CONFIG)
    common = ["--config", str(root / "settings.toml"), "-w", str(root / "workspace")]
    images = str(root / "images")
    for stage in (
        ["similarity", "--classes", images],
        ["cluster"],
        ["split", "--data", images],
        ["train-expert", "--group", "all"],
        ["train-gate"],
        ["evaluate", "--topk", "1"],
    ):
        command = [sys.executable, "-m", "deepme", *stage, *common]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def by_command(root: Path) -> float:
    """What the command does."""
    machine = MachineSettings(device="cpu", workers=0, threads=1)
    paths = find([str(root / "images")], [])
    started = time.perf_counter()
    said = predict(PredictSettings(), machine, Workspace(root / "workspace"), paths)
    first = next(said)
    assert len(first.labels) == 5
    rest = sum(1 for _ in said)
    assert rest == IMAGES - 1
    return time.perf_counter() - started


def by_module(root: Path) -> float:
    """A DataLoader through the module."""
    started = time.perf_counter()
    model = deepme.load(root / "workspace")
    folder = ImageFolder(root / "images", transform=model.transform)
    with torch.inference_mode():
        for images, _ in DataLoader(folder, batch_size=256):
            model(images).softmax(dim=1).topk(5)
    return time.perf_counter() - started


def by_hand(root: Path) -> float:
    """Everything written out, on float pixels."""
    started = time.perf_counter()
    mixture = deepme.load(root / "workspace").network
    assert isinstance(mixture, deepme.Mixture)
    trunks = [(each.trunk, each.head) for each in (*mixture.experts, mixture.gate)]
    view = transforms.Compose(
        [
            transforms.Resize(round(SIZE / 0.875)),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    folder = ImageFolder(root / "images", transform=view)
    with torch.inference_mode():
        for images, _ in DataLoader(folder, batch_size=256):
            pixels = images.contiguous(memory_format=torch.channels_last)
            answers = [head(trunk(pixels)).softmax(dim=1) for trunk, head in trunks]
            gate = answers.pop()
            scores = torch.zeros(len(images), len(CLASSES))
            for t, (answer, classes) in enumerate(
                zip(answers, mixture.members.classes, strict=True)
            ):
                scores.index_add_(1, classes, gate[:, t, None] * answer)
            scores.topk(5)
    return time.perf_counter() - started


LOOPS = {"deepme predict": by_command, "module": by_module, "by hand": by_hand}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help="used within: one loop, as JSON on stdout")
    parser.add_argument("--root", type=Path, help="used within")
    arguments = parser.parse_args()
    if arguments.one:
        torch.set_num_threads(1)
        print(json.dumps(LOOPS[arguments.one](arguments.root)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root)
        rows = compare(root, arguments.rounds)
    record(
        "predict",
        command="python tests/benchmarks/predict.py",
        packages=PACKAGES,
        figures={
            "setting": {
                "images": IMAGES,
                "jpeg_side": SIDE,
                "backbone": "vgg_small",
                "image_size": SIZE,
                "experts": GROUPS,
                "threads": 1,
                "rounds": arguments.rounds,
            },
            "loop": rows,
        },
    )


def compare(root: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Run every loop in every round; ratios are within a round."""
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    peaks = dict.fromkeys(LOOPS, 0.0)
    for _ in range(rounds):
        for name in LOOPS:
            command = [sys.executable, __file__, "--one", name, "--root", str(root)]
            used, printed = measure(command)
            seconds[name].append(float(printed.splitlines()[-1]))
            peaks[name] = max(peaks[name], used["peak_mb"])
    ours = np.array(seconds["deepme predict"])
    rows = {}
    for name, values in seconds.items():
        ratios = np.array(values) / ours
        rows[name] = {
            "images_a_second": IMAGES / statistics.median(values),
            "deepme_is_times_as_fast": float(np.median(ratios)),
            "least": float(ratios.min()),
            "most": float(ratios.max()),
            "peak_mb": peaks[name],
        }
        print(name, rows[name])
    return rows


if __name__ == "__main__":
    main()
