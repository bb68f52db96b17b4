"""Measure one warm-up and one fine-tuning step of timm's vgg16 on the CPU.

    python tests/benchmarks/vgg16.py

The paper's backbone, 8 images of 64 × 64, through the product's own task and loop: a
stage of one step each, a checkpoint after it. Random weights: the arithmetic is the
same as with pre-trained ones. Peak memory is the whole process's. Prints a Markdown
table and writes docs/benchmarks/vgg16.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recording import measure, record

PACKAGES = ("deepme", "torch", "torchvision", "timm")
BATCH_SIZE, IMAGE_SIZE = 8, 64
CLASSES = {"a": 0, "b": 1}


def make_split(root: Path) -> Any:
    """Draw `BATCH_SIZE` noisy pictures, all of them to train on."""
    import numpy as np
    from PIL import Image

    from deepme.artifacts.origin import Origin
    from deepme.artifacts.split import Split
    from deepme.images.index import find_images
    from deepme.storage.header import Header

    rng = np.random.default_rng(0)
    for number in range(BATCH_SIZE):
        folder = root / list(CLASSES)[number % len(CLASSES)]
        folder.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    images = find_images(root, CLASSES, lambda _, figures="": None).images
    header = Header(kind="split", schema_version=1)
    return Split(
        origin=Origin(root / "split.h5", header, ""),
        images=images,
        subset=np.zeros(len(images), dtype=np.uint8),
        num_classes=len(CLASSES),
    )


def make_run(scratch: Path) -> Any:
    import numpy as np
    import torch

    from deepme.config import ExpertSettings, MachineSettings
    from deepme.devices import choose_compute
    from deepme.images.unreadable import UnreadableImages
    from deepme.storage.header import Header
    from deepme.training.classify import new_network
    from deepme.training.expert import ExpertTask
    from deepme.training.run import Run, Stage

    torch.manual_seed(0)
    images = scratch / "images"
    images.mkdir()
    split = make_split(images)
    settings = ExpertSettings(
        backbone="vgg16",
        weights="none",
        image_size=IMAGE_SIZE,
        batch_size=BATCH_SIZE,
    )
    task = ExpertTask(
        settings,
        new_network(settings, len(CLASSES), "none"),
        choose_compute(MachineSettings(device="cpu"), "float32"),
        image_size=IMAGE_SIZE,
        split=split,
        members=np.array([0, 1]),
        unreadable=UnreadableImages(split.images, BATCH_SIZE, False, 0.0),
        workers=0,
        keep_images=0,
        other_rows=np.empty(0, dtype=np.int64),
        frozen=None,
        theta=np.array([[1, 0.5], [0.5, 1]], dtype=np.float32),
    )
    return Run(
        label="vgg16",
        task=task,
        stages=(
            Stage(name="warmup", epochs=1, lr=0.01, lr_end=0.001),
            Stage(name="finetune", epochs=1, lr=0.001, lr_end=0.00001),
        ),
        unreadable=task.unreadable,
        checkpoint=scratch / "checkpoint.safetensors",
        identity=Header(kind="expert", schema_version=1),
        device=torch.device("cpu"),
        batch_size=BATCH_SIZE,
        checkpoint_seconds=600,
    )


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Note how long each call takes."""

    def call(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - started)
        return result

    return call


def run_part() -> None:
    """Train the two steps in this process and print what they took."""
    from deepme.training import loop

    steps: list[float] = []
    checkpoints: list[float] = []
    stepper = loop.Stepper
    stepper.__call__ = timed(stepper.__call__, steps)  # type: ignore[method-assign]
    loop.save = timed(loop.save, checkpoints)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        run = make_run(Path(scratch))
        built = time.perf_counter() - started
        loop.fit(run)
        weights = sum(p.numel() for p in run.task.network.parameters())
        size = run.checkpoint.stat().st_size
    print(
        json.dumps(
            {
                "million_weights": weights / 1e6,
                "build_s": built,
                "warmup_step_s": steps[0],
                "finetune_step_s": steps[1],
                "warmup_checkpoint_s": checkpoints[0],
                "finetune_checkpoint_s": checkpoints[1],
                "checkpoint_file_mb": size / 2**20,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().part:
        return run_part()
    # In a process of its own, whose peak memory is the two steps' alone.
    measured, printed = measure([sys.executable, __file__, "--part"])
    row = json.loads(printed) | {"peak_mb": measured["peak_mb"]}
    record(
        "vgg16",
        command="python tests/benchmarks/vgg16.py",
        packages=PACKAGES,
        figures={
            "settings": {"image_size": IMAGE_SIZE, "batch_size": BATCH_SIZE},
            "vgg16": {"an expert, one step a stage": row},
        },
    )
    print("| stage | step s | checkpoint s |\n|---|---|---|")
    for stage in ("warmup", "finetune"):
        step, checkpoint = row[f"{stage}_step_s"], row[f"{stage}_checkpoint_s"]
        print(f"| {stage} | {step:.2f} | {checkpoint:.2f} |")
    print(f"\n{row['million_weights']:.1f} M weights, peak {row['peak_mb']:,.0f} MB")


if __name__ == "__main__":
    main()
