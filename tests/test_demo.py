"""The demo, whole: what a newcomer sees first must hold what the README says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepme import demo
from deepme.pipeline import Outcome
from deepme.workspace import Workspace

DOCS = Path(__file__).parents[1] / "docs"
SOFT = ("demo", "predict", "route", "evaluate", "export")
"""Commands whose last digits hang on the processor: their lines are counted."""

Invoke = Callable[..., Any]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    # As in the tutorial, whose commands are run in the folder above.
    return Workspace(tmp_path_factory.mktemp("tutorial") / "demo")


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


def steps_of(page: str) -> list[tuple[str, str]]:
    """What a page runs, in order: a command with the output it shows, or a script."""
    found: list[tuple[str, str]] = []
    text = (DOCS / page).read_text("utf-8")
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        if language == "python":
            found.append((body, ""))
        elif language == "bash":
            found += [(line, "") for line in body.splitlines()]
        elif language == "console":
            parts = re.split(r"^\$ (.*)\n", body, flags=re.M)[1:]
            found += zip(parts[::2], parts[1::2], strict=True)
    return found


def words_of(printed: str) -> list[list[str]]:
    """Without blanks and the rule below a header."""
    lines = [line.split() for line in printed.splitlines() if line.strip(" ─")]
    return [line for line in lines if line]


def grid_of(printed: str) -> list[list[str]]:
    """What `cluster --select` shows of each pair before it trains heads."""
    rows = [words[:7] for words in words_of(printed) if "%" in "".join(words[7:9])]
    assert rows
    return rows


def compare(command: list[str], printed: str, shown: str) -> None:
    """Hold what a page shows against what was printed; … stands for left-out lines."""
    for part in re.split(r"^…\n", shown, flags=re.M):
        lines = words_of(part)
        if "--select" in command:
            assert grid_of(printed) == grid_of(part)
        elif command[0] in SOFT:
            assert len(lines) <= len(words_of(printed)), command
        else:
            assert lines == words_of(printed), command
    if command[0] == "demo":
        ours, theirs = words_of(printed), words_of(shown)
        assert ours[:5] == theirs[:5]
        assert ours[-1] == theirs[-1]


# In this order: the last page leaves other groups behind.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page", ["reading-the-report.md", "tutorial.md", "choosing-groups.md"]
)
def test_the_pages_about_the_demo_work_as_written(
    page: str,
    outcome: Outcome,
    workspace: Workspace,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(workspace.root.parent)
    steps = steps_of(page)
    assert steps
    for step, shown in steps:
        if not step.startswith("deepme "):
            exec(step, {})
            continue
        command = shlex.split(step)[1:]
        ended = invoke(*command)
        assert ended.code == 0, f"{step}: {ended.stderr}"
        if shown:
            compare(command, ended.stdout, shown)
