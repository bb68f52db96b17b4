"""deepme export: the same answers outside, and nothing that is not whole."""

# ruff: noqa: N806
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from injection import apart

import deepme
from deepme import classifier, onnx_graph
from deepme.core.mixture import Members
from deepme.errors import ArtifactError, EnvironmentFault, UsageError
from deepme.mixture import Mixture
from deepme.networks import (
    AttentionNetwork,
    FeatureGate,
    FlatGate,
    Network,
    create_network,
)
from deepme.steps import export as step
from deepme.workspace import Workspace

PLACE = ("--device", "cpu", "--workers", 0)


@pytest.fixture
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (200, 3, 16, 16)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def network(outputs: int) -> Network:
    return create_network("vgg_tiny", outputs, weights="none", image_size=16)


MEMBERS = Members.of([[0, 1, 2], [2, 3, 4]], num_classes=5)
NETWORKS: dict[str, Any] = {
    # A gate on images goes through the command, in another test.
    "routed by confidences": lambda: Mixture(
        [network(3), network(3)],
        FeatureGate(2 * network(3).num_features + 6, 2),
        MEMBERS,
        input="confidences",
        top=1,
        least=0.3,
    ),
    "a gate on the flat network": lambda: Mixture(
        # The second has an output for images of other groups.
        [network(3), network(4)],
        FlatGate(network(5).num_features, 2),
        MEMBERS,
        input="flat",
        flat=network(5),
    ),
    "a gate on smaller images": lambda: Mixture(
        [network(3), network(3)],
        create_network("vgg_tiny", 2, weights="none", image_size=16, shrink=2),
        MEMBERS,
    ),
    "attention": lambda: AttentionNetwork([network(3), network(3)], 5, learned=True),
}


def named(net: torch.nn.Module) -> deepme.Classifier:
    names = tuple(classifier.ClassName(f"n{k}", f"class {k}") for k in range(5))
    return deepme.Classifier(
        net, classes=names, image_size=16, temperature=1.7, temperature_slope=0.5
    )


class TestOnnx:
    @pytest.fixture(autouse=True)
    def _packages(self) -> None:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")

    @pytest.mark.parametrize("which", NETWORKS)
    @apart
    def test_onnxruntime_gives_the_same_answers(
        self, which: str, pictures: torch.Tensor, tmp_path: Path
    ) -> None:
        import onnxruntime

        torch.manual_seed(0)
        model = named(NETWORKS[which]())
        path = tmp_path / "model.onnx"
        difference = onnx_graph.save_onnx(path, model, pictures[:3], {"own": "fact"})
        assert difference <= 1e-5
        session = onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
        told = session.run(None, {"images": pictures.numpy()})
        P, weights = model.probabilities(pictures)
        assert np.abs(told[0] - P.numpy()).max() <= 1e-4
        assert len(told) == 1 + (weights is not None)
        if weights is not None:
            assert np.abs(told[1] - weights.numpy()).max() <= 1e-4
        facts = session.get_modelmeta().custom_metadata_map
        assert json.loads(facts["classes"]) == [each.label for each in model.classes]
        assert json.loads(facts["names"]) == [each.name for each in model.classes]
        assert "(batch, 3, 16, 16) uint8" in facts["input"]
        assert facts["own"] == "fact"
        # Putting the parts aside for the graph has left no trace.
        assert model.batch_size == 256

    @apart
    def test_large_weights_lie_beside_it(
        self, pictures: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnx_graph, "INLINE_BYTES", 1000)
        path, old = tmp_path / "model.onnx", tmp_path / "model-0a1b2c3d.data"
        old.write_bytes(b"of an earlier export")
        model = named(network(5))
        assert onnx_graph.save_onnx(path, model, pictures[:3], {}) <= 1e-5
        names = sorted(file.name for file in tmp_path.iterdir())
        assert len(names) == 2
        assert names[0] != old.name
        assert names[1] == "model.onnx"
        assert path.stat().st_size < 100_000

    @apart
    def test_other_answers_are_not_published(
        self, pictures: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnx_graph, "LARGEST_DIFFERENCE", -1.0)
        monkeypatch.setattr(onnx_graph, "INLINE_BYTES", 1000)
        path = tmp_path / "model.onnx"
        with pytest.raises(EnvironmentFault, match="answers differently from PyTorch"):
            onnx_graph.save_onnx(path, named(network(5)), pictures[:3], {})
        assert list(tmp_path.iterdir()) == []

    @apart
    def test_the_command(
        self, tiny_workspace: Path, invoke: Command, tmp_path: Path
    ) -> None:
        out = tmp_path / "sub" / "m.onnx"
        where = ("-w", tiny_workspace, *PLACE)
        told = invoke("export", "--out", out, "--check", 36, "--json", *where)
        assert told.code == 0, told.stderr
        report = json.loads(told.stdout)
        assert report["largest_difference"] <= 1e-4
        assert (report["classes"], report["images"]) == (12, 36)
        assert report["bytes"] == out.stat().st_size


