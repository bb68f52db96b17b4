"""The public Python interface: cheap to import, documented, and the page runs."""

# ruff: noqa: N806
from __future__ import annotations

import doctest
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deepme
from deepme.classifier import CentreView
from deepme.errors import ArtifactError, UsageError
from deepme.images.reading import decode
from deepme.images.views import centre_view
from deepme.workspace import Workspace

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
SYMBOLS = [name for name in deepme.__all__ if name != "__version__"]


def members_of(item: object) -> dict[str, object]:
    """The public methods and properties that a class of ours defines itself."""
    if not inspect.isclass(item):
        return {}
    return {
        name: value
        for name, value in vars(item).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property | classmethod))
    }


@pytest.mark.parametrize("name", SYMBOLS)
def test_every_public_symbol_is_documented(name: str) -> None:
    item = getattr(deepme, name)
    assert inspect.getdoc(item)
    assert re.search(rf"\bdeepme\.{name}\b", PAGE.read_text("utf-8"))
    silent = [
        key for key, value in members_of(item).items() if not inspect.getdoc(value)
    ]
    assert silent == []
    signature = inspect.signature(item)
    text = inspect.getdoc(item) or ""
    told = [key for key in signature.parameters if not re.search(rf"\b{key}:", text)]
    assert told == []


def test_the_stub_names_what_the_package_gives() -> None:
    stub = Path(deepme.__file__).with_suffix(".pyi").read_text("utf-8")
    assert set(re.findall(r"import \w+ as (\w+)", stub)) == set(SYMBOLS)
    assert set(SYMBOLS) <= set(dir(deepme))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        deepme.lode  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, deepme; "
        "print(sorted({'torch', 'numpy', 'timm', 'h5py'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_page_runs_as_it_stands(
    tiny_workspace: Path, tiny_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tiny_workspace.parent
    shutil.copytree(tiny_images, place / "images")
    monkeypatch.chdir(place)
    # The fences are no output: each block ends with an empty line.
    text = re.sub(r"^```.*$", "", PAGE.read_text("utf-8"), flags=re.M)
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 30
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


class TestTransform:
    @pytest.mark.parametrize("size", [(31, 47), (64, 20), (8, 8)])
    def test_it_is_the_view_that_evaluate_measures_on(
        self, size: tuple[int, int], tmp_path: Path
    ) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        path = tmp_path / "a.png"
        Image.fromarray(pixels).save(path)
        expected = centre_view(np.array(decode(path.read_bytes())), 16)
        with Image.open(path) as image:
            assert np.array_equal(CentreView(16)(image).numpy(), expected)

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK"])
    def test_pictures_of_any_mode(self, mode: str) -> None:
        view = CentreView(8)(Image.new(mode, (20, 30)))
        assert (view.shape, view.dtype) == ((3, 8, 8), torch.uint8)

    def test_a_picture_on_its_side_is_turned(self, tmp_path: Path) -> None:
        pixels = np.arange(12 * 6, dtype=np.uint8).reshape(12, 6)
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "turned.png", exif=exif)
        with Image.open(tmp_path / "turned.png") as turned:
            expected = CentreView(6)(image.transpose(Image.Transpose.ROTATE_270))
            assert torch.equal(CentreView(6)(turned), expected)


class TestLoad:
    def test_logits_are_the_calibrated_probabilities(
        self, tiny_workspace: Path
    ) -> None:
        images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
        model = deepme.load(tiny_workspace)
        P, _ = model.probabilities(images)
        torch.testing.assert_close(model(images).softmax(1), P)
        raw = deepme.load(tiny_workspace, calibrated=False)
        torch.testing.assert_close(raw(images).softmax(1), raw.network(images)[0])
        torch.testing.assert_close((raw(images) / model.temperature).softmax(1), P)
        assert torch.equal(raw(images).argmax(1), model(images).argmax(1))

    def test_an_expert_alone(self, tiny_workspace: Path) -> None:
        expert = deepme.load(tiny_workspace, group=2)
        group = Workspace(tiny_workspace).groups().group(2)
        assert tuple(each.label for each in expert.classes) == group.classes
        images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
        mixture = deepme.load(tiny_workspace).network
        assert isinstance(mixture, deepme.Mixture)
        P, weights = expert.probabilities(images)
        torch.testing.assert_close(P, mixture.votes(images)[1])
        assert weights is None

    def test_what_is_not_there_is_told(self, tiny_workspace: Path) -> None:
        with pytest.raises(UsageError, match="fusion is equal, expected one of gate"):
            deepme.load(tiny_workspace, fusion="equal")
        with pytest.raises(UsageError, match="--group 1 asks one expert, but"):
            deepme.load(tiny_workspace, group=1, fusion="flat")
        with pytest.raises(UsageError, match="with --fusion flat no gate is asked"):
            deepme.load(tiny_workspace, fusion="flat", route_top=1)
        with pytest.raises(UsageError, match="group 9, expected 1 to 3"):
            deepme.load(tiny_workspace, group=9)
        with pytest.raises(ArtifactError, match="run `deepme train-flat`"):
            deepme.load(tiny_workspace, fusion="flat")
        with pytest.raises(ArtifactError, match="run `deepme cluster`"):
            deepme.load(tiny_workspace.parent / "nowhere")


def test_similarity_is_what_the_command_writes(tiny_workspace: Path) -> None:
    artifact = Workspace(tiny_workspace).similarity()
    theta = deepme.similarity(artifact.classes)
    assert np.array_equal(theta, artifact.theta())
    with pytest.raises(UsageError, match="--formula is other"):
        deepme.similarity(artifact.classes, formula="other")
