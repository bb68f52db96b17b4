# ruff: noqa: N802, N803
from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepme.core.similarity import path_length_rows
from deepme.images.drawing import DEMO_CLASSES, draw_picture, write_demo_images
from deepme.wordnet import load_builtin

WNIDS = [demo_class.wnid for demo_class in DEMO_CLASSES]
BRANCHES = np.array([demo_class.look.branch for demo_class in DEMO_CLASSES])


def pixels(wnid: str, *, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.asarray(draw_picture(wnid, size=size, seed=seed), dtype=float)


@pytest.fixture(scope="module")
def path_length_NN() -> np.ndarray:
    taxonomy = load_builtin()
    classes = taxonomy.index_of(WNIDS)
    blocks = [rows.copy() for _, rows in path_length_rows(taxonomy, classes)]
    return np.concatenate(blocks)


def test_four_branches_of_six_and_two_containers() -> None:
    assert Counter(BRANCHES.tolist()) == {
        "dog": 6,
        "fruit": 6,
        "vehicle": 6,
        "instrument": 6,
        "container": 2,
    }
    assert len(set(WNIDS)) == len(WNIDS)


def test_names_are_the_first_lemmas_of_the_synsets() -> None:
    taxonomy = load_builtin()
    names = [taxonomy.name(index) for index in taxonomy.index_of(WNIDS)]
    assert names == [demo_class.name for demo_class in DEMO_CLASSES]


@pytest.mark.parametrize("branch", ["dog", "fruit", "vehicle", "instrument"])
def test_a_branch_is_one_part_of_the_taxonomy(
    branch: str, path_length_NN: np.ndarray
) -> None:
    inside = branch == BRANCHES
    others = ~inside & (BRANCHES != "container")
    within = path_length_NN[np.ix_(inside, inside)]
    between = path_length_NN[np.ix_(inside, others)]
    assert within.max() < between.min()


def test_containers_lie_between_vehicles_and_instruments(
    path_length_NN: np.ndarray,
) -> None:
    mean = {
        branch: path_length_NN[
            np.ix_(BRANCHES == "container", branch == BRANCHES)
        ].mean()
        for branch in ("dog", "fruit", "vehicle", "instrument")
    }
    near, far = (mean["vehicle"], mean["instrument"]), (mean["dog"], mean["fruit"])
    assert abs(near[0] - near[1]) < min(far) - max(near)


@pytest.mark.parametrize("wnid", WNIDS)
def test_a_picture_is_the_same_on_every_call(wnid: str) -> None:
    picture = draw_picture(wnid, size=32, seed=5)
    assert (picture.mode, picture.size) == ("RGB", (32, 32))
    assert picture.tobytes() == draw_picture(wnid, size=32, seed=5).tobytes()
    assert picture.tobytes() != draw_picture(wnid, size=32, seed=6).tobytes()


def test_a_picture_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "import hashlib\n"
        "from deepme.images.drawing import draw_picture\n"
        f"data = draw_picture({WNIDS[0]!r}, size=32, seed=1).tobytes()\n"
        "print(hashlib.sha256(data).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_the_composition_does_not_depend_on_the_size() -> None:
    small = pixels("n02795169", size=32)
    large = pixels("n02795169", size=128)
    shrunk = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.9


def test_branches_can_be_told_apart_by_their_mean_colours() -> None:
    """Nearest centroid of quadrant colours: chance is 1/4, a network does better."""
    features = np.array(
        [
            [
                pixels(wnid, seed=seed)
                .reshape(2, 16, 2, 16, 3)
                .mean(axis=(1, 3))
                .ravel()
                for seed in range(20)
            ]
            for wnid in WNIDS
        ]
    )
    names = np.unique(BRANCHES[BRANCHES != "container"])
    centres = np.array([features[b == BRANCHES, :10].mean(axis=(0, 1)) for b in names])
    held_out = features[BRANCHES != "container", 10:]
    distance = np.linalg.norm(held_out[..., None, :] - centres, axis=-1)
    truth = BRANCHES[BRANCHES != "container"][:, None]
    assert (names[distance.argmin(-1)] == truth).mean() > 0.6


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(ValueError, match="n00000000"):
        draw_picture("n00000000", size=32, seed=0)


def test_pictures_are_written_by_class_and_number(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_demo_images(tmp_path / name, per_class=2, size=16, seed=0)
    files = sorted(p.relative_to(tmp_path / "a") for p in tmp_path.glob("a/*/*"))
    expected = [Path(w) / f"{number:04d}.png" for w in WNIDS for number in range(2)]
    assert files == sorted(expected)
    for file in files:
        data = (tmp_path / "a" / file).read_bytes()
        assert data == (tmp_path / "b" / file).read_bytes()
    with Image.open(tmp_path / "a" / WNIDS[3] / "0001.png") as picture:
        drawn = draw_picture(WNIDS[3], size=16, seed=1)
        assert picture.tobytes() == drawn.tobytes()


def test_another_seed_writes_other_pictures(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_demo_images(tmp_path / str(seed), per_class=2, size=8, seed=seed)
    contents = [
        {file.read_bytes() for file in (tmp_path / str(seed)).glob("*/*")}
        for seed in (0, 1)
    ]
    assert not contents[0] & contents[1]
