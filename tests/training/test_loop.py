"""The loop alone: schedule, checkpoints, resuming, and the ways to stop."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deepme.artifacts.split import Split
from deepme.config import ExpertSettings
from deepme.devices import Compute
from deepme.errors import (
    DeepmeError,
    EnvironmentFault,
    InputError,
    Interrupted,
    TrainingError,
    UsageError,
)
from deepme.images.unreadable import UnreadableImages
from deepme.networks import create_network, forward_flops
from deepme.storage.header import Header
from deepme.training import expert as expert_module
from deepme.training.average import Average
from deepme.training.expert import ExpertTask
from deepme.training.loop import fit
from deepme.training.run import Loss, Run, Stage
from deepme.training.stepping import Stepper

MEMBERS = np.array([0, 1, 2])
THETA = np.array([[1, 0.9, 0.1], [0.9, 1, 0.1], [0.1, 0.1, 1]], dtype=np.float32)
STAGES = (
    Stage(name="warmup", epochs=1, lr=0.1, lr_end=0.05),
    Stage(name="finetune", epochs=2, lr=0.05, lr_end=0.001),
)
STEPS_PER_EPOCH = 2
"""21 training pictures in batches of 11."""


def make_run(
    split: Split,
    folder: Path,
    *,
    backbone: str = "vgg_small",
    size: int = 8,
    dropout: float = 0.0,
    identity: str = "a",
    stages: tuple[Stage, ...] = STAGES,
    checkpoint_seconds: float = 0.0,
    skip: bool = False,
) -> Run:
    torch.manual_seed(3)
    task = ExpertTask(
        ExpertSettings(batch_size=11),
        create_network(backbone, len(MEMBERS), weights="none", image_size=size),
        Compute(torch.device("cpu"), False),
        image_size=size,
        split=split,
        members=MEMBERS,
        theta=THETA,
        unreadable=UnreadableImages(split.images, 24, skip, 0.5),
        workers=0,
        keep_images=0,
        other_rows=np.empty(0, dtype=np.int64),
    )
    for module in task.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return Run(
        label="toy",
        task=task,
        stages=stages,
        unreadable=task.unreadable,
        checkpoint=folder / "checkpoint.safetensors",
        identity=Header(kind=identity, schema_version=1, settings={"name": identity}),
        device=torch.device("cpu"),
        batch_size=11,
        checkpoint_seconds=checkpoint_seconds,
    )


def call_at_step(run: Run, step: int, act: Callable[[], None]) -> None:
    """Do something in the middle of a step, counted from 0 over the whole run."""
    loss, calls = run.task.loss, iter(range(1_000_000))

    def counted(batch: object) -> Loss:
        if next(calls) == step:
            act()
        return loss(batch)

    run.task.loss = counted


def count_steps(run: Run) -> list[int]:
    loss, steps = run.task.loss, []

    def counted(batch: object) -> Loss:
        steps.append(len(steps))
        return loss(batch)

    run.task.loss = counted
    return steps


def fail() -> None:
    raise SystemError("the power went")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def assert_same_weights(one: Run, other: Run) -> None:
    ours, theirs = one.task.network.state_dict(), other.task.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def quiet(coloured: Split, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing disturbed."""
    run = make_run(coloured, tmp_path_factory.mktemp("quiet"))
    fit(run)
    return run


