"""The ways to group classes other than by clustering Θ."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from subprocess import run as run_process

import numpy as np
import pytest

from deepme.artifacts.groups import GroupsContent, load_memberships
from deepme.artifacts.origin import origin_of
from deepme.artifacts.outputs import NewOutputs, save_outputs
from deepme.config import (
    ClusterSettings,
    FlatSettings,
    MachineSettings,
    SimilaritySettings,
    SplitSettings,
)
from deepme.errors import ArtifactError, InputError, UsageError
from deepme.steps import cluster, similarity, split
from deepme.steps import train_flat as train_flat_step
from deepme.workspace import Workspace

KINDS = (
    ("n02084071", "n02121620", "n02118333", "n02374451"),
    ("n02958343", "n02924116", "n04490091", "n04467665"),
    ("n07739125", "n07753592", "n07747607", "n07749582"),
)
"""Animals, vehicles and fruits of `tiny_images`."""

ACROSS = {frozenset(classes) for classes in zip(*KINDS, strict=True)}
"""Four groups of an animal, a vehicle and a fruit each."""

MACHINE = MachineSettings(device="cpu", workers=0)


@pytest.fixture
def workspace(finished_workspace: Path, tmp_path: Path) -> Workspace:
    """A workspace with similarity.h5 and split.h5."""
    root = tmp_path / "workspace"
    root.mkdir()
    for name in ("similarity.h5", "split.h5"):
        shutil.copy(finished_workspace / name, root)
    return Workspace(root)


def run(workspace: Workspace, method: str, **settings: object) -> GroupsContent:
    chosen = {"method": method, "num_groups": 3} | settings
    return cluster.run(ClusterSettings(**chosen), MACHINE, workspace)


def sets(content: GroupsContent) -> set[frozenset[str]]:
    return {frozenset(group.classes) for group in content.groups}


def groups_a_class(content: GroupsContent) -> Counter[str]:
    return Counter(name for group in content.groups for name in group.classes)


class TestRandom:
    @pytest.mark.parametrize("settings", [{}, {"overlap": 1.5}, {"max_classes": 3}])
    def test_every_count_is_that_of_ssc(self, workspace, settings):
        ssc, random = (run(workspace, name, **settings) for name in ("ssc", "random"))
        assert [len(g.classes) for g in random.groups] == [
            len(g.classes) for g in ssc.groups
        ]
        assert sorted(groups_a_class(random).values()) == sorted(
            groups_a_class(ssc).values()
        )
        assert random.summary == ssc.summary
        assert random.delta == ssc.delta
        assert sets(random) != sets(ssc)

    def test_memberships_are_those_of_the_new_places(self, workspace):
        content = run(workspace, "random", overlap=1.5)
        memberships = load_memberships(workspace.memberships_path, 12, 3)
        expected = [set(np.flatnonzero(c)) for c in (memberships.p >= content.delta).T]
        assert [set(members) for members in workspace.groups().members] == expected
        assert memberships.embedding.shape == (12, 3)

    def test_the_names_claim_no_meaning(self, workspace):
        names = {group.name for group in run(workspace, "random").groups}
        assert names == {"random classes"}

    def test_the_seed_deals(self, workspace):
        first = sets(run(workspace, "random", seed=1))
        assert first != sets(run(workspace, "random", seed=2))
        assert first == sets(run(workspace, "random", seed=1))


class TestWindows:
    def test_apart_they_are_branches_of_the_taxonomy(self, workspace):
        content = run(workspace, "windows", overlap=1)
        assert sets(content) == set(map(frozenset, KINDS))
        by_name = {group.name: frozenset(group.classes) for group in content.groups}
        assert by_name["edible fruit"] == frozenset(KINDS[2])

    def test_consecutive_ones_share_classes(self, workspace):
        content = run(workspace, "windows", overlap=1.5)
        first, second, third = (set(group.classes) for group in content.groups)
        assert len(first) == len(second) == len(third) == 6
        assert len(first & second) == len(second & third) == 3
        assert not first & third
        assert content.summary["overlap"] == 1.5

    def test_the_overlap_has_a_default_that_is_recorded(self, workspace, capsys):
        content = run(workspace, "windows")
        assert content.summary["overlap"] == round(12 * 1.1) / 12
        assert workspace.groups().origin.header.settings["overlap"] == 1.1
        assert run(workspace, "windows", overlap=1.1) == content
        assert "up to date" in capsys.readouterr().err

    def test_one_window_holds_all(self, workspace):
        content = run(workspace, "windows", num_groups=1)
        assert [len(group.classes) for group in content.groups] == [12]

    def test_there_is_no_delta_and_no_embedding(self, workspace):
        content = run(workspace, "windows", overlap=1.5, delta=0.9)
        assert content.delta is None
        assert workspace.groups().content == content
        assert content.summary["coverage"] == 1
        memberships = load_memberships(workspace.memberships_path, 12, 3)
        assert memberships.embedding.shape == (12, 0)
        assert memberships.eigenvalues.shape == (0,)
        np.testing.assert_allclose(memberships.p.sum(axis=1), 1)
        assert set(np.unique(memberships.p)) == {0, 0.5, 1}

    def test_a_matrix_of_ones_own_is_walked_by_likeness(self, tmp_path):
        places = np.array([0.9, 0.0, 0.5, 0.1, 0.6, 1.0])
        labels = [f"at {place}" for place in places]
        rows = 1 - np.abs(places[:, None] - places)
        lines = [",".join(["", *labels])]
        lines += [
            ",".join([label, *map(str, row)])
            for label, row in zip(labels, rows, strict=True)
        ]
        (tmp_path / "own.csv").write_text("\n".join(lines))
        own = Workspace(tmp_path / "own")
        similarity.run(
            SimilaritySettings(), own, classes="", matrix=str(tmp_path / "own.csv")
        )
        content = run(own, "windows", overlap=1)
        assert sets(content) == {
            frozenset({"at 0.0", "at 0.1"}),
            frozenset({"at 0.5", "at 0.6"}),
            frozenset({"at 0.9", "at 1.0"}),
        }
        assert all(group.name in group.classes for group in content.groups)


class TestSingle:
    @pytest.mark.parametrize("num_groups", [1, 3, 13])
    def test_every_group_holds_all_classes(self, workspace, num_groups):
        content = run(workspace, "single", num_groups=num_groups, overlap=1.2)
        assert [group.classes for group in content.groups] == [
            content.classes
        ] * num_groups
        assert {group.name for group in content.groups} == {"all classes"}
        assert content.summary["overlap"] == num_groups
        memberships = load_memberships(workspace.memberships_path, 12, num_groups)
        np.testing.assert_allclose(memberships.p, 1 / num_groups)


def train_flat(workspace: Workspace, seed: int = 0) -> None:
    """Make a flat network that has learned nothing."""
    settings = FlatSettings(
        **{"backbone": "vgg_small", "weights": "none", "image_size": 8},
        **{"warmup_epochs": 0, "epochs": 0, "seed": seed},
    )
    train_flat_step.run(settings, MACHINE, workspace)


def answer(
    workspace: Workspace, groups: set[frozenset[str]], *, unseen: int = 0
) -> None:
    """Let the flat network take every class for others of its group.

    The first validation image of a class cannot be read, nor can any of the first
    `unseen` classes; the answers to these say otherwise.
    """
    run(workspace, "confusion")
    classes = workspace.similarity().classes
    of_split = workspace.split(workspace.similarity().origin)
    labels = of_split.images.label[of_split.rows("val")]
    group_of = {name: number for number, g in enumerate(groups) for name in g}
    numbers = np.array([group_of[name] for name in classes])
    same_group = numbers[labels][:, None] == numbers
    readable = np.append(False, labels[1:] == labels[:-1]) & (labels >= unseen)
    logits = np.where(readable[:, None], 3 * same_group, 50 * ~same_group)
    logits[np.arange(len(labels)), labels] += 1
    path = workspace.outputs_path("val", workspace.flat())
    nothing = np.empty((len(labels), 0), dtype=np.float32)
    answer = logits.astype(np.float32), nothing
    new = NewOutputs(path=path, header=origin_of(path).header, shape=logits.shape)
    save_outputs([new], iter([(slice(0, len(labels)), [answer], readable)]))
    workspace.groups_path.unlink()


@pytest.fixture
def flat_workspace(workspace: Workspace) -> Workspace:
    """With a flat network, too."""
    train_flat(workspace)
    return workspace


class TestConfusion:
    def test_groups_are_what_the_flat_network_confuses(self, flat_workspace):
        answer(flat_workspace, ACROSS)
        content = run(flat_workspace, "confusion", num_groups=4)
        assert sets(content) == ACROSS
        assert sets(run(flat_workspace, "ssc")) == set(map(frozenset, KINDS))

    def test_delta_overlap_and_limit_are_those_of_ssc(self, flat_workspace):
        answer(flat_workspace, ACROSS)
        content = run(flat_workspace, "confusion", num_groups=4, overlap=1.25)
        assert content.summary["overlap"] == 1.25
        capped = run(
            flat_workspace, "confusion", num_groups=4, overlap=1.25, max_classes=3
        )
        assert capped.summary["overlap"] == 1

    def test_another_flat_network_makes_them_stale(self, flat_workspace, capsys):
        run(flat_workspace, "confusion")
        run(flat_workspace, "confusion")
        assert "the groups are up to date" in capsys.readouterr().err
        train_flat(flat_workspace, seed=1)
        with pytest.raises(ArtifactError, match=r"groups\.json is stale: flat/"):
            flat_workspace.groups()
        run(flat_workspace, "confusion")
        assert "the groups are up to date" not in capsys.readouterr().err
        assert flat_workspace.groups()

    def test_without_a_flat_network(self, workspace):
        with pytest.raises(ArtifactError, match=r"missing; run `deepme train-flat`"):
            run(workspace, "confusion")

    def test_classes_without_validation_images_are_counted(
        self, flat_workspace, capsys
    ):
        answer(flat_workspace, ACROSS, unseen=2)
        content = run(flat_workspace, "confusion", num_groups=4)
        assert sets(content) == ACROSS
        assert "2 classes without a validation image" in capsys.readouterr().err

    def test_without_any_validation_image(self, workspace, tiny_images):
        split.run(
            SplitSettings(val=0), MACHINE, workspace, data=tiny_images, scan=False
        )
        train_flat(workspace)
        with pytest.raises(InputError, match="no validation image that can be read"):
            run(workspace, "confusion")
        assert not workspace.groups_path.exists()


def test_another_method_is_not_up_to_date(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [run(workspace, name) for name in ("ssc", "random", "windows", "single")]
    assert "up to date" not in capsys.readouterr().err
    assert workspace.groups().content == found[-1]
    run(workspace, "single")
    assert "up to date" in capsys.readouterr().err


class TestConcerns:
    def test_windows_above_the_limit_are_named(self, workspace):
        settings = ClusterSettings(method="windows", num_groups=3, max_classes=4)
        content = cluster.run(settings, MACHINE, workspace)
        assert cluster.concerns(settings, content) == [
            "groups 1 have more than --max-classes 4 classes; use a larger --T"
        ]

    def test_all_classes_in_one_network_are_what_was_asked_for(self, workspace):
        settings = ClusterSettings(method="single", num_groups=2, max_classes=4)
        assert (
            cluster.concerns(settings, cluster.run(settings, MACHINE, workspace)) == []
        )


class TestRefusals:
    @pytest.mark.parametrize("method", ["random", "windows"])
    def test_more_groups_than_classes(self, workspace, method):
        with pytest.raises(UsageError, match="--T is 13, expected at most the 12"):
            run(workspace, method, num_groups=13)

    @pytest.mark.parametrize("method", ["random", "windows"])
    def test_more_overlap_than_groups(self, workspace, method):
        message = r"--overlap is 3\.5, expected at most --T 3"
        with pytest.raises(UsageError, match=message):
            run(workspace, method, overlap=3.5)


class TestCommand:
    def test_a_table_without_delta(self, workspace, invoke):
        arguments = ("cluster", "--T", 3, "-w", workspace.root)
        ended = invoke(*arguments, "--method", "windows", "--overlap", 1)
        assert ended.code == 0, ended.stderr
        assert "edible fruit" in ended.stdout
        last = ended.stdout.splitlines()[-1]
        assert last == "12 classes in 3 groups, 1.000 groups a class"

    @pytest.mark.parametrize("method", ["random", "windows", "single"])
    def test_json(self, workspace, invoke, method):
        arguments = ("cluster", "--T", 3, "-w", workspace.root, "--json")
        ended = invoke(*arguments, "--method", method)
        assert ended.code == 0, ended.stderr
        document = json.loads(ended.stdout)
        assert len(document["groups"]) == 3
        assert (document["delta"] is None) == (method != "random")
        assert document["warnings"] == []


def test_only_confusion_pays_for_torch() -> None:
    program = "import sys, deepme.steps.cluster; sys.exit('torch' in sys.modules)"
    assert run_process([sys.executable, "-c", program], check=False).returncode == 0
