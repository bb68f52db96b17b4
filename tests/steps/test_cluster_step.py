from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepme.artifacts.groups import GroupsContent, load_memberships
from deepme.config import ClusterSettings, MachineSettings, SimilaritySettings
from deepme.errors import UsageError
from deepme.steps import cluster, similarity
from deepme.tables import print_groups
from deepme.workspace import Workspace

KINDS = (
    {"n02084071", "n02121620", "n02118333", "n02374451"},
    {"n02958343", "n02924116", "n04490091", "n04467665"},
    {"n07739125", "n07753592", "n07747607", "n07749582"},
)
"""Animals, vehicles and fruits of `tiny_images`."""


@pytest.fixture(scope="module")
def start(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with similarity.h5 alone."""
    workspace = Workspace(tmp_path_factory.mktemp("start"))
    settings = SimilaritySettings()
    similarity.run(settings, workspace, classes=str(tiny_images), matrix="")
    return workspace


@pytest.fixture
def workspace(start: Workspace, tmp_path: Path) -> Workspace:
    (tmp_path / "similarity.h5").write_bytes(start.similarity_path.read_bytes())
    return Workspace(tmp_path)


def run(workspace: Workspace, **settings: object) -> GroupsContent:
    machine = MachineSettings(device="cpu", workers=0)
    return cluster.run(
        ClusterSettings(**({"num_groups": 3} | settings)), machine, workspace
    )


def sizes(content: GroupsContent) -> list[int]:
    return [len(group.classes) for group in content.groups]


def test_groups_follow_the_taxonomy(workspace: Workspace) -> None:
    content = run(workspace)
    assert {frozenset(group.classes) for group in content.groups} == {
        frozenset(kind) for kind in KINDS
    }
    by_name = {group.name: set(group.classes) for group in content.groups}
    assert by_name["edible fruit"] == KINDS[2]
    assert [group.number for group in content.groups] == [1, 2, 3]
    assert content.summary["overlap"] == 1
    assert content.summary["collapsed"] == 0


def test_what_is_returned_is_what_is_written(workspace: Workspace) -> None:
    content = run(workspace)
    groups = workspace.groups()
    assert groups.content == content
    memberships = load_memberships(workspace.memberships_path, 12, 3)
    np.testing.assert_allclose(memberships.p.sum(axis=1), 1, rtol=1e-6)
    for t, members in enumerate(groups.members):
        assert (memberships.p[members].argmax(axis=1) == t).all()


def test_a_wanted_overlap_finds_delta_and_shares_classes(workspace: Workspace) -> None:
    content = run(workspace, overlap=1.25)
    assert sum(sizes(content)) == 1.25 * 12
    assert content.summary["overlap"] == 1.25
    memberships = load_memberships(workspace.memberships_path, 12, 3)
    joined = memberships.p >= content.delta
    assert joined.sum() == 1.25 * 12


def test_delta_is_the_threshold(workspace: Workspace) -> None:
    content = run(workspace, delta=0.01, fuzzifier=2.0)
    memberships = load_memberships(workspace.memberships_path, 12, 3)
    expected = [set(np.flatnonzero(column)) for column in (memberships.p >= 0.01).T]
    assert [set(members) for members in workspace.groups().members] == expected
    assert sum(sizes(content)) > 12


def test_classes_above_no_threshold_follow_their_largest_membership(
    workspace: Workspace,
) -> None:
    content = run(workspace, delta=1.0)
    assert content.summary["coverage"] < 1
    assert content.summary["fallbacks"] == 12 * (1 - content.summary["coverage"])
    assert sum(sizes(content)) == 12


def test_one_group_of_all(workspace: Workspace) -> None:
    content = run(workspace, num_groups=1)
    assert sizes(content) == [12]


def test_as_many_groups_as_classes(workspace: Workspace) -> None:
    assert sizes(run(workspace, num_groups=12)) == [1] * 12


def test_the_seed_decides(workspace: Workspace) -> None:
    run(workspace, seed=1)
    first = workspace.groups_path.read_bytes(), workspace.memberships_path.read_bytes()
    workspace.groups_path.unlink()
    run(workspace, seed=1)
    assert first == (
        workspace.groups_path.read_bytes(),
        workspace.memberships_path.read_bytes(),
    )


class TestConcerns:
    def test_none_for_plain_groups(self, workspace):
        assert cluster.concerns(ClusterSettings(num_groups=3), run(workspace)) == []

    def test_a_collapse_names_the_fuzzifier(self, workspace):
        settings = ClusterSettings(num_groups=3, fuzzifier=2)
        content = run(workspace)
        collapsed = replace(content, summary=content.summary | {"collapsed": 1.0})
        (concern,) = cluster.concerns(settings, collapsed)
        assert "the memberships collapsed" in concern
        assert "use a --fuzzifier below 2" in concern

    def test_tiny_and_large_groups_are_named(self, workspace):
        content = run(workspace)
        first, second, third = content.groups
        uneven = replace(
            content, groups=(replace(first, classes=first.classes[:1]), second, third)
        )
        found = cluster.concerns(ClusterSettings(num_groups=3, max_classes=3), uneven)
        assert found == [
            "groups 1 have fewer than 2 classes; use a smaller --T",
            "groups 2, 3 have more than --max-classes 3 classes of their own; use a "
            "larger --T",
        ]


class TestRefusals:
    def test_more_groups_than_classes(self, workspace):
        message = "--T is 13, expected at most the 12 classes of similarity.h5"
        with pytest.raises(UsageError, match=message):
            run(workspace, num_groups=13)

    def test_more_overlap_than_groups(self, workspace):
        with pytest.raises(
            UsageError, match=r"--overlap is 3\.5, expected at most --T 3"
        ):
            run(workspace, overlap=3.5)


class TestCommand:
    def test_prints_a_table(self, workspace, invoke):
        ended = invoke("cluster", "-w", workspace.root, "--T", 3)
        assert ended.code == 0, ended.stderr
        assert "edible fruit" in ended.stdout
        assert "12 classes in 3 groups, 1.000 groups a class" in ended.stdout

    def test_shared_classes_are_counted(self, workspace, capsys):
        content = run(workspace, overlap=1.25)
        print_groups(content)
        printed = capsys.readouterr().out
        number_of = Counter(name for group in content.groups for name in group.classes)
        for group in content.groups:
            shared = sum(number_of[name] > 1 for name in group.classes)
            assert shared > 0
            cells = rf"{group.number} +{group.name} +{len(group.classes)} +{shared} "
            assert re.search(cells, printed)

    def test_json_is_one_document_with_the_warnings(self, workspace, invoke):
        ended = invoke(
            "cluster", "-w", workspace.root, "--T", 3, "--max-classes", 3, "--json"
        )
        assert ended.code == 0
        document = json.loads(ended.stdout)
        assert len(document["groups"]) == 3
        assert document["warnings"][0].startswith("groups 1, 2, 3 have more than")
        assert ended.stderr.count("warning: ") == 1

    def test_again_it_is_up_to_date(self, workspace, invoke):
        first = invoke("cluster", "-w", workspace.root, "--T", 3)
        before = workspace.groups_path.stat().st_mtime_ns
        again = invoke("cluster", "-w", workspace.root, "--T", 3)
        assert workspace.groups_path.stat().st_mtime_ns == before
        assert "are up to date" in again.stderr
        assert again.stdout == first.stdout
