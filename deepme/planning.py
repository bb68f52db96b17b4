"""plan: what a run will take, from a short measurement on this machine."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from deepme.artifacts.groups import Groups
from deepme.artifacts.split import SUBSETS, Split
from deepme.config import NetworkSettings
from deepme.devices import Compute, choose_compute
from deepme.errors import InputError
from deepme.experts import slots_of
from deepme.images.loading import ImageDataset, evaluation_batches, training_batches
from deepme.networks import create_network
from deepme.outputs import num_bytes
from deepme.progress import note
from deepme.recipe import Recipe
from deepme.workspace import Workspace

MEASURE_SECONDS = 2.0
SAMPLE = 512


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
    """

    training: float
    forward: float
    loading: float
    memory: int
    weights: int


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """What one command will take.

    Attributes:
        command: its name.
        passes: images through a network, counted once for each pass.
        seconds: of wall time, training and loading side by side.
        disk: bytes it writes and keeps, checkpoints of unfinished work included.
    """

    command: str
    passes: int
    seconds: float
    disk: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole run.

    Attributes:
        classes: N.
        images: of train, val and test.
        groups: T.
        largest: training images of the largest group.
        device: that was measured.
        at_a_time: experts trained side by side.
        speed: what was measured.
        stages: in order.
        free: bytes free where the workspace is.
    """

    classes: int
    images: dict[str, int]
    groups: int
    largest: int
    device: str
    at_a_time: int
    speed: Speed
    stages: tuple[PlannedStage, ...]
    free: int

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def disk(self) -> int:
        """Bytes of all stages."""
        return sum(stage.disk for stage in self.stages)


def plan(recipe: Recipe, workspace: Workspace) -> Plan:
    """Measure a few steps and count what each stage has to do.

    Args:
        recipe: the settings of all stages.
        workspace: with similarity.h5, groups.json and split.h5, which take minutes at
            most and decide how much there is to do.

    Returns:
        Time and disk of each stage that trains or evaluates.

    Raises:
        ArtifactError: one of the three is missing or stale.
        InputError: the split has no training image.
    """
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    compute = choose_compute(recipe.machine, recipe.expert.precision)
    counts = split.counts
    of_group = [int(counts[0, members].sum()) for members in groups.members]
    if not max(of_group):
        raise InputError(
            "the split has no training image to measure with",
            "rerun `deepme split --data IMAGES`",
        )
    speed = _measure(recipe.expert, split, groups, compute)
    at_a_time = len(slots_of(recipe.machine, groups.num_groups))
    return Plan(
        classes=groups.num_classes,
        images=dict(zip(SUBSETS, counts.sum(axis=1).tolist(), strict=True)),
        groups=groups.num_groups,
        largest=max(of_group),
        device=_name(compute),
        at_a_time=at_a_time,
        speed=speed,
        stages=_stages(recipe, speed, counts, groups, of_group, at_a_time),
        free=_free(workspace),
    )


def _stages(
    recipe: Recipe,
    speed: Speed,
    counts: NDArray[np.int64],
    groups: Groups,
    of_group: list[int],
    at_a_time: int,
) -> tuple[PlannedStage, ...]:
    images = counts.sum(axis=1).tolist()
    workers = recipe.machine.workers
    stages = []

    def training(settings: NetworkSettings, own: int) -> tuple[int, float]:
        warm_up = own * settings.warmup_epochs
        fine = own * settings.epochs
        seconds = _seconds(warm_up, speed.forward, speed, workers)
        seconds += _seconds(fine, speed.training, speed, workers)
        return warm_up + fine, seconds

    if recipe.needs_flat:
        passes, seconds = training(recipe.flat, images[0])
        stages.append(
            PlannedStage(
                command="train-flat",
                passes=passes,
                seconds=seconds,
                disk=3 * speed.weights,
            )
        )
    each = [
        training(recipe.expert, round(own * (1 + recipe.expert.others)))
        for own in of_group
    ]
    stages.append(
        PlannedStage(
            command="train-expert",
            passes=sum(passes for passes, _ in each),
            seconds=_makespan([seconds for _, seconds in each], at_a_time),
            disk=(groups.num_groups + 2 * at_a_time) * speed.weights,
        )
    )

    def outputs(rows: int) -> int:
        sizes = [len(members) for members in groups.members]
        return sum(num_bytes(rows, size, recipe.machine) for size in sizes)

    sees, num_groups = recipe.gate.input, groups.num_groups
    asked = (num_groups + (sees == "flat")) * (images[0] + images[1])
    learned = images[0] * recipe.gate.epochs if sees == "images" else 0
    stages.append(
        PlannedStage(
            command="train-gate",
            passes=asked + learned,
            seconds=_seconds(asked, speed.forward, speed, workers)
            + _seconds(learned, speed.training, speed, workers),
            disk=outputs(images[0]) + outputs(images[1]) + 3 * speed.weights,
        )
    )
    tested = (num_groups + (sees in ("images", "flat"))) * images[2]
    stages.append(
        PlannedStage(
            command="evaluate",
            passes=tested,
            seconds=_seconds(tested, speed.forward, speed, workers),
            disk=outputs(images[2]),
        )
    )
    return tuple(stages)


def _seconds(passes: int, rate: float, speed: Speed, workers: int) -> float:
    """Wall time; worker processes load while the network computes."""
    computing = passes / rate
    loading = passes / (speed.loading * max(1, workers))
    return max(computing, loading) if workers else computing + loading


def _makespan(seconds: list[float], at_a_time: int) -> float:
    """When the last is done, if the longest go first."""
    slots = [0.0] * at_a_time
    for longest in sorted(seconds, reverse=True):
        slots[slots.index(min(slots))] += longest
    return max(slots)


def _measure(
    settings: NetworkSettings, split: Split, groups: Groups, compute: Compute
) -> Speed:
    note("measuring a few steps on this machine")
    size = max(len(members) for members in groups.members)
    network = create_network(
        settings.backbone, size, weights="none", image_size=settings.image_size
    ).to(compute.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9, fused=True)
    shape = (settings.batch_size, 3, settings.image_size, settings.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=compute.device)
    labels = torch.randint(0, size, (settings.batch_size,), device=compute.device)

    def train() -> int:
        with compute.autocast():
            logits, _ = network(images)
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return len(images)

    def forward() -> int:
        with torch.inference_mode(), compute.autocast():
            network(images)
        return len(images)

    training = _rate(train, compute)
    memory = _peak(compute)
    network.eval()
    weights = sum(value.nbytes for value in network.state_dict().values())
    return Speed(
        training=training,
        forward=_rate(forward, compute),
        loading=_loading(settings, split),
        memory=memory,
        weights=weights,
    )


def _rate(work: Callable[[], int], compute: Compute) -> float:
    """Images a second of some work, after two tries that do not count."""
    for _ in range(2):
        work()
    _wait(compute)
    started, done = time.perf_counter(), 0
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


def _wait(compute: Compute) -> None:
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)


def _peak(compute: Compute) -> int:
    if compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(compute.device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _name(compute: Compute) -> str:
    if compute.device.type == "cuda":
        return torch.cuda.get_device_name(compute.device)
    return f"CPU, {torch.get_num_threads()} threads"


def _free(workspace: Workspace) -> int:
    return shutil.disk_usage(workspace.root).free
