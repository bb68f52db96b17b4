"""Experts of several groups: in turn, side by side, as a SLURM array."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepme import experts
from deepme.config import MachineSettings
from deepme.workspace import Workspace


@pytest.fixture
def untrained(tiny_workspace: Path) -> Workspace:
    """Groups and split, and no expert."""
    shutil.rmtree(tiny_workspace / "experts")
    return Workspace(tiny_workspace)


@pytest.fixture
def options(tiny_config: Path, untrained: Workspace) -> tuple[object, ...]:
    place = ("--config", tiny_config, "--threads", 1, "-w", untrained.root)
    return ("train-expert", "--group", "all", *place)


def weights(
    workspace: Workspace, numbers: tuple[int, ...]
) -> dict[int, dict[str, torch.Tensor]]:
    return {number: load_file(workspace.expert(number).weights) for number in numbers}


def spoil_an_image_of(workspace: Workspace, number: int, images: Path) -> Path:
    """A training image of one group alone, and no longer an image."""
    groups = workspace.groups()
    inside = set(groups.members[number - 1].tolist())
    others = {
        int(c) for t, m in enumerate(groups.members) if t != number - 1 for c in m
    }
    split = workspace.split(groups.origin)
    row = next(
        r for r in split.rows("train") if split.images.label[r] in inside - others
    )
    path = Path(split.images.display_path(int(row)))
    assert path.is_relative_to(images)
    return path


def test_side_by_side_they_are_the_same(untrained, options, invoke):
    some = ("train-expert", "--group", "1,3", *options[3:])
    ended = invoke(*some, "--jobs", 2)
    assert ended.code == 0, ended.stderr
    lines = [str(untrained.expert_path(number)) for number in (1, 3)]
    assert ended.stdout.split() == lines
    assert "2 experts, 2 at a time" in ended.stderr
    together = weights(untrained, (1, 3))
    shutil.rmtree(untrained.root / "experts")
    assert invoke(*some).code == 0
    for number, ours in together.items():
        theirs = load_file(untrained.expert(number).weights)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("jobs", "group"), [(1, "all"), (2, "2,3")])
def test_a_group_that_fails_leaves_the_others_alone(
    untrained, options, invoke, tiny_images, jobs, group
):
    path = spoil_an_image_of(untrained, 2, tiny_images)
    kept = path.read_bytes()
    path.write_bytes(b"no image")
    try:
        some = ("train-expert", "--group", group, *options[3:])
        ended = invoke(*some, "--jobs", jobs)
    finally:
        path.write_bytes(kept)
    assert ended.code == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(
        f"error: 1 of {3 if group == 'all' else 2} groups failed (2), group 2: "
        f"cannot read image {path}: not a"
    )
    assert last.endswith("; the others are trained; rerun the command for these")
    there = [untrained.expert_path(number).exists() for number in (1, 2, 3)]
    assert there == [group == "all", False, True]


def test_a_setting_no_group_can_have_stops_at_once(untrained, options, invoke):
    ended = invoke(*options, "--backbone", "vgg61")
    assert ended.code == 2
    assert ended.stderr.startswith("error: --backbone is vgg61")


def test_stopped_by_a_signal_all_keep_their_checkpoints(untrained, options):
    some = ("train-expert", "--group", "1,2", *options[3:])
    arguments = [*map(str, some), "--jobs", "2", "--epochs", "2000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deepme", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    paths = [
        untrained.expert_path(number).with_name("checkpoint.safetensors")
        for number in (1, 2)
    ]
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in paths) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143, told
    assert all(path.exists() for path in paths)
    last = told.splitlines()[-1]
    assert last == "error: experts interrupted; their checkpoints are written"
    assert told.count("interrupted; its checkpoint is written") == 2


def test_processes_share_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    slots = experts.slots_of(MachineSettings(), 5)
    assert [slot.device for slot in slots] == ["cuda:0", "cuda:1"]
    slots = experts.slots_of(MachineSettings(jobs=4), 3)
    assert [slot.device for slot in slots] == ["cuda:0", "cuda:1", "cuda:0"]
    assert len(experts.slots_of(MachineSettings(device="cuda:1"), 5)) == 1
    assert len(experts.slots_of(MachineSettings(), 1)) == 1
    assert experts.slots_of(MachineSettings(device="cpu"), 5)[0].jobs == 1


def test_side_by_side_on_a_cpu_they_divide_its_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    slots = experts.slots_of(MachineSettings(device="cpu", jobs=3), 9)
    assert [slot.threads for slot in slots] == [2, 2, 2]
    slots = experts.slots_of(MachineSettings(device="cpu", jobs=2, threads=5), 9)
    assert [slot.threads for slot in slots] == [5, 5]


def test_the_slurm_script_trains_its_group(untrained, options, invoke, tmp_path):
    ended = invoke(*options, "--print-sbatch", "--epochs", 0)
    assert ended.code == 0, ended.stderr
    assert "#SBATCH --array=1,2,3\n" in ended.stdout
    assert not (untrained.root / "experts").exists()
    script = tmp_path / "experts.sh"
    script.write_text(ended.stdout)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "deepme").write_text(f'#!/bin/sh\nexec {sys.executable} -m deepme "$@"\n')
    (bin_ / "deepme").chmod(0o755)
    environment = {"SLURM_ARRAY_TASK_ID": "2", "PATH": f"{bin_}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    there = [untrained.expert_path(number).exists() for number in (1, 2, 3)]
    assert there == [False, True, False]
    stages = {e.stage for e in untrained.expert(2).training.history}
    assert stages == {"warmup"}
