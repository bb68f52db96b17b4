"""Two processes that train one network come to what one would come to.

They are forks that find torchrun's environment (see `fleet`); tests/faults starts
torchrun itself.
"""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import fleet
import numpy as np
import pytest
import torch
from injection import WRITER, Calls, ChildEnd, command, die, interrupt, snapshot
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepme import ranks
from deepme.artifacts.split import Split
from deepme.config import ExpertSettings
from deepme.devices import Compute
from deepme.errors import UsageError
from deepme.images.loading import Share, epoch_order
from deepme.images.unreadable import UnreadableImages
from deepme.networks import create_network
from deepme.storage.header import Header
from deepme.training.expert import ExpertTask
from deepme.training.run import Run, Stage
from deepme.training.shares import SharedLoss

OFTEN = ("--checkpoint-minutes", "1e-6")
STAGE = Stage(name="finetune", epochs=1, lr=0.1, lr_end=0.1)


def float64_run(split: Split, folder: Path, accumulate: int = 1) -> Run:
    """21 pictures in batches of 11 and 10, a network without batch normalisation."""
    torch.manual_seed(3)
    members = np.array([0, 1, 2])
    theta = np.array([[1, 0.9, 0.1], [0.9, 1, 0.1], [0.1, 0.1, 1]], dtype=np.float32)
    task = ExpertTask(
        ExpertSettings(batch_size=11, lambda1=0.1, lambda2=0.1, lambda3=0.5),
        create_network("test_vit", 3, weights="none", image_size=16).double(),
        Compute(torch.device("cpu"), False),
        image_size=16,
        split=split,
        members=members,
        theta=theta,
        unreadable=UnreadableImages(split.images, 24, False, 0.5),
        workers=0,
        keep_images=0,
        other_rows=np.empty(0, dtype=np.int64),
    )
    task.laplacian_theta = task.laplacian_theta.double()
    task.laplacian_omega = task.laplacian_omega.double()
    return Run(
        label="toy",
        task=task,
        stages=(STAGE,),
        unreadable=task.unreadable,
        checkpoint=folder / "checkpoint.safetensors",
        identity=Header(kind="a", schema_version=1),
        device=torch.device("cpu"),
        batch_size=11,
        checkpoint_seconds=1e6,
        accumulate=accumulate,
    )


def gradients(run: Run) -> dict[str, Tensor]:
    """Of each step of an epoch, with the figures and Ω at its end."""
    run.task.start(STAGE)
    shared, found = SharedLoss(run), {}
    for step, batch in enumerate(run.task.batches(range(1), 0)):
        run.task.network.zero_grad()
        loss = shared.backward(batch, *ranks.totals(len(batch.rows)))
        for name, parameter in run.task.network.named_parameters():
            found[f"{step} {name}"] = parameter.grad.clone().contiguous()
        for name, value in {"total": loss.total, **loss.parts}.items():
            found[f"{step} loss {name}"] = value.double().reshape(1)
        found[f"{step} correct"] = loss.correct.reshape(1)
    run.task.end_epoch()
    return found | {"omega": run.task.omega}


