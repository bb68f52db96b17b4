"""The temperatures of a trained workspace: fitted once, on validation images alone."""

# ruff: noqa: N806
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import KINDS, Command
from PIL import Image
from scipy.optimize import root_scalar
from scipy.special import log_softmax

from deepme import calibrating
from deepme.calibrating import Way, calibrate, spread
from deepme.config import MachineSettings
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.mixture import Mixture
from deepme.workspace import Workspace

MACHINE = MachineSettings(device="cpu", workers=0)


@pytest.fixture
def workspace(tiny_workspace: Path) -> Workspace:
    return Workspace(tiny_workspace)


def test_the_gate_has_the_temperature_of_the_mixture_on_validation_images(
    workspace: Workspace,
) -> None:
    """The network asked about images, and scipy, against the cached outputs."""
    split = workspace.split(workspace.groups().origin)
    dataset = ImageDataset(split.images, size=8, augment=False, seed=0)
    (batch,) = evaluation_batches(dataset, split.rows("val"), 100, 0)
    with torch.inference_mode():
        P_BN = Mixture.load(workspace)(batch.inputs)[0].double()

    labels = batch.labels.numpy()
    right = (P_BN.argmax(1).numpy() == labels).mean()

    def tempered(tau: float) -> np.ndarray:
        return log_softmax(P_BN.log().numpy() / tau, axis=1)

    def loss(tau: float) -> float:
        return float(-tempered(tau)[np.arange(len(labels)), labels].mean())

    theirs = root_scalar(
        lambda tau: np.exp(tempered(tau)).max(1).mean() - right, bracket=(1 / 20, 20)
    )
    found = calibrate(workspace, Way("gate"), MACHINE)
    assert found
    assert found.content.temperature == pytest.approx(theirs.root, rel=1e-2)
    assert found.content.images == len(batch.labels)
    assert found.content.loss_before == pytest.approx(loss(1.0), rel=1e-4)
    assert found.content.loss_after == pytest.approx(loss(theirs.root), rel=1e-3)


def test_it_is_fitted_once_and_anew_for_another_gate(
    workspace: Workspace, invoke: Command, tiny_config: Path
) -> None:
    path = workspace.calibration_path("gate")
    path.unlink(missing_ok=True)
    assert not invoke("evaluate", "--config", tiny_config, "-w", workspace.root).code
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    calibrate(workspace, Way("gate"), MACHINE)
    assert path.stat().st_mtime_ns == stamp
    common = ("--config", tiny_config, "-w", workspace.root)
    assert not invoke("train-gate", "--epochs", 1, *common).code
    verdict = invoke("verify", "-w", workspace.root, "--json")
    states = {v["file"]: v["state"] for v in json.loads(verdict.stdout)}
    assert states["calibration/gate.json"] == "stale"
    calibrate(workspace, Way("gate"), MACHINE)
    assert path.read_bytes() != before


def test_a_gate_that_asks_few_has_one_of_its_own(
    workspace: Workspace, invoke: Command
) -> None:
    """It is surer, and right as often as it says under its own temperature."""
    found = {
        top: calibrate(workspace, Way("gate", top), MACHINE).content
        for top in (None, 1)
    }
    assert found[1].temperature > found[None].temperature
    place = ("-w", workspace.root, "--device", "cpu", "--workers", 0)
    for options, top in (((), None), (("--route-top", 1), 1)):
        told = invoke("evaluate", "--topk", 1, *options, "--json", *place)
        (result,) = json.loads(told.stdout)
        assert result["temperature"] == found[top].temperature
    verdict = invoke("verify", "-w", workspace.root, "--json")
    states = {v["file"]: v["state"] for v in json.loads(verdict.stdout)}
    assert states["calibration/gate-top1.json"] == "intact"
    assert Way.of("flat", 1, 0.5) == Way("flat")
    assert Way("gate", None, 0.25).path(workspace).name == "gate-least0.25.json"


def test_without_validation_images_probabilities_stay_as_they_are(
    workspace: Workspace,
    invoke: Command,
    tiny_images: Path,
    tiny_config: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ("--config", tiny_config, "-w", workspace.root)
    assert not invoke("split", "--data", tiny_images, "--val", 0, *common).code
    for stage in (("train-expert", "--group", "all"), ("train-gate",)):
        assert not invoke(*stage, "--epochs", 0, *common).code
    assert calibrate(workspace, Way("gate"), MACHINE) is None
    assert "not calibrated" in capsys.readouterr().err
    results = invoke("evaluate", "--fusion", "gate", "--json", *common)
    (result,) = json.loads(results.stdout)
    assert result["temperature"] is result["calibrated_error"] is None


def test_of_very_many_images_some_are_taken_evenly(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spread(np.arange(10), 20).tolist() == list(range(10))
    assert spread(np.arange(100), 5).tolist() == [0, 25, 50, 74, 99]
    workspace.calibration_path("gate").unlink(missing_ok=True)
    monkeypatch.setattr(calibrating, "MAX_NUMBERS", 12 * 7)
    found = calibrate(workspace, Way("gate"), MACHINE)
    assert found
    assert found.content.images == 7


def test_on_held_out_images_the_error_is_less_than_half(
    invoke: Command, tmp_path: Path
) -> None:
    """A network that has learned noisy pictures by heart is far too sure of others."""
    rng = np.random.default_rng(0)
    classes = [wnid for kind in KINDS.values() for wnid in kind]
    for label, pattern in zip(
        classes, rng.integers(0, 256, (12, 8, 8, 3)), strict=True
    ):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for number in range(100):
            noise = rng.integers(0, 256, pattern.shape)
            pixels = (0.25 * pattern + 0.75 * noise).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    place = ("-w", tmp_path / "workspace")
    machine = (*place, "--device", "cpu", "--workers", 0, "--threads", 1)
    network = ("--backbone", "vgg_tiny", "--weights", "none", "--image-size", 8)
    training = ("--warmup-epochs", 0, "--epochs", 10, "--batch-size", 32)
    rate = ("--lr", 0.05, "--lr-end", 0.005, "--augment", "none")
    images = tmp_path / "images"
    for stage in (
        ("similarity", "--classes", images, *place),
        ("cluster", "--T", 3, *place),
        ("split", "--data", images, "--val", 0.2, "--test", 0.4, *place),
        ("train-flat", *network, *training, *rate, *machine),
    ):
        ended = invoke(*stage)
        assert ended.code == 0, ended.stderr
    told = invoke("evaluate", "--fusion", "flat", "--topk", 1, "--json", *machine)
    (result,) = json.loads(told.stdout)
    assert result["calibration_error"] > 0.1
    assert result["calibrated_error"] <= result["calibration_error"] / 2
