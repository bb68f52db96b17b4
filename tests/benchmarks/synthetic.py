"""A workspace whose experts' outputs are drawn, for any number of classes and images.

Similarity and groups are real; no image, no network exists. An expert gives the true
class, where it holds it, a logit of 7 ± 2 and all others 0 ± 1.5; of an image of
another group it has nothing to say. Its 16 features tell the group, so that a gate on
features can learn it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import numpy as np

from deepme import asking, outputs
from deepme.artifacts.expert import KIND, SCHEMA, Training, save_training
from deepme.artifacts.outputs import Answer, Batch
from deepme.artifacts.paths import PackedPaths
from deepme.artifacts.split import ImageIndex, save_split, split_header
from deepme.config import GateSettings, MachineSettings
from deepme.devices import choose_compute
from deepme.steps import train_gate
from deepme.storage.header import Header
from deepme.workspace import Workspace

FEATURES = 16
POOL = 2**20


def machine(form: str) -> MachineSettings:
    """One thread, no workers, and the form of the outputs."""
    return MachineSettings(device="cpu", workers=0, threads=1, outputs=form)


def write_split(workspace: Workspace, images: dict[str, int]) -> None:
    """Write an index of images that are not there, spread over all classes.

    Args:
        workspace: with groups.json.
        images: train, val and test -> how many.
    """
    groups = workspace.groups()
    total = sum(images.values())
    subset = np.repeat(np.arange(3, dtype=np.uint8), [*images.values()])
    none = np.empty(0)
    index = ImageIndex(
        root=Path("/synthetic"),
        paths=PackedPaths.pack(repeat("x", total)),
        label=np.sort(np.arange(total) % groups.num_classes).astype(np.int32),
        archives=(),
        archive=none.astype(np.int16),
        offset=none.astype(np.int64),
        size=none.astype(np.uint32),
    )
    header = split_header(groups.origin.header.classes, {"images": total})
    shuffled = np.random.default_rng(0).permutation(subset)
    save_split(workspace.split_path, header, index, shuffled, groups.num_classes)


def write_experts(workspace: Workspace) -> None:
    """Write a training.json for each group; there are no weights."""
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    for group in groups.content.groups:
        training = Training(
            group=group.number,
            outputs=group.classes,
            num_features=FEATURES,
            images=1,
            backbone="vgg_tiny",
            image_size=8,
            history=(),
            skipped=(),
            versions={},
        )
        header = Header(
            kind=KIND,
            schema_version=SCHEMA,
            settings={},
            classes=groups.origin.header.classes,
            made_from=workspace.made_from(groups.origin, split.origin),
        )
        path = workspace.expert_path(group.number)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_training(path, header, training)


class Drawn:
    """In place of a network: what it would say is drawn from the labels."""

    def __init__(self, number: int, workspace: Workspace) -> None:
        """Look up the classes, and draw noise to cut rows out of."""
        groups = workspace.groups()
        members = groups.members[number - 1]
        self.position = np.full(groups.num_classes, -1)
        self.position[members] = np.arange(len(members))
        self.num_outputs, self.number = len(members), number
        self.rng = np.random.default_rng(number)
        self.pool = self.rng.normal(0, 1.5, POOL).astype(np.float32)
        self.first = np.stack([(m < 0) for m in self._holders(groups)])

    def _holders(self, groups):
        for members in groups.members:
            position = np.full(groups.num_classes, -1)
            position[members] = 0
            yield position

    def to(self, _device: object) -> Drawn:
        """Go nowhere."""
        return self

    def batches(self, labels: np.ndarray) -> Iterator[Answer]:
        """Give logits and features in batches."""
        rows = np.lib.stride_tricks.sliding_window_view(self.pool, self.num_outputs)
        for start in range(0, len(labels), asking.BATCH_SIZE):
            some = labels[start : start + asking.BATCH_SIZE]
            logits = rows[self.rng.integers(0, len(rows), len(some))]
            place = self.position[some]
            known = np.flatnonzero(place >= 0)
            logits[known, place[known]] = self.rng.normal(7, 2, len(known))
            features = self.rng.normal(0, 1, (len(some), FEATURES))
            holds = ~self.first[:FEATURES, some]
            features[:, : len(holds)] += 2 * holds.T
            yield logits, features.astype(np.float32)


def write_outputs(workspace: Workspace, subset: str, form: str) -> None:
    """Have every expert "asked" about a subset."""
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    labels = split.images.label

    outputs.load_network = lambda expert, at: Drawn(expert.training.group, at)
    outputs.answers = drawn_answers(labels)
    outputs.outputs_of_experts(
        workspace,
        groups,
        split,
        subset,
        compute=choose_compute(machine(form), "float32"),
        machine=machine(form),
        with_features=True,
    )


def drawn_answers(labels: np.ndarray) -> Callable[..., Iterator[Batch]]:
    """In place of `asking.answers`, for drawn networks."""

    def answers(
        networks: list[Drawn], images: object, rows: np.ndarray, **_: object
    ) -> Iterator[Batch]:
        start = 0
        for batch in zip(
            *(each.batches(labels[rows]) for each in networks), strict=True
        ):
            stop = start + len(batch[0][0])
            yield slice(start, stop), batch, np.ones(stop - start, dtype=bool)
            start = stop

    return answers


def train_a_gate(workspace: Workspace, form: str) -> None:
    """Train a gate on the drawn features, for two epochs."""
    settings = GateSettings(
        input="features", weights="none", epochs=2, batch_size=256, lr=0.05
    )
    train_gate.run(settings, machine(form), workspace)