class TestGradients:
    def test_two_processes_have_those_of_one(self, coloured: Split, tmp_path: Path):
        def work(number: int) -> Callable[[], None]:
            def share() -> None:
                with ranks.joined(30, "cpu"):
                    found = gradients(float64_run(coloured, tmp_path))
                    save_file(found, tmp_path / f"{number}.safetensors")

            return share

        for end in fleet.together(work(0), work(1)):
            assert end.code == 0, end.output
        whole = gradients(float64_run(coloured, tmp_path))
        assert len(whole) > 50
        for number in range(2):
            found = load_file(tmp_path / f"{number}.safetensors")
            assert found.keys() == whole.keys()
            for name, value in whole.items():
                torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-12)

    def test_micro_batches_have_those_of_the_batch(self, coloured, tmp_path):
        whole = gradients(float64_run(coloured, tmp_path))
        divided = gradients(float64_run(coloured, tmp_path, accumulate=4))
        for name, value in whole.items():
            torch.testing.assert_close(divided[name], value, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_shares_make_up_the_batches_and_differ_by_one_image(processes: int):
    rows = np.arange(23)
    whole = epoch_order(rows, 8, seed=1, epoch=4)
    shares = [
        epoch_order(rows, 8, seed=1, epoch=4, share=Share(number, processes))
        for number in range(processes)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert np.concatenate(parts).tolist() == batch.tolist()
        assert np.ptp([len(part) for part in parts]) <= 1


Train = Callable[..., list[ChildEnd]]


@pytest.fixture
def untrained(finished_workspace: Path, tmp_path: Path) -> Path:
    root = Path(shutil.copytree(finished_workspace, tmp_path / "workspace"))
    shutil.rmtree(root / "experts")
    return root


@pytest.fixture
def work(
    untrained: Path, tiny_config: Path, tiny_network: str
) -> Callable[..., Callable[[], None]]:
    """The work of one process that trains the first expert, with dropout."""

    def one(*options: str, disturb: Callable[[Callable[[], None]], None] | None = None):
        trains = command(
            *("train-expert", "--group", "1", "--backbone", tiny_network),
            *("--config", tiny_config, "--workspace", untrained, *options),
        )
        return trains if disturb is None else lambda: disturb(trains)

    return one


def at_rename(number: int, action: Callable[[], None]):
    def disturb(trains: Callable[[], None]) -> None:
        with Calls("replace", at=(number,), action=action, after=True):
            trains()

    return disturb


def one_error(end: ChildEnd) -> str:
    errors = [line for line in end.output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, end.output
    assert "Traceback" not in end.output
    return errors[0]


class TestTraining:
    def test_the_first_writes_and_speaks_and_the_second_does_neither(
        self, untrained, work
    ):
        def counting(trains: Callable[[], None]) -> None:
            with Calls(*WRITER) as calls:
                try:
                    trains()
                finally:
                    print("calls:", *set(calls.made) - {"open", "close"})

        first, second = fleet.together(work(), work(disturb=counting))
        assert (first.code, second.code) == (0, 0), first.output + second.output
        assert first.output.count("experts/01/training.json") == 1
        assert "finetune epoch 1/1" in first.output
        assert second.output == ""
        names = {path.name for path in (untrained / "experts/01").iterdir()}
        assert names >= {"training.json", "weights.safetensors"}
        assert "checkpoint.safetensors" not in names

    def test_killed_and_resumed_it_ends_with_the_same_bytes(self, untrained, work):
        for end in fleet.together(work(), work()):
            assert end.code == 0, end.output
        undisturbed = snapshot(untrained / "experts")
        shutil.rmtree(untrained / "experts")
        started = time.monotonic()
        killed = work(*OFTEN, disturb=at_rename(4, die))
        first, second = fleet.together(killed, work(*OFTEN))
        assert first.code == -signal.SIGKILL
        assert second.code == 4
        assert "another process of this training has ended" in one_error(second)
        assert time.monotonic() - started < 90
        ends = fleet.together(work(), work())
        assert [end.code for end in ends] == [0, 0], ends
        assert re.search(r"continues in \w+ epoch 1 step [2-9]", ends[0].output)
        assert snapshot(untrained / "experts") == undisturbed

    def test_a_signal_to_one_stops_both_and_the_rest_can_be_done_by_one(
        self, untrained, work
    ):
        signalled = work(*OFTEN, disturb=at_rename(3, interrupt(signal.SIGTERM)))
        ends = fleet.together(signalled, work(*OFTEN))
        assert [end.code for end in ends] == [143, 143]
        assert "interrupted; its checkpoint is written" in one_error(ends[0])
        ends = fleet.together(work())
        assert ends[0].code == 0, ends[0].output
        assert "continues in warmup epoch 1 step 3" in ends[0].output

    def test_batches_that_are_too_small_are_refused(self, work):
        first, second = fleet.together(*[work("--batch-size", "1")] * 2)
        assert first.code == second.code == 2
        assert "batches of 1 images for 2 processes" in one_error(first)


def test_without_an_address_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(UsageError, match=r"MASTER_ADDR not, expected all"),
        ranks.joined(1, "cpu"),
    ):
        pass
