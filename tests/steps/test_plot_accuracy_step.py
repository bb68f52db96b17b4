from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepme.errors import ArtifactError, UsageError
from deepme.steps import plot_accuracy as step
from deepme.workspace import Workspace

FIGURES = ("groups", "class-accuracy", "expert-accuracy")


@pytest.fixture
def workspace(tiny_workspace: Path) -> Workspace:
    return Workspace(tiny_workspace)


def test_writes_three_figures_as_png_and_svg(workspace: Workspace) -> None:
    for path in (workspace.root / "figures").iterdir():
        path.unlink()
    paths = step.run(workspace, k=1)
    expected = {f"{name}.{form}" for name in FIGURES for form in ("png", "svg")}
    assert {path.name for path in paths} == expected
    assert {path.name for path in workspace.figure_path("").iterdir()} == expected
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert image.width > 400
        else:
            assert path.read_text().startswith("<?xml")


def test_again_it_is_the_same_to_the_byte(workspace: Workspace) -> None:
    first = [path.read_bytes() for path in step.run(workspace, k=1)]
    assert [path.read_bytes() for path in step.run(workspace, k=1)] == first


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """What each figure was asked to show; drawing itself has tests of its own."""
    calls: dict[str, tuple[Any, ...]] = {}

    def spy(name: str) -> None:
        plot = getattr(step, name)

        def drawing(*arguments: Any, **options: Any) -> Any:
            calls[name] = arguments
            return plot(*arguments, **options)

        monkeypatch.setattr(step, name, drawing)

    for name in ("plot_group_map", "plot_class_accuracy", "plot_expert_accuracy"):
        spy(name)
    monkeypatch.setattr(step, "png_bytes", lambda _: b"png")
    monkeypatch.setattr(step, "svg_bytes", lambda _: b"svg")
    return calls


class TestContent:
    def test_all_systems_are_in_one_picture_with_the_accuracy_of_every_class(
        self, workspace, drawn
    ):
        step.run(workspace, k=3)
        (accuracies,) = drawn["plot_class_accuracy"]
        assert set(accuracies) == {"deepme", "deepme-nogate", "ssc-oracle"}
        for result in workspace.evaluations():
            shown = accuracies[result.content.system]
            assert len(shown) == 12
            assert np.mean(shown) == pytest.approx(result.content.macro["3"])

    def test_every_expert_has_a_bar(self, workspace, drawn):
        step.run(workspace, k=1)
        names, accuracies, sizes = drawn["plot_expert_accuracy"]
        results = workspace.evaluations()[0].content.groups
        assert names == [f"{group.number} {group.name}" for group in results]
        assert accuracies.tolist() == [group.expert["1"] for group in results]
        assert sizes == [4, 4, 4]

    def test_the_map_has_all_groups_and_names(self, workspace, drawn):
        step.run(workspace, k=1)
        titles, members, names = drawn["plot_group_map"]
        assert len(titles) == len(members) == 3
        assert len(names) == 12
        assert any("edible fruit" in title for title in titles)

    def test_a_system_without_the_rank_is_left_out(
        self, workspace, drawn, invoke, tiny_config
    ):
        ended = invoke(
            *("evaluate", "--topk", 2, "--fusion", "max-logit"),
            *("--config", tiny_config, "-w", workspace.root),
        )
        assert ended.code == 0, ended.stderr
        step.run(workspace, k=2)
        assert list(drawn["plot_class_accuracy"][0]) == ["ssc-max-logit"]


class TestRefusals:
    def test_no_evaluation(self, workspace):
        for path in (workspace.root / "evaluation").iterdir():
            path.unlink()
        with pytest.raises(ArtifactError, match="no evaluation; run `deepme evaluate`"):
            step.run(workspace, k=1)

    def test_a_rank_that_was_not_evaluated(self, workspace):
        message = (
            "--topk is 7, expected a rank that was evaluated: 1, 3; or run `deepme"
        )
        with pytest.raises(UsageError, match=message):
            step.run(workspace, k=7)
