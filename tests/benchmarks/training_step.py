"""Compare training steps with a plain PyTorch loop, side by side.

    python tests/benchmarks/training_step.py
    python tests/benchmarks/training_step.py --device cuda

On the CPU both train vgg_small on the same batches of random pictures that are in
memory: the plain loop as PyTorch's tutorials write it, and the same with the channels
innermost; ours is the loop of train-flat, with its checks and its figures, as it is and
with ``--compile``. On a GPU it is vgg16 at 224 pixels with 256 images in bfloat16,
against the step of timm's training script with its best flags (``--amp --amp-dtype
bfloat16 --channels-last --fused``, and with ``--torchcompile``), and the achieved share
of what a large matrix product reaches. Each round runs every loop once, in a process of
its own; the figures are medians over rounds. Writes
docs/benchmarks/training-step[-cuda].json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from recording import record
from torch import Tensor, nn

from deepme.artifacts.split import ImageIndex
from deepme.config import FlatSettings, MachineSettings
from deepme.devices import choose_compute
from deepme.images.loading import Batch
from deepme.images.unreadable import UnreadableImages
from deepme.networks import create_network, forward_flops
from deepme.small_vgg import SmallVGG
from deepme.storage.header import Header
from deepme.training.classifier import ClassifierTask
from deepme.training.run import Run, Stage
from deepme.training.stepping import Stepper

PACKAGES = ("deepme", "torch", "torchvision", "timm")
LR = 0.01


class Setting(NamedTuple):
    """What is trained on a kind of device, and for how long."""

    backbone: str
    size: int
    batch: int
    classes: int
    warm_up: int
    steps: int


SETTINGS = {
    "cpu": Setting("vgg_small", 32, 64, 100, 3, 20),
    "cuda": Setting("vgg16", 224, 256, 1000, 20, 60),
}


def pictures(device: str) -> list[tuple[Tensor, Tensor]]:
    """Four batches of noise, as bytes, with labels; pinned for a GPU."""
    setting = SETTINGS[device]
    generator = torch.Generator().manual_seed(0)
    shape = (setting.batch, 3, setting.size, setting.size)
    batches = [
        (
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            torch.randint(0, setting.classes, (setting.batch,), generator=generator),
        )
        for _ in range(4)
    ]
    if device == "cuda":
        return [
            (images.pin_memory(), labels.pin_memory()) for images, labels in batches
        ]
    return batches


def plain(channels_last: bool, bfloat16: bool) -> Iterator[None]:
    """The loop of the tutorials."""
    network = nn.Sequential(SmallVGG(num_classes=SETTINGS["cpu"].classes))
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9)
    mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
    while True:
        for images, labels in pictures("cpu"):
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


def timm_step(compiled: bool) -> Iterator[None]:
    """What timm's train.py does in a step, with its GPU prefetcher's normalisation."""
    setting = SETTINGS["cuda"]
    device = torch.device("cuda")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    network = timm.create_model(setting.backbone, num_classes=setting.classes)
    network.to(device=device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=LR, momentum=0.9, nesterov=True, fused=True
    )
    forward = torch.compile(network) if compiled else network
    mean = torch.tensor((0.485, 0.456, 0.406), device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor((0.229, 0.224, 0.225), device=device).view(1, 3, 1, 1) * 255
    while True:
        for images, labels in pictures("cuda"):
            pixels = images.to(device, non_blocking=True).float().sub_(mean).div_(std)
            target = labels.to(device, non_blocking=True)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cuda", torch.bfloat16):
                loss = nn.functional.cross_entropy(forward(pixels), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def ours(device: str, bfloat16: bool, compiled: bool) -> Iterator[None]:
    """The loop of train-flat without its reading of images."""
    setting = SETTINGS[device]
    precision = "bfloat16" if bfloat16 else "float32"
    machine = MachineSettings(device=device, workers=0, threads=1, compile=compiled)
    compute = choose_compute(machine, precision)
    task = ClassifierTask.__new__(ClassifierTask)
    network = create_network(
        setting.backbone, setting.classes, weights="none", image_size=setting.size
    ).to(compute.device)
    if compiled:
        network.compile()
    settings = FlatSettings(weights="none", precision=precision)
    task.settings, task.network, task.compute = settings, network, compute
    task.frozen, task.in_warmup = None, False
    task.position_N = torch.arange(setting.classes)
    stage = Stage(name="finetune", epochs=1, lr=LR, lr_end=LR)
    run = Run(
        label="benchmark",
        task=task,
        stages=(stage,),
        unreadable=UnreadableImages(_no_images(), 0, False, 0.0),
        checkpoint=Path("never"),
        identity=Header(kind="benchmark", schema_version=1),
        device=compute.device,
        batch_size=setting.batch,
        checkpoint_seconds=1e9,
    )
    step = Stepper(run, torch.optim.SGD(task.start(stage), lr=LR, fused=True))
    while True:
        for images, labels in pictures(device):
            step(Batch(images, torch.zeros(len(images)), labels, {}))
            run.position.step += 1
            yield


def _no_images() -> ImageIndex:
    return ImageIndex.__new__(ImageIndex)


LOOPS: dict[str, dict[str, Callable[[bool], Iterator[None]]]] = {
    "cpu": {
        "plain": lambda bfloat16: plain(False, bfloat16),
        "plain, channels last": lambda bfloat16: plain(True, bfloat16),
        "deepme": lambda bfloat16: ours("cpu", bfloat16, False),
        "deepme --compile": lambda bfloat16: ours("cpu", bfloat16, True),
    },
    "cuda": {
        "timm": lambda _: timm_step(False),
        "timm --torchcompile": lambda _: timm_step(True),
        "deepme --no-compile": lambda _: ours("cuda", True, False),
        "deepme": lambda _: ours("cuda", True, True),
    },
}


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def images_a_second(device: str, name: str, bfloat16: bool) -> float:
    """Time one loop in this process."""
    setting = SETTINGS[device]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = LOOPS[device][name](bfloat16)
    for _ in range(setting.warm_up):
        next(steps)
    wait(device)
    started = time.perf_counter()
    for _ in range(setting.steps):
        next(steps)
    wait(device)
    return setting.steps * setting.batch / (time.perf_counter() - started)


def share_of_peak(images_a_second: float) -> float:
    """Achieved operations over those of a bfloat16 product of large matrices."""
    setting = SETTINGS["cuda"]
    left, right = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    for repeat in range(60):
        if repeat == 10:
            wait("cuda")
            started = time.perf_counter()
        left @ right
    wait("cuda")
    peak = 50 * 2 * 8192**3 / (time.perf_counter() - started)
    network = create_network(
        setting.backbone, setting.classes, weights="none", image_size=setting.size
    )
    return 3 * forward_flops(network, setting.size) * images_a_second / peak


def in_fork(device: str, name: str, bfloat16: bool) -> tuple[float, float]:
    """Images a second and peak MB of one loop in a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        # A fork starts without the import of torch; no GPU was touched before it.
        os.write(writer, str(images_a_second(device, name, bfloat16)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        printed = told.read()
    _, status, usage = os.wait4(pid, 0)
    if status or not printed:
        raise SystemExit(f"{name} ended with status {status}")
    return float(printed), usage.ru_maxrss / 1024


def main() -> None:
    # `cuda.is_available` shall not start CUDA, which no fork survives.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    device, loops = arguments.device, LOOPS[arguments.device]
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: there is no GPU here")
    rows: dict[str, dict[str, Any]] = {}
    for precision in ("float32", "bfloat16") if device == "cpu" else ("bfloat16",):
        speeds: dict[str, list[float]] = {name: [] for name in loops}
        peaks: dict[str, float] = {}
        for _ in range(arguments.rounds):
            for name in loops:
                speed, peak = in_fork(device, name, precision == "bfloat16")
                speeds[name].append(speed)
                peaks[name] = max(peaks.get(name, 0.0), peak)
        for name, values in speeds.items():
            ratios = np.array(speeds["deepme"]) / np.array(values)
            rows[f"{name}, {precision}"] = {
                "images_a_second": statistics.median(values),
                "deepme_is_times_as_fast": float(np.median(ratios)),
                "least": float(ratios.min()),
                "most": float(ratios.max()),
                "peak_mb": peaks[name],
            }
            if device == "cuda":
                share = share_of_peak(statistics.median(values))
                rows[f"{name}, {precision}"]["share_of_matrix_peak"] = share
            print(f"{name}, {precision}", rows[f"{name}, {precision}"])
    suffix, option = ("-cuda", " --device cuda") if device == "cuda" else ("", "")
    record(
        f"training-step{suffix}",
        command=f"python tests/benchmarks/training_step.py{option}",
        packages=PACKAGES,
        figures={
            "setting": SETTINGS[device]._asdict()
            | {"threads": 1, "rounds": arguments.rounds},
            "loop": rows,
        },
    )


if __name__ == "__main__":
    main()
