"""cluster --select: T and δ by cross-validation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deepme.artifacts.selection import load_selection
from deepme.config import (
    ClusterSettings,
    FlatSettings,
    MachineSettings,
    SelectSettings,
)
from deepme.errors import ArtifactError, UsageError
from deepme.steps import cluster, select, train_flat
from deepme.workspace import Workspace

MACHINE = MachineSettings(device="cpu", workers=0)
GRID = SelectSettings(grid_groups=(2, 3, 4), grid_delta=(0.05, 0.3))


@pytest.fixture(scope="module")
def trained(finished_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Similarity, split and the flat network."""
    root = tmp_path_factory.mktemp("select") / "workspace"
    root.mkdir()
    for name in ("similarity.h5", "split.h5"):
        shutil.copy(finished_workspace / name, root)
    settings = FlatSettings(
        backbone="vgg_small", weights="none", image_size=8, warmup_epochs=0,
        epochs=20, batch_size=16, lr=0.05, lr_end=0.01,
    )  # fmt: skip
    train_flat.run(settings, MACHINE, Workspace(root))
    return root


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(trained, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


def test_the_whole_grid_is_measured_and_the_best_is_chosen(workspace):
    content = select.run(ClusterSettings(), GRID, MACHINE, workspace)
    grid = [(item.num_groups, item.delta) for item in content.candidates]
    assert grid == [(T, delta) for T in (2, 3, 4) for delta in (0.3, 0.05)]
    measured = [item for item in content.candidates if not item.refused]
    assert measured
    assert content.best.mixture == max(item.mixture for item in measured)
    for item in measured:
        assert 0 <= item.mixture <= item.oracle <= 1
        assert item.smallest >= 2
    assert content.train_images == 84  # 7 of the 12 images of each class
    assert content.val_images == 24
    assert content.flat > 2 / 12  # chance is 1 / 12
    assert load_selection(workspace.selection_path).content == content
    assert b"<svg" in workspace.figure_path("selection.svg").read_bytes()


def test_the_three_kinds_of_pictures_are_found(workspace):
    """Θ knows three kinds; the gap after the third eigenvalue is the largest."""
    content = select.run(ClusterSettings(), GRID, MACHINE, workspace)
    gaps = {item.num_groups: item.eigengap for item in content.candidates}
    indices = {item.num_groups: item.xie_beni for item in content.candidates}
    assert max(gaps, key=gaps.__getitem__) == 3
    assert indices[3] < indices[2]


def test_candidates_are_what_cluster_makes_of_their_settings(workspace):
    content = select.run(ClusterSettings(seed=1), GRID, MACHINE, workspace)
    for item in content.candidates:
        settings = ClusterSettings(num_groups=item.num_groups, delta=item.delta, seed=1)
        groups = cluster.run(settings, MACHINE, workspace)
        assert groups.summary["overlap"] == item.overlap
        assert min(len(group.classes) for group in groups.groups) == item.smallest


def test_groups_that_no_expert_can_use_are_refused(workspace):
    limited = ClusterSettings(max_classes=4)
    grid = replace(GRID, grid_groups=(2, 3, 4), grid_delta=(0.3,))
    two, three, four = select.run(limited, grid, MACHINE, workspace).candidates
    assert two.refused == f"a group of {two.largest} classes"
    assert four.refused == "a group of 1 classes"
    assert two.mixture is two.oracle is four.mixture is None
    assert not three.refused
    assert three.mixture is not None


def test_nothing_is_done_twice(workspace, capsys):
    first = select.run(ClusterSettings(), GRID, MACHINE, workspace)
    before = workspace.selection_path.stat().st_mtime_ns
    assert select.run(ClusterSettings(), GRID, MACHINE, workspace) == first
    assert workspace.selection_path.stat().st_mtime_ns == before
    assert "up to date" in capsys.readouterr().err
    select.run(ClusterSettings(seed=1), GRID, MACHINE, workspace)
    assert workspace.selection_path.stat().st_mtime_ns != before


def test_a_test_image_is_never_opened(workspace, tiny_images, tmp_path):
    """The pictures of the test subset are destroyed; the selection is the same."""
    first = select.run(ClusterSettings(), GRID, MACHINE, workspace)
    split = workspace.split(workspace.similarity().origin)
    assert len(split.rows("test"))
    workspace.selection_path.unlink()
    shutil.rmtree(workspace.root / "outputs")
    kept = {}
    try:
        for row in split.rows("test"):
            path = tiny_images / split.images.paths[row]
            kept[path] = path.read_bytes()
            path.write_bytes(b"no picture")
        assert select.run(ClusterSettings(), GRID, MACHINE, workspace) == first
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def test_needs_the_flat_network(workspace):
    shutil.rmtree(workspace.root / "flat")
    with pytest.raises(ArtifactError, match="deepme train-flat"):
        select.run(ClusterSettings(), GRID, MACHINE, workspace)


@pytest.mark.parametrize("method", ["random", "windows", "single"])
def test_other_methods_have_nothing_to_select(workspace, method):
    with pytest.raises(UsageError, match="expected ssc or confusion"):
        select.run(ClusterSettings(method=method), GRID, MACHINE, workspace)


def test_confusion_groups_can_be_selected(workspace):
    settings = ClusterSettings(method="confusion")
    content = select.run(settings, GRID, MACHINE, workspace)
    assert content.best.mixture is not None


def test_numbers_that_leave_an_expert_one_class(workspace, capsys):
    wide = replace(GRID, grid_groups=(3, 7, 50))
    content = select.run(ClusterSettings(), wide, MACHINE, workspace)
    assert {item.num_groups for item in content.candidates} == {3}
    assert "2 numbers of groups above 6 left out" in capsys.readouterr().err
    with pytest.raises(UsageError, match="expected at most 6"):
        select.run(
            ClusterSettings(), replace(GRID, grid_groups=(7,)), MACHINE, workspace
        )


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"grid_groups": ()}, "--grid-T is"),
        ({"grid_groups": (1, 5)}, "at least 2"),
        ({"grid_delta": ()}, "--grid-delta is"),
        ({"grid_delta": (0.1, 1.5)}, "from 0 to 1"),
    ],
)
def test_a_grid_outside_its_range(grid, message):
    with pytest.raises(UsageError, match=message):
        SelectSettings(**grid)


class TestCommand:
    OPTIONS = ("--select", "--grid-T", "2-4", "--grid-delta", "0.05,0.3",
               "--device", "cpu", "--workers", "0")  # fmt: skip

    def test_the_choice_is_in_force_and_recorded(self, invoke, workspace):
        ended = invoke("cluster", *self.OPTIONS, "--json", "-w", workspace.root)
        assert ended.code == 0, ended.stderr
        told = json.loads(ended.stdout)
        best = told["selection"]["candidates"][told["selection"]["chosen"]]
        recorded = workspace.groups().origin.header.settings
        assert len(told["groups"]) == recorded["num_groups"] == best["num_groups"]
        assert told["delta"] == recorded["delta"] == best["delta"]

    def test_the_table_names_the_choice(self, invoke, workspace):
        ended = invoke("cluster", *self.OPTIONS, "-w", workspace.root)
        assert ended.stdout.count("chosen") == 1
        assert "one head without groups" in ended.stdout
        assert "groups a class" in ended.stdout

    def test_a_grid_that_is_no_grid(self, invoke, workspace):
        ended = invoke("cluster", "--select", "--grid-delta", "a", "-w", workspace.root)
        assert ended.code == 2
        assert ended.stderr.startswith("error: --grid-delta is a, expected numbers")
