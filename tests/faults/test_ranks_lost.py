"""Lose one of several processes that train together, in every way and at many points.

The short version is tests/training/test_ranks.py. Alone it takes some minutes::

    uv run pytest tests/faults/test_ranks_lost.py
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fleet
import pytest
from injection import Calls, ChildEnd, command, die, snapshot
from tally import Tally

TIER = "resume equivalence, several processes"
OFTEN = ("--checkpoint-minutes", "1e-6")
STEPS = 8
"""Of the first expert: two epochs of four batches."""

Work = Callable[..., Callable[[], None]]


@pytest.fixture
def untrained(finished_workspace: Path, tmp_path: Path) -> Path:
    root = Path(shutil.copytree(finished_workspace, tmp_path / "workspace"))
    shutil.rmtree(root / "experts")
    return root


@pytest.fixture
def work(untrained: Path, tiny_config: Path, tiny_network: str) -> Work:
    """The work of one process; some act before or after its n-th step."""

    def one(*options: str, step: int = 0, action: Callable[[], None] = die):
        def trains() -> None:
            from deepme.training.shares import SharedLoss

            backward, calls = SharedLoss.backward, iter(range(1, 1_000_000))

            def counted(*arguments: object) -> object:
                if next(calls) == step:
                    action()
                return backward(*arguments)

            SharedLoss.backward = counted
            command(
                *("train-expert", "--group", "1", "--backbone", tiny_network),
                *("--config", tiny_config, "--workspace", untrained, *options),
            )()

        return trains

    return one


def count(tally: Tally, name: str, *ends: ChildEnd) -> None:
    """Count a case that has ended as it should; its output is searched as well."""
    tally.case(name, output="".join(end.output for end in ends))


def assert_lost(end: ChildEnd) -> None:
    errors = [line for line in end.output.splitlines() if line.startswith("error:")]
    assert end.code == 4, end.output
    assert len(errors) == 1, end.output
    assert "another process of this training has ended" in errors[0]


@pytest.mark.timeout(1800)
class TestKilled:
    @pytest.mark.parametrize("victim", [0, 1, 2])
    def test_at_any_step_the_others_end_and_all_of_them_resume(
        self, untrained: Path, work: Work, victim: int, tally: Tally
    ):
        """Three processes, and shares of three or two images."""
        for end in fleet.together(*[work()] * 3):
            assert end.code == 0, end.output
        undisturbed = snapshot(untrained / "experts")
        for step in range(1, STEPS + 1):
            shutil.rmtree(untrained / "experts")
            works = [work(*OFTEN) for _ in range(3)]
            works[victim] = work(*OFTEN, step=step)
            started = time.monotonic()
            ends = fleet.together(*works)
            assert time.monotonic() - started < 90
            assert ends.pop(victim).code == -signal.SIGKILL
            for end in ends:
                assert_lost(end)
            for end in fleet.together(*[work()] * 3):
                assert end.code == 0, end.output
            assert snapshot(untrained / "experts") == undisturbed
            count(tally, f"process {victim} killed at step {step}", *ends)

    def test_while_the_last_files_are_written(
        self, untrained: Path, work: Work, tally: Tally
    ):
        def killed_at(number: int) -> Callable[[], None]:
            trains = work()

            def disturbed() -> None:
                with Calls("replace", at=(number,), action=die):
                    trains()

            return disturbed

        for number in range(1, 6):
            shutil.rmtree(untrained / "experts", ignore_errors=True)
            first, second = fleet.together(killed_at(number), work())
            assert first.code == -signal.SIGKILL
            assert_lost(second)
            for end in fleet.together(work(), work()):
                assert end.code == 0, end.output
            count(tally, f"killed at file {number}", first, second)


def test_a_process_that_hangs_counts_as_lost_after_the_timeout(
    work: Work, tally: Tally
):
    def stop() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    timeout = ("--timeout", "5")
    first, second = fleet.start(work(*timeout, step=3, action=stop), work(*timeout))
    started = time.monotonic()
    left = second.wait(90)
    assert_lost(left)
    assert time.monotonic() - started < 90
    first.send(signal.SIGCONT)
    woken = first.wait(90)
    assert_lost(woken)
    count(tally, "a process hangs", left, woken)


def test_an_error_of_one_ends_the_other(work: Work, tally: Tally):
    def full() -> None:
        raise MemoryError

    first, second = fleet.together(work(step=3, action=full), work())
    assert first.code == 3, first.output
    assert "out of memory" in first.output
    assert_lost(second)
    count(tally, "an error of one", first, second)


@pytest.mark.timeout(900)
def test_killed_under_torchrun(untrained: Path, tiny_config: Path, tally: Tally):
    """Its own summary says how the survivor ended; torchrun always ends with 1."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    trains = ["train-flat", "--config", tiny_config, "--workspace", untrained]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", *torchrun, "-m", "deepme", *trains),
            *("--epochs=10000", *OFTEN),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoint = untrained / "flat" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.1)
    listed = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid=", "--sort=pid"],
        capture_output=True,
        text=True,
        check=True,
    )
    workers = [int(line) for line in listed.stdout.split()]
    started = time.monotonic()
    os.kill(workers[1], signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert time.monotonic() - started < 90
    assert process.returncode == 1
    errors = [line for line in told.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, told
    assert "another process of this training has ended" in errors[0]
    # torchrun tells of the lost one by a traceback of its own.
    tally.case("killed under torchrun")


def test_torchrun_starts_it(untrained: Path, tiny_config: Path, tally: Tally):
    options = ["--config", tiny_config, "--workspace", untrained, "--warmup-epochs=0"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, "-m", "deepme", "train-flat", *options],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(untrained / "flat/training.json")]
    assert done.stderr.count("finetune epoch 1/1") == 1
    tally.case("started by torchrun", output=done.stderr)
