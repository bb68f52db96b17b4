"""A whole workspace that a tenth of a second makes, and trials of one command on it.

Hundreds of runs of each command are wanted, so the pictures are few and the networks
tiny. Trials start from hard links of finished files: writers replace files and never
change them, which `Trial.check_templates` holds them to.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing import current_process
from pathlib import Path

import numpy as np
from injection import Calls, Child, ChildEnd, command, in_child, interrupt, snapshot
from PIL import Image
from syscalls import Traced

CLASSES = (
    *("n02084071", "n02121620", "n02118333"),  # dog, cat, fox
    *("n02958343", "n02924116", "n04490091"),  # car, bus, truck
)
STAGES = (
    *("similarity", "cluster", "split", "train-expert"),
    *("train-gate", "evaluate", "plot-accuracy"),
)
MADE = {
    "similarity": ("similarity.h5",),
    "cluster": ("memberships.h5", "groups.json"),
    "split": ("split.h5",),
    "train-expert": ("experts",),
    "train-gate": ("gate", "features", "outputs/train", "outputs/val"),
    "evaluate": ("calibration", "evaluation", "outputs/test"),
    "plot-accuracy": ("figures",),
}
OFTEN = ("--checkpoint-minutes", "1e-6")
"""A checkpoint after every step."""

CONFIG = """\
[cluster]
T = 2
[split]
val = 0.25
test = 0.25
[train-flat]
backbone = "tiny_dropout"
[train-expert]
backbone = "tiny_dropout"
weights = "none"
image-size = 8
warmup-epochs = 1
epochs = 1
batch-size = 4
warmup-lr = 0.05
lr = 0.05
lr-end = 0.01
[train-gate]
weights = "none"
warmup-epochs = 1
epochs = 1
batch-size = 6
lr = 0.05
lr-end = 0.01
[evaluate]
topk = [1]
fusion = ["gate"]
[machine]
device = "cpu"
workers = 0
threads = 1
"""


Files = dict[str, bytes]
"""Path below the workspace -> content."""


def register_tiny() -> None:
    """Give timm a model of a few hundred weights, with dropout; in this process."""
    from timm.models import register_model
    from torch import nn

    class TinyDropout(nn.Sequential):
        num_features = head_hidden_size = 6

        def __init__(self) -> None:
            convolution, mean = nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1)
            super().__init__(convolution, mean, nn.Flatten(), nn.Dropout(0.5))

    def tiny_dropout(pretrained: bool = False, **_: object) -> nn.Module:
        return TinyDropout()

    register_model(tiny_dropout)


class World:
    """Pictures, settings and a workspace finished by all seven commands.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        register_tiny()
        self.folder, self.images = folder, folder / "images"
        self.config, self.finished = folder / "tiny.toml", folder / "finished"
        self.config.write_text(CONFIG)
        rng = np.random.default_rng(0)
        for wnid in CLASSES:
            (self.images / wnid).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(self.images / wnid / f"{number}.png")
        # The first round imports, in this process, what later ones share by a fork.
        for stage in STAGES:
            self.invoke(*self.arguments(stage), "-w", self.finished)

    def arguments(self, stage: str) -> list[str]:
        """A command with its arguments but the workspace."""
        config = ["--config", str(self.config)]
        return {
            "similarity": ["similarity", "--classes", str(self.images), *config],
            "split": ["split", "--data", str(self.images), *config],
            "train-expert": ["train-expert", "--group", "all", *config],
            "plot-accuracy": ["plot-accuracy", "--topk", "1"],
        }.get(stage, [stage, *config])

    @staticmethod
    def invoke(*arguments: object) -> str:
        """Run a command in this process; it must succeed."""
        from typer.testing import CliRunner

        from deepme.cli import app

        before = signal.getsignal(signal.SIGTERM)
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        signal.signal(signal.SIGTERM, before)
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    def whole(self, root: Path) -> Path:
        """Make a workspace with every kind of artifact, a checkpoint included."""
        link(self.finished, root)
        shutil.rmtree(root / "experts")
        config = ("--config", self.config, "-w", root)
        train = ("train-expert", "--weights", "flat", "--warmup", "cache", "--group")
        for arguments in (
            ("train-flat",),
            ("cluster", "--select", "--grid-T", "2", "--grid-delta", "0.3"),
            (*train, "all"),
            ("train-gate",),
            ("train-attention",),
            ("route",),
            ("evaluate", "--fusion", "gate,flat,attention,equal"),
        ):
            end = in_child(command(*arguments, *config))
            assert end.code == 0, end.output

        def stop() -> None:
            with Calls("replace", at=(2,), action=interrupt(signal.SIGINT)):
                # Training on a cache saves by the clock.
                often = ("--checkpoint-minutes", "1e-9")
                command(*train, "2", "--seed", "1", *often, *config)()

        end = in_child(stop)
        assert end.code == 130, end.output
        return root


