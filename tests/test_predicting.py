"""deepme predict, and the mixture as one network: evaluate's answers, said aloud."""

# ruff: noqa: N806
from __future__ import annotations

import csv
import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from deepme.calibrating import Way, calibrate
from deepme.config import EvaluateSettings, MachineSettings
from deepme.core.calibration import Temperature, temper_probabilities
from deepme.core.mixture import Members
from deepme.core.taxonomy import hypernym_closure
from deepme.errors import ArtifactError, InputError
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.mixture import Mixture
from deepme.networks import FeatureGate, create_network
from deepme.predicting import Label, Prediction, find
from deepme.prediction_tables import print_csv
from deepme.steps import evaluate
from deepme.wordnet import load_builtin
from deepme.workspace import Workspace

MACHINE = MachineSettings(device="cpu", workers=0)
PLACE = ("--device", "cpu", "--workers", 0)


@pytest.fixture
def workspace(tiny_workspace: Path) -> Workspace:
    return Workspace(tiny_workspace)


def top1(workspace: Workspace, mixture: Mixture) -> tuple[float, float]:
    """Share of test images that the network gets right, and experts asked an image."""
    split = workspace.split(workspace.groups().origin)
    dataset = ImageDataset(split.images, size=8, augment=False, seed=0)
    right, asked = [], []
    for batch in evaluation_batches(dataset, split.rows("test"), 7, 0):
        P_BN, weights_BT = mixture(batch.inputs)
        assert torch.allclose(P_BN.sum(dim=1), torch.ones(len(P_BN)))
        right.append(P_BN.argmax(dim=1) == batch.labels)
        asked.append((weights_BT > 0).sum(dim=1).double())
    return float(torch.cat(right).double().mean()), float(torch.cat(asked).mean())


def is_above(taxonomy, above: str, below: str) -> bool:
    """Whether a synset is another or one of its ancestors."""
    ends = taxonomy.index_of([above, below])
    return int(ends[0]) in hypernym_closure(taxonomy, ends[1:])


class TestMixture:
    @pytest.mark.parametrize("route", [{}, {"top": 2}, {"top": 1}, {"least": 0.3}])
    def test_it_is_what_evaluate_measures(self, workspace, route):
        options = {f"route_{name}": value for name, value in route.items()}
        settings = EvaluateSettings(topk=(1,), fusion=("gate",), **options)
        (result,) = evaluate.run(settings, MACHINE, workspace)
        mixture = Mixture.load(workspace, **route)
        micro, asked = top1(workspace, mixture)
        assert micro == pytest.approx(result.micro["1"])
        assert asked == pytest.approx(result.expert_passes)

    @pytest.mark.parametrize(
        "gate",
        [
            ("--input", "features"),
            ("--input", "confidences", "--temperature", "learned"),
            ("--temperature", "learned"),
            ("--input", "flat", "--temperature", "learned"),
        ],
        ids=" ".join,
    )
    def test_with_every_kind_of_gate(self, workspace, invoke, tiny_config, gate):
        common = ("--config", tiny_config, "-w", workspace.root)
        assert invoke("train-flat", *common).code == 0
        assert invoke("train-gate", *gate, "--epochs", 9, *common).code == 0
        for top in (None, 2):
            settings = EvaluateSettings(topk=(1,), fusion=("gate",), route_top=top)
            (result,) = evaluate.run(settings, MACHINE, workspace)
            micro, asked = top1(workspace, Mixture.load(workspace, top=top))
            assert micro == pytest.approx(result.micro["1"])
            assert asked == pytest.approx(result.expert_passes)

    def test_an_expert_that_is_not_trusted_sees_no_image(self, workspace):
        mixture = Mixture.load(workspace, top=1)
        seen = []
        for expert in mixture.experts:
            expert.register_forward_hook(
                lambda _m, given, _o: seen.append(len(given[0]))
            )
        mixture(torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8))
        assert sum(seen) == 20

    def test_networks_see_no_more_than_a_batch(self):
        experts = [
            create_network("vgg_tiny", 2, weights="none", image_size=8).eval()
            for _ in range(2)
        ]
        gate = FeatureGate(128, 2)
        members = Members.of([[0, 1], [1, 2]], num_classes=3)
        mixture = Mixture(experts, gate, members, input="features", batch_size=4)
        images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
        seen = []
        experts[0].register_forward_hook(
            lambda _m, given, _o: seen.append(len(given[0]))
        )
        P_BN, weights_BT = mixture(images)
        assert seen == [4, 4, 2]
        assert P_BN.shape == (10, 3)
        assert weights_BT.shape == (10, 2)
        assert mixture(images[:0])[0].shape == (0, 3)


