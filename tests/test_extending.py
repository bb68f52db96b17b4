"""extend: new classes in a finished mixture, and everything else as it was."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from injection import snapshot
from PIL import Image
from safetensors.numpy import load_file

from deepme.workspace import Workspace

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"

Invoke = Callable[..., Any]

LION, CAB, LEMON, BEAR = "n02129165", "n02930766", "n07749582", "n02132136"
"""A new animal, a new vehicle; a fruit that the workspace knows; another animal."""

MACHINE = ("--device", "cpu", "--workers", "0")


def draw(folder: Path, colour: int, images: int = 12) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(colour)
    for number in range(images):
        pixels = rng.integers(0, 60, (8, 8, 3), dtype=np.uint8)
        pixels[2:6, 2:6, colour] += 150
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")


def extend(invoke: Invoke, data: Path, old: Path, out: Path, *more: str) -> Any:
    ended = invoke(
        *("extend", "--data", data, "-w", old, "--out", out, "--json"), *MACHINE, *more
    )
    assert ended.code == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def new_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("new") / "images"
    for colour, wnid in enumerate((LION, CAB)):
        draw(root / wnid, colour)
    draw(root / LEMON, 2)
    return root


@pytest.fixture(scope="module")
def grown(
    invoke: Invoke,
    finished_workspace: Path,
    new_images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], Workspace, Workspace]:
    """What extend printed, the workspace before, and the one with two classes more."""
    was = snapshot(finished_workspace)
    out = tmp_path_factory.mktemp("extended") / "grown"
    table = extend(invoke, new_images, finished_workspace, out)
    assert snapshot(finished_workspace) == was
    return table, Workspace(finished_workspace), Workspace(out)


def test_the_page_works_as_written(
    invoke: Invoke,
    tiny_workspace: Path,
    new_images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tiny_workspace.parent)
    Path("NEW").symlink_to(new_images)
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        ended = invoke(*shlex.split(line)[1:], *MACHINE)
        assert ended.code == 0, ended.stderr
        assert ended.stdout


class TestPlaces:
    def test_new_classes_join_their_kind(self, grown):
        table, old, new = grown
        assert table["classes"] == [LION, CAB]
        for joined in table["joined"]:
            before = old.groups().group(joined["group"]).classes
            kind = "n02084071" if LION in joined["added"] else "n02958343"
            assert kind in before
            after = new.groups().group(joined["group"]).classes
            assert after == (*before, *joined["added"])
        assert len(table["joined"]) == 2
        assert len(table["kept"]) == 1

    def test_old_classes_keep_their_places(self, grown):
        _, old, new = grown
        first, second = old.groups(), new.groups()
        assert second.content.classes == (*first.content.classes, LION, CAB)
        assert second.content.delta == first.content.delta
        theta = new.similarity().theta()[:12, :12]
        np.testing.assert_array_equal(theta, old.similarity().theta())

    def test_old_images_keep_rows_and_subsets(self, grown, new_images):
        _, old, new = grown
        first = old.split(old.groups().origin)
        second = new.split(new.groups().origin)
        count = len(first.images)
        assert len(second.images) == count + 24  # the lemons are passed over
        np.testing.assert_array_equal(second.subset[:count], first.subset)
        np.testing.assert_array_equal(second.images.label[:count], first.images.label)
        rows = (0, 1, count - 1)
        images, was = second.images, first.images
        for row in rows:
            assert images.root / images.paths[row] == was.root / was.paths[row]
        assert images.root / images.paths[count] == new_images / LION / "00.png"
        assert set(second.subset[count:]) == {0, 1, 2}

    def test_place_only_trains_nothing(
        self, invoke, tiny_workspace, new_images, tmp_path
    ):
        out = tmp_path / "placed"
        table = extend(invoke, new_images, tiny_workspace, out, "--place-only")
        assert table["results"] == []
        assert 0 < table["training_tflop"] < table["anew_tflop"]
        ratio = table["training_tflop"] / table["anew_tflop"]
        assert table["share"] == pytest.approx(ratio)
        assert not (out / "experts").exists()


class TestTrains:
    def test_what_no_class_joined_is_kept(self, grown):
        table, old, new = grown
        (kept,) = table["kept"]
        first = load_file(old.expert(kept).weights)
        second = load_file(new.expert(kept).weights)
        assert first.keys() == second.keys()
        for name, values in first.items():
            np.testing.assert_array_equal(second[name], values)

    def test_what_classes_joined_went_on(self, grown):
        table, old, new = grown
        for joined in table["joined"]:
            first, second = (at.expert(joined["group"]) for at in (old, new))
            added = tuple(joined["added"])
            assert second.training.outputs == (*first.training.outputs, *added)
            assert len(second.training.history) == 1  # of one epoch, at least one
            assert second.origin.header.settings["weights"] == "before"
            one, two = load_file(first.weights), load_file(second.weights)
            assert two["head.weight"].shape[0] == one["head.weight"].shape[0] + 1
            changed = np.abs(two["head.weight"][:-1] - one["head.weight"]).max()
            assert 0 < changed < np.abs(one["head.weight"]).max()

    def test_the_whole_is_sound(self, grown, invoke, tiny_images):
        table, _, new = grown
        (result,) = table["results"]
        assert result["fusion"] == "gate"
        assert result["classes"] == 14
        ended = invoke("verify", "-w", new.root, "--json")
        assert ended.code == 0, ended.stdout
        image = tiny_images / LEMON / "00.png"
        ended = invoke("predict", image, "-w", new.root, "--topk", "14", "--json")
        assert ended.code == 0, ended.stderr
        (told,) = json.loads(ended.stdout)
        guesses = {label["label"] for label in told["labels"]}
        assert {LION, CAB} < guesses

    def test_again_does_nothing(self, grown, invoke, new_images):
        _, old, new = grown
        was = snapshot(new.root)
        extend(invoke, new_images, old.root, new.root)
        assert snapshot(new.root) == was

    def test_an_extension_can_be_extended(self, grown, invoke, tmp_path):
        _, _, new = grown
        data, out = tmp_path / "more", tmp_path / "larger"
        draw(data / BEAR, 0)
        table = extend(invoke, data, new.root, out, "--place-only")
        (joined,) = table["joined"]
        assert LION in new.groups().group(joined["group"]).classes
        assert len(Workspace(out).groups().content.classes) == 15


def test_epochs_of_a_second_extension_are_of_those_before_the_first(
    invoke: Invoke,
    tiny_workspace: Path,
    tiny_config: Path,
    new_images: Path,
    tmp_path: Path,
) -> None:
    longer = ("--config", tiny_config, "-w", tiny_workspace, "--epochs", 6)
    for words in (
        ("train-flat",),
        ("train-expert", "--group", "all"),
        ("train-gate", "--input", "flat", "--warmup-epochs", 1),
        ("train-attention", "--warmup-epochs", 1),
    ):
        ended = invoke(*words, *longer)
        assert ended.code == 0, ended.stderr
    draw(tmp_path / "more" / BEAR, 0)
    root = tiny_workspace
    for name, data in (("once", new_images), ("twice", tmp_path / "more")):
        out = tmp_path / name
        table = extend(invoke, data, root, out)
        new = Workspace(out)
        at = next(j["group"] for j in table["joined"] if {LION, BEAR} & {*j["added"]})
        stages = [epoch.stage for epoch in new.expert(at).training.history]
        assert stages == ["finetune"] * 2  # 0.35 of six
        stages = [epoch.stage for epoch in new.flat().training.history]
        assert stages == ["warmup"] * 7
        stages = [epoch.stage for epoch in new.gate().training.history]
        assert stages == ["warmup", "gate", "gate"]
        stages = [epoch.stage for epoch in new.attention().training.history]
        assert stages == ["warmup", "finetune", "finetune"]
        assert 0 < table["share"] < 0.6
        root = out


def test_a_warm_up_from_the_cache_counts_as_one_pass(
    invoke: Invoke,
    tiny_workspace: Path,
    tiny_config: Path,
    new_images: Path,
    tmp_path: Path,
) -> None:
    now, anew = {}, {}
    for name, options in (
        ("cache", ("--warmup-epochs", 4, "--epochs", 0)),
        ("views", ("--warmup", "views", "--warmup-epochs", 4, "--epochs", 0)),
        ("whole", ("--warmup-epochs", 0, "--epochs", 4)),
    ):
        gate = ("train-gate", *options, "--config", tiny_config, "-w", tiny_workspace)
        ended = invoke(*gate)
        assert ended.code == 0, ended.stderr
        out = tmp_path / name
        table = extend(invoke, new_images, tiny_workspace, out, "--place-only")
        now[name], anew[name] = table["training_tflop"], table["anew_tflop"]
    # Of a gate's epochs there are 1, 4 and 4 times 3 passes, and now one epoch.
    once = (anew["views"] - anew["cache"]) / 3
    assert anew["whole"] - anew["cache"] == pytest.approx(11 * once)
    assert now["views"] == pytest.approx(now["cache"])
    assert now["whole"] - now["cache"] == pytest.approx(2 * once)
    assert once > 0


class TestGatesThatSeeNoImages:
    @pytest.fixture
    def old(self, invoke: Invoke, tiny_workspace: Path, tiny_config: Path) -> Workspace:
        """With a flat network of four epochs."""
        common = ("--config", tiny_config, "-w", tiny_workspace, "--epochs", 4)
        ended = invoke("train-flat", *common)
        assert ended.code == 0, ended.stderr
        return Workspace(tiny_workspace)

    def train_gate(self, invoke: Invoke, config: Path, old: Workspace, input: str):
        common = ("--config", config, "-w", old.root, "--epochs", 4)
        warmup = ("--warmup-epochs", 1)
        ended = invoke("train-gate", "--input", input, *warmup, *common)
        assert ended.code == 0, ended.stderr

    def gate_went_on(self, old: Workspace, new: Workspace) -> None:
        first, second = old.gate(), new.gate()
        assert (
            len(second.training.history) == 2
        )  # 0.35 of one of warm-up and four, at least one
        assert second.origin.header.settings["weights"] == "before"
        one, two = (load_file(gate.weights) for gate in (first, second))
        changed = np.abs(two["hidden.weight"] - one["hidden.weight"]).max()
        assert 0 < changed < 0.5 * np.abs(one["hidden.weight"]).max()

    def test_the_flat_network_learns_them_before_a_gate_on_it(
        self, invoke, old, tiny_config, new_images, tmp_path
    ):
        self.train_gate(invoke, tiny_config, old, "flat")
        placed = extend(invoke, new_images, old.root, tmp_path / "out", "--place-only")
        table = extend(invoke, new_images, old.root, tmp_path / "out")
        assert table["training_tflop"] == placed["training_tflop"]
        new = Workspace(tmp_path / "out")
        first, second = old.flat(), new.flat()
        assert second.training.outputs == (*first.training.outputs, LION, CAB)
        assert second.origin.header.settings["weights"] == "before"
        stages = [epoch.stage for epoch in second.training.history]
        assert stages == ["warmup"] * 5  # its head, as long as it had learned
        one, two = load_file(first.weights), load_file(second.weights)
        trunk = [name for name in one if not name.startswith("head.")]
        assert trunk
        for name in trunk:
            np.testing.assert_array_equal(two[name], one[name])
        assert two["head.weight"].shape[0] == 14
        changed = np.abs(two["head.weight"][:12] - one["head.weight"]).max()
        assert 0 < changed < np.abs(one["head.weight"]).max()
        self.gate_went_on(old, new)
        assert new.gate().origin.header.settings["input"] == "flat"
        for command in (("verify",), ("route", *MACHINE), ("evaluate", *MACHINE)):
            ended = invoke(*command, "-w", new.root)
            assert ended.code == 0, ended.stdout + ended.stderr
        was = snapshot(new.root)
        extend(invoke, new_images, old.root, new.root)
        assert snapshot(new.root) == was

    def test_a_gate_on_features_leaves_the_flat_network_out(
        self, invoke, old, tiny_config, new_images, tmp_path
    ):
        self.train_gate(invoke, tiny_config, old, "features")
        extend(invoke, new_images, old.root, tmp_path / "out")
        new = Workspace(tmp_path / "out")
        assert not new.flat_path.exists()
        self.gate_went_on(old, new)


class TestRefuses:
    def refused(self, invoke: Invoke, *arguments: object) -> str:
        ended = invoke("extend", *arguments, *MACHINE)
        assert ended.code == 2, ended.stderr
        assert ended.stdout == ""
        return str(ended.stderr)

    def test_no_new_class(self, invoke, tiny_workspace, tiny_images, tmp_path):
        told = self.refused(
            invoke, "--data", tiny_images, "-w", tiny_workspace, "-o", tmp_path / "x"
        )
        assert "holds no new class: its 12 classes are in the workspace" in told

    def test_the_workspace_itself(self, invoke, tiny_workspace, new_images):
        told = self.refused(
            invoke, "--data", new_images, "-w", tiny_workspace, "-o", tiny_workspace
        )
        assert "expected another folder" in told

    def test_a_class_that_wordnet_lacks(self, invoke, tiny_workspace, tmp_path):
        draw(tmp_path / "data" / "n99999999", 0)
        told = self.refused(
            invoke,
            *("--data", tmp_path / "data", "-w", tiny_workspace),
            *("-o", tmp_path / "x"),
        )
        assert "n99999999" in told
        assert not (tmp_path / "x" / "similarity.h5").exists()

    def test_groups_without_a_place_for_new_classes(
        self, invoke, tiny_workspace, new_images, tmp_path
    ):
        ended = invoke("cluster", "--T", 3, "--method", "windows", "-w", tiny_workspace)
        assert ended.code == 0
        told = self.refused(
            invoke, "--data", new_images, "-w", tiny_workspace, "-o", tmp_path / "x"
        )
        assert "the groups were made by --method windows, expected ssc" in told

    def test_another_extension(self, grown, invoke, new_images, tmp_path):
        _, old, new = grown
        other = tmp_path / "other"
        shutil.copytree(old.root, other)
        ended = invoke("cluster", "--T", 2, "-w", other)
        assert ended.code == 0, ended.stderr
        told = self.refused(invoke, "--data", new_images, "-w", other, "-o", new.root)
        assert "extends other groups" in told

    def test_tar_files_beside_files(self, invoke, tiny_workspace, new_images, tmp_path):
        import tarfile

        with tarfile.open(tmp_path / "new.tar", "w") as archive:
            archive.add(new_images / LION, LION)
        (tmp_path / "tars").mkdir()
        (tmp_path / "new.tar").rename(tmp_path / "tars" / f"{LION}.tar")
        told = self.refused(
            invoke,
            *("--data", tmp_path / "tars", "-w", tiny_workspace),
            *("-o", tmp_path / "x"),
        )
        assert "as files and as tar files, expected one form" in told
