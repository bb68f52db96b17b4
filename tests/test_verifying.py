"""deepme verify: what is corrupt, stale or unfinished, and what to rerun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepme.artifacts.layouts import LAYOUTS
from deepme.errors import InputError
from deepme.verifying import Verdict, verify
from deepme.workspace import Workspace


def states(workspace: Path) -> dict[str, Verdict]:
    return {verdict.file: verdict for verdict in verify(Workspace(workspace))}


def test_a_finished_workspace_is_intact(finished_workspace):
    found = states(finished_workspace)
    assert {verdict.state for verdict in found.values()} == {"intact"}
    kept = {".h5", ".json", ".safetensors"}
    files = {
        path.relative_to(finished_workspace).as_posix()
        for path in finished_workspace.rglob("*")
        if path.is_file() and path.suffix in kept and path.parent.name != "figures"
    }
    assert set(found) == files
    assert len(files) > 25


def test_one_bit_in_any_kind_of_file_is_found(victim):
    raw = bytearray(victim.path.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.path.write_bytes(raw)
    root = next(p for p in victim.path.parents if (p / "split.h5").exists())
    found = states(root)
    name = victim.path.relative_to(root).as_posix()
    assert found[name].state == "corrupt"
    assert str(root) not in found[name].reason


def test_what_follows_a_change_is_stale(tiny_workspace, invoke, tiny_config):
    ended = invoke(
        *("train-expert", "--group", 2, "--seed", 9, "--epochs", 0),
        *("--config", tiny_config, "-w", tiny_workspace),
    )
    assert ended.code == 0, ended.stderr
    found = states(tiny_workspace)
    stale = {name for name, verdict in found.items() if verdict.state == "stale"}
    assert {"gate/training.json", "outputs/test/02.h5"} <= stale
    assert not any(name.startswith("experts/") for name in stale)
    assert "outputs/test/01.h5" not in stale
    gate = found["gate/training.json"]
    assert gate.command == "deepme train-gate"
    assert gate.reason.endswith("has changed since it was made")


def test_a_file_that_is_gone_is_missed_by_what_was_made_from_it(tiny_workspace):
    (tiny_workspace / "split.h5").unlink()
    found = states(tiny_workspace)
    assert found["experts/01/training.json"].state == "stale"
    assert found["groups.json"].state == "intact"


def test_a_checkpoint_is_unfinished_work(tiny_workspace, specimen_workspace):
    (checkpoint,) = specimen_workspace.rglob("checkpoint.safetensors")
    place = tiny_workspace / "experts" / "02" / checkpoint.name
    place.write_bytes(checkpoint.read_bytes())
    found = states(tiny_workspace)["experts/02/checkpoint.safetensors"]
    assert (found.state, found.command) == (
        "unfinished",
        "deepme train-expert --group 2",
    )


def test_another_layout_is_stale(specimen_workspace, monkeypatch):
    for kind, layout in LAYOUTS.items():
        monkeypatch.setitem(LAYOUTS, kind, layout + 1)
    found = states(specimen_workspace)
    read = {verdict.file for verdict in found.values() if verdict.state == "stale"}
    assert set(found) - read == {"experts/02/checkpoint.safetensors"}
    split = LAYOUTS["split"]
    reason = f"layout {split - 1}, this deepme reads layout {split}"
    assert found["split.h5"].reason == reason


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_artifacts(tmp_path, there):
    root = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(InputError, match="holds no artifact of deepme"):
        verify(Workspace(root))


def test_the_command_ends_with_2_if_anything_is_wrong(tiny_workspace, invoke: Any):
    ended = invoke("verify", "-w", tiny_workspace)
    assert ended.code == 0
    assert "files intact" in ended.stdout
    path = tiny_workspace / "groups.json"
    path.write_text(path.read_text().replace("0", "1", 1))
    ended = invoke("verify", "-w", tiny_workspace)
    assert ended.code == 2
    assert "corrupt" in ended.stdout
    assert "deepme cluster" in ended.stdout
    told = json.loads(invoke("verify", "-w", tiny_workspace, "--json").stdout)
    (broken,) = [verdict for verdict in told if verdict["state"] == "corrupt"]
    assert broken["file"] == "groups.json"