class TestCommand:
    def test_json_holds_guesses_and_trusted_experts(
        self, workspace, invoke, tiny_images
    ):
        folder = tiny_images / "n02084071"
        told = invoke(
            "predict", folder, "--topk", 3, "--json", "-w", workspace.root, *PLACE
        )
        assert told.code == 0, told.stderr
        predictions = json.loads(told.stdout)
        paths = [prediction["path"] for prediction in predictions]
        assert paths == [str(path) for path in sorted(folder.iterdir())]
        groups = workspace.groups()
        names = dict(zip(groups.content.classes, groups.content.names, strict=True))
        for prediction in predictions:
            shares = [label["probability"] for label in prediction["labels"]]
            assert len(shares) == 3
            assert shares == sorted(shares, reverse=True)
            assert all(
                label["name"] == names[label["label"]] for label in prediction["labels"]
            )
            weights = [expert["weight"] for expert in prediction["experts"]]
            assert sum(weights) == pytest.approx(1, abs=1e-5)
            assert weights == sorted(weights, reverse=True)
            assert all(expert["labels"] == [] for expert in prediction["experts"])

    def test_it_says_what_the_network_says(self, workspace, invoke, tiny_images):
        path = tiny_images / "n02084071" / "00.png"
        arguments = ("predict", path, "--topk", 12, "--json", "--explain")
        told = invoke(*arguments, "-w", workspace.root, *PLACE)
        (prediction,) = json.loads(told.stdout)
        classes = workspace.groups().content.classes
        split = workspace.split(workspace.groups().origin)
        dataset = ImageDataset(split.images, size=8, augment=False, seed=0)
        row = next(
            r
            for r in range(len(split.images))
            if split.images.display_path(r) == str(path)
        )
        (batch,) = evaluation_batches(dataset, np.array([row]), 1, 0)
        raw_BN, weights_BT = Mixture.load(workspace)(batch.inputs)
        found = calibrate(workspace, Way("gate"), MACHINE)
        assert found
        assert found.content.temperature != 1
        P_BN = temper_probabilities(raw_BN, Temperature(*found.content.fitted))
        for label in prediction["labels"]:
            expected = float(P_BN[0, classes.index(label["label"])])
            assert label["probability"] == pytest.approx(expected, abs=1e-6)
        for expert in prediction["experts"]:
            weight = float(weights_BT[0, expert["group"] - 1])
            assert expert["weight"] == pytest.approx(weight, abs=1e-6)
            said = sum(label["probability"] for label in expert["labels"])
            assert said == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("fusion", ["flat", "attention"])
    def test_one_network_can_answer(
        self, workspace, invoke, tiny_images, fusion, tiny_config
    ):
        common = ("--config", tiny_config, "-w", workspace.root)
        assert invoke(f"train-{fusion}", "--epochs", 0, *common).code == 0
        path = tiny_images / "n02084071" / "00.png"
        arguments = ("predict", path, "--fusion", fusion, "--json")
        told = invoke(*arguments, "-w", workspace.root, *PLACE)
        assert told.code == 0, told.stderr
        (prediction,) = json.loads(told.stdout)
        assert len(prediction["labels"]) == 5
        assert prediction["experts"] == []

    def test_a_table_for_people_and_one_for_programs(
        self, workspace, invoke, tiny_images
    ):
        path = tiny_images / "n02084071" / "00.png"
        place = (path, "--topk", 2, "-w", workspace.root, *PLACE)
        shown = invoke("predict", *place)
        assert shown.stdout.splitlines()[0] == str(path)
        assert "expert 1" in shown.stdout
        rows = list(csv.reader(io.StringIO(invoke("predict", "--csv", *place).stdout)))
        header = ["path", "rank", "class", "name", "probability", "ancestors"]
        assert rows[0] == header
        assert [row[:2] for row in rows[1:]] == [[str(path), "1"], [str(path), "2"]]

    def test_it_backs_off_to_an_ancestor_that_is_sure_enough(
        self, workspace, invoke, tiny_images
    ):
        path = tiny_images / "n02084071"
        arguments = ("predict", path, "--topk", 12, "-w", workspace.root, *PLACE)
        told = invoke(*arguments, "--backoff", 0.5, "--path", "--json")
        assert told.code == 0, told.stderr
        taxonomy = load_builtin()
        for prediction in json.loads(told.stdout):
            answer, best = prediction["answer"], prediction["labels"][0]
            below = sum(
                label["probability"]
                for label in prediction["labels"]
                if is_above(taxonomy, answer["label"], label["label"])
            )
            assert answer["probability"] == pytest.approx(below, abs=1e-5)
            assert answer["probability"] >= 0.5 - 1e-6
            assert is_above(taxonomy, answer["label"], best["label"])
            assert (prediction["steps"] == 0) == (answer["label"] == best["label"])
            assert best["path"][0] == "entity"
            assert best["path"][-1] == best["name"]
        root = json.loads(invoke(*arguments, "--backoff", 1, "--json").stdout)[0]
        classes = workspace.groups().content.classes
        above = root["answer"]["label"]
        assert all(is_above(taxonomy, above, label) for label in classes)
        assert root["labels"][0]["path"] == []
        shown = invoke(*arguments, "--backoff", 0.5, "--path").stdout.splitlines()
        assert "sure enough" in shown[1]
        assert "entity > " in shown[2]
        lines = invoke(*arguments, "--backoff", 0.5, "--csv").stdout.splitlines()
        assert next(csv.reader(lines[1:]))[1] == "0"

    def test_a_matrix_has_no_ancestors(self, workspace, invoke, tiny_images, tmp_path):
        matrix = tmp_path / "matrix.csv"
        classes = workspace.groups().content.classes
        rows = [
            f"{name},{','.join(map(str, row))}"
            for name, row in zip(classes, np.eye(len(classes)) / 2 + 0.5, strict=True)
        ]
        matrix.write_text("\n".join([f",{','.join(classes)}", *rows]))
        root = tmp_path / "own"
        assert not invoke("similarity", "--matrix", matrix, "-w", root).code
        told = invoke("predict", tiny_images, "--path", "-w", root, *PLACE)
        assert told.code == 2
        assert "need a taxonomy" in told.stderr

    def test_an_image_that_cannot_be_read_is_left_out(
        self, workspace, run_cli, tiny_images, tmp_path
    ):
        bad = tmp_path / "=bad.png"
        bad.write_bytes(b"no image")
        good = tiny_images / "n02084071" / "00.png"
        ended = run_cli("predict", bad, good, "--csv", "-w", workspace.root, *PLACE)
        assert ended.code == 0
        assert f"warning: skipped {bad}: not a JPEG" in ended.stderr
        assert str(bad) not in ended.stdout
        assert str(good) in ended.stdout

    def test_both_forms_at_once(self, invoke, tiny_images):
        ended = invoke("predict", tiny_images, "--json", "--csv")
        assert (ended.code, ended.stderr) == (
            2,
            "error: --json and --csv are given, expected one of them\n",
        )

    def test_before_training_it_names_the_command(self, workspace, tiny_images, invoke):
        workspace.gate_path.unlink()
        ended = invoke("predict", tiny_images, "-w", workspace.root, *PLACE)
        assert ended.code == 2
        assert "run `deepme train-gate`" in ended.stderr


