"""plan: what a run will take, from a short measurement on this machine."""

from __future__ import annotations

import shutil
from dataclasses import astuple, dataclass
from operator import add

import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.groups import Groups
from deepme.artifacts.split import SUBSETS
from deepme.asking import num_passes
from deepme.config import AttentionSettings, GateSettings, NetworkSettings
from deepme.devices import choose_compute
from deepme.errors import InputError
from deepme.experts import slots_of
from deepme.measuring import Speed, measure, name_of
from deepme.outputs import num_bytes
from deepme.recipe import Recipe
from deepme.systems import NEEDS_FLAT, NEEDS_GATE, WHOLE
from deepme.workspace import Workspace


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
        backbone: of the experts.
        image_size: pixels a side of what they see.
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
    backbone: str
    image_size: int
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
    speed = measure(recipe.expert, split, groups, compute)
    at_a_time = len(slots_of(recipe.machine, groups.num_groups))
    counter = _Counter(
        recipe=recipe, speed=speed, counts=counts, groups=groups, at_a_time=at_a_time
    )
    return Plan(
        classes=groups.num_classes,
        images=dict(zip(SUBSETS, counts.sum(axis=1).tolist(), strict=True)),
        groups=groups.num_groups,
        largest=max(of_group),
        backbone=recipe.expert.backbone,
        image_size=recipe.expert.image_size,
        device=name_of(compute),
        at_a_time=at_a_time,
        speed=speed,
        stages=counter.stages(),
        free=shutil.disk_usage(workspace.root).free,
    )


@dataclass(frozen=True)
class _Work:
    """Images through a network, by what is done with them.

    Attributes:
        learned: forward, backward and update.
        asked: forward alone.
        shared: those of both whose image was loaded for another network; below 0 where
            a pass is a small part of one.
        heads: features from a cache through a head that learns, or is validated.
    """

    learned: int = 0
    asked: int = 0
    shared: int = 0
    heads: int = 0

    def times(self, number: int) -> _Work:
        return _Work(*(number * count for count in astuple(self)))

    def __add__(self, other: _Work) -> _Work:
        return _Work(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, kw_only=True)
