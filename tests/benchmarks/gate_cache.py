"""Compare a gate's training on cached outputs with asking the experts in every epoch.

    python tests/benchmarks/gate_cache.py

Pictures of 60 classes are drawn (tests/benchmarks/pictures.py), and there are 15
experts with their first weights: speed does not depend on what they have learned. Then
`train-gate` trains three of its kinds of gate: on the flat network, on the experts'
features, and a network on images as large as an expert; and that network once more
with its trunk frozen (`--warmup-epochs`), on images of half the pixels a side
(`--shrink 2`), and for experts that are eight times as large (vgg_medium). *cached* is
what the command does: the experts are asked once, as is a frozen trunk, and what they
said is read from disk. *anew* has the same loop, loader, images kept in memory, loss
and order of images, but runs the 15 networks (and the flat one, where the gate sees it,
and the frozen trunk) on each batch. Both see centre views, so both must come to the
same losses, but for features, which a cache has in half precision:
``largest_difference_of_losses`` is how far those of an epoch lie apart, as a share.

Each training is a process of its own on one thread, and both ways take turns. All
seconds are of the processor and medians of the rounds. An epoch is one after the first,
which decodes the images where a gate sees them. A whole training counts that as well,
and what comes before: *anew* loads the experts, *cached* makes the outputs, for which
one pass over the images asks all networks. That of 20 epochs is not run, but reckoned
from these. A gate on images pays its own pass, forward and backward, in both
ways: with networks as large as its own (15 + 3) / 3 = 6 is the most that there can be,
with images of half the side (15 + 3/4) / (3/4) = 21.
Writes docs/benchmarks/gate-cache.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pictures import deepme, write_classes, write_pictures
from recording import measure, record

PACKAGES = ("deepme", "torch", "torchvision", "timm")
BACKBONE, SIZE, BATCH = "vgg_tiny", 32, 64
"""The backbone of every gate on images."""

CLASSES, IMAGES, GROUPS = 60, 40, 15
EPOCHS, USUAL_EPOCHS, ROUNDS = 3, 20, 2
INPUTS, WAYS = ("flat", "features", "images"), ("cached", "anew")
GATES = {
    "gate on flat": ("flat", BACKBONE, 1, "epochs"),
    "gate on features": ("features", BACKBONE, 1, "epochs"),
    "gate on images, its trunk frozen": ("images", BACKBONE, 1, "warmup_epochs"),
    "gate on images": ("images", BACKBONE, 1, "epochs"),
    "gate on images of half the side": ("images", BACKBONE, 2, "epochs"),
    "gate on images, an eighth of an expert": ("images", "vgg_medium", 1, "epochs"),
}
"""What a gate sees, the experts' backbone, by what it divides an image's sides, and
which of its epochs there are."""

CONFIG = f"""\
[cluster]
T = {GROUPS}
overlap = 1.1

[split]
val = 0.0
test = 0.0

[train-expert]
backbone = "BACKBONE"
weights = "none"
image-size = {SIZE}
warmup-epochs = 0
epochs = 0

[train-flat]
backbone = "BACKBONE"
weights = "none"
image-size = {SIZE}
warmup-epochs = 0
epochs = 0

