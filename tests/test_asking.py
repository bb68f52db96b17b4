"""Several networks asked in one pass over the images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepme import asking
from deepme.artifacts.outputs import load_outputs
from deepme.asking import answers, num_passes, passes
from deepme.config import MachineSettings
from deepme.devices import Compute
from deepme.errors import InputError
from deepme.inference import load_network
from deepme.workspace import Workspace

CPU = Compute(torch.device("cpu"), bfloat16=False)
MACHINE = MachineSettings(device="cpu", workers=0)


@pytest.fixture
def trained(tmp_path: Path):
    """Make trained networks of a number of bytes that see images of a size."""

    def make(*networks: tuple[int, int]) -> list[SimpleNamespace]:
        made = []
        for number, (num_bytes, image_size) in enumerate(networks):
            weights = tmp_path / f"{number}.safetensors"
            weights.write_bytes(bytes(num_bytes))
            training = SimpleNamespace(image_size=image_size, number=number)
            made.append(SimpleNamespace(weights=weights, training=training))
        return made

    return make


def numbers(divided: list[list[SimpleNamespace]]) -> list[list[int]]:
    return [[network.training.number for network in some] for some in divided]


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ([], []),
        ([(10, 64)] * 3, [[0, 1, 2]]),
        ([(500, 64)], [[0]]),
        ([(30, 64)] * 5, [[0, 1, 2], [3, 4]]),
        ([(40, 64)] * 5, [[0, 1], [2, 3], [4]]),
        ([(10, 64), (60, 64)], [[0], [1]]),
        ([(100, 64)] * 3, [[0], [1], [2]]),
        ([(300, 64)] * 2, [[0], [1]]),
        ([(10, 64), (10, 32), (10, 32)], [[0], [1, 2]]),
        ([(0, 64)] * 2, [[0, 1]]),
    ],
)
def test_a_pass_has_one_size_and_little_weight(
    trained, monkeypatch, networks, expected
):
    monkeypatch.setattr(asking, "WEIGHTS_BYTES", 100)
    assert numbers(passes(trained(*networks))) == expected


def test_weights_that_are_missing_are_left_to_who_loads_them(trained):
    networks = trained((10, 64), (10, 64))
    networks[0].weights.unlink()
    assert numbers(passes(networks)) == [[0, 1]]


def test_fifteen_vgg16_take_three_passes():
    assert num_passes(15, 548_000_000) == 3
    assert num_passes(15, 48) == 1
    assert num_passes(1, 2**40) == 1


@pytest.fixture
def workspace(finished_workspace: Path) -> Workspace:
    return Workspace(finished_workspace)


def ask(workspace: Workspace, machine: MachineSettings, network_numbers, rows):
    experts = [workspace.expert(number) for number in network_numbers]
    split = workspace.split(workspace.groups().origin)
    return list(
        answers(
            [load_network(expert, workspace) for expert in experts],
            split.images,
            rows,
            image_size=experts[0].training.image_size,
            compute=CPU,
            machine=machine,
        )
    )


def test_each_answers_as_if_alone(workspace):
    rows = workspace.split(workspace.groups().origin).rows("test")
    [(where, together, readable)] = ask(workspace, MACHINE, (1, 2, 3), rows)
    assert (where, readable.all()) == (slice(0, len(rows)), True)
    for number, (logits, features) in zip((1, 2, 3), together, strict=True):
        [(_, [alone], _)] = ask(workspace, MACHINE, [number], rows)
        np.testing.assert_array_equal(logits, alone[0])
        np.testing.assert_array_equal(features, alone[1])
        expert = workspace.expert(number)
        path = workspace.outputs_path("test", expert)
        kept = load_outputs(path, len(rows), len(expert.training.outputs))
        np.testing.assert_array_equal(logits, kept.logits[:])


def test_batches_follow_each_other(workspace, monkeypatch):
    monkeypatch.setattr(asking, "BATCH_SIZE", 5)
    rows = workspace.split(workspace.groups().origin).rows("train")[:12]
    found = ask(workspace, MACHINE, (1, 2), rows)
    assert [where for where, *_ in found] == [slice(0, 5), slice(5, 10), slice(10, 12)]
    monkeypatch.setattr(asking, "BATCH_SIZE", 12)
    [(_, whole, _)] = ask(workspace, MACHINE, (1, 2), rows)
    for where, parts, _ in found:
        for part, all_of_it in zip(parts, whole, strict=True):
            np.testing.assert_allclose(part[0], all_of_it[0][where], atol=1e-5)


def test_what_cannot_be_read_is_told_once_and_zero_for_all(
    workspace, monkeypatch, capsys
):
    rows = workspace.split(workspace.groups().origin).rows("train")[:6]
    monkeypatch.setattr(
        "deepme.images.loading.read_bytes", _but_the_one_of(int(rows[2]))
    )
    with pytest.raises(InputError, match="cannot read image"):
        ask(workspace, MACHINE, (1, 2), rows)
    skip = MachineSettings(device="cpu", workers=0, on_bad="skip", max_bad=0.5)
    [(_, found, readable)] = ask(workspace, skip, (1, 2), rows)
    assert np.flatnonzero(~readable).tolist() == [2]
    for logits, features in found:
        assert not logits[2].any()
        assert not features[2].any()
        assert logits[[0, 1, 3, 4, 5]].any(axis=1).all()
    told = capsys.readouterr().err
    assert told.count("skipped ") == 1
    assert "1 unreadable images left out" in told


def _but_the_one_of(bad: int):
    from deepme.images.reading import UnreadableImage, read_bytes

    def read(images, row):
        if row == bad:
            raise UnreadableImage("gone")
        return read_bytes(images, row)

    return read
