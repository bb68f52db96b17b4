"""`run`: all stages at once; run again, it redoes what changed and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., set[str]]

EXPERTS = {"experts/01", "experts/02", "experts/03"}
OUTPUTS = {f"outputs/{subset}" for subset in ("train", "val", "test")}
AFTER_GATE = {"calibration", "evaluation"}
AFTER_EXPERTS = OUTPUTS | {"gate"} | AFTER_GATE


def artifacts(root: Path) -> dict[str, int]:
    """When each artifact was written; figures are drawn anew every time."""
    return {
        path.relative_to(root).as_posix(): path.stat().st_mtime_ns
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not path.name.startswith(".")
        and path.parent.name != "figures"
    }


def place(name: str) -> str:
    """The folder of an artifact, or the file itself at the top."""
    return name.rpartition("/")[0] or name


@pytest.fixture
def images(tiny_images: Path) -> Path:
    return tiny_images


@pytest.fixture
def run(tiny_workspace: Path, images: Path, tiny_config: Path, invoke) -> Run:
    """Run on a finished workspace; return the places where anything was written."""

    def run_again(*options: object, data: Path = images) -> set[str]:
        before = artifacts(tiny_workspace)
        ended = invoke(
            *("run", "--data", data, "-w", tiny_workspace, "--config", tiny_config),
            *options,
        )
        assert ended.code == 0, ended.stderr
        after = artifacts(tiny_workspace)
        return {place(name) for name, at in after.items() if at != before.get(name)}

    return run_again


def test_a_fresh_run_equals_the_seven_commands_to_the_byte(
    finished_workspace: Path, tmp_path: Path, images: Path, tiny_config: Path, invoke
) -> None:
    ended = invoke(
        *("run", "--data", images, "-w", tmp_path / "w", "--config", tiny_config)
    )
    assert ended.code == 0, ended.stderr
    assert artifacts(tmp_path / "w").keys() == artifacts(finished_workspace).keys()
    for name in artifacts(finished_workspace):
        ours, theirs = tmp_path / "w" / name, finished_workspace / name
        assert ours.read_bytes() == theirs.read_bytes(), name
    for number, stage in enumerate(
        ("similarity", "split", "cluster", "train-expert", "train-gate", "evaluate"), 1
    ):
        assert f"[{number}/7] {stage}" in ended.stderr
    assert "deepme-nogate" in ended.stdout
    assert str(tmp_path / "w" / "figures" / "groups.png") in ended.stdout


def test_a_second_run_writes_nothing(run: Run) -> None:
    assert run() == set()


def test_a_lost_expert_alone_is_trained_again(run: Run, tiny_workspace: Path) -> None:
    """It comes out as it was, so that all that was made from it still holds."""
    shutil.rmtree(tiny_workspace / "experts" / "02")
    assert run() == {"experts/02"}


def test_another_number_of_groups_keeps_similarity_and_split(run: Run) -> None:
    assert run("--T", 2) == (
        {"groups.json", "memberships.h5", "experts/01", "experts/02"} | AFTER_EXPERTS
    )


def test_other_expert_settings_keep_groups_and_split(run: Run) -> None:
    assert run("--lambda3", 0.5) == EXPERTS | AFTER_EXPERTS


def test_other_gate_settings_keep_the_experts_and_their_outputs(run: Run) -> None:
    assert run("--margin", 0.5) == {"gate"} | AFTER_GATE


def test_other_ranks_are_evaluated_anew(run: Run) -> None:
    assert run("--topk", "1,2") == {"evaluation"}


def test_one_more_image_redoes_all_from_the_split_on(
    run: Run, images: Path, tmp_path: Path
) -> None:
    grown = Path(shutil.copytree(images, tmp_path / "grown"))
    folder = next(grown.iterdir())
    shutil.copy(next(folder.iterdir()), folder / "new.png")
    assert run(data=grown) == {"split.h5"} | EXPERTS | AFTER_EXPERTS


def test_json_is_one_document(
    tiny_workspace: Path, images: Path, tiny_config: Path, invoke
) -> None:
    ended = invoke(
        *("run", "--data", images, "-w", tiny_workspace, "--config", tiny_config),
        "--json",
    )
    document = json.loads(ended.stdout)
    assert len(document["groups"]["groups"]) == 3
    assert [result["fusion"] for result in document["results"]] == [
        "gate",
        "equal",
        "oracle",
    ]
    assert len(document["figures"]) == 6


def test_an_error_of_a_stage_ends_the_run_and_keeps_what_is_done(
    tmp_path: Path, images: Path, tiny_config: Path, invoke
) -> None:
    ended = invoke(
        *("run", "--data", images, "-w", tmp_path / "w", "--config", tiny_config),
        *("--T", 13),
    )
    assert ended.code == 2
    assert ended.stderr.count("error: ") == 1
    assert "--T is 13, expected at most the 12 classes" in ended.stderr
    assert set(artifacts(tmp_path / "w")) == {"similarity.h5", "split.h5"}
