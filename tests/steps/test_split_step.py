from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from subprocess import run as run_process

import numpy as np
import pytest

from deepme.artifacts.split import SUBSETS, Split
from deepme.config import MachineSettings, SplitSettings
from deepme.errors import InputError
from deepme.steps import split as step
from deepme.steps.split import SplitReport
from deepme.workspace import Workspace

MACHINE = MachineSettings(device="cpu", workers=0)
DOG, CAT = "n02084071", "n02121620"


@pytest.fixture
def workspace(finished_workspace: Path, tmp_path: Path) -> Workspace:
    """A workspace with similarity and groups, yet without split."""
    root = tmp_path / "workspace"
    root.mkdir()
    for name in ("similarity.h5", "groups.json", "memberships.h5"):
        shutil.copy(finished_workspace / name, root)
    return Workspace(root)


@pytest.fixture
def images(tiny_images: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(tiny_images, tmp_path / "images"))


def run(
    workspace: Workspace, data: Path, *, scan: bool = False, **settings: object
) -> SplitReport:
    return step.run(SplitSettings(**settings), MACHINE, workspace, data=data, scan=scan)


def load(workspace: Workspace) -> Split:
    return workspace.split(workspace.groups().origin)


def subsets(split: Split) -> dict[str, int]:
    return {
        path: int(subset)
        for path, subset in zip(split.images.paths, split.subset, strict=True)
    }


def test_the_report_counts_what_is_written(workspace: Workspace, images: Path) -> None:
    report = run(workspace, images)
    split = load(workspace)
    assert report.images == len(split.images) == 12 * 12
    assert (report.train, report.val, report.test) == (12 * 10, 12 * 1, 12 * 1)
    assert [report.train, report.val, report.test] == [
        len(split.rows(name)) for name in SUBSETS
    ]
    assert report.classes == 12
    assert report.empty_classes == report.unknown_folders == []
    assert report.unreadable is None
    assert report.bytes_per_image <= 30


def test_no_image_is_in_two_subsets(workspace: Workspace, images: Path) -> None:
    run(workspace, images)
    split = load(workspace)
    parts = [set(split.rows(name).tolist()) for name in SUBSETS]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert set.union(*parts) == set(range(len(split.images)))
    assert len(set(subsets(split))) == len(split.images)


def test_a_tar_file_is_split_as_its_folder(workspace: Workspace, images: Path) -> None:
    run(workspace, images)
    folder = subsets(load(workspace))
    tar = shutil.make_archive(str(images), "tar", images)
    run(workspace, Path(tar))
    split = load(workspace)
    assert split.images.archives == ("images.tar",)
    assert subsets(split) == folder


def test_it_is_reproducible_to_the_byte(workspace: Workspace, images: Path) -> None:
    run(workspace, images, seed=3)
    first = workspace.split_path.read_bytes()
    workspace.split_path.unlink()
    run(workspace, images, seed=3)
    assert workspace.split_path.read_bytes() == first


def test_one_more_image_leaves_all_other_classes_alone(
    workspace: Workspace, images: Path
) -> None:
    run(workspace, images)
    before = subsets(load(workspace))
    shutil.copy(images / DOG / "00.png", images / DOG / "new.png")
    run(workspace, images)
    after = subsets(load(workspace))
    moved = [path for path in before if before[path] != after[path]]
    assert len(moved) <= 3
    assert all(path.startswith(DOG) for path in moved)


class TestRerun:
    def test_the_same_again_writes_nothing(self, workspace, images, capsys):
        first = run(workspace, images)
        before = workspace.split_path.stat().st_mtime_ns
        assert run(workspace, images) == first
        assert workspace.split_path.stat().st_mtime_ns == before
        assert "is up to date" in capsys.readouterr().err

    @pytest.mark.parametrize("change", ["image", "seed", "share"])
    def test_a_change_is_split_anew(self, workspace, images, change):
        run(workspace, images)
        before = workspace.split_path.read_bytes()
        if change == "image":
            (images / DOG / "00.png").unlink()
        settings = {"seed": {"seed": 1}, "share": {"test": 0.2}}.get(change, {})
        run(workspace, images, **settings)
        assert workspace.split_path.read_bytes() != before


class TestMisfits:
    def test_unknown_folders_and_empty_classes_are_reported(
        self, workspace, images, invoke
    ):
        (images / "zebra").mkdir()
        (images / "ant [red]\x1b").mkdir()
        shutil.rmtree(images / DOG)
        for path in (images / CAT).iterdir():
            path.unlink()
        report = run(workspace, images)
        assert report.unknown_folders == ["ant [red]\x1b", "zebra"]
        assert report.empty_classes == [DOG, CAT]
        ended = invoke("split", "-w", workspace.root, "--data", images)
        assert ended.code == 0
        assert f"2 classes without images: {DOG}, {CAT}\n" in ended.stdout
        assert "2 folders without a class: ant [red]\\x1b, zebra\n" in ended.stdout

    def test_no_image_at_all(self, workspace, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="holds no image of the 12 classes"):
            run(workspace, tmp_path / "empty")
        assert not workspace.split_path.exists()


class TestScan:
    def test_lists_every_bad_file_with_its_reason(self, workspace, images, invoke):
        (images / DOG / "00.png").write_bytes(b"")
        (images / CAT / "01.png").write_text("<html>")
        report = run(workspace, images, scan=True)
        assert report.unreadable == [
            (f"{images}/{DOG}/00.png", "the file is empty"),
            (f"{images}/{CAT}/01.png", "not a JPEG, PNG, WEBP, BMP or GIF file"),
        ]
        ended = invoke("split", "-w", workspace.root, "--data", images, "--scan")
        assert ended.code == 0
        assert "2 images cannot be read\n" in ended.stdout
        assert f"  {images}/{DOG}/00.png: the file is empty\n" in ended.stdout

    def test_nothing_bad_is_said_too(self, workspace, images):
        assert run(workspace, images, scan=True).unreadable == []


def test_json_is_the_report(workspace: Workspace, images: Path, invoke) -> None:
    ended = invoke("split", "-w", workspace.root, "--data", images, "--json")
    assert ended.code == 0
    document = json.loads(ended.stdout)
    assert document["images"] == 144
    assert document["train"] + document["val"] + document["test"] == 144


def test_labels_are_positions_in_the_class_list(
    workspace: Workspace, images: Path
) -> None:
    run(workspace, images)
    split, classes = load(workspace), workspace.groups().content.classes
    for row in range(0, len(split.images), 7):
        folder = split.images.paths[row].partition("/")[0]
        assert classes[split.images.label[row]] == folder
    assert np.array_equal(split.counts.sum(axis=0), [12] * 12)


def test_only_a_scan_pays_for_torch() -> None:
    program = "import sys, deepme.steps.split; sys.exit('torch' in sys.modules)"
    assert run_process([sys.executable, "-c", program], check=False).returncode == 0
