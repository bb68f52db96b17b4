"""Where a class list comes from: a file, a folder, timm's tables, or WordNet itself."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from deepme.core.hierarchy import Hierarchy
from deepme.errors import InputError, UsageError
from deepme.images.hierarchies import named_folders
from deepme.images.index import class_folders
from deepme.storage.given import read_given
from deepme.storage.json import parse_strict
from deepme.text import clean, composed, counted, listing, suggestion

# timm's own tables; importing timm would import torch, which takes seconds.
_TABLES = {
    "imagenet1k": "imagenet_synsets.txt",
    "imagenet12k": "imagenet12k_synsets.txt",
    "imagenet22k": "imagenet22k_synsets.txt",
}
ALL_NOUNS = "wordnet"


def read_classes(source: str, hierarchy: Hierarchy | None = None) -> list[str]:
    """Read a class list.

    Args:
        source: a text file with one class a line (blank lines and ``#`` comments are
            left out), a JSON file of class -> index, a folder of class folders, or
            imagenet1k, imagenet12k, imagenet22k.
        hierarchy: the user's, which tells in a folder what is a class and what a
            level above; None where the topmost folders are the classes.

    Returns:
        Class ids, in the order of the file; folders sorted.

    Raises:
        UsageError: no such file, folder or list.
        InputError: unreadable, empty, or a class named twice.
    """
    if source in _TABLES:
        classes = _lines(_timm_table(_TABLES[source]))
    else:
        classes = _of_path(Path(source), hierarchy)
    require_distinct(classes, source)
    return classes


def require_distinct(classes: list[str], source: str) -> None:
    """Refuse a class list that is too short, or names a class twice or unreadably.

    Raises:
        InputError: names the class.
    """
    odd = [name for name in classes if len(name.splitlines()) != 1 or _is_bytes(name)]
    if odd:
        raise InputError(
            f"{clean(source)} names a class {clean(odd[0])!r}, expected one line of "
            "UTF-8 text",
            "rename it",
        )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise InputError(
            f"{clean(source)} names {counted(len(twice), 'class')} more than once: "
            f"{listing(twice)}",
            "name each class once",
        )
    if len(classes) < 2:
        raise InputError(
            f"{clean(source)} names {counted(len(classes), 'class')}, "
            "expected at least 2"
        )


def _is_bytes(name: str) -> bool:
    """Whether a name from the file system is no UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in name)


def _of_path(path: Path, hierarchy: Hierarchy | None) -> list[str]:
    try:
        if path.is_dir():
            return named_folders(path, hierarchy) if hierarchy else class_folders(path)
        exists = path.exists()
    except OSError:  # a name too long for any file
        exists = False
    if not exists:
        raise UsageError(
            f"--classes is {clean(str(path))}, expected a text file of wnids, a folder "
            f"of class folders, {', '.join(_TABLES)} or {ALL_NOUNS}",
            suggestion(str(path), (*_TABLES, ALL_NOUNS)).strip(),
        )
    return _indexed(path) if path.suffix == ".json" else _lines(path)


def _indexed(path: Path) -> list[str]:
    """Read the classes of a ``class_to_idx``, by their index."""
    try:
        table = parse_strict(read_given(path))
        by_index = {_index(index): composed(name) for name, index in table.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"cannot read the class list {clean(str(path))}: {clean(str(error))}",
            'expected a JSON object of class and index, as {"beagle": 0, "basset": 1}',
        ) from error
    if sorted(by_index) != list(range(len(table))):
        raise InputError(
            f"{clean(str(path))} has other indices than 0 to {len(table) - 1:,}, each "
            "once",
            "number the classes from 0",
        )
    return [by_index[index] for index in range(len(table))]


def _index(value: object) -> int:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no index")
    return int(value)


def _lines(path: Path) -> list[str]:
    try:
        lines = read_given(path).splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the class list {clean(str(path))}: {error}",
            "expected a text file with one wnid a line",
        ) from error
    stripped = (composed(line.strip()) for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def _timm_table(name: str) -> Path:
    spec = find_spec("timm")
    assert spec is not None, "timm is a dependency"
    assert spec.submodule_search_locations is not None, "timm is a package"
    return Path(spec.submodule_search_locations[0]) / "data" / "_info" / name
