"""No test image reaches pre-training, training, selection or calibration.

The test images are taken away or changed after the split: everything up to the gate
must give the same bytes, and only `evaluate` may miss them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Command
from injection import snapshot

from deepme.workspace import Workspace

BEFORE_THE_TEST = (
    *("similarity.h5", "split.h5", "memberships.h5", "groups.json"),
    *("flat/", "experts/", "gate/", "attention/", "outputs/train/", "outputs/val/"),
    "calibration/",
)


def own_images(
    images: Path, arguments: dict[str, list[str]], folder: Path
) -> tuple[Path, dict[str, list[str]]]:
    """The pictures in a folder that may be changed, and the commands on them."""
    copy = Path(shutil.copytree(images, folder / "images"))
    return copy, {
        name: [str(copy) if part == str(images) else part for part in parts]
        for name, parts in arguments.items()
    }


def run_stages(root: Path, arguments: dict[str, list[str]], invoke: Command) -> None:
    config = arguments["train-gate"][1:]
    stages = [["train-flat", *config]]
    stages += [arguments[name] for name in ("cluster", "train-expert", "train-gate")]
    stages.append(["train-attention", "--epochs", "1", *config])
    for stage in stages:
        ended = invoke(*stage, "--workspace", root)
        assert ended.code == 0, ended.stderr


def up_to_the_test(root: Path) -> dict[str, bytes]:
    return {
        name: content
        for name, content in snapshot(root).items()
        if name.startswith(BEFORE_THE_TEST)
    }


@pytest.mark.parametrize("method", ["ssc", "confusion"])
def test_training_never_opens_a_test_image(
    tiny_images: Path,
    tiny_arguments: dict[str, list[str]],
    tmp_path: Path,
    invoke: Command,
    method: str,
):
    _, arguments = own_images(tiny_images, tiny_arguments, tmp_path)
    arguments["cluster"] += ["--method", method]
    made = {}
    for which in ("whole", "without"):
        root = tmp_path / which
        for name in ("similarity", "split"):
            assert invoke(*arguments[name], "--workspace", root).code == 0
        if which == "without":
            workspace = Workspace(root)
            split = workspace.split(workspace.similarity().origin)
            for row in split.rows("test"):
                Path(split.images.display_path(int(row))).write_bytes(b"no image")
        run_stages(root, arguments, invoke)
        made[which] = up_to_the_test(root)
    assert made["without"].keys() == made["whole"].keys()
    assert made["without"] == made["whole"]
    # The change is one that evaluate cannot miss, so the test above can fail.
    ended = invoke(*arguments["evaluate"], "--workspace", tmp_path / "without")
    assert ended.code == 2
    assert "cannot read image" in ended.stderr


def test_subsets_share_no_image(tiny_workspace: Path):
    workspace = Workspace(tiny_workspace)
    split = workspace.split(workspace.similarity().origin)
    rows = {name: set(split.rows(name).tolist()) for name in ("train", "val", "test")}
    assert sum(map(len, rows.values())) == len(set.union(*rows.values()))
    assert len(set.union(*rows.values())) == len(split.images)
    assert all(rows.values())
