"""One command on a copy of the finished workspace, disturbed and run again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from injection import Child, ChildEnd, command, snapshot

MADE = {
    "similarity": ("similarity.h5",),
    "cluster": ("memberships.h5", "groups.json"),
    "split": ("split.h5",),
    "train-expert": ("experts/01",),
    "train-gate": ("gate", "outputs/train", "outputs/val"),
    "evaluate": ("calibration", "evaluation", "outputs/test"),
    "plot-accuracy": ("figures",),
}
"""What each command makes; of train-expert only the first group's expert."""

TRAINING = {"train-expert": (1, 8), "train-gate": (7, 12)}
"""Files put in place before the first step, the lock's holder included, and steps."""

OFTEN = ("--checkpoint-minutes", "1e-6")
"""A checkpoint after every step."""

Disturb = Callable[[Callable[[], None]], None]
"""Run some work under a disturbance, within a child."""


class StageTrial:
    """A command whose artifacts were taken away from a finished workspace.

    Args:
        finished: the workspace made without a disturbance; it is only read.
        folder: an empty folder for the copy.
        stage: the command.
        arguments: the command with its arguments but ``--workspace``.
    """

    def __init__(
        self, finished: Path, folder: Path, stage: str, arguments: list[str]
    ) -> None:
        self.root = folder / "workspace"
        self.arguments = [
            "1" if argument == "all" else argument for argument in arguments
        ]
        self.reference = snapshot(finished)
        self._finished, self._made = finished, MADE[stage]
        self.checkpoint = f"{MADE[stage][0]}/checkpoint.safetensors"
        self.renames_before_training, self.steps = TRAINING.get(stage, (0, 0))

    def reset(self) -> StageTrial:
        """Begin anew: all artifacts but those of this stage."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self._finished, self.root)
        for name in self._made:
            path = self.root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self

    def start(self, disturb: Disturb | None = None, *options: str) -> Child:
        """Start the command in a child."""
        work = command(*self.arguments, *options, "--workspace", self.root)
        return Child(work if disturb is None else lambda: disturb(work))

    def run(self, disturb: Disturb | None = None, *options: str) -> ChildEnd:
        """Run the command in a child to its end."""
        return self.start(disturb, *options).wait()

    def left_behind(self) -> set[str]:
        """Names of files that the finished workspace lacks or has otherwise."""
        return {
            name
            for name, content in snapshot(self.root).items()
            if self.reference.get(name) != content
        }

    def assert_whole(self) -> None:
        """After a kill each artifact is absent or complete, never a part."""
        for name in self.left_behind():
            last = name.rpartition("/")[2]
            assert last.startswith(".tmp-") or last == "checkpoint.safetensors", name

    def assert_finishes(self, *options: str) -> None:
        """The same command again succeeds and gives the same bytes, nothing more."""
        end = self.run(None, *options)
        assert end.code == 0, end.output
        assert self.left_behind() == set()
        assert snapshot(self.root).keys() == self.reference.keys()