class TestFind:
    def test_files_folders_and_lines(self, tiny_images):
        one = tiny_images / "n02084071" / "00.png"
        folder = tiny_images / "n02121620"
        found = find([str(one), str(folder), "-"], [f"{one}\n", "\n"])
        assert found == [one, *sorted(folder.iterdir()), one]

    def test_links_to_folders_are_followed_once(self, tiny_images, tmp_path):
        linked = tmp_path / "images" / "n02121620"
        linked.parent.mkdir()
        linked.symlink_to(tiny_images / "n02121620")
        (linked.parent / "again").symlink_to(linked.parent)
        for name in ("z", "o", "p"):
            (linked.parent / name).symlink_to(linked)
        found = find([str(linked.parent)], [])
        assert found == [linked / path.name for path in sorted(linked.iterdir())]

    def test_a_folder_that_cannot_be_listed(self, tmp_path, monkeypatch):
        def scandir(path: str) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

        monkeypatch.setattr(os, "scandir", scandir)
        with pytest.raises(InputError, match=r"cannot list .*: Permission denied"):
            find([str(tmp_path)], [])

    def test_patterns(self, tiny_images):
        below = find([str(tiny_images / "n02121620" / "0*.png")], [])
        assert [path.name for path in below] == [f"{n:02d}.png" for n in range(10)]
        assert len(find([str(tiny_images / "**" / "00.png")], [])) == 12
        with pytest.raises(InputError, match=r"no image in .*\*\.jpg"):
            find([str(tiny_images / "*.jpg")], [])

    def test_a_name_with_brackets_is_a_name(self, tmp_path):
        path = tmp_path / "a[1].png"
        path.touch()
        assert find([str(path)], []) == [path]

    @pytest.mark.parametrize("lines", [[], ["\n"]])
    def test_nothing(self, lines):
        with pytest.raises(InputError, match="no image in -"):
            find(["-"], lines)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(InputError, match=r"there is no image .*nowhere\.png"):
            find([str(tmp_path / "nowhere.png")], [])


def test_formulas_are_no_formulas_in_a_spreadsheet(capsys):
    labels = (Label(label="@SUM(A1)", name="-1+\x1b[31m", probability=0.5),)
    said = Prediction(path="=cmd()", answer=None, steps=None, labels=labels, experts=())
    print_csv([said])
    row = next(csv.reader(io.StringIO(capsys.readouterr().out.splitlines()[1])))
    assert row == ["'=cmd()", "1", "'@SUM(A1)", "'-1+\\x1b[31m", "0.500000", ""]


def test_an_unknown_gate_is_refused(workspace):
    path = workspace.gate_path
    path.write_text(path.read_text().replace('"images"', '"sounds"', 1))
    with pytest.raises(ArtifactError):
        Mixture.load(workspace)
