"""How fast this machine trains, asks and loads: a few steps of each."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from deepme.artifacts.groups import Groups
from deepme.artifacts.split import Split
from deepme.config import NetworkSettings
from deepme.devices import Compute
from deepme.images.loading import ImageDataset, evaluation_batches, training_batches
from deepme.networks import create_network
from deepme.progress import note

MEASURE_SECONDS = 2.0
SAMPLE = 512
ON_CPU = 4
"""Images a step at most on a CPU, where more are no faster and 256 take minutes."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured.

    Attributes:
        training: images a second through forward and backward pass and update.
        forward: images a second through the forward pass alone.
        loading: images a second that one process reads, decodes and crops.
        memory: peak bytes of a training step, on the GPU where there is one, else of
            this process.
        weights: bytes of one expert's weights.
        head: images a second that a head alone learns from cached features.
        features: d, of the backbone.
    """

    training: float
    forward: float
    loading: float
    memory: int
    weights: int
    head: float
    features: int


def measure(
    settings: NetworkSettings, split: Split, groups: Groups, compute: Compute
) -> Speed:
    """Time a few steps of training, of asking and of loading.

    Args:
        settings: of the experts.
        split: with at least one training image.
        groups: of which the largest is measured.
        compute: the device.
    """
    note("measuring a few steps on this machine")
    size = max(len(members) for members in groups.members)
    network = create_network(
        settings.backbone, size, weights="none", image_size=settings.image_size
    ).to(compute.device)
    batch = settings.batch_size
    if compute.device.type == "cpu":
        batch = min(batch, ON_CPU)
    shape = (batch, 3, settings.image_size, settings.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=compute.device)
    labels = torch.randint(0, size, (settings.batch_size,), device=compute.device)
    num_features = network.head.in_features
    features = torch.rand(len(labels), num_features, device=compute.device)

    def forward() -> int:
        with torch.inference_mode(), compute.autocast():
            network(images)
        return len(images)

    learn = _step_of(network, lambda: network(images)[0], labels[:batch], compute)
    learn_head = _step_of(network.head, lambda: network.head(features), labels, compute)
    training = _rate(learn, compute)
    memory = _peak(compute)
    if batch < settings.batch_size:
        memory += (settings.batch_size - batch) * _kept_an_image(network, images)
    network.eval()
    return Speed(
        training=training,
        forward=_rate(forward, compute),
        head=_rate(learn_head, compute),
        loading=_loading(settings, split),
        memory=memory,
        weights=sum(value.nbytes for value in network.state_dict().values()),
        features=num_features,
    )


def _step_of(
    part: nn.Module, answer: Callable[[], Tensor], labels: Tensor, compute: Compute
) -> Callable[[], int]:
    """A training step of a network or its head; it returns the number of images."""
    optimizer = torch.optim.SGD(part.parameters(), lr=1e-6, momentum=0.9, fused=True)

    def step() -> int:
        with compute.autocast():
            logits = answer()
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return len(labels)

    return step


def _rate(work: Callable[[], int], compute: Compute) -> float:
    """Images a second of some work, after a try or two that do not count."""
    started, done = time.perf_counter(), 0
    for _ in range(2):
        work()
        _wait(compute)
        if time.perf_counter() - started > MEASURE_SECONDS:
            break
    started = time.perf_counter()
    while time.perf_counter() - started < MEASURE_SECONDS:
        done += work()
        _wait(compute)
    return done / (time.perf_counter() - started)


def _loading(settings: NetworkSettings, split: Split) -> float:
    """Images a second of one process, over images from all of the training set."""
    rows = split.rows("train")
    sample = np.random.default_rng(0).choice(rows, min(SAMPLE, len(rows)), False)
    augment = settings.augment == "crop"
    dataset = ImageDataset(
        split.images, size=settings.image_size, augment=augment, seed=0
    )
    started = time.perf_counter()
    batches = (
        training_batches(dataset, sample, 64, epochs=range(1), first_step=0, workers=0)
        if augment
        else evaluation_batches(dataset, sample, 64, 0)
    )
    for _ in batches:
        pass
    return len(sample) / (time.perf_counter() - started)


def _kept_an_image(network: nn.Module, images: Tensor) -> int:
    """Bytes of what the backward pass needs of each image."""
    weights = {weight.data_ptr() for weight in network.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        if value.data_ptr() not in weights:
            kept[value.data_ptr()] = value.nbytes
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        network(images)
    return sum(kept.values()) // len(images)


def _wait(compute: Compute) -> None:
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)


def _peak(compute: Compute) -> int:
    if compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(compute.device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def name_of(compute: Compute) -> str:
    """The device, for people."""
    if compute.device.type == "cuda":
        return torch.cuda.get_device_name(compute.device)
    return f"CPU, {torch.get_num_threads()} threads"
