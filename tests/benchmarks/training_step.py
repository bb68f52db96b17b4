"""Compare training steps with a plain PyTorch loop, side by side on the CPU.

    python tests/benchmarks/training_step.py

Both train vgg_small on the same batches of random pictures that are in memory: the
plain loop as PyTorch's tutorials write it, and the same with the channels innermost;
ours is the loop of train-flat, with its checks and its figures. Each round runs every
loop once, in a process of its own; the figures are medians over rounds. Writes
docs/benchmarks/training-step.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recording import measure, record
from torch import Tensor, nn

from deepme.artifacts.split import ImageIndex
from deepme.config import FlatSettings, MachineSettings
from deepme.devices import choose_compute
from deepme.images.loading import Batch
from deepme.images.unreadable import UnreadableImages
from deepme.networks import create_network
from deepme.small_vgg import SmallVGG
from deepme.storage.header import Header
from deepme.training.classifier import ClassifierTask
from deepme.training.run import Run, Stage
from deepme.training.stepping import Stepper

PACKAGES = ("deepme", "torch", "torchvision", "timm")
SIZE, BATCH, CLASSES, LR = 32, 64, 100, 0.01
WARM_UP, STEPS = 5, 40


def pictures() -> list[tuple[Tensor, Tensor]]:
    """Four batches of noise, as bytes, with labels."""
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, 3, SIZE, SIZE)
    return [
        (
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            torch.randint(0, CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(4)
    ]


def plain(channels_last: bool, bfloat16: bool) -> Iterator[None]:
    """The loop of the tutorials."""
    network = nn.Sequential(SmallVGG(num_classes=CLASSES))
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9)
    mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
    while True:
        for images, labels in pictures():
            pixels = (images.float() / 255 - mean) / std
            if channels_last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = network(pixels)
            loss = nn.functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()
            yield


def ours(bfloat16: bool) -> Iterator[None]:
    """The loop of train-flat without its reading of images."""
    precision = "bfloat16" if bfloat16 else "float32"
    machine = MachineSettings(device="cpu", workers=0, threads=1)
    compute = choose_compute(machine, precision)
    task = ClassifierTask.__new__(ClassifierTask)
    network = create_network("vgg_small", CLASSES, weights="none", image_size=SIZE)
    settings = FlatSettings(weights="none", precision=precision)
    task.settings, task.network, task.compute = settings, network, compute
    task.frozen, task.in_warmup = None, False
    task.position_N = torch.arange(CLASSES)
    stage = Stage(name="finetune", epochs=1, lr=LR, lr_end=LR)
    run = Run(
        label="benchmark",
        task=task,
        stages=(stage,),
        unreadable=UnreadableImages(_no_images(), 0, False, 0.0),
        checkpoint=Path("never"),
        identity=Header(kind="benchmark", schema_version=1),
        device=compute.device,
        batch_size=BATCH,
        checkpoint_seconds=1e9,
    )
    step = Stepper(run, torch.optim.SGD(task.start(stage), lr=LR, fused=True))
    while True:
        for images, labels in pictures():
            step(Batch(images, torch.zeros(BATCH), labels, {}))
            run.position.step += 1
            yield


def _no_images() -> ImageIndex:
    return ImageIndex.__new__(ImageIndex)


LOOPS = {
    "plain": lambda bfloat16: plain(False, bfloat16),
    "plain, channels last": lambda bfloat16: plain(True, bfloat16),
    "deepme": ours,
}


def images_a_second(name: str, bfloat16: bool) -> float:
    """Time one loop in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = LOOPS[name](bfloat16)
    for _ in range(WARM_UP):
        next(steps)
    started = time.perf_counter()
    for _ in range(STEPS):
        next(steps)
    return STEPS * BATCH / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", help="used within: one loop, as JSON on stdout")
    arguments = parser.parse_args()
    if arguments.one:
        name, precision = arguments.one.split("/")
        print(json.dumps(images_a_second(name, precision == "bfloat16")))
        return
    rows: dict[str, dict[str, Any]] = {}
    for precision in ("float32", "bfloat16"):
        speeds: dict[str, list[float]] = {name: [] for name in LOOPS}
        peaks: dict[str, float] = {}
        for _ in range(arguments.rounds):
            for name in LOOPS:
                command = [sys.executable, __file__, "--one", f"{name}/{precision}"]
                used, printed = measure(command)
                speeds[name].append(float(printed))
                peaks[name] = max(peaks.get(name, 0.0), used["peak_mb"])
        for name, values in speeds.items():
            ratios = np.array(speeds["deepme"]) / np.array(values)
            rows[f"{name}, {precision}"] = {
                "images_a_second": statistics.median(values),
                "deepme_is_times_as_fast": float(np.median(ratios)),
                "least": float(ratios.min()),
                "most": float(ratios.max()),
                "peak_mb": peaks[name],
            }
            print(f"{name}, {precision}", rows[f"{name}, {precision}"])
    record(
        "training-step",
        command="python tests/benchmarks/training_step.py",
        packages=PACKAGES,
        figures={
            "setting": {
                "backbone": "vgg_small",
                "image_size": SIZE,
                "batch_size": BATCH,
                "threads": 1,
                "rounds": arguments.rounds,
            },
            "loop": rows,
        },
    )


if __name__ == "__main__":
    main()
