"""Train for an hour, or eight before a release, with a fault about every minute.

    uv run pytest tests/faults/soak.py --minutes 480 --record

The network is tiny and waits after each step, so that it takes next to no processor;
its waiting is no part of the result. It is killed, stopped by a signal, or meets a full
disk or an I/O error while it saves, and goes on. In the end its files are those of an
undisturbed run, and neither memory nor open files have grown.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from injection import Child, ChildEnd, command, snapshot
from tally import Tally, one_error
from world import World, link

TIER = "soak"
PAUSE = 0.5
"""Seconds after each step."""
STEPS = 3
"""An epoch: six images in batches of two."""
EVERY = (30.0, 90.0)
"""Seconds from one fault to the next."""
SETTLED = 20.0
"""Seconds after which a fork has made its own what it writes to."""
FLAT = 0.05


class Training:
    """A long training of one expert, with a switch that makes its next save fail."""

    def __init__(self, world: World, root: Path, epochs: int, pause: float) -> None:
        link(world.finished, root)
        self.root, self._pause = root, pause
        self._switch = mmap.mmap(-1, 1)
        arguments = [*world.arguments("train-expert"), "--group", "1", "--seed", "3"]
        arguments += ["--epochs", str(epochs), "--batch-size", "2"]
        self._command = command(*arguments, "--workspace", root)

    def start(self) -> Child:
        self._switch[0] = 0
        return Child(self._work)

    def fail_to_save(self, error: int) -> None:
        """Have the next fsync of the child fail."""
        self._switch[0] = error

    def _work(self) -> None:
        from deepme.training.stepping import Stepper

        step, fsync = Stepper.__call__, os.fsync

        def slow(stepper: Any, *given: Any, **options: Any) -> None:
            step(stepper, *given, **options)
            time.sleep(self._pause)

        def failing(descriptor: int) -> None:
            if self._switch[0]:
                raise OSError(self._switch[0], os.strerror(self._switch[0]))
            fsync(descriptor)

        Stepper.__call__, os.fsync = slow, failing
        self._command()


class Gauge:
    """Memory and open files of one life after the other."""

    def __init__(self) -> None:
        self.memory: list[float] = []
        self.files: list[float] = []

    def watch(self, child: Child, seconds: float) -> bool:
        """Look at a child for some time; tell whether it still lives."""
        place, started, seen = Path(f"/proc/{child.pid}"), time.monotonic(), []
        while time.monotonic() < started + seconds:
            time.sleep(1)
            if (place / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
            if time.monotonic() > started + SETTLED:
                pages = int((place / "statm").read_text().split()[1])
                seen.append((pages, len(list((place / "fd").iterdir()))))
        if seen:
            self.memory.append(statistics.median(pages for pages, _ in seen))
            self.files.append(statistics.median(files for _, files in seen))
        return True

    @staticmethod
    def growth(values: list[float]) -> float:
        """The share by which the last third of the lives is above the first third."""
        third = max(1, len(values) // 3)
        return (
            statistics.median(values[-third:]) / statistics.median(values[:third]) - 1
        )


FAULTS: dict[str, tuple[int, int]] = {
    "killed": (signal.SIGKILL, -signal.SIGKILL),
    "SIGTERM": (signal.SIGTERM, 143),
    "SIGINT": (signal.SIGINT, 130),
    "ENOSPC": (errno.ENOSPC, 3),
    "EIO": (errno.EIO, 3),
}
"""Name -> the signal or errno, and the exit code."""


def disturbed(training: Training, child: Child, name: str) -> ChildEnd:
    """Let a fault happen; the child has half a minute to end."""
    number, _ = FAULTS[name]
    if name in ("ENOSPC", "EIO"):
        training.fail_to_save(number)
    else:
        child.send(number)
    return child.wait(30)


@pytest.mark.timeout(0)
def test_soak(
    world: World, tally: Tally, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    minutes = request.config.option.minutes
    epochs = max(1, round(minutes * 60 / (PAUSE * STEPS)))
    quiet = Training(world, tmp_path / "quiet", epochs, pause=0.0)
    end = quiet.start().wait(3600)
    assert end.code == 0, end.output
    training = Training(world, tmp_path / "soaked", epochs, PAUSE)
    rng, gauge, started = random.Random(0), Gauge(), time.monotonic()
    child = training.start()
    while gauge.watch(child, rng.uniform(*EVERY)):
        name = rng.choice(list(FAULTS))
        end = disturbed(training, child, name)
        code = FAULTS[name][1]
        problem = f"exit code {end.code}" if end.code != code else ""
        if code > 0:
            problem = one_error(end, code)
        tally.case(f"{name} after {time.monotonic() - started:.0f} s", problem,
                   output=end.output)  # fmt: skip
        child = training.start()
    end = child.wait(60)
    same = snapshot(training.root) == snapshot(quiet.root)
    memory, files = gauge.growth(gauge.memory), gauge.growth(gauge.files)
    tally.case(
        "the end",
        "" if end.code == 0 else f"exit code {end.code}",
        "" if same else "other files than the quiet run's",
        "" if memory < FLAT else f"memory grew by {memory:.1%}",
        "" if files < FLAT else f"open files grew by {files:.1%}",
        output=end.output,
    )
    tally.figures |= {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "steps": epochs * STEPS,
        "memory_growth": round(memory, 4),
        "descriptor_growth": round(files, 4),
    }
