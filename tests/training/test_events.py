"""What TensorBoard is told of a training, read back by TensorBoard itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from deepme.artifacts.expert import Epoch
from deepme.training.events import NAME, EpochEvents
from deepme.workspace import Workspace

Invoke = Callable[..., Any]


def epoch(number: int, val_top1: float | None = 0.5) -> Epoch:
    return Epoch(
        stage="finetune",
        epoch=number,
        lr=0.1 / number,
        losses={"total": 2.0 / number, "omega": 0.25},
        train_top1=number / 4,
        val_top1=val_top1,
    )


def told(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """(step, tag -> value) of every event with a summary."""
    events = list(EventFileLoader(str(folder / NAME)).Load())
    assert events[0].file_version == "brain.Event:2"
    return [
        (
            event.step,
            {
                value.tag: value.tensor.float_val[0] if value.HasField("tensor")
                else value.simple_value
                for value in event.summary.value
            },
        )
        for event in events[1:]
    ]  # fmt: skip


def test_every_epoch_is_told_once(tmp_path: Path) -> None:
    events = EpochEvents(tmp_path / "experts" / "01")
    events.write([epoch(1)])
    events.write([epoch(1), epoch(2, None)])
    first, second = told(tmp_path / "experts" / "01")
    assert first[0] == 1
    assert first[1] == pytest.approx(
        {
            "loss/total": 2.0,
            "loss/omega": 0.25,
            "top-1/train": 0.25,
            "top-1/validation": 0.5,
            "lr": 0.1,
        }
    )
    assert second[0] == 2
    assert "top-1/validation" not in second[1]


def test_half_a_record_of_a_killed_process_is_written_over(tmp_path: Path) -> None:
    EpochEvents(tmp_path).write([epoch(1)])
    with (tmp_path / NAME).open("ab") as file:
        file.write(b"half a record")
    EpochEvents(tmp_path).write([epoch(1), epoch(2)])
    assert [step for step, _ in told(tmp_path)] == [1, 2]


def test_the_commands_write_the_history_of_their_training(
    tiny_workspace: Path, invoke: Invoke, tiny_config: Path
) -> None:
    common = ("--tensorboard", "--config", tiny_config, "-w", tiny_workspace)
    assert not invoke("train-gate", "--epochs", 1, *common).code
    history = Workspace(tiny_workspace).gate().training.history
    ((step, values),) = told(tiny_workspace / "gate")
    assert step == len(history) == 1
    assert values["loss/total"] == pytest.approx(history[0].losses["total"])
    assert values["top-1/train"] == pytest.approx(history[0].train_top1)
    assert not (tiny_workspace / "experts" / "01" / NAME).exists()


def test_without_the_package_one_line_says_what_to_install(
    tiny_workspace: Path,
    invoke: Invoke,
    tiny_config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tensorboard" else find(name, *rest),
    )
    common = ("--tensorboard", "--config", tiny_config, "-w", tiny_workspace)
    ended = invoke("train-gate", "--epochs", 1, *common)
    assert ended.code == 2
    assert ended.stderr.splitlines()[-1].endswith("pip install 'deepme[tensorboard]'")
