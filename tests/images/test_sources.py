from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deepme.errors import DeepmeError, InputError, UsageError
from deepme.images.sources import read_classes, require_distinct
from deepme.storage.given import MAX_BYTES

DOG, CAT, FOX = "n02084071", "n02121620", "n02118333"


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        f"{FOX}\n{DOG}\n{CAT}\n",
        f"{FOX}\r\n{DOG}\r\n{CAT}",
        f"# animals\n\n  {FOX}\n{DOG}\t\n\n{CAT}\n",
        f"\ufeff{FOX}\n{DOG}\n{CAT}\n",
    ],
    ids=["plain", "Windows line ends", "comments and blanks", "byte order mark"],
)
def test_a_text_file_keeps_its_order(tmp_path: Path, text: str) -> None:
    source = write(tmp_path / "classes.txt", text)
    assert read_classes(source) == [FOX, DOG, CAT]


def test_a_folder_gives_its_class_folders_sorted(tmp_path: Path) -> None:
    for name in (FOX, DOG, CAT):
        (tmp_path / name).mkdir()
    assert read_classes(str(tmp_path)) == [DOG, FOX, CAT]


@pytest.mark.parametrize(
    ("source", "count", "first"),
    [
        ("imagenet1k", 1_000, "n01440764"),
        ("imagenet12k", 11_821, "n00005787"),
        ("imagenet22k", 21_841, "n00004475"),
    ],
)
def test_timms_lists_are_known(source: str, count: int, first: str) -> None:
    classes = read_classes(source)
    assert len(classes) == count
    assert classes[0] == first


def test_reading_a_list_of_timm_does_not_import_it() -> None:
    code = (
        "import sys; from deepme.images.sources import read_classes; "
        "read_classes('imagenet1k'); print({'timm', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{DOG}\n{CAT}\n{DOG}\n", f"names 1 class more than once: {DOG};"),
        (f"{DOG}\n", "names 1 class, expected at least 2"),
        ("# nothing\n", "names 0 classes, expected at least 2"),
        (b"\xff\xd8\xff\xe0 JFIF", "cannot read the class list .*one wnid a line"),
    ],
    ids=["twice", "one", "none", "a picture"],
)
def test_a_list_that_cannot_be_used(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_classes(write(tmp_path / "classes.txt", text))


@pytest.mark.parametrize("source", ["imagenet2k", "no/such/file.txt", "x" * 5000])
def test_no_such_source(source: str) -> None:
    with pytest.raises(DeepmeError, match="imagenet22k") as caught:
        read_classes(source)
    assert isinstance(caught.value, UsageError)


def test_labels_that_differ_in_case_are_different() -> None:
    require_distinct(["a", "A"], "labels")


def test_a_class_map_gives_the_order_of_its_indices(tmp_path: Path) -> None:
    source = write(tmp_path / "class_to_idx.json", '{"cup": 1, "e\u0301lan": 0}')
    assert read_classes(source) == ["\u00e9lan", "cup"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 0, "b": 2}', "other indices than 0 to 1"),
        ('{"a": 0, "b": 0}', "other indices than 0 to 1"),
        ('{"a": 0, "b": "x"}', "expected a JSON object of class and index"),
        ('["a", "b"]', "expected a JSON object of class and index"),
        ("{", "expected a JSON object of class and index"),
        ('{"a": 0, "a": 1}', "'a' stands there twice"),
        ('{"a": 0, "b": NaN}', "NaN is no JSON"),
        ('{"a": 0, "b": -Infinity}', "-Infinity is no JSON"),
        ('{"a": 0, "b": 1e999}', "1e999 is too large"),
        ('{"a": 0, "b": 1.5}', "1.5 is no index"),
        ('{"a": 0, "b": true}', "True is no index"),
        ('{"a": ' * 100_000, "nested too deep"),
        ('{"a": 0, "b": ' + "1" * 5_000 + "}", "expected a JSON object of class"),
    ],
    ids=range(13),
)
def test_what_is_no_class_map(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_classes(write(tmp_path / "map.json", text))


def test_a_class_list_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="it has 16,777,217 bytes, expected at most"):
        read_classes(str(path))


@pytest.mark.parametrize("name", ["two\nlines", "\udcff", ""])
def test_names_that_nothing_can_hold_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected one line of UTF-8 text"):
        require_distinct(["a", name], "labels")


def test_a_near_miss_is_asked_for() -> None:
    with pytest.raises(UsageError, match="did you mean 'imagenet12k'"):
        read_classes("imagnet12k")
