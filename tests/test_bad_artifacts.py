"""Cut or change every kind of artifact: its loader refuses, nothing passes silently."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Command
from injection import snapshot
from specimens import KINDS, Specimen

from deepme.errors import ArtifactError

POINTS = 200


def refused(victim: Specimen) -> None:
    """The loader raises the one error it should, told in one line."""
    with pytest.raises(ArtifactError) as caught:
        victim.load()
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert text.isprintable()
    assert victim.path.name in text


def flips(raw: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """Change one bit, half of the times in the first 2 KiB, where headers are."""
    for number in range(count):
        area = min(len(raw), 2048) if number % 2 else len(raw)
        changed = bytearray(raw)
        changed[rng.randrange(area)] ^= 1 << rng.randrange(8)
        yield bytes(changed)


@pytest.mark.timeout(60)
class TestLoader:
    def test_takes_what_is_whole(self, victim: Specimen):
        if victim.path.name == "checkpoint.safetensors":
            with pytest.raises(AttributeError):
                victim.load()
        else:
            victim.load()

    def test_refuses_what_was_cut(self, victim: Specimen):
        raw = victim.path.read_bytes()
        lengths = {round(i * (len(raw) - 1) / (POINTS - 1)) for i in range(POINTS)}
        assert len(lengths) == POINTS
        for length in lengths:
            victim.path.write_bytes(raw[:length])
            refused(victim)

    def test_refuses_what_was_changed(self, victim: Specimen):
        raw = victim.path.read_bytes()
        for changed in flips(raw, POINTS, random.Random(victim.path.name)):
            victim.path.write_bytes(changed)
            refused(victim)

    def test_refuses_other_damage(self, victim: Specimen):
        raw = victim.path.read_bytes()
        half = len(raw) // 2
        # Inverted, not zeroed: much of a small HDF5 file is zeros already.
        sector = bytes(byte ^ 0xFF for byte in raw[half : half + 512])
        lost = raw[:half] + sector + raw[half + 512 :]
        swapped = raw[half:] + raw[:half]
        for changed in (raw + b"\0", raw + raw, lost, swapped):
            assert changed != raw
            victim.path.write_bytes(changed)
            refused(victim)

    def test_refuses_what_is_no_file(self, victim: Specimen):
        victim.path.unlink()
        os.mkfifo(victim.path)
        refused(victim)
        victim.path.unlink()
        victim.path.mkdir()
        refused(victim)


READERS = {
    "similarity": ("cluster", "similarity"),
    "groups": ("train-expert", "cluster"),
    "split": ("train-expert", "split"),
    "expert": ("train-gate", "train-expert"),
    "expert weights": ("evaluate", "train-expert"),
    "gate": ("evaluate", "train-gate"),
    "gate weights": ("evaluate", "train-gate"),
    "evaluation": ("plot-accuracy", "evaluate"),
    "evaluation counts": ("plot-accuracy", "evaluate"),
}
"""Kind of artifact -> a command that reads it, and the one that makes it."""


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
@pytest.mark.parametrize("kind", READERS)
def test_commands_end_with_2_and_one_line(
    tiny_workspace: Path,
    tiny_arguments: dict[str, list[str]],
    invoke: Command,
    kind: str,
    damage: str,
):
    path = tiny_workspace / KINDS[kind]
    whole = snapshot(tiny_workspace)
    raw = path.read_bytes()
    middle = bytes([raw[len(raw) // 2] ^ 1])
    path.write_bytes(
        {
            "cut": raw[: len(raw) // 2],
            "changed": raw[: len(raw) // 2] + middle + raw[len(raw) // 2 + 1 :],
            "emptied": b"",
        }[damage]
    )
    damaged = snapshot(tiny_workspace)
    reader, maker = READERS[kind]
    if "weights" in kind:
        # The outputs of the experts are up to date, so only the gate would be read.
        shutil.rmtree(tiny_workspace / "outputs" / "test")
        shutil.rmtree(tiny_workspace / "evaluation")
    ended = invoke(*tiny_arguments[reader], "--workspace", tiny_workspace)
    assert ended.code == 2, ended
    (line,) = [text for text in ended.stderr.splitlines() if "error:" in text]
    assert line.startswith("error: ")
    assert path.name in line
    assert "Traceback" not in ended.stderr
    after = snapshot(tiny_workspace)
    assert {name: after[name] for name in after if name in damaged} == {
        name: damaged[name] for name in after
    }
    # What the error advises helps, and gives the same bytes.
    path.unlink()
    for command in (maker, reader, "evaluate"):
        ended = invoke(*tiny_arguments[command], "--workspace", tiny_workspace)
        assert ended.code == 0, ended.stderr
    assert snapshot(tiny_workspace) == whole


@pytest.mark.parametrize("subset", ["train", "test"])
def test_outputs_that_are_bad_are_computed_anew(
    tiny_workspace: Path,
    tiny_arguments: dict[str, list[str]],
    invoke: Command,
    subset: str,
):
    """They are a cache: nothing is lost, and nothing of the bad file is used."""
    whole = snapshot(tiny_workspace)
    path = tiny_workspace / "outputs" / subset / "02.h5"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    for command in ("train-gate", "evaluate"):
        if subset == "test":
            shutil.rmtree(tiny_workspace / "evaluation", ignore_errors=True)
        ended = invoke(*tiny_arguments[command], "--workspace", tiny_workspace)
        assert ended.code == 0, ended.stderr
    assert snapshot(tiny_workspace) == whole


def test_bad_checkpoint_ends_with_2_and_can_be_removed(
    specimen_workspace: Path,
    tmp_path: Path,
    tiny_network: str,
    tiny_config: Path,
    invoke: Command,
):
    root = Path(shutil.copytree(specimen_workspace, tmp_path / "workspace"))
    path = root / KINDS["checkpoint"]
    path.write_bytes(path.read_bytes()[:-1])
    train = ["train-expert", "--group", "2", "--seed", "1", "--backbone", tiny_network]
    train += ["--config", str(tiny_config), "--workspace", str(root)]
    ended = invoke(*train)
    assert ended.code == 2
    assert ended.stderr.startswith(f"error: {path} is corrupt: ")
    path.unlink()
    assert invoke(*train).code == 0
