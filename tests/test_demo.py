"""The demo, whole: what a newcomer sees first must hold what the README says."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepme import demo
from deepme.pipeline import Outcome
from deepme.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def outcome(workspace: Workspace) -> Outcome:
    return demo.run(workspace)


@pytest.mark.timeout(900)
def test_the_mixture_leads_equal_weights_and_nears_the_oracle(
    outcome: Outcome,
) -> None:
    top1 = {result.fusion: result.macro["1"] for result in outcome.results}
    assert top1["gate"] >= top1["equal"] + 0.10
    assert top1["gate"] >= top1["oracle"] - 0.15
    assert top1["gate"] >= 5 / outcome.results[0].classes


def test_the_demo_has_its_classes_groups_and_shared_classes(outcome: Outcome) -> None:
    groups = outcome.groups
    assert len(groups.classes) >= 24
    assert len(groups.groups) == 4
    assert sum(len(group.classes) for group in groups.groups) > len(groups.classes)


def test_all_figures_are_drawn(outcome: Outcome) -> None:
    assert sorted(path.name for path in outcome.figures) == [
        f"{name}.{suffix}"
        for name in ("class-accuracy", "expert-accuracy", "groups")
        for suffix in ("png", "svg")
    ]


def test_a_second_demo_changes_nothing(outcome: Outcome, workspace: Workspace) -> None:
    def stamps() -> dict[Path, int]:
        kept = ("*.h5", "*.json", "*.safetensors", "*.png")
        return {
            path: path.stat().st_mtime_ns
            for pattern in kept
            for path in workspace.root.rglob(pattern)
            if "figures" not in path.parts
        }

    before = stamps()
    assert demo.run(workspace).results == outcome.results
    assert stamps() == before
