from __future__ import annotations

from pathlib import Path

import pytest

from deepme.errors import InputError
from deepme.images.parts import split_folders


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ("train val test", {"train": "train", "val": "val", "test": "test"}),
        ("training validation", {"training": "train", "validation": "test"}),
        ("train test", {"train": "train", "test": "test"}),
        ("train val", {"train": "train", "val": "test"}),
        ("train eval testing", {"train": "train", "eval": "val", "testing": "test"}),
        ("train", {}),
        ("val test", {}),
        ("train bus", {}),
        ("dog cat", {}),
    ],
)
def test_parts_by_their_names(tmp_path: Path, names: str, parts: dict) -> None:
    assert split_folders(folders(tmp_path, *names.split())) == parts


def test_files_are_no_parts(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "val").touch()
    assert split_folders(tmp_path) == {}
    assert split_folders(tmp_path / "val") == {}


def test_two_of_one_part_are_refused(tmp_path: Path) -> None:
    folders(tmp_path, "train", "val", "validation")
    with pytest.raises(InputError, match="folders val and validation, expected one"):
        split_folders(tmp_path)
