"""split.h5 of a stranger: its images lie below the root, or it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Command

from deepme.artifacts.paths import PackedPaths
from deepme.artifacts.split import ImageIndex, load_split, save_split, split_header
from deepme.errors import ArtifactError
from deepme.storage.header import Header

HEADER = split_header("", {})


def index(names: Sequence[str], archives: tuple[str, ...] = ()) -> ImageIndex:
    """Images of these names, all of the first class."""
    inside = len(names) * bool(archives)
    return ImageIndex(
        root=Path("/images"),
        paths=PackedPaths.pack(names),
        label=np.zeros(len(names), np.int32),
        archives=archives,
        archive=np.zeros(inside, np.int16),
        offset=np.zeros(inside, np.int64),
        size=np.ones(inside, np.uint32),
    )


def seal(path: Path, images: ImageIndex, header: Header = HEADER) -> Path:
    """Write a split of one class, all for training."""
    save_split(path, header, images, np.zeros(len(images), np.uint8), 1)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "split.h5"


OUTSIDE = ("/etc/passwd", "../x.png", "n1/../../x.png", "n1/..", "..", "n1/x\0.png")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_path_that_leads_out(path: Path, name: str, row: int) -> None:
    names = ["n1/a.png", "n1/b.png"]
    names.insert(row, name)
    with pytest.raises(ArtifactError, match=r"is corrupt: .* leads out of /images"):
        load_split(seal(path, index(names)))


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_archive_that_leads_out(path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=r"is corrupt: .* leads out of /images"):
        load_split(seal(path, index(["a.png"], (name,))))


@pytest.mark.parametrize(
    ("names", "archives"),
    [
        (["n1/a..png", "n1/...", "..n1/b.png", "n1./.c.png"], ()),
        (["../member.png"], ("a..b.tar",)),
        ([], ()),
    ],
)
def test_other_names_with_dots_are_taken(
    path: Path, names: list[str], archives: tuple[str, ...]
) -> None:
    images = load_split(seal(path, index(names, archives))).images
    assert list(images.paths) == names


@pytest.mark.parametrize(
    "forged",
    [
        {"shared": [0, 9]},
        {"shared": [1, 3]},
        {"length": [8, 6]},
        {"length": [8, 4]},
        {"length": [13, 0], "shared": [0, 0]},
        {"rest": []},
    ],
    ids=str,
)
def test_paths_that_do_not_fit_each_other(
    path: Path, forged: dict[str, list[int]]
) -> None:
    images = index(["n1/a.png", "n1/b.png"])
    arrays = {
        name: getattr(images.paths, name) for name in ("shared", "length", "rest")
    }
    assert [arrays["shared"].tolist(), arrays["length"].tolist()] == [[0, 3], [8, 5]]
    for name, values in forged.items():
        arrays[name] = np.array(values, arrays[name].dtype)
    seal(path, replace(images, paths=PackedPaths(**arrays)))
    with pytest.raises(ArtifactError, match=r"is corrupt: .*its paths"):
        load_split(path)


def test_the_command_says_so_in_one_line(
    invoke: Command, tiny_workspace: Path, tiny_config: Path
) -> None:
    path = tiny_workspace / "split.h5"
    header = load_split(path).origin.header
    seal(path, index([str(tiny_workspace.parent / "secret.png")]), header)
    train = ("train-expert", "--group", 1, "--config", tiny_config)
    ended = invoke(*train, "-w", tiny_workspace)
    assert ended.code == 2
    (line,) = ended.stderr.splitlines()
    assert "split.h5 is corrupt: " in line
    assert line.endswith("remove it and rerun the command that makes it")
