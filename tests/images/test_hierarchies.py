from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from deepme.core.hierarchy import Hierarchy
from deepme.errors import InputError
from deepme.images.hierarchies import named_folders, read_hierarchy
from deepme.images.sources import read_classes

ROWS = "Corvus corax,Aves\nCygnus,Aves\nAves,life\nOrca,Mammalia\nMammalia,life\n"
ACUTE = "é"
TWO_CHARACTERS = unicodedata.normalize("NFD", ACUTE)


def read(folder: Path, text: str | bytes) -> Hierarchy:
    path = folder / "tree.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_hierarchy(path)


class TestFile:
    @pytest.mark.parametrize(
        "text",
        [
            ROWS,
            f"child,parent\n{ROWS}",
            f"\ufeffChild, Parent\r\n{ROWS}",
            f"life,\n{ROWS}",
            ROWS.replace("\n", "\n\n").replace(",", " , "),
            '"Corvus corax","Aves"\n' + ROWS.partition("\n")[2],
        ],
        ids=["plain", "header", "spreadsheet", "root row", "blanks", "quotes"],
    )
    def test_forms_of_the_same(self, tmp_path, text):
        hierarchy = read(tmp_path, text)
        assert sorted(hierarchy.names) == [
            *("Aves", "Corvus corax", "Cygnus", "Mammalia", "Orca", "life")
        ]
        (corax,) = hierarchy.index_of(["Corvus corax"])
        above = [hierarchy.names[index] for index in hierarchy.hypernyms(corax)]
        assert above == ["Aves"]

    def test_names_are_composed(self, tmp_path):
        hierarchy = read(tmp_path, f"{TWO_CHARACTERS},b\nb,c\n")
        assert ACUTE in hierarchy

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "it has no row"),
            ("child,parent\n", "it has no row"),
            ("a,b,c\n", "line 1 has 3 columns, expected 2"),
            (f"{ROWS}alone\n", "line 6 has 1 columns, expected 2"),
            (f"{ROWS}Orca,Mammalia\n", "'Orca' below 'Mammalia' more than once"),
            (f"{ROWS}life,Orca\n", "cycle"),
            (f"{ROWS}Boletus,Fungi\n", r"2 roots \(life, Fungi\)"),
            ("a,b\nc,b\n", "directly below 'b'"),
            (b"\xff\xfe,b\n", "codec can't decode"),
        ],
    )
    def test_refusals_name_file_and_reason(self, tmp_path, text, message):
        with pytest.raises(InputError, match=rf"cannot use --hierarchy .*{message}"):
            read(tmp_path, text)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(InputError, match="No such file or directory; expected a"):
            read_hierarchy(tmp_path / "none.csv")


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


class TestFolders:
    def test_leaves_are_classes_at_any_depth(self, tmp_path):
        hierarchy = read(tmp_path, ROWS)
        root = make(
            tmp_path / "images",
            "Aves/Corvus corax/1.jpg",
            "Aves/Cygnus/deep/er/1.jpg",
            "more/Mammalia/Orca/1.jpg",
            ".cache/Orca/1.jpg",
        )
        assert named_folders(root, hierarchy) == ["Corvus corax", "Cygnus", "Orca"]
        assert read_classes(str(root), hierarchy) == ["Corvus corax", "Cygnus", "Orca"]

    def test_a_folder_with_images_of_its_own_is_a_class(self, tmp_path):
        hierarchy = read(tmp_path, ROWS)
        root = make(tmp_path / "images", "Aves/1.jpg", "Orca/1.jpg", "unknown/1.jpg")
        assert named_folders(root, hierarchy) == ["Aves", "Orca", "unknown"]

    def test_of_a_ready_split_those_of_all_parts(self, tmp_path):
        hierarchy = read(tmp_path, ROWS)
        root = make(tmp_path / "i", "train/Orca/1.jpg", "val/Cygnus/1.jpg")
        assert named_folders(root, hierarchy) == ["Cygnus", "Orca"]

    def test_links_in_a_circle_end(self, tmp_path):
        hierarchy = read(tmp_path, ROWS)
        root = make(tmp_path / "images", "Aves/Orca/1.jpg", "Aves/Cygnus/1.jpg")
        (root / "Aves" / "again").symlink_to(root)
        assert named_folders(root, hierarchy) == ["Cygnus", "Orca"]

    def test_tar_files_by_name(self, tmp_path):
        hierarchy = read(tmp_path, ROWS)
        root = make(tmp_path / "images", "Orca.tar", "Cygnus.tar")
        assert named_folders(root, hierarchy) == ["Cygnus", "Orca"]

    def test_none_is_refused(self, tmp_path):
        hierarchy = read(tmp_path, ROWS)
        (tmp_path / "images").mkdir()
        with pytest.raises(InputError, match="holds no class folder"):
            named_folders(tmp_path / "images", hierarchy)
        with pytest.raises(InputError, match=r"cannot list .*: No such file"):
            named_folders(tmp_path / "nowhere", hierarchy)