def link(source: Path, target: Path) -> None:
    """Copy a workspace by hard links, without its locks."""
    skip = shutil.ignore_patterns(".deepme.*")
    shutil.copytree(source, target, copy_function=os.link, ignore=skip)


def with_children(work: Callable[[], None]) -> Callable[[], None]:
    """The same work, in a child that may have children: a loader's workers."""

    def allowed() -> None:
        current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        work()

    return allowed


def what_counts(files: Files) -> frozenset[tuple[str, bytes]]:
    """Files; temporary ones without content, by the name they were to get."""
    whole = {name: content for name, content in files.items() if ".tmp-" not in name}
    parts = (name.rpartition("-")[0] for name in files if ".tmp-" in name)
    return frozenset((whole | dict.fromkeys(parts, b"")).items())


class Trial:
    """One command, on what it needs, to be disturbed and run again.

    Args:
        world: with the finished workspace.
        stage: the command.
        folder: an empty folder.
        replace: an older artifact is there, of another seed or rank, instead of none.
        options: of the command, added.
        nested: the command starts processes of its own.
    """

    def __init__(
        self,
        world: World,
        stage: str,
        folder: Path,
        *options: str,
        replace: bool = False,
        nested: bool = False,
    ) -> None:
        self._nested = nested
        self.root, self._template = folder / "workspace", folder / "template"
        self.arguments = [*world.arguments(stage), *options]
        self.made = MADE[stage]
        link(world.finished, self._template)
        if replace:
            self.arguments += (
                ["--topk", "2"] if stage == "evaluate" else ["--seed", "7"]
            )
        else:
            for name in self.made:
                path = self._template / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.before = snapshot(self._template)
        self.reset()
        end = self.run()
        assert end.code == 0, end.output
        self.after = snapshot(self.root)
        assert self.after != self.before

    def reset(self) -> None:
        """Begin anew."""
        shutil.rmtree(self.root, ignore_errors=True)
        link(self._template, self.root)

    def work(self) -> Callable[[], None]:
        """The command, to be done in a child."""
        work = command(*self.arguments, "--workspace", self.root)
        return with_children(work) if self._nested else work

    def run(self) -> ChildEnd:
        """Run it undisturbed."""
        return Child(self.work()).wait()

    def traced(
        self, at: range = range(0), error: int | None = None, *, reads: bool = False
    ) -> tuple[ChildEnd, list[str]]:
        """Run it, disturbed at some of its system calls; also give these calls."""
        traced = Traced(self.work(), self.root, at, error, reads=reads)
        return traced.wait(), traced.calls

    def watched(self) -> tuple[list[str], list[Files]]:
        """Run it, and look at the files before each of its system calls."""
        seen: list[Files] = []
        traced = Traced(
            self.work(),
            self.root,
            reads=True,
            look=lambda: seen.append(snapshot(self.root)),
        )
        assert traced.wait().code == 0
        return traced.calls, seen

    def restore(self, files: Files) -> None:
        """Put files in place as they were seen."""
        self.reset()
        for name in snapshot(self.root).keys() - files.keys():
            (self.root / name).unlink()
        for name, content in files.items():
            path = self.root / name
            if self.before.get(name) != content:
                path.unlink(missing_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def not_whole(self, files: Files | None = None) -> str:
        """What is wrong after a kill: a file that is neither absent, old nor new."""
        for name, content in (files or snapshot(self.root)).items():
            last = name.rpartition("/")[2]
            if last.startswith(".tmp-") or last == "checkpoint.safetensors":
                continue
            if content not in (self.before.get(name), self.after.get(name)):
                return f"{name} is neither old nor new"
        return ""

    def not_finished(self) -> str:
        """Run the command once more; say if the outcome is not the undisturbed one."""
        end = self.run()
        if end.code:
            return f"the next run ends with {end.code}: {end.output}"
        found = snapshot(self.root)
        names = found.keys() | self.after.keys()
        other = [name for name in names if found.get(name) != self.after.get(name)]
        return f"the next run gives other files: {sorted(other)}" if other else ""

    def check_templates(self) -> None:
        """What the trials were linked from is as it was."""
        assert snapshot(self._template) == self.before