class TestResume:
    @pytest.mark.parametrize("step", range(1, 3 * STEPS_PER_EPOCH))
    def test_after_a_failure_at_any_step_the_result_is_the_same(
        self, coloured, tmp_path, quiet, step
    ):
        run = make_run(coloured, tmp_path)
        call_at_step(run, step, fail)
        with pytest.raises(SystemError):
            fit(run)
        resumed = make_run(coloured, tmp_path)
        done: list[int] = []
        call_at_step(resumed, 0, lambda: done.append(0))
        assert fit(resumed) == quiet.history
        assert_same_weights(resumed, quiet)
        assert torch.equal(resumed.task.omega, quiet.task.omega)
        assert done == [0]

    def test_after_an_interruption_nothing_is_lost(self, coloured, tmp_path, quiet):
        run = make_run(coloured, tmp_path, checkpoint_seconds=1e6)
        call_at_step(run, 3, interrupt)
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(Interrupted, match="checkpoint is written") as caught:
            fit(run)
        assert caught.value.exit_code == 128 + signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is before
        resumed = make_run(coloured, tmp_path)
        steps = count_steps(resumed)
        fit(resumed)
        assert len(steps) == 3 * STEPS_PER_EPOCH - 4
        assert_same_weights(resumed, quiet)

    def test_with_dropout_the_masks_go_on_too(self, coloured, tmp_path):
        options = {"backbone": "test_vit", "size": 16, "dropout": 0.5}
        whole = make_run(coloured, tmp_path / "whole", **options)
        fit(whole)
        run = make_run(coloured, tmp_path / "cut", **options)
        call_at_step(run, 3, fail)
        with pytest.raises(SystemError):
            fit(run)
        resumed = make_run(coloured, tmp_path / "cut", **options)
        fit(resumed)
        assert_same_weights(resumed, whole)

    def test_dropout_is_really_at_work(self, coloured, tmp_path):
        options = {"backbone": "test_vit", "size": 16}
        one = make_run(coloured, tmp_path / "one", dropout=0.5, **options)
        two = make_run(coloured, tmp_path / "two", dropout=0.0, **options)
        assert fit(one) != fit(two)

    def test_a_finished_run_is_not_trained_again(self, coloured, tmp_path, quiet):
        fit(make_run(coloured, tmp_path))
        again = make_run(coloured, tmp_path)
        steps = count_steps(again)
        assert fit(again) == quiet.history
        assert steps == []
        assert_same_weights(again, quiet)

    def test_another_identity_starts_anew(self, coloured, tmp_path, capsys):
        fit(make_run(coloured, tmp_path))
        other = make_run(coloured, tmp_path, identity="b")
        steps = count_steps(other)
        fit(other)
        assert len(steps) == 3 * STEPS_PER_EPOCH
        assert "starts anew" in capsys.readouterr().err


def averaged_run(split: Split, folder: Path) -> Run:
    run = make_run(split, folder)
    run.average = Average(run.task.network, 0.75)
    return run


class TestAverage:
    def test_it_is_what_is_validated_and_what_remains(
        self, coloured, tmp_path, monkeypatch
    ):
        """Held against its definition, over the weights after each of the steps."""
        run = averaged_run(coloured, tmp_path)
        name = "trunk.blocks.0.weight"
        weight = run.task.network.get_parameter(name)
        after: list[torch.Tensor] = []
        validated: list[torch.Tensor] = []
        step, validate = torch.optim.SGD.step, run.task.validate

        def spy(optimizer: torch.optim.SGD, closure: object = None) -> None:
            step(optimizer)
            after.append(weight.detach().double())

        monkeypatch.setattr(torch.optim.SGD, "step", spy)
        run.task.validate = lambda: (validated.append(weight.clone()), validate())[1]
        fit(run)
        average, expected = after[0], []
        for number, value in enumerate(after, 1):
            average = 0.75 * average + 0.25 * value
            if number % STEPS_PER_EPOCH == 0:
                expected.append(average)
        assert len(expected) == len(validated) == 3
        for one, other in zip(validated, expected, strict=True):
            torch.testing.assert_close(one.double(), other, atol=1e-6, rtol=0)
        assert torch.equal(weight, validated[-1])
        assert not torch.allclose(weight.double(), after[-1], atol=1e-5)

    @pytest.mark.parametrize("step", [1, 3, 5])
    def test_a_resumed_run_ends_with_the_same(self, coloured, tmp_path, step):
        whole = averaged_run(coloured, tmp_path / "whole")
        fit(whole)
        run = averaged_run(coloured, tmp_path / "cut")
        call_at_step(run, step, fail)
        with pytest.raises(SystemError):
            fit(run)
        resumed = averaged_run(coloured, tmp_path / "cut")
        assert fit(resumed) == whole.history
        assert_same_weights(resumed, whole)

    def test_the_weights_that_are_trained_are_those_without_it(
        self, coloured, tmp_path, quiet
    ):
        run = averaged_run(coloured, tmp_path)
        fit(run)
        run.average.exchange()
        assert_same_weights(run, quiet)


def test_the_epochs_line_tells_where_the_time_went(coloured, tmp_path, capsys):
    fit(make_run(coloured, tmp_path))
    (line,) = (x for x in capsys.readouterr().err.splitlines() if "epoch 2/2" in x)
    told = r"; [\d,]+ images/s, \d+% waiting for data, [\d.e-]+ TFLOP/s$"
    assert re.search(told, line)


def test_an_image_takes_more_operations_when_all_layers_learn(coloured, tmp_path):
    task = make_run(coloured, tmp_path).task
    forward = forward_flops(task.network, 8)
    task.start(STAGES[0])
    warmup = task.flops
    task.start(STAGES[1])
    assert task.flops == 3 * forward
    assert warmup == forward + 2 * 2 * 3 * 256


