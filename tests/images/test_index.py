from __future__ import annotations

import os
import random
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from deepme.artifacts.split import ImageIndex
from deepme.errors import InputError
from deepme.images.index import Found, class_folders, find_images
from deepme.images.reading import read_bytes

CLASSES = {"n02084071": 0, "n02121620": 1, "n02118333": 2}
DOG, CAT, FOX = CLASSES

TREE = [
    f"{CAT}/2.jpg",
    f"{CAT}/10.JPEG",
    f"{DOG}/b/deep/er/1.png",
    f"{DOG}/a.webp",
    f"{DOG}/b/2.gif",
    f"{FOX}/é 1.bmp",
]


def find(root: Path) -> Found:
    return find_images(root, CLASSES, lambda _, figures="": None)


def paths(images: ImageIndex) -> list[str]:
    return list(images.paths)


def make_tree(root: Path, names: list[str]) -> Path:
    """Files that hold their own name; nothing here decodes them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def make_tar(path: Path, names: list[str], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name in names:
            content = name.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return path


class TestFolder:
    def test_images_at_any_depth_are_ordered_by_class_then_path(self, tmp_path):
        images = find(make_tree(tmp_path, TREE)).images
        assert paths(images) == [
            f"{DOG}/a.webp",
            f"{DOG}/b/2.gif",
            f"{DOG}/b/deep/er/1.png",
            f"{CAT}/10.JPEG",
            f"{CAT}/2.jpg",
            f"{FOX}/é 1.bmp",
        ]
        assert images.label.tolist() == [0, 0, 0, 1, 1, 2]
        assert images.root == tmp_path
        for row, path in enumerate(paths(images)):
            assert read_bytes(images, row) == path.encode()

    def test_other_files_and_hidden_folders_are_left_out(self, tmp_path):
        extra = [f"{DOG}/notes.txt", f"{DOG}/jpg", "at-the-top.jpg", ".cache/1.jpg"]
        found = find(make_tree(tmp_path, TREE + extra))
        assert len(found.images) == len(TREE)
        assert found.unknown == ()

    def test_folders_without_a_class_are_reported_sorted(self, tmp_path):
        found = find(make_tree(tmp_path, [*TREE, "zebra/1.jpg", "ant/1.jpg"]))
        assert found.unknown == ("ant", "zebra")
        assert len(found.images) == len(TREE)

    def test_an_empty_class_folder_gives_a_class_without_images(self, tmp_path):
        make_tree(tmp_path, TREE[:2])
        (tmp_path / DOG).mkdir()
        assert np.bincount(find(tmp_path).images.label, minlength=3).tolist() == [
            0,
            2,
            0,
        ]

    @pytest.mark.parametrize("seed", range(3))
    def test_the_order_of_the_file_system_does_not_matter(
        self, tmp_path, monkeypatch, seed
    ):
        make_tree(tmp_path, TREE)
        expected = find(tmp_path)
        scandir = os.scandir

        @contextmanager
        def shuffled(path: str) -> Iterator[list[os.DirEntry[str]]]:
            with scandir(path) as listing:
                items = list(listing)
            random.Random(seed).shuffle(items)
            yield items

        monkeypatch.setattr(os, "scandir", shuffled)
        found = find(tmp_path)
        assert paths(found.images) == paths(expected.images)
        assert found.fingerprint == expected.fingerprint

    def test_the_order_of_creation_does_not_matter(self, tmp_path):
        one = find(make_tree(tmp_path / "one", TREE))
        two = find(make_tree(tmp_path / "two", TREE[::-1]))
        assert paths(one.images) == paths(two.images)
        assert one.fingerprint == two.fingerprint

    @pytest.mark.parametrize("name", [f"{DOG}/a.webp", f"{FOX}/new.jpg"])
    def test_the_fingerprint_tells_a_changed_or_added_file(self, tmp_path, name):
        before = find(make_tree(tmp_path, TREE)).fingerprint
        (tmp_path / name).write_bytes(b"another size")
        assert find(tmp_path).fingerprint != before

    def test_links_to_class_folders_are_followed_but_not_below(self, tmp_path):
        make_tree(tmp_path / "elsewhere", ["1.jpg", "below/2.jpg"])
        root = tmp_path / "images"
        root.mkdir()
        (root / DOG).symlink_to(tmp_path / "elsewhere")
        (root / DOG / "loop").symlink_to(root / DOG)
        assert paths(find(root).images) == [f"{DOG}/1.jpg", f"{DOG}/below/2.jpg"]

    def test_a_dangling_link_is_listed(self, tmp_path):
        make_tree(tmp_path, TREE[:1])
        (tmp_path / CAT / "gone.jpg").symlink_to(tmp_path / "nowhere")
        assert f"{CAT}/gone.jpg" in paths(find(tmp_path).images)

    def test_a_name_that_is_no_utf8_keeps_its_bytes(self, tmp_path):
        make_tree(tmp_path, TREE[:1])
        raw = os.fsencode(tmp_path / CAT) + b"/\xff\n.jpg"
        Path(os.fsdecode(raw)).write_bytes(b"odd")
        images = find(tmp_path).images
        row = len(images) - 1
        assert os.fsencode(images.paths[row]) == f"{CAT}/".encode() + b"\xff\n.jpg"
        assert read_bytes(images, row) == b"odd"
        assert images.display_path(row).isprintable()


class TestNested:
    def test_classes_are_found_below_other_folders(self, tmp_path):
        names = [f"mammals/canines/{DOG}/1.jpg", f"mammals/{CAT}/1.jpg", f"{FOX}/1.jpg"]
        found = find(make_tree(tmp_path, names))
        assert paths(found.images) == names
        assert found.images.label.tolist() == [0, 1, 2]
        assert found.unknown == ()

    def test_what_names_no_class_is_told_as_high_up_as_it_holds(self, tmp_path):
        names = ["mammals/ape/1.jpg", f"mammals/{CAT}/1.jpg", "birds/a/b/1.jpg"]
        assert find(make_tree(tmp_path, names)).unknown == ("birds", "mammals/ape")

    def test_links_to_folders_without_class_are_not_followed(self, tmp_path):
        make_tree(tmp_path, [f"mammals/{DOG}/1.jpg"])
        (tmp_path / "again").symlink_to(tmp_path)
        found = find(tmp_path)
        assert paths(found.images) == [f"mammals/{DOG}/1.jpg"]
        assert found.unknown == ("again",)

    def test_a_name_in_two_characters_is_the_same_class(self, tmp_path):
        """As macOS writes it: e and an accent."""
        make_tree(tmp_path, ["e\u0301lan/1.jpg", "cup/1.jpg"])
        classes = {"\u00e9lan": 0, "cup": 1}
        found = find_images(tmp_path, classes, lambda _, figures="": None)
        assert found.images.label.tolist() == [0, 1]
        assert read_bytes(found.images, 0) == b"e\xcc\x81lan/1.jpg"
        assert class_folders(tmp_path) == ["cup", "\u00e9lan"]


class TestParts:
    TREE = (
        *(f"train/{DOG}/1.jpg", f"train/{CAT}/1.jpg", f"val/{DOG}/1.jpg"),
        *(f"test/{CAT}/1.jpg", "other/n02118333/1.jpg"),
    )

    def test_a_ready_split_is_found_and_the_rest_left_out(self, tmp_path):
        found = find(make_tree(tmp_path, list(self.TREE)))
        assert found.parts == {"train": "train", "val": "val", "test": "test"}
        assert paths(found.images) == [
            *(f"train/{DOG}/1.jpg", f"val/{DOG}/1.jpg"),
            *(f"test/{CAT}/1.jpg", f"train/{CAT}/1.jpg"),
        ]

    def test_a_class_may_be_called_train(self, tmp_path):
        make_tree(tmp_path, ["train/1.jpg", "test/1.jpg", "bus/1.jpg"])
        classes = {"train": 0, "bus": 1, "test": 2}
        found = find_images(tmp_path, classes, lambda _, figures="": None)
        assert found.parts == {}
        assert found.images.label.tolist() == [0, 1, 2]

    def test_its_class_folders_are_those_of_the_training_part(self, tmp_path):
        assert class_folders(make_tree(tmp_path, list(self.TREE))) == [DOG, CAT]


class TestTar:
    def test_a_tar_file_equals_the_folder(self, tmp_path):
        folder = find(make_tree(tmp_path / "images", TREE)).images
        tar = find(make_tar(tmp_path / "images.tar", TREE)).images
        assert paths(tar) == paths(folder)
        assert tar.label.tolist() == folder.label.tolist()
        for row, path in enumerate(paths(tar)):
            assert read_bytes(tar, row) == path.encode()
        assert tar.display_path(0) == f"{tmp_path}/images.tar!{DOG}/a.webp"

    def test_the_class_is_the_first_folder_that_names_one(self, tmp_path):
        names = [f"./train/{DOG}/1.jpg", f"{CAT}/{FOX}/2.jpg", "other/3.jpg", "4.jpg"]
        found = find(make_tar(tmp_path / "images.tar", names))
        assert paths(found.images) == [f"train/{DOG}/1.jpg", f"{CAT}/{FOX}/2.jpg"]
        assert found.images.label.tolist() == [0, 1]
        assert found.unknown == ("", "other")

    def test_a_folder_of_class_tars(self, tmp_path):
        make_tar(tmp_path / f"{CAT}.tar", ["2.jpg", "1.jpg"])
        make_tar(tmp_path / f"{DOG}.tar", ["1.jpg"])
        make_tar(tmp_path / "zebra.tar", ["1.jpg"])
        found = find(tmp_path)
        images = found.images
        assert images.archives == (f"{DOG}.tar", f"{CAT}.tar", "zebra.tar")
        assert paths(images) == ["1.jpg", "1.jpg", "2.jpg"]
        assert images.label.tolist() == [0, 1, 1]
        assert images.display_path(1) == f"{tmp_path}/{CAT}.tar!1.jpg"
        assert [read_bytes(images, row) for row in range(3)] == [
            b"1.jpg",
            b"1.jpg",
            b"2.jpg",
        ]

    def test_of_members_with_one_name_the_last_counts(self, tmp_path):
        path = make_tar(tmp_path / "images.tar", [f"{DOG}/1.jpg", f"{DOG}/2.jpg"])
        with tarfile.open(path, "a") as archive:
            member = tarfile.TarInfo(f"{DOG}/1.jpg")
            member.size = 5
            archive.addfile(member, BytesIO(b"newer"))
        images = find(path).images
        assert paths(images) == [f"{DOG}/1.jpg", f"{DOG}/2.jpg"]
        assert read_bytes(images, 0) == b"newer"

    def test_a_compressed_tar_is_refused_with_the_way_out(self, tmp_path):
        path = make_tar(tmp_path / "images.tar", TREE, "w:gz")
        with pytest.raises(InputError, match=r"images\.tar as a tar file.*gunzip"):
            find(path)

    def test_a_truncated_tar_is_refused(self, tmp_path):
        path = make_tar(tmp_path / "images.tar", TREE)
        os.truncate(path, 512 + 3)
        with pytest.raises(InputError, match="as a tar file: unexpected end of data"):
            find(path)


class TestRefusals:
    def test_no_such_place(self, tmp_path):
        with pytest.raises(InputError, match="expected a folder of class folders or a"):
            find(tmp_path / "nowhere")

    def test_a_path_no_file_system_takes(self):
        with pytest.raises(InputError, match=r"cannot list .*: File name too long"):
            find(Path("x" * 5000))

    def test_no_image_of_any_class(self, tmp_path):
        make_tree(tmp_path, ["zebra/1.jpg", f"{DOG}/notes.txt"])
        with pytest.raises(InputError, match="no image of the 3 classes"):
            find(tmp_path)

    def test_folders_and_tars_side_by_side(self, tmp_path):
        make_tree(tmp_path, TREE)
        make_tar(tmp_path / f"{FOX}.tar", ["1.jpg"])
        with pytest.raises(InputError, match="both class folders and tar files"):
            find(tmp_path)

    def test_a_folder_that_cannot_be_listed(self, tmp_path, monkeypatch):
        make_tree(tmp_path, TREE)
        scandir = os.scandir

        def refuse_the_dog(path: str) -> object:
            if Path(path).name == DOG:
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse_the_dog)
        with pytest.raises(InputError, match=f"cannot list .*{DOG}: Permission denied"):
            find(tmp_path)


class TestMemory:
    """The index holds at most 20 bytes an image for paths of 30 characters."""

    NAMES = tuple(f"{DOG}/n02084071_{number:05d}.JPEG" for number in range(500))
    LABEL, SUBSET, IN_TAR = 4, 1, 14

    def test_of_a_folder(self, tmp_path):
        assert {len(name) for name in self.NAMES} == {30}
        images = find(make_tree(tmp_path, list(self.NAMES))).images
        assert images.nbytes / len(images) + self.SUBSET <= 20
        assert images.nbytes - images.paths.nbytes == self.LABEL * len(images)

    def test_of_a_tar_file(self, tmp_path):
        images = find(make_tar(tmp_path / "images.tar", list(self.NAMES))).images
        assert images.nbytes / len(images) + self.SUBSET <= 20 + self.IN_TAR


class TestClassFolders:
    def test_are_folders_and_tar_files_by_name(self, tmp_path):
        make_tree(tmp_path, [f"{CAT}/1.jpg", ".hidden/1.jpg", "readme.txt"])
        make_tar(tmp_path / f"{DOG}.tar", ["1.jpg"])
        assert class_folders(tmp_path) == [DOG, CAT]

    def test_none_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="holds no class folder"):
            class_folders(tmp_path)
        with pytest.raises(InputError, match="no folder of class folders"):
            class_folders(tmp_path / "nowhere")