class _Counter:
    """Counts what each stage has to do.

    Attributes:
        recipe: the settings.
        speed: what was measured.
        counts: (3, N) images per subset and class.
        groups: the experts' classes.
        at_a_time: experts trained side by side.
    """

    recipe: Recipe
    speed: Speed
    counts: NDArray[np.int64]
    groups: Groups
    at_a_time: int

    def stages(self) -> tuple[PlannedStage, ...]:
        stages = [self._experts(), self._gate()]
        if self.recipe.needs_flat:
            stages.insert(0, self._flat())
        if "attention" in self.recipe.evaluate.fusion:
            stages.append(self._attention())
        return (*stages, self._evaluation())

    def _flat(self) -> PlannedStage:
        settings = self.recipe.flat
        work = self._schedule(settings, self._images("train"), self._images("val"))
        disk = 3 * self.speed.weights
        if _cached(settings):
            work += _Work(asked=self._images("train", "val"))
            disk += self._features("train", "val")
        return self._stage("train-flat", work, disk)

    def _experts(self) -> PlannedStage:
        recipe, settings = self.recipe, self.recipe.expert
        each = [
            self._schedule(settings, round(train * (1 + settings.others)), val)
            for train, val, _ in (
                self.counts[:, members].sum(axis=1).tolist()
                for members in self.groups.members
            )
        ]
        shared, disk = _Work(), 0
        known = recipe.needs_flat and _cached(recipe.flat)
        if _cached(settings) and not (
            known and _trunk(recipe.flat) == _trunk(settings)
        ):
            shared = _Work(asked=self._images("train", "val"))
            disk = self._features("train", "val")
        side_by_side = _makespan([self._seconds(work) for work in each], self.at_a_time)
        return PlannedStage(
            command="train-expert",
            passes=sum(work.learned + work.asked for work in (shared, *each)),
            seconds=self._seconds(shared) + side_by_side,
            disk=disk + (len(each) + 2 * self.at_a_time) * self.speed.weights,
        )

    def _gate(self) -> PlannedStage:
        settings = self.recipe.gate
        seen = sorted({settings.learn_from, "val"})
        work = self._asked_in_passes(self._images(*seen))
        disk = self._outputs(*seen) + 3 * self.speed.weights
        if settings.input == "images":
            # Of images that it has learned by heart none is validated.
            val = self._images("val") if settings.learn_from == "train" else 0
            learned = self._images(settings.learn_from)
            work += self._by_gate(learned, val).times(settings.epochs)
            if _cached(settings):
                work += self._by_gate(0, self._images(*seen))
                work += _Work(heads=learned + val).times(settings.warmup_epochs)
                disk += self._features(*seen)
            else:
                warm_up = self._by_gate(0, learned + val)
                work += warm_up.times(settings.warmup_epochs)
        elif settings.input == "flat":
            work += _Work(asked=self._images(*seen))
            disk += self._outputs_of_all(*seen) + self._features(*seen)
        else:
            disk += self.groups.num_groups * self._features(*seen)
        return self._stage("train-gate", work, disk)

    def _attention(self) -> PlannedStage:
        settings, num_groups = self.recipe.attention, self.groups.num_groups
        train, val = self._images("train"), self._images("val")
        work = self._by_all_at_once(_Work(train, val)).times(settings.epochs)
        disk = 3 * num_groups * self.speed.weights
        if _cached(settings):
            work += self._asked_in_passes(train + val)
            heads = _Work(heads=num_groups * (train + val))
            work += heads.times(settings.warmup_epochs)
            disk += num_groups * self._features("train", "val")
        else:
            warm_up = self._by_all_at_once(_Work(asked=train + val))
            work += warm_up.times(settings.warmup_epochs)
        return self._stage("train-attention", work, disk)

    def _evaluation(self) -> PlannedStage:
        """Count validation images as well: temperatures are fitted on them."""
        fusions, sees = {*self.recipe.evaluate.fusion}, self.recipe.gate.input
        test, both = self._images("test"), self._images("val", "test")
        work, disk = _Work(), 0
        if not fusions <= WHOLE:
            work += self._asked_in_passes(test)
            disk += self._outputs("test")
        if fusions & NEEDS_GATE and sees == "images":
            work += self._by_gate(0, both)
        if fusions & NEEDS_GATE and sees == "flat":
            work += _Work(asked=test)
        if fusions & NEEDS_FLAT:
            work += _Work(asked=both)
            disk += self._outputs_of_all("val", "test")
        if "attention" in fusions:
            work += self._by_all_at_once(_Work(asked=both))
            disk += self._outputs_of_all("val", "test")
        return self._stage("evaluate", work, disk)

    def _by_gate(self, learned: int, asked: int) -> _Work:
        """Passes of a gate on images, as shares of an expert's where they are smaller.

        Loading an image costs it the same.
        """
        area = self.recipe.gate.shrink**2
        loaded = learned + asked
        learned, asked = learned // area, asked // area
        return _Work(learned, asked, shared=learned + asked - loaded)

    def _asked_in_passes(self, images: int) -> _Work:
        """All experts, as many in a pass over the images as `asking` takes."""
        number = self.groups.num_groups
        loads = num_passes(number, self.speed.weights)
        return _Work(asked=number * images, shared=(number - loads) * images)

    def _by_all_at_once(self, work: _Work) -> _Work:
        """Work of one network whose every image all experts see."""
        others = self.groups.num_groups - 1
        shared = _Work(shared=others * (work.learned + work.asked))
        return work.times(others + 1) + shared

    def _stage(self, command: str, work: _Work, disk: int) -> PlannedStage:
        return PlannedStage(
            command=command,
            passes=work.learned + work.asked,
            seconds=self._seconds(work),
            disk=disk,
        )

    def _schedule(self, settings: NetworkSettings, train: int, val: int) -> _Work:
        """Count one network's epochs, each of which ends with its validation images."""
        if _cached(settings):
            warm_up = _Work(heads=train + val)
        else:
            warm_up = _Work(asked=train + val)
        fine = _Work(train, val)
        return warm_up.times(settings.warmup_epochs) + fine.times(settings.epochs)

    def _seconds(self, work: _Work) -> float:
        """Wall time; worker processes load while the network computes."""
        speed, workers = self.speed, self.recipe.machine.workers
        loaded = work.learned + work.asked - work.shared
        loading = loaded / (speed.loading * max(1, workers))
        computing = work.learned / speed.training + work.asked / speed.forward
        both = max(computing, loading) if workers else computing + loading
        return both + work.heads / speed.head

    def _images(self, *subsets: str) -> int:
        return int(self.counts[[SUBSETS.index(name) for name in subsets]].sum())

    def _features(self, *subsets: str) -> int:
        """Bytes of one network's cached features, half precision."""
        return self._images(*subsets) * (2 * self.speed.features + 1)

    def _outputs_of_all(self, *subsets: str) -> int:
        """Bytes of the outputs of one network of all classes."""
        return sum(
            num_bytes(
                self._images(subset), self.groups.num_classes, self.recipe.machine
            )
            for subset in subsets
        )

    def _outputs(self, *subsets: str) -> int:
        """Bytes of all experts' outputs."""
        return sum(
            num_bytes(self._images(subset), len(members), self.recipe.machine)
            for subset in subsets
            for members in self.groups.members
        )


def _cached(settings: NetworkSettings | GateSettings | AttentionSettings) -> bool:
    return settings.warmup == "cache" and settings.warmup_epochs > 0


def _trunk(settings: NetworkSettings) -> tuple[str, int, str]:
    """What a cache of features depends on."""
    return settings.backbone, settings.image_size, settings.weights


def _makespan(seconds: list[float], at_a_time: int) -> float:
    """When the last is done, if the longest go first."""
    slots = [0.0] * at_a_time
    for longest in sorted(seconds, reverse=True):
        slots[slots.index(min(slots))] += longest
    return max(slots)