[machine]
device = "cpu"
workers = 0
threads = 1
"""


def prepare(root: Path, backbone: str) -> Path:
    """Draw, group and split, and write the experts; return the workspace."""
    root.mkdir()
    write_classes(root / "classes.txt", CLASSES)
    (root / "settings.toml").write_text(CONFIG.replace("BACKBONE", backbone))
    workspace = root / "workspace"
    common = ["--config", root / "settings.toml", "-w", workspace]
    deepme("similarity", "--classes", root / "classes.txt", *common)
    similarity = workspace / "similarity.h5"
    write_pictures(root / "images", similarity, per_class=IMAGES, size=SIZE)
    deepme("cluster", *common)
    deepme("split", "--data", root / "images", *common)
    deepme("train-expert", "--group", "all", *common)
    deepme("train-flat", *common)
    return workspace


def train(workspace: Path, input: str, shrink: int, stage: str, way: str) -> None:
    """Train a gate in this process; print the seconds of each part and the losses."""
    import torch

    from deepme.artifacts.expert import load_training
    from deepme.config import GateSettings, MachineSettings
    from deepme.steps import train_gate
    from deepme.workspace import Workspace

    torch.set_num_threads(1)
    machine = MachineSettings(device="cpu", workers=0, threads=1)
    settings = GateSettings(
        input=input,
        backbone=BACKBONE,
        shrink=shrink,
        weights="none",
        augment="none",
        warmup="views" if way == "anew" else "cache",
        **{"warmup_epochs": 0, "epochs": 0, stage: EPOCHS},
        batch_size=BATCH,
        lr=0.01,
    )
    seconds = {"outputs": 0.0, "load": 0.0, "fit": 0.0}
    timed(train_gate, "outputs_of_experts", seconds, "outputs")
    timed(train_gate, "outputs_of_flat", seconds, "outputs")
    timed(train_gate, "features_of_trunk", seconds, "outputs")
    timed(train_gate, "fit", seconds, "fit")
    ends: list[float] = []
    train_gate.GateTask.end_epoch = lambda _: ends.append(time.process_time())
    if way == "anew":
        ask_anew(Workspace(workspace), seconds)
    path = train_gate.run(settings, machine, Workspace(workspace))
    history = load_training(path, "gate").training.history
    losses = [epoch.losses["total"] for epoch in history]
    later = (ends[-1] - ends[0]) / (EPOCHS - 1)
    first = seconds.pop("fit") - (EPOCHS - 1) * later
    print(json.dumps({**seconds, "first": first, "later": later, "losses": losses}))


def timed(module: Any, name: str, seconds: dict[str, float], part: str) -> None:
    """Have a function of a module add its processor time to a part."""
    function = getattr(module, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            seconds[part] += time.process_time() - started

    setattr(module, name, wrapped)


def ask_anew(workspace: Any, seconds: dict[str, float]) -> None:
    """Have train-gate run all experts on each batch instead of reading outputs."""
    import torch

    from deepme.core.mixture import flat_view
    from deepme.images.loading import training_batches
    from deepme.inference import load_experts, load_network
    from deepme.steps import train_gate
    from deepme.training.gate import GateImages, GateTask

    started = time.process_time()
    experts = [expert.eval() for expert in load_experts(workspace, workspace.groups())]
    flat = load_network(workspace.flat(), workspace)
    seconds["load"] += time.process_time() - started

    class Asked(GateImages):
        """What was said last, whatever the positions."""

        last: ClassVar[list[torch.Tensor]] = []

        def logits(self, _positions: Any) -> list[torch.Tensor]:
            return self.last

    class AskingTask(GateTask):
        """A gate's training without cached outputs."""

        def batches(self, epochs: range, first_step: int) -> Any:
            rows = self.train.rows[self.positions]
            return training_batches(
                self.dataset,
                rows,
                self.settings.batch_size,
                epochs=epochs,
                first_step=first_step,
                workers=self.workers,
            )

        def loss(self, batch: Any) -> Any:
            with torch.no_grad():
                answers = [expert(batch.inputs) for expert in experts]
            Asked.last = [logits_BC for logits_BC, _ in answers]
            if self.settings.input == "flat":
                with torch.no_grad():
                    logits, features = flat(batch.inputs)
                view = flat_view(features, logits, members=self.members)
                batch = replace(batch, inputs=view)
            if self.settings.input == "features":
                features = torch.cat([found for _, found in answers], dim=1)
                batch = replace(batch, inputs=features)
            return super().loss(batch)

    def task(*arguments: Any, train: GateImages, **named: Any) -> GateTask:
        asked = Asked(train.rows, train.labels, train.outputs, train.readable)
        made = AskingTask(*arguments, train=asked, **named)
        keep_images(made)
        return made

    train_gate.GateTask = task