class TestSchedule:
    def test_the_rate_falls_exponentially_from_lr_to_lr_end(self):
        stage = Stage(name="warmup", epochs=1, lr=0.01, lr_end=0.001)
        assert stage.lr_at(0, 7) == 0.01
        assert stage.lr_at(6, 7) == pytest.approx(0.001, rel=1e-12)
        rates = [stage.lr_at(step, 7) for step in range(7)]
        ratios = np.divide(rates[1:], rates[:-1])
        np.testing.assert_allclose(ratios, (0.001 / 0.01) ** (1 / 6), rtol=1e-12)

    def test_a_stage_of_one_step_has_the_first_rate(self):
        assert Stage(name="warmup", epochs=1, lr=0.01, lr_end=0.001).lr_at(0, 1) == 0.01

    def test_the_optimizer_follows_it_at_every_step(
        self, coloured, tmp_path, monkeypatch
    ):
        used: list[float] = []
        step = torch.optim.SGD.step

        def spy(optimizer: torch.optim.SGD, closure: object = None) -> object:
            used.append({group["lr"] for group in optimizer.param_groups}.pop())
            return step(optimizer)

        monkeypatch.setattr(torch.optim.SGD, "step", spy)
        history = fit(make_run(coloured, tmp_path))
        warmup, finetune = used[:STEPS_PER_EPOCH], used[STEPS_PER_EPOCH:]
        assert warmup[0] == 0.1
        assert finetune[0] == 0.05
        assert warmup[-1] == pytest.approx(0.05, rel=1e-12)
        assert finetune[-1] == pytest.approx(0.001, rel=1e-12)
        assert [epoch.lr for epoch in history] == [used[1], used[3], used[5]]

    def test_history_names_stage_and_epoch(self, coloured, tmp_path):
        history = fit(make_run(coloured, tmp_path))
        assert [(epoch.stage, epoch.epoch) for epoch in history] == [
            ("warmup", 1),
            ("finetune", 1),
            ("finetune", 2),
        ]
        assert all(0 <= epoch.train_top1 <= 1 for epoch in history)

    def test_no_epochs_train_nothing(self, coloured, tmp_path):
        stages = (Stage(name="finetune", epochs=0, lr=0.1, lr_end=0.1),)
        run = make_run(coloured, tmp_path, stages=stages)
        before = {k: v.clone() for k, v in run.task.network.state_dict().items()}
        assert fit(run) == []
        after = run.task.network.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


class TestStops:
    @pytest.mark.parametrize("step", [0, 3])
    @pytest.mark.parametrize("what", ["loss", "gradient"])
    def test_a_loss_that_is_not_finite_stops_before_the_step(
        self, coloured, tmp_path, monkeypatch, what, step
    ):
        run = make_run(coloured, tmp_path)
        reached: list[dict[str, torch.Tensor]] = []

        def note_and_break() -> None:
            network = run.task.network
            reached.append({k: v.clone() for k, v in network.named_parameters()})
            monkeypatch.setattr(expert_module, "expert_objective", BROKEN[what])

        call_at_step(run, step, note_and_break)
        with pytest.raises(TrainingError, match="expected finite numbers") as caught:
            fit(run)
        assert caught.value.exit_code == 4
        epoch, place = ("warmup epoch 1", 1) if step == 0 else ("finetune epoch 1", 2)
        assert f"in {epoch} step {place}," in str(caught.value)
        for name, value in run.task.network.named_parameters():
            assert torch.equal(value, reached[0][name])

    def test_a_device_that_is_ahead_skips_the_step_and_stops_later(
        self, coloured, tmp_path, monkeypatch
    ):
        """As on a GPU, where the host looks at a step when others have followed."""
        run = make_run(coloured, tmp_path, checkpoint_seconds=1000)
        optimizer = torch.optim.SGD(run.task.start(run.stages[1]), lr=0.01, fused=True)
        step = Stepper(run, optimizer)
        step._ahead = 3
        batches = list(run.task.batches(range(3), 0))
        step(batches[0])
        before = {k: v.clone() for k, v in run.task.network.named_parameters()}
        monkeypatch.setattr(expert_module, "expert_objective", BROKEN["gradient"])
        run.position.step = 1
        step(batches[1])
        for name, value in run.task.network.named_parameters():
            assert torch.equal(value, before[name])
        monkeypatch.undo()
        run.position.step = 2
        step(batches[2])
        assert all(p.isfinite().all() for p in run.task.network.parameters())
        with pytest.raises(TrainingError, match="in warmup epoch 1 step 2, expected"):
            step.settle()

    def test_the_checkpoint_before_is_kept(self, coloured, tmp_path, monkeypatch):
        run = make_run(coloured, tmp_path)
        broken = BROKEN["loss"]
        call_at_step(
            run,
            4,
            lambda: monkeypatch.setattr(expert_module, "expert_objective", broken),
        )
        with pytest.raises(TrainingError):
            fit(run)
        monkeypatch.undo()
        resumed = make_run(coloured, tmp_path)
        steps = count_steps(resumed)
        assert len(fit(resumed)) == 3
        assert len(steps) == 3 * STEPS_PER_EPOCH - 4

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
            MemoryError(),
        ],
        ids=["CUDA", "CPU", "Python"],
    )
    def test_out_of_memory_names_the_batch_size(self, coloured, tmp_path, error):
        def raise_it() -> None:
            raise error

        run = make_run(coloured, tmp_path)
        call_at_step(run, 1, raise_it)
        message = (
            "out of memory with --batch-size 11 on cpu; use a smaller --batch-size"
        )
        with pytest.raises(EnvironmentFault, match=message):
            fit(run)
        assert run.checkpoint.exists()

    def test_what_cannot_be_repeated_is_refused(self, coloured, tmp_path):
        def refuse() -> None:
            raise RuntimeError(
                "adaptive_avg_pool2d_backward_cuda does not have a deterministic "
                "implementation, but you set 'torch.use_deterministic_algorithms(True)'"
            )

        run = make_run(coloured, tmp_path)
        call_at_step(run, 1, refuse)
        with pytest.raises(UsageError, match="--deterministic with this backbone"):
            fit(run)

    def test_a_bug_keeps_its_own_error(self, coloured, tmp_path):
        def bug() -> None:
            raise RuntimeError("shape mismatch")

        run = make_run(coloured, tmp_path)
        call_at_step(run, 1, bug)
        with pytest.raises(RuntimeError, match="shape mismatch") as caught:
            fit(run)
        assert not isinstance(caught.value, DeepmeError)