def test_without_the_packages_it_says_what_to_install(
    tiny_workspace: Path, invoke: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "PACKAGES", ("onnx", "not_there"))
    ended = invoke("export", "-w", tiny_workspace, *PLACE)
    assert ended.code == 2
    assert (
        "not_there, which is not installed; pip install 'deepme[onnx]'" in ended.stderr
    )


class TestHub:
    @pytest.fixture
    def folder(self, tiny_workspace: Path, invoke: Command, tmp_path: Path) -> Path:
        folder = tmp_path / "hub"
        ended = invoke(
            *("export", "--format", "hub", "--out", folder, "--license", "mit"),
            *("-w", tiny_workspace, *PLACE),
        )
        assert ended.code == 0, ended.stderr
        return folder

    def test_it_is_loaded_again_without_the_workspace(
        self, folder: Path, tiny_workspace: Path
    ) -> None:
        images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
        before, model = deepme.load(tiny_workspace), deepme.load(folder)
        assert torch.equal(model(images), before(images))
        assert model.classes == before.classes
        assert model.groups == before.groups
        assert model.temperature == before.temperature
        assert model.temperature_slope == before.temperature_slope
        assert model.transform == before.transform
        with pytest.raises(UsageError, match="is an exported model"):
            deepme.load(folder, group=1)

    def test_hubs_find_what_they_look_for(self, folder: Path) -> None:
        assert sorted(path.name for path in folder.iterdir()) == [
            "README.md",
            "config.json",
            "model.safetensors",
        ]
        config = json.loads((folder / "config.json").read_text())
        assert config["num_classes"] == len(config["label_names"]) == 12
        assert config["id2label"]["0"] == "dog"
        assert config["label_descriptions"]["n02084071"] == "dog"

    def test_the_card_says_what_was_measured(
        self, folder: Path, tiny_workspace: Path
    ) -> None:
        cards = pytest.importorskip("huggingface_hub")
        text = (folder / "README.md").read_text()
        data = cards.ModelCard(text).data
        assert data.license == "mit"
        assert data.pipeline_tag == "image-classification"
        (result,) = [
            item.content
            for item in Workspace(tiny_workspace).evaluations()
            if item.content.fusion == "gate"
        ]
        assert f"| top-1 | {result.macro['1']:.1%} |" in text
        assert "`deepme evaluate --fusion gate`" in text
        for group in Workspace(tiny_workspace).groups().content.groups:
            assert f"| {group.number} | {group.name} | {len(group.classes)} |" in text
        counts = [
            f"{number} {name}"
            for name, number in (("train", 84), ("val", 24), ("test", 36))
        ]
        assert ", ".join(counts) in text

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_a_changed_byte_is_found(self, folder: Path, name: str) -> None:
        path = folder / name
        raw = bytearray(path.read_bytes())
        raw[len(raw) * 2 // 3] ^= 1
        path.write_bytes(raw)
        with pytest.raises(ArtifactError, match="corrupt"):
            deepme.load(folder)

    def test_weights_of_another_export_are_refused(
        self, folder: Path, tiny_workspace: Path, invoke: Command
    ) -> None:
        other = folder.parent / "other"
        arguments = ("--format", "hub", "--group", 1, "--out", other)
        shown = invoke("export", *arguments, "-w", tiny_workspace, *PLACE)
        assert shown.stdout.startswith(f"{other}\n")
        assert "the same answers as PyTorch on 16 images" in shown.stdout
        weights = (other / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights)
        with pytest.raises(ArtifactError, match=r"does not belong to its config\.json"):
            deepme.load(folder)

    def test_a_gate_on_the_flat_network(
        self, tiny_workspace: Path, invoke: Command, tiny_config: Path, tmp_path: Path
    ) -> None:
        common = ("--config", tiny_config, "-w", tiny_workspace)
        assert not invoke("train-flat", *common).code
        assert not invoke("train-gate", "--input", "flat", *common).code
        out = ("--format", "hub", "--out", tmp_path / "hub")
        ended = invoke("export", *out, "-w", tiny_workspace, *PLACE)
        assert ended.code == 0, ended.stderr
        images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
        expected = deepme.load(tiny_workspace)(images)
        assert torch.equal(deepme.load(tmp_path / "hub")(images), expected)

    def test_a_gate_on_smaller_images(
        self, tiny_workspace: Path, invoke: Command, tiny_config: Path, tmp_path: Path
    ) -> None:
        common = ("--config", tiny_config, "-w", tiny_workspace)
        assert not invoke("train-gate", "--shrink", 2, *common).code
        out = ("--format", "hub", "--out", tmp_path / "hub")
        ended = invoke("export", *out, "-w", tiny_workspace, *PLACE)
        assert ended.code == 0, ended.stderr
        images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
        expected = deepme.load(tiny_workspace)
        assert expected.network.gate.shrink == 2
        again = deepme.load(tmp_path / "hub")
        assert again.network.gate.shrink == 2
        assert torch.equal(again(images), expected(images))

    def test_every_kind_of_answer(
        self, tiny_workspace: Path, invoke: Command, tiny_config: Path, tmp_path: Path
    ) -> None:
        common = ("--config", tiny_config, "-w", tiny_workspace)
        learned = ("--input", "confidences", "--temperature", "learned")
        for stage in (("train-flat",), ("train-gate", *learned), ("train-attention",)):
            assert not invoke(*stage, "--epochs", 0, *common).code
        images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
        for fusion, options in (
            ("gate", {"route_top": 2}),
            ("attention", {}),
            ("flat", {}),
        ):
            folder = tmp_path / fusion
            given = [f"--route-top={options['route_top']}"] if options else []
            ended = invoke(
                *("export", "--format", "hub", "--fusion", fusion, *given),
                *("--out", folder, "-w", tiny_workspace, *PLACE),
            )
            assert ended.code == 0, ended.stderr
            expected = deepme.load(tiny_workspace, fusion=fusion, **options)
            assert torch.equal(deepme.load(folder)(images), expected(images))
        assert "Not measured" in (tmp_path / "flat" / "README.md").read_text()

    def test_one_that_answers_differently_is_taken_back(
        self,
        tiny_workspace: Path,
        invoke: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def doubtful(folder: Path) -> deepme.Classifier:
            return deepme.load(tiny_workspace, calibrated=False)

        monkeypatch.setattr(step, "load_hub", doubtful)
        arguments = ("export", "--format", "hub", "--out", tmp_path / "hub")
        ended = invoke(*arguments, "-w", tiny_workspace, *PLACE)
        assert ended.code == 3
        assert "answers differently" in ended.stderr
        assert not (tmp_path / "hub" / "config.json").exists()


def test_names_of_theirs_are_no_markdown(tmp_path: Path) -> None:
    from deepme.model_card import _plain

    assert _plain("<b>|`x`*\x1b") == r"\<b\>\|\`x\`\*\\x1b"
