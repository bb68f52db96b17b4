from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from injection import snapshot

from deepme.status import Status, status
from deepme.workspace import Workspace

Invoke = Callable[..., Any]
SEVEN = [
    *("similarity", "cluster", "split", "train-expert", "train-gate"),
    *("evaluate", "plot-accuracy"),
]
EVERY = [*SEVEN, "report"]


def states(found: Status) -> dict[str, str]:
    return {stage.stage: stage.state for stage in found.stages}


def told(found: Status, stage: str) -> str:
    return next(item.told for item in found.stages if item.stage == stage)


def test_of_nothing_everything_is_missing(tmp_path: Path) -> None:
    found = status(Workspace(tmp_path / "none"))
    assert states(found) == dict.fromkeys(EVERY, "missing")
    assert found.next == "deepme similarity --classes SOURCE"
    assert not (tmp_path / "none").exists()


def test_of_a_finished_workspace_all_is_done_and_nothing_changed(
    tiny_workspace: Path,
) -> None:
    (tiny_workspace / "report.html").touch()
    before = snapshot(tiny_workspace)
    found = status(Workspace(tiny_workspace))
    assert states(found) == dict.fromkeys(EVERY, "done")
    assert found.next == "deepme predict IMAGES"
    assert told(found, "similarity") == "12 classes"
    assert told(found, "split") == "144 images"
    assert told(found, "train-expert") == "3 of 3 experts"
    assert told(found, "evaluate") == "deepme, deepme-nogate, ssc-oracle"
    assert snapshot(tiny_workspace) == before


@pytest.mark.parametrize(
    ("gone", "stage", "state", "next_command"),
    [
        ("gate", "train-gate", "missing", "deepme train-gate"),
        ("experts/02", "train-expert", "missing", "deepme train-expert --group 2"),
        ("experts", "train-expert", "missing", "deepme train-expert --group all"),
        ("memberships.h5", "cluster", "stale", "deepme cluster"),
        ("split.h5", "split", "missing", "deepme split --data IMAGES"),
        ("figures", "plot-accuracy", "missing", "deepme plot-accuracy"),
    ],
)
def test_what_is_gone_is_the_next_to_make(
    tiny_workspace: Path, gone: str, stage: str, state: str, next_command: str
) -> None:
    path = tiny_workspace / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = status(Workspace(tiny_workspace))
    assert states(found)[stage] == state
    assert found.next == next_command


def test_a_change_above_makes_all_below_stale(
    tiny_workspace: Path, tiny_config: Path, invoke: Invoke
) -> None:
    ended = invoke("cluster", "--T", 2, "--config", tiny_config, "-w", tiny_workspace)
    assert ended.code == 0, ended.stderr
    found = status(Workspace(tiny_workspace))
    stale = dict.fromkeys(("train-expert", "train-gate", "evaluate"), "stale")
    expected = dict.fromkeys(SEVEN, "done") | stale | {"report": "missing"}
    assert states(found) == expected
    assert "groups.json has changed since it was made" in told(found, "train-expert")
    assert found.next == "deepme train-expert --group all"


def test_other_classes_make_the_split_stale(
    tiny_workspace: Path, tmp_path: Path, invoke: Invoke
) -> None:
    (tmp_path / "two.txt").write_text("n02084071\nn02121620\n")
    classes = ("--classes", tmp_path / "two.txt")
    assert not invoke("similarity", *classes, "-w", tiny_workspace).code
    found = status(Workspace(tiny_workspace))
    assert states(found)["split"] == "stale"
    assert "another class list" in told(found, "split")


def test_a_damaged_file_a_checkpoint_and_an_old_figure(tiny_workspace: Path) -> None:
    with (tiny_workspace / "split.h5").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    gate = tiny_workspace / "gate"
    (gate / "training.json").unlink()
    (gate / "checkpoint.safetensors").touch()
    figure = next((tiny_workspace / "figures").glob("*.png"))
    os.utime(figure, (0, 0))
    found = status(Workspace(tiny_workspace))
    assert states(found)["split"] == "corrupt"
    assert states(found)["train-gate"] == "unfinished"
    assert states(found)["plot-accuracy"] == "stale"


def test_a_report_is_missing_then_done_then_stale(
    tiny_workspace: Path, invoke: Invoke
) -> None:
    def now() -> tuple[str, str, str]:
        found = status(Workspace(tiny_workspace))
        return states(found)["report"], told(found, "report"), found.next

    assert now() == ("missing", "", "deepme report")
    assert invoke("report", "-w", tiny_workspace).code == 0
    assert now() == ("done", "report.html", "deepme predict IMAGES")
    evaluation = tiny_workspace / "evaluation" / "deepme.json"
    later = (tiny_workspace / "report.html").stat().st_mtime + 1
    for path in (evaluation, *(tiny_workspace / "figures").glob("*.png")):
        os.utime(path, (later, later))
    assert now() == ("stale", "an evaluation is younger", "deepme report")


def test_the_command_prints_a_table_or_json(
    finished_workspace: Path, invoke: Invoke
) -> None:
    ended = invoke("status", "-w", finished_workspace)
    assert "3 of 3 experts" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "next: deepme report"
    found = json.loads(invoke("status", "--json", "-w", finished_workspace).stdout)
    assert [stage["stage"] for stage in found["stages"]] == EVERY
    assert found["next"] == "deepme report"


def test_a_stale_routed_evaluation_names_its_route(
    tiny_workspace: Path, tiny_config: Path, invoke: Invoke
) -> None:
    routed = ("evaluate", "--fusion", "gate", "--route-top", 1)
    ended = invoke(*routed, "-w", tiny_workspace, "--config", tiny_config)
    assert ended.code == 0, ended.stderr
    (tiny_workspace / "calibration" / "gate-top1.json").unlink()
    (tiny_workspace / "evaluation" / "deepme.json").unlink()
    ended = invoke("report", "-w", tiny_workspace)
    assert ended.code == 2
    assert "deepme-routed.json is stale" in ended.stderr
    assert "rerun `deepme evaluate --fusion gate --route-top 1`" in ended.stderr
