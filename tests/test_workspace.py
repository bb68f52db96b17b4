"""The workspace: which artifact is current or stale, and who may write."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from injection import Calls, Child, command, fail, in_child

from deepme import workspace as module
from deepme.artifacts.origin import origin_of
from deepme.errors import ArtifactError, EnvironmentFault
from deepme.storage.atomic import atomic_write
from deepme.storage.json import read_json, write_json
from deepme.workspace import Workspace


@pytest.fixture
def workspace(tiny_workspace: Path) -> Workspace:
    return Workspace(tiny_workspace)


def touch_up(path: Path) -> None:
    """Make a JSON artifact anew with another setting: intact, but not the same."""
    values = json.loads(path.read_bytes())["deepme"]
    header, content, _ = read_json(path, values["kind"], values["schema_version"])
    write_json(path, replace(header, settings=header.settings | {"new": 1}), content)


class TestPaths:
    @pytest.mark.parametrize(
        ("name", "made_by"),
        [
            ("similarity.h5", "deepme similarity --classes SOURCE"),
            ("groups.json", "deepme cluster"),
            ("memberships.h5", "deepme cluster"),
            ("split.h5", "deepme split --data IMAGES"),
            ("experts/07/training.json", "deepme train-expert --group 7"),
            ("experts/12/weights.safetensors", "deepme train-expert --group 12"),
            ("outputs/train/01.h5", "deepme train-gate"),
            ("outputs/test/01.h5", "deepme evaluate"),
            ("features/train.h5", "deepme train-gate"),
            ("features/val-01.h5", "deepme train-attention"),
            ("gate/training.json", "deepme train-gate"),
            ("evaluation/deepme.json", "deepme evaluate"),
        ],
    )
    def test_every_artifact_names_its_command(
        self, tmp_path: Path, name: str, made_by: str
    ):
        workspace = Workspace(tmp_path)
        assert workspace.name_of(tmp_path / name) == name
        assert workspace.command_for(tmp_path / name) == made_by

    def test_all_files_of_a_finished_workspace_are_known(self, workspace: Workspace):
        files = [path for path in workspace.root.rglob("*.*") if path.is_file()]
        artifacts = [path for path in files if path.name[0] != "."]
        assert len(artifacts) == 37
        for path in artifacts:
            if path.parent.name != "figures":
                assert workspace.command_for(path).startswith("deepme ")


LOADS: dict[str, tuple[str, Callable[[Workspace], object]]] = {
    "similarity": ("similarity.h5", lambda w: w.similarity()),
    "groups": ("groups.json", lambda w: w.groups()),
    "split": ("split.h5", lambda w: w.split(w.groups().origin)),
    "expert": ("experts/02/training.json", lambda w: w.expert(2)),
    "gate": ("gate/training.json", lambda w: w.gate()),
}


class TestLoading:
    @pytest.mark.parametrize(("name", "load"), LOADS.values(), ids=LOADS)
    def test_missing_names_the_command(
        self, workspace: Workspace, name: str, load: Any
    ):
        load(workspace)
        path = workspace.root / name
        path.unlink()
        expected = f"{path} is missing; run `{workspace.command_for(path)}`"
        with pytest.raises(ArtifactError, match=f"^{re.escape(expected)}$"):
            load(workspace)

    @pytest.mark.parametrize(("name", "load"), LOADS.values(), ids=LOADS)
    def test_unreadable_folder(self, workspace: Workspace, name: str, load: Any):
        with (
            Calls("stat", at=(1,), action=fail(13)),
            pytest.raises(EnvironmentFault, match=r"cannot read .*: Permission denied"),
        ):
            load(workspace)

    def test_no_evaluation(self, workspace: Workspace):
        assert len(workspace.evaluations()) == 3
        shutil.rmtree(workspace.root / "evaluation")
        with pytest.raises(ArtifactError, match="holds no evaluation; run `deepme ev"):
            workspace.evaluations()

    @pytest.mark.parametrize(
        ("changed", "load", "stale", "remedy"),
        [
            ("groups.json", lambda w: w.expert(1), "experts/01", "train-expert --gr"),
            ("groups.json", lambda w: w.gate(), "gate", "train-gate"),
            ("groups.json", lambda w: w.evaluations(), "evaluation", "evaluate"),
            ("experts/02/training.json", lambda w: w.gate(), "gate", "train-gate"),
            ("gate/training.json", lambda w: w.evaluations(), "evaluation", "evaluate"),
        ],
    )
    def test_stale_names_what_changed_and_the_command(
        self, workspace: Workspace, changed: str, load: Any, stale: str, remedy: str
    ):
        touch_up(workspace.root / changed)
        with pytest.raises(
            ArtifactError,
            match=f"{stale}.* is stale: {changed} has changed.*`deepme {remedy}",
        ):
            load(workspace)

    @pytest.mark.parametrize("made", ["weights.safetensors", "visual_similarity.h5"])
    def test_stale_by_a_lost_part(self, workspace: Workspace, made: str):
        (workspace.root / "experts" / "01" / made).unlink()
        with pytest.raises(ArtifactError, match=f"is stale: experts/01/{made} has ch"):
            workspace.expert(1)

    def test_split_of_other_classes(self, workspace: Workspace):
        groups = workspace.groups()
        header = replace(groups.origin.header, classes="0" * 64)
        other = replace(groups, origin=replace(groups.origin, header=header))
        with pytest.raises(ArtifactError, match="was made for another class list"):
            workspace.split(other.origin)

    def test_copied_workspace_is_current(self, workspace: Workspace, tmp_path: Path):
        copy = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "copy")))
        copy.gate()
        copy.evaluations()


class TestIsCurrent:
    def test_with_what_the_stage_writes_beside_it(self, workspace: Workspace):
        path = workspace.groups_path
        header = origin_of(path).header
        assert workspace.is_current(path, header)
        inputs = {"similarity.h5": header.made_from["similarity.h5"]}
        assert workspace.is_current(path, replace(header, made_from=inputs))

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": "gate"},
            {"schema_version": 2},
            {"settings": {}},
            {"classes": "0" * 64},
            {"made_from": {"similarity.h5": "0" * 64}},
            {"made_from": {"other.h5": "0" * 64}},
        ],
    )
    def test_not_with_another_header(self, workspace: Workspace, change: Any):
        header = origin_of(workspace.groups_path).header
        assert not workspace.is_current(
            workspace.groups_path, replace(header, **change)
        )

    @pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"")])
    @pytest.mark.parametrize("name", ["groups.json", "similarity.h5", "memberships.h5"])
    def test_not_with_a_file_lost_or_corrupt(
        self, workspace: Workspace, spoil: Any, name: str
    ):
        header = origin_of(workspace.groups_path).header
        spoil(workspace.root / name)
        assert not workspace.is_current(workspace.groups_path, header)


def hold(root: Path, seconds: float = 60.0) -> Child:
    """A child that holds the lock; returns when it has it."""

    def work() -> None:
        with Workspace(root).lock():
            (root / "held").touch()
            time.sleep(seconds)

    child = Child(work)
    deadline = time.monotonic() + 20
    while not (root / "held").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return child


class TestAdopt:
    def test_links_what_is_missing_and_changes_nothing_else(
        self, workspace: Workspace, tmp_path: Path
    ):
        other = Workspace(tmp_path / "other")
        other.root.mkdir()
        other.split_path.write_text("mine")
        other.adopt(workspace, "*.h5", "experts/*/*")
        assert other.split_path.read_text() == "mine"
        for name in ("similarity.h5", "experts/01/training.json"):
            ours, theirs = other.root / name, workspace.root / name
            assert ours.stat().st_ino == theirs.stat().st_ino
        assert not other.groups_path.exists()

    def test_a_file_replaced_here_stays_whole_there(
        self, workspace: Workspace, tmp_path: Path
    ):
        other = Workspace(tmp_path / "other")
        other.adopt(workspace, "groups.json")
        before = workspace.groups_path.read_bytes()
        with atomic_write(other.groups_path) as file:
            file.write(b"new")
        assert workspace.groups_path.read_bytes() == before

    def test_without_links_files_are_copied(
        self, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def refuse(_path: Path, _target: Path) -> None:
            raise OSError("another file system")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        other = Workspace(tmp_path / "other")
        other.adopt(workspace, "groups.json")
        assert other.groups_path.read_bytes() == workspace.groups_path.read_bytes()


class TestLock:
    def test_makes_the_folder_and_can_be_taken_again(self, tmp_path: Path):
        workspace = Workspace(tmp_path / "new")
        for _ in range(2):
            with workspace.lock():
                assert workspace.root.is_dir()

    def test_is_refused_while_another_process_writes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(module, "LOCK_SECONDS", 0.2)
        child = hold(tmp_path)
        expected = (
            rf"^{tmp_path} is in use by pid {child.pid} on \S+ \(deepme.*\); wait"
        )
        with (
            pytest.raises(EnvironmentFault, match=expected),
            Workspace(tmp_path).lock(),
        ):
            pass
        child.send(signal.SIGKILL)
        child.wait()

    def test_waits_for_a_short_writer(self, tmp_path: Path):
        child = hold(tmp_path, seconds=0.3)
        with Workspace(tmp_path).lock():
            pass
        assert child.wait().code == 0

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_dies_with_its_holder(self, tmp_path: Path, number: int):
        for _ in range(3):
            child = hold(tmp_path)
            child.send(number)
            child.wait()
            (tmp_path / "held").unlink()
            started = time.monotonic()
            with Workspace(tmp_path).lock():
                assert time.monotonic() - started < 1

    def test_does_not_outlive_its_holder_in_a_decoding_process(self, tmp_path: Path):
        """A fork, such as a loader's worker, inherits descriptors but not the lock."""

        def work() -> None:
            with Workspace(tmp_path).lock():
                worker = os.fork()
                if not worker:
                    time.sleep(30)
                    os._exit(0)
                (tmp_path / "pid").write_text(str(worker))
                (tmp_path / "pid").rename(tmp_path / "worker")
                time.sleep(30)

        child = Child(work)
        while not (tmp_path / "worker").exists():
            time.sleep(0.005)
        child.send(signal.SIGKILL)
        started = time.monotonic()
        with Workspace(tmp_path).lock():
            assert time.monotonic() - started < 1
        os.kill(int((tmp_path / "worker").read_text()), signal.SIGKILL)
        child.wait()

    def test_experts_are_trained_side_by_side(self, tmp_path: Path):
        workspace = Workspace(tmp_path)
        first, second = (workspace.expert_path(number).parent for number in (1, 2))
        with workspace.lock(first), workspace.lock(second), workspace.lock():
            pass

    def test_sweeps_what_it_guards_and_nothing_else(self, tmp_path: Path):
        workspace = Workspace(tmp_path)
        mine = [".", "gate", "evaluation", "figures", "outputs/train", "outputs/test"]
        others = ["experts/01", "images"]
        for folder in (*mine, *others):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / ".tmp-a-01234567").touch()
        with workspace.lock():
            left = {path.parent for path in tmp_path.rglob(".tmp-*")}
            assert left == {tmp_path / folder for folder in others}
        with workspace.lock(tmp_path / "experts" / "01"):
            left = {path.parent for path in tmp_path.rglob(".tmp-*")}
            assert left == {tmp_path / "images"}

    def test_is_released_when_the_disk_is_full(self, tmp_path: Path):
        workspace = Workspace(tmp_path)
        with (
            Calls("replace", at=(1,), action=fail(28)),
            pytest.raises(EnvironmentFault, match=r"cannot write .*: No space left"),
            workspace.lock(),
        ):
            pass
        assert in_child(lambda: workspace.lock().__enter__()).code == 0

    @pytest.mark.parametrize("name", [".deepme.lock", ".deepme.holder"])
    def test_a_folder_in_place_of_its_files(self, tmp_path: Path, name: str):
        (tmp_path / name).mkdir()
        with (
            pytest.raises(EnvironmentFault, match=r"cannot write .*: Is a directory"),
            Workspace(tmp_path).lock(),
        ):
            pass

    def test_below_a_file(self, tmp_path: Path):
        (tmp_path / "file").touch()
        with (
            pytest.raises(EnvironmentFault, match="cannot write"),
            Workspace(tmp_path / "file").lock(),
        ):
            pass

    @pytest.mark.parametrize("holder", [b"", b"[]", b'{"pid": 1}', b"\xff"])
    def test_a_holder_file_of_nonsense(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: bytes
    ):
        monkeypatch.setattr(module, "LOCK_SECONDS", 0.1)
        child = hold(tmp_path)
        (tmp_path / ".deepme.holder").write_bytes(holder)
        with (
            pytest.raises(EnvironmentFault, match="is in use by another process"),
            Workspace(tmp_path).lock(),
        ):
            pass
        child.send(signal.SIGKILL)
        child.wait()


class TestTwoProcesses:
    @pytest.mark.parametrize(
        "stage", ["similarity", "cluster", "split", "train-gate", "evaluate"]
    )
    def test_second_writer_ends_with_3_within_seconds(
        self,
        tiny_workspace: Path,
        tiny_arguments: dict[str, list[str]],
        monkeypatch: pytest.MonkeyPatch,
        stage: str,
    ):
        monkeypatch.setattr(module, "LOCK_SECONDS", 0.2)
        child = hold(tiny_workspace)
        expected = f"error: {tiny_workspace} is in use by pid {child.pid} on "
        end = in_child(command(*tiny_arguments[stage], "-w", tiny_workspace))
        child.send(signal.SIGKILL)
        child.wait()
        assert end.code == 3
        assert expected in end.output

    def test_the_refusal_comes_within_three_seconds(self, tmp_path: Path):
        child = hold(tmp_path)
        started = time.monotonic()
        with pytest.raises(EnvironmentFault), Workspace(tmp_path).lock():
            pass
        assert 1.9 < time.monotonic() - started < 3
        child.send(signal.SIGKILL)
        child.wait()