def keep_images(task: Any) -> None:
    """Keep decoded images also where the command needs none, for a gate on features."""
    from deepme.images.keeping import room_for

    task.dataset.kept = room_for(task.dataset.images, task.train.rows, gigabytes=1.0)


def run(
    workspace: Path, input: str, shrink: int, stage: str, way: str, *, outputs: bool
) -> dict[str, Any]:
    """Train in a process of its own, from nothing or with the outputs there."""
    for made in ["gate"] if outputs else ["gate", "outputs", "features"]:
        shutil.rmtree(workspace / made, ignore_errors=True)
    command = [sys.executable, __file__, "--workspace", str(workspace)]
    asked = ["--input", input, "--shrink", str(shrink), "--stage", stage]
    return json.loads(measure([*command, *asked, "--way", way])[1])


def measure_round(
    workspace: Path, input: str, shrink: int, stage: str
) -> dict[str, Any]:
    """Train both ways; the first makes the outputs, which the second does not read."""
    cached = run(workspace, input, shrink, stage, "cached", outputs=False)
    anew = run(workspace, input, shrink, stage, "anew", outputs=True)

    def ratio(epochs: int) -> float:
        slow = anew["load"] + anew["first"] + (epochs - 1) * anew["later"]
        quick = cached["outputs"] + cached["first"] + (epochs - 1) * cached["later"]
        return slow / quick

    apart = [
        abs(a - b) / b for a, b in zip(cached["losses"], anew["losses"], strict=True)
    ]
    return {
        "cached": cached["later"],
        "anew": anew["later"],
        "outputs": cached["outputs"],
        "epoch": anew["later"] / cached["later"],
        "whole": ratio(EPOCHS),
        "whole_20": ratio(USUAL_EPOCHS),
        "largest": max(apart),
    }


def summary(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The medians of the rounds."""
    middle = {
        name: statistics.median(found[name] for found in rounds) for name in rounds[0]
    }
    ratios = [found["epoch"] for found in rounds]
    images = CLASSES * IMAGES
    return {
        "outputs_made_once_s": middle["outputs"],
        "cached_epoch_s": middle["cached"],
        "anew_epoch_s": middle["anew"],
        "cached_images_a_second": images / middle["cached"],
        "anew_images_a_second": images / middle["anew"],
        "epoch_is_times_as_fast": middle["epoch"],
        "least": min(ratios),
        "most": max(ratios),
        f"whole_of_{EPOCHS}_epochs_is_times_as_fast": middle["whole"],
        f"whole_of_{USUAL_EPOCHS}_epochs_is_times_as_fast": middle["whole_20"],
        "largest_difference_of_losses": max(found["largest"] for found in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--input", choices=INPUTS, help=argparse.SUPPRESS)
    parser.add_argument("--shrink", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.workspace:
        kind = (options.input, options.shrink, options.stage)
        return train(options.workspace, *kind, options.way)
    with tempfile.TemporaryDirectory() as folder:
        workspaces = {
            backbone: prepare(Path(folder) / backbone, backbone)
            for backbone in {backbone for _, backbone, *_ in GATES.values()}
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in GATES}
        for _ in range(ROUNDS):
            for name, (input, backbone, shrink, stage) in GATES.items():
                found = measure_round(workspaces[backbone], input, shrink, stage)
                print(name, found, file=sys.stderr)
                rounds[name].append(found)
    gates = {name: summary(found) for name, found in rounds.items()}
    record(
        "gate-cache",
        command="python tests/benchmarks/gate_cache.py",
        packages=PACKAGES,
        figures={
            "setting": {
                "backbone": BACKBONE,
                "image_size": SIZE,
                "classes": CLASSES,
                "images": CLASSES * IMAGES,
                "experts": GROUPS,
                "batch_size": BATCH,
                "epochs": EPOCHS,
                "threads": 1,
                "rounds": ROUNDS,
            },
            "gates": gates,
        },
    )
    print(json.dumps(gates, indent=2))


if __name__ == "__main__":
    main()