class TestUnreadable:
    @pytest.fixture
    def damaged(self, coloured: Split, tmp_path: Path) -> Split:
        """The same pictures, of which the first to train on is cut short."""
        root = tmp_path / "images"
        shutil.copytree(coloured.images.root, root)
        path = root / coloured.images.paths[self.bad_row(coloured)]
        path.write_bytes(path.read_bytes()[:-60])
        return replace(coloured, images=replace(coloured.images, root=root))

    @staticmethod
    def bad_row(split: Split) -> int:
        return int(split.rows("train", MEMBERS)[0])

    def test_by_default_it_stops_and_names_path_and_reason(self, damaged, tmp_path):
        path = damaged.images.display_path(self.bad_row(damaged))
        with pytest.raises(InputError) as caught:
            fit(make_run(damaged, tmp_path))
        assert f"cannot read image {path}: OSError: " in str(caught.value)
        assert "--on-bad skip" in str(caught.value)

    def test_skipped_it_is_listed_once_and_no_other_takes_its_place(
        self, damaged, tmp_path, capsys
    ):
        run = make_run(damaged, tmp_path, skip=True)
        rows: list[int] = []
        loss = run.task.loss
        run.task.loss = lambda batch: (rows.extend(batch.rows.tolist()), loss(batch))[1]
        fit(run)
        readable = damaged.rows("train", MEMBERS)[1:].tolist()
        assert sorted(rows) == sorted(readable * 3)
        ((path, reason),) = run.unreadable.listed()
        assert path == damaged.images.paths[self.bad_row(damaged)]
        assert reason.startswith("OSError: ")
        assert capsys.readouterr().err.count("warning: skipped") == 1

    def test_a_resumed_run_still_lists_it(self, damaged, tmp_path):
        run = make_run(damaged, tmp_path, skip=True)
        call_at_step(run, 3, fail)
        with pytest.raises(SystemError):
            fit(run)
        resumed = make_run(damaged, tmp_path, skip=True)
        fit(resumed)
        assert resumed.unreadable.listed() == run.unreadable.listed() != ()

    def test_too_many_of_them_stop_the_run(self, damaged, tmp_path):
        run = make_run(damaged, tmp_path, skip=True)
        run.unreadable.max_bad = 0.01
        message = "1 of 24 images cannot be read, expected at most --max-bad 0.01"
        with pytest.raises(InputError, match=message):
            fit(run)


def nan_loss(**arguments: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return arguments["logits_BC"].sum() * float("nan"), {}


def nan_gradient(
    **arguments: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Finite, yet √0 has an infinite derivative and ∞ · 0 is NaN."""
    zero = (arguments["logits_BC"] * 0).sum()
    return zero.sqrt(), {}


BROKEN = {"loss": nan_loss, "gradient": nan_gradient}
