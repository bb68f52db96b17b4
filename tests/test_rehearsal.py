from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from injection import snapshot

Invoke = Callable[..., Any]
Lines = dict[str, dict[str, Any]]

BEFORE_FIGURES = [
    *("similarity", "split", "cluster", "train-expert", "train-gate", "evaluate")
]


@pytest.fixture
def rehearse(
    tiny_workspace: Path, tiny_images: Path, tiny_config: Path, invoke: Invoke
) -> Callable[..., Lines]:
    """``run --dry-run`` on a finished workspace, which must stay as it is."""

    def run(*options: object) -> Lines:
        before = snapshot(tiny_workspace)
        common = ("--data", tiny_images, "--config", tiny_config, "-w", tiny_workspace)
        ended = invoke("run", *common, "--dry-run", "--json", *options)
        assert ended.code == 0, ended.stderr
        assert snapshot(tiny_workspace) == before
        return {line["stage"]: line for line in json.loads(ended.stdout)}

    return run


def due(lines: Lines) -> list[str]:
    return [name for name, line in lines.items() if line["runs"]]


def test_of_a_finished_run_only_figures_are_drawn(rehearse) -> None:
    lines = rehearse()
    assert list(lines) == [*BEFORE_FIGURES, "plot-accuracy"]
    assert due(lines) == ["plot-accuracy"]


@pytest.mark.parametrize(
    ("options", "first", "why"),
    [
        (("--formula", "paper"), "similarity", "formula is paper, was standard"),
        (("--val", 0.2), "split", "val is 0.2, was 0.15"),
        (("--T", 2), "cluster", "num_groups is 2, was 3"),
        (("--lambda2", 0.5), "train-expert", "lambda2 is 0.5, was 0.001"),
        (("--kappa", 0.5), "train-gate", "kappa is 0.5, was 1.0"),
        (("--topk", "1"), "evaluate", "topk is [1], was [1, 3]"),
    ],
)
def test_a_changed_setting_runs_its_stage_and_what_follows(
    rehearse, options, first, why
) -> None:
    lines = rehearse(*options)
    assert why in lines[first]["why"]
    expected = BEFORE_FIGURES[BEFORE_FIGURES.index(first) :]
    if first == "split":
        expected.remove("cluster")
    assert due(lines) == [*expected, "plot-accuracy"]


def test_some_experts_are_told_by_their_groups(rehearse, tiny_workspace: Path) -> None:
    shutil.rmtree(tiny_workspace / "experts" / "02")
    lines = rehearse()
    assert lines["train-expert"]["why"] == (
        "1 of 3 groups (2): experts/02/training.json: it is missing"
    )
    assert lines["train-gate"]["why"] == "after train-expert"


def test_outputs_that_are_gone_are_found(rehearse, tiny_workspace: Path) -> None:
    (tiny_workspace / "outputs" / "test" / "01.h5").unlink()
    lines = rehearse()
    assert due(lines) == ["evaluate", "plot-accuracy"]
    assert lines["evaluate"]["why"] == "outputs/test/01.h5: it is missing"


def test_it_says_what_the_run_then_does(
    rehearse, tiny_workspace, tiny_images, tiny_config, invoke
) -> None:
    """The same command without --dry-run makes anew just what was foretold."""
    changed = ("--epochs", 1, "--momentum", 0.5, "--val", 0.15)
    foretold = due(rehearse(*changed))
    before = snapshot(tiny_workspace)
    common = ("--data", tiny_images, "--config", tiny_config, "-w", tiny_workspace)
    ended = invoke("run", *common, *changed)
    assert ended.code == 0, ended.stderr
    after = snapshot(tiny_workspace)
    made = {name.partition("/")[0] for name in after if before.get(name) != after[name]}
    assert foretold == ["train-expert", "train-gate", "evaluate", "plot-accuracy"]
    assert {"experts", "gate", "evaluation"} <= made
    assert made.isdisjoint({"similarity.h5", "split.h5", "groups.json"})
    assert due(rehearse(*changed)) == ["plot-accuracy"]


def test_of_an_empty_workspace_nothing_is_made(
    tmp_path: Path, tiny_images: Path, tiny_config: Path, invoke: Invoke
) -> None:
    place = tmp_path / "new"
    common = ("--data", tiny_images, "--config", tiny_config, "-w", place)
    ended = invoke("run", *common, "--dry-run")
    assert ended.code == 0, ended.stderr
    assert "similarity.h5: it is missing" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "7 stages would run"
    assert not place.exists()


def test_what_a_run_would_refuse_is_refused(
    tmp_path: Path, tiny_images: Path, tiny_config: Path, invoke: Invoke
) -> None:
    common = ("--config", tiny_config, "-w", tmp_path / "new", "--dry-run")
    assert invoke("run", "--data", tmp_path / "nowhere", *common).code == 2
    ended = invoke("run", "--data", tiny_images, "--T", 0, *common)
    assert ended.code == 2


def test_a_comparison_names_what_is_shared_once(
    tmp_path: Path, tiny_images: Path, tiny_config: Path, invoke: Invoke
) -> None:
    place = tmp_path / "comparison"
    common = ("--data", tiny_images, "--config", tiny_config, "-w", place)
    systems = ("--systems", "deepme,deepme-nossc,vgg16-ext", "--seeds", 2)
    ended = invoke("compare", *common, *systems, "--dry-run", "--json")
    assert ended.code == 0, ended.stderr
    lines = json.loads(ended.stdout)
    assert all(line["runs"] for line in lines)
    assert not place.exists()
    names = [line["stage"] for line in lines]
    assert names[:2] == ["similarity", "split"]
    assert "seed-1/deepme: train-expert" in names
    assert "seed-0/deepme-nossc: train-expert" in names
    # vgg16-ext asks the flat network alone, and has a trial with deepme.
    flat = [name for name in names if name.endswith("train-flat")]
    assert flat == ["seed-0/deepme: train-flat", "seed-1/deepme: train-flat"]
    assert not any("vgg16-ext: train-expert" in name for name in names)
