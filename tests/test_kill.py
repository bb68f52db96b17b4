"""Kill each stage, or stop it by a signal, and run it again: the same bytes.

Every command runs in a child of this process (see `injection`), on a copy of the
finished workspace without what the command makes. The long version of this file, with
hundreds of kills, is tests/faults/.
"""

from __future__ import annotations

import errno
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from injection import Calls, ChildEnd, die, fail, interrupt, snapshot
from stages import MADE, OFTEN, Disturb, StageTrial

from deepme.storage.tensors import read_tensors, write_tensors

TRAININGS = ("train-expert", "train-gate")


def at_rename(
    number: int, action: Callable[[], None] = die, *, after: bool = False
) -> Disturb:
    """Act at the n-th file that is put in place; the first is the lock's holder."""

    def disturb(work: Callable[[], None]) -> None:
        with Calls("replace", at=(number,), action=action, after=after):
            work()

    return disturb


def spread(first: int, last: int, count: int) -> list[int]:
    """At most `count` numbers from first to last, both included."""
    steps = min(count, last - first + 1) - 1
    return sorted(
        {first + (last - first) * i // max(1, steps) for i in range(steps + 1)}
    )


def one_error_line(end: ChildEnd) -> str:
    """The one error a command prints."""
    errors = [line for line in end.output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, end.output
    assert "Traceback" not in end.output
    return errors[0]


@pytest.fixture
def trial(
    request: pytest.FixtureRequest,
    finished_workspace: Path,
    tmp_path: Path,
    tiny_arguments: dict[str, list[str]],
) -> StageTrial:
    """The command that the test is parametrized with."""
    stage = request.param
    return StageTrial(finished_workspace, tmp_path, stage, tiny_arguments[stage])


every_stage = pytest.mark.parametrize("trial", MADE, indirect=True)
every_training = pytest.mark.parametrize("trial", TRAININGS, indirect=True)


@every_stage
class TestKilled:
    def test_when_a_file_is_put_in_place(self, trial: StageTrial):
        def count(work: Callable[[], None]) -> None:
            with Calls("replace") as calls:
                try:
                    work()
                finally:
                    print("renames:", len(calls.made))

        undisturbed = trial.reset().run(count)
        assert trial.left_behind() == set()
        renames = int(undisturbed.output.split()[-1])
        for number in spread(2, renames, 3):
            end = trial.reset().run(at_rename(number, after=number == renames))
            assert end.code == -signal.SIGKILL
            trial.assert_whole()
            trial.assert_finishes()

    def test_at_any_time(self, trial: StageTrial):
        started = time.monotonic()
        assert trial.reset().run().code == 0
        seconds = time.monotonic() - started
        for share in random.Random(str(trial.arguments)).choices(range(10, 95), k=2):
            child = trial.reset().start()
            time.sleep(seconds * share / 100)
            child.send(signal.SIGKILL)
            assert child.wait().code in (-signal.SIGKILL, 0)
            trial.assert_whole()
            trial.assert_finishes()


@every_stage
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_stopped_by_a_signal(trial: StageTrial, number: int, code: int):
    end = trial.reset().run(at_rename(2, interrupt(number)))
    assert end.code == code, end.output
    assert "interrupted" in one_error_line(end)
    assert not [name for name in trial.left_behind() if ".tmp-" in name]
    trial.assert_whole()
    trial.assert_finishes()


@every_training
class TestTraining:
    def test_chain_of_kills(self, trial: StageTrial):
        """Each life takes up the checkpoint of the last and dies two steps later."""
        trial.reset()
        first = trial.renames_before_training
        assert trial.run(at_rename(first + 1), *OFTEN).code == -signal.SIGKILL
        for done in range(0, trial.steps, 2):
            end = trial.run(at_rename(3, after=True), *OFTEN)
            assert end.code == -signal.SIGKILL, end.output
            assert steps_done(trial, end.output) == done
            trial.assert_whole()
        end = trial.run()
        assert steps_done(trial, end.output) == trial.steps
        assert trial.left_behind() == set()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_stopped_within_an_epoch(self, trial: StageTrial, number: int):
        checkpoint = trial.root / trial.checkpoint
        child = trial.reset().start(None, *OFTEN)
        deadline = time.monotonic() + 30
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        child.send(number)
        end = child.wait()
        assert end.code == 128 + number, end.output
        assert "interrupted; its checkpoint is written" in one_error_line(end)
        assert checkpoint.exists()
        trial.assert_whole()
        trial.assert_finishes()

    def test_stopped_while_a_checkpoint_is_written(self, trial: StageTrial):
        number = trial.renames_before_training + 2
        end = trial.reset().run(at_rename(number, interrupt(signal.SIGTERM)), *OFTEN)
        assert end.code == 143, end.output
        end = trial.run()
        assert steps_done(trial, end.output) == 2
        assert trial.left_behind() == set()

    def test_second_signal_ends_it_at_once(self, trial: StageTrial):
        def twice() -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        number = trial.renames_before_training + 2
        end = trial.reset().run(at_rename(number, twice), *OFTEN)
        assert end.code == -signal.SIGINT
        assert "Traceback" not in end.output
        trial.assert_whole()
        trial.assert_finishes()

    def test_checkpoint_on_a_full_disk(self, trial: StageTrial):
        number = trial.renames_before_training + 2
        full = at_rename(number, fail(errno.ENOSPC))
        end = trial.reset().run(full, *OFTEN)
        assert end.code == 3
        assert "checkpoint.safetensors: No space left on device" in one_error_line(end)
        end = trial.run()
        assert steps_done(trial, end.output) == 1
        assert trial.left_behind() == set()

    def test_checkpoint_that_cannot_be_removed_in_the_end(self, trial: StageTrial):
        def disturb(work: Callable[[], None]) -> None:
            with Calls("unlink", at=range(1, 100), action=fail(errno.EIO)):
                work()

        end = trial.reset().run(disturb)
        assert end.code == 3
        assert "cannot write" in one_error_line(end)
        trial.assert_finishes()


def steps_done(trial: StageTrial, output: str) -> int:
    """Steps that the checkpoint saved, by what a resumed command says."""
    found = re.search(r"continues in (\w+) epoch (\d+) step (\d+)", output)
    if found is None:
        return 0
    epochs = int(found[2]) - 1 + (found[1] == "finetune")
    return epochs * trial.steps // 2 + int(found[3]) - 1


class TestCheckpointHoldsAllThatMatters:
    """Take one part of a checkpoint away: the test above must be able to fail."""

    @pytest.fixture
    def stopped(
        self,
        tiny_network: str,
        finished_workspace: Path,
        tmp_path: Path,
        tiny_config: Path,
    ) -> tuple[StageTrial, dict[str, bytes]]:
        """A training stopped at the 2nd of 2 epochs, and how it ends undisturbed."""
        settings = ["--backbone", tiny_network, "--epochs", "2"]
        settings += ["--config", str(tiny_config)]
        arguments = ["train-expert", "--group", "1", *settings]
        trial = StageTrial(finished_workspace, tmp_path, "train-expert", arguments)
        end = trial.reset().run()
        assert end.code == 0, end.output
        undisturbed = snapshot(trial.root / "experts" / "01")
        end = trial.reset().run(at_rename(12, interrupt(signal.SIGINT)), *OFTEN)
        assert end.code == 130, end.output
        return trial, undisturbed

    def resume_without(self, trial: StageTrial, part: str) -> dict[str, bytes]:
        path = trial.root / trial.checkpoint
        header, tensors, _ = read_tensors(path, "checkpoint", 1)
        changed = {
            name: torch.zeros_like(tensor) if name.startswith(part) else tensor
            for name, tensor in tensors.items()
        }
        if part == "rng.":
            changed["rng.cpu"] = torch.Generator().manual_seed(1).get_state()
        write_tensors(path, header, changed)
        end = trial.run()
        assert end.code == 0, end.output
        assert "continues in finetune epoch 2 step" in end.output
        return snapshot(trial.root / "experts" / "01")

    @pytest.mark.parametrize("name", ["rng.cpu", "model.head.weight"])
    def test_a_tensor_that_does_not_fit_is_refused(self, stopped: Any, name: str):
        trial, _ = stopped
        path = trial.root / trial.checkpoint
        header, tensors, _ = read_tensors(path, "checkpoint", 1)
        changed = {each: value.clone() for each, value in tensors.items()}
        changed[name] = torch.zeros(7, dtype=changed[name].dtype)
        write_tensors(path, header, changed)
        end = trial.run()
        assert end.code == 2
        assert "does not fit the training it names" in end.output
        assert "remove it and rerun the command" in end.output

    def test_nothing_taken_away_gives_the_same_bytes(self, stopped: Any):
        trial, undisturbed = stopped
        assert self.resume_without(trial, "nothing") == undisturbed

    @pytest.mark.parametrize(
        ("part", "file"),
        [
            ("model.", "weights.safetensors"),
            ("momentum.", "weights.safetensors"),
            ("rng.", "weights.safetensors"),
            ("task.omega", "weights.safetensors"),
            ("task.means", "visual_similarity.h5"),
        ],
    )
    def test_anything_taken_away_gives_others(self, stopped: Any, part: str, file: str):
        trial, undisturbed = stopped
        assert self.resume_without(trial, part)[file] != undisturbed[file]
