"""The pages against the code: what they name is there, and what is there is named."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors import safe_open

from deepme import __version__
from deepme.storage.header import Header
from deepme.training import checkpoint
from deepme.wordnet import BUILTIN

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

Invoke = Callable[..., Any]


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


@dataclass(frozen=True)
class Section:
    """What artifacts.md says of one file.

    Attributes:
        pattern: the file's path; names in capitals stand for what varies.
        kind: of its header.
        layout: its schema version.
        rows: name -> the cells behind it (type, perhaps shape, meaning).
    """

    pattern: str
    kind: str
    layout: int
    rows: dict[str, tuple[str, ...]]

    def fits(self, path: str) -> bool:
        pattern = re.escape(self.pattern).replace("NN", r"\d\d")
        free = "SUBSET|SYSTEM|NETWORK|WAY"
        return bool(re.fullmatch(re.sub(free, r"[a-z0-9-]+", pattern), path))


def read_rows(text: str) -> dict[str, tuple[str, ...]]:
    """First cells in backticks -> the cells behind them."""
    lines = re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.M)
    return {name: tuple(cells.split(" | ")) for name, cells in lines}


def read_sections() -> list[Section]:
    parts = re.split(r"^## `(.*)`$", text_of("artifacts.md"), flags=re.M)[1:]
    sections = []
    for pattern, body in zip(parts[::2], parts[1::2], strict=True):
        body = body.split("\n## ")[0]
        kind, layout = re.findall(r"^Kind `([a-z-]+)`, layout (\d+)", body, re.M)[0]
        sections.append(Section(pattern, kind, int(layout), read_rows(body)))
    return sections


SECTIONS = read_sections()


@pytest.fixture(scope="module")
def workspaces(
    finished_workspace: Path,
    invoke: Invoke,
    tiny_images: Path,
    tiny_config: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """All that the code can write: the usual, one of a matrix, one of a hierarchy, one
    with features and the flat network, and what a comparison has beside its trials.
    """
    root = tmp_path_factory.mktemp("workspaces")
    matrix = root / "matrix.csv"
    matrix.write_text(",a,b\na,1,0.5\nb,0.5,1\n")
    assert not invoke("similarity", "--matrix", matrix, "-w", root / "own").code
    tree = root / "tree.csv"
    tree.write_text("a,b\nb,c\nd,c\n")
    assert not invoke("similarity", "--hierarchy", tree, "-w", root / "tree").code
    featured = Path(shutil.copytree(finished_workspace, root / "featured"))
    common = ("--config", tiny_config, "-w", featured)
    learned = ("--input", "features", "--temperature", "learned")
    attention = ("--attention", "learned", *common)
    assert not invoke("train-flat", *common).code
    grid = ("--grid-T", "2,3", "--grid-delta", "0.1", "--T", "3")
    assert not invoke("cluster", "--select", *grid, *common).code
    retrain = ("train-expert", "--group", "all", "--epochs", 0, *common)
    assert not invoke(*retrain).code
    assert not invoke("train-gate", *learned, *common).code
    assert not invoke("train-attention", "--epochs", 0, *attention).code
    cached = Path(shutil.copytree(featured, root / "cached"))
    frozen = ("--warmup", "cache", "--weights", "flat", "--config", tiny_config)
    assert not invoke("train-expert", "--group", 1, *frozen, "-w", cached).code
    for name in ("gate", "attention", "evaluation", "outputs"):
        shutil.rmtree(cached / name)
    routed = Path(shutil.copytree(finished_workspace, root / "routed"))
    assert not invoke("route", "--config", tiny_config, "-w", routed).code
    shorter = ("--outputs", "compact", "--config", tiny_config)
    assert not invoke("evaluate", *shorter, "-w", routed).code
    assert not invoke("evaluate", "--fusion", "flat,attention", *common).code
    compare = ("compare", "--data", tiny_images, "--seeds", 1, "--systems", "deepme")
    trials = ("-w", root / "trials", "--config", tiny_config)
    assert not invoke(*compare, *trials).code
    (root / "comparison").mkdir()
    shutil.copy(root / "trials" / "comparison.json", root / "comparison")
    places = (
        root / "own",
        root / "tree",
        featured,
        cached,
        routed,
        root / "comparison",
    )
    return [finished_workspace, *places]


def files_of(workspace: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(workspace.rglob("*")):
        if path.is_file():
            yield path.relative_to(workspace).as_posix(), path


def written(workspaces: list[Path], section: Section) -> list[Path]:
    return [
        path
        for workspace in workspaces
        for name, path in files_of(workspace)
        if section.fits(name)
    ]


def header_of(path: Path) -> dict[str, Any]:
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return dict(json.loads(file.attrs["deepme"]))
    if path.suffix == ".json":
        return dict(json.loads(path.read_text())["deepme"])
    with safe_open(path, "np") as file:
        return dict(json.loads(file.metadata()["deepme"])["header"])


def content_of(path: Path, section: Section) -> set[tuple[str, ...]]:
    """(name, type, dimensions) of what an artifact holds; the name alone in JSON."""
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return {row for name, item in file.items() for row in rows_of(name, item)}
    if path.suffix == ".json":
        content = json.loads(path.read_text())["content"]
        return {(name,) for name in keys_of(content, section)}
    with safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    named = {name: described(name, section) for name in tensors}
    return {
        (row, *shape_and_type(array, section.rows.get(row, ("", ""))))
        for (name, array), row in zip(tensors.items(), named.values(), strict=True)
    }


def rows_of(name: str, item: h5py.Dataset) -> Iterator[tuple[str, str, str]]:
    """What a dataset is, or each field of its records."""
    for field, (dtype, _) in (item.dtype.fields or {}).items():
        dimensions = str(item.ndim + dtype.ndim)
        yield f"{name}.{field}", str(dtype.base), dimensions
    if item.dtype.fields is None:
        yield name, str(item.dtype), str(item.ndim)


def described(name: str, section: Section) -> str:
    """The row that speaks of a tensor, or its own name if none does."""
    return next((row for row in section.rows if fnmatch.fnmatch(name, row)), name)


def shape_and_type(array: Any, cells: tuple[str, ...]) -> tuple[str, str]:
    dtype, shape, *_ = cells
    return (
        dtype if dtype == "as timm" else str(array.dtype),
        str(array.ndim) if shape.startswith("(") else shape,
    )


def keys_of(value: Any, section: Section, name: str = "") -> Iterator[str]:
    """Names as in ``groups[].number``; what the page calls a map stays whole."""
    is_map = section.rows.get(name, ("",))[0] == "map"
    if isinstance(value, dict) and not is_map:
        for key, item in value.items():
            yield from keys_of(item, section, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from keys_of(item, section, f"{name}[]")
    else:
        yield name


def rows_as_content(section: Section) -> set[tuple[str, ...]]:
    if section.pattern.endswith(".json"):
        return {(name,) for name in section.rows}
    return {
        (name, dtype, str(shape.count(",") + 1) if shape.startswith("(") else shape)
        for name, (dtype, shape, *_) in section.rows.items()
    }


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.pattern)
def test_the_page_names_exactly_what_is_written(
    section: Section, workspaces: list[Path]
) -> None:
    paths = written(workspaces, section)
    assert paths, f"the code writes no {section.pattern}"
    found = set().union(*(content_of(path, section) for path in paths))
    assert found == rows_as_content(section)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.pattern)
def test_the_page_names_kind_and_layout(
    section: Section, workspaces: list[Path]
) -> None:
    for path in written(workspaces, section):
        header = header_of(path)
        assert header["kind"] == section.kind
        assert header["schema_version"] == section.layout


def test_every_file_is_on_the_page(workspaces: list[Path]) -> None:
    other = [
        re.sub("NN", "*", pattern)
        for cell in re.findall(r"^\| (`.*?) \| ", text_of("artifacts.md"), re.M)
        for pattern in re.findall("`([^`]*)`", cell)
        if "/" in pattern or pattern.startswith(".")
    ]
    for workspace in workspaces:
        for name, path in files_of(workspace):
            known = sum(section.fits(name) for section in SECTIONS)
            known += any(
                fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(path.name, pattern)
                for pattern in other
            )
            assert known == 1, f"artifacts.md says nothing, or two things, of {name}"


def test_the_header_is_on_the_page() -> None:
    section = text_of("artifacts.md").split("The seal is")[0]
    assert list(read_rows(section)) == [item.name for item in fields(Header)]


def test_the_taxonomy_is_on_the_page() -> None:
    body = text_of("artifacts.md").split("## The built-in taxonomy")[1]
    kind, layout = re.findall(r"kind `(\w+)`, layout (\d)", body)[0]
    section = Section("nouns.h5", kind, int(layout), read_rows(body))
    assert content_of(BUILTIN, section) == rows_as_content(section)
    assert header_of(BUILTIN)["kind"] == kind
    assert header_of(BUILTIN)["schema_version"] == section.layout


def test_packed_texts_are_as_told(workspaces: list[Path]) -> None:
    with h5py.File(workspaces[0] / "similarity.h5") as file:
        raw, ends = file["class"][()].tobytes(), file["class_end"][()]
    starts = np.concatenate([[0], ends[:-1]])
    classes = [raw[a:b].decode() for a, b in zip(starts, ends, strict=True)]
    groups = json.loads((workspaces[0] / "groups.json").read_text())
    assert classes == groups["content"]["classes"]


PACKAGES = "|".join(
    path.stem
    for path in sorted((ROOT / "deepme").iterdir())
    if not path.name.startswith("_")
)
NAMED = sorted(
    {
        (page, name)
        for page in ("method.md", "reliability.md")
        for name in re.findall(rf"`((?:{PACKAGES})\.[A-Za-z_.]+)`", text_of(page))
    }
)


def look_up(name: str) -> Any:
    """Find ``core.mixture.Members.of`` and the like below ``deepme``."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(["deepme", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            found = getattr(found, attribute)
        return found
    raise AttributeError(name)


@pytest.mark.parametrize(("page", "name"), NAMED)
def test_every_function_named_exists(page: str, name: str) -> None:
    look_up(name)


@pytest.mark.parametrize("name", ["core.mixture.melt", "core.smelting.fuse"])
def test_a_function_that_is_not_there_is_noticed(name: str) -> None:
    with pytest.raises(AttributeError):
        look_up(name)


@pytest.mark.parametrize(
    "module",
    [
        *("clustering", "fuzzy", "gate_loss", "grouping", "metrics", "mixture"),
        *("regularizers", "similarity", "spectral"),
        *("calibration", "confusion", "methods", "selection", "windows"),
    ],
)
def test_every_equation_in_core_is_on_the_page(module: str) -> None:
    code = importlib.import_module(f"deepme.core.{module}")
    public = {
        f"core.{module}.{name}"
        for name, item in inspect.getmembers(code)
        if not name.startswith("_")
        and getattr(item, "__module__", "") == code.__name__
        and (inspect.isfunction(item) or inspect.isclass(item))
    }
    told = {name for page, name in NAMED if page == "method.md"}
    # What is handed around, not computed.
    carriers = {
        *("core.fuzzy.FuzzyPartition", "core.grouping.GroupSummary"),
        *("core.spectral.Spectrum", "core.methods.Grouping"),
        "core.selection.HeadAccuracy",
    }
    assert public - carriers <= told


def test_deviations_are_numbered_through() -> None:
    numbers = re.findall(r"^(\d+)\. \*\*", text_of("method.md"), re.M)
    assert numbers == [str(n) for n in range(1, len(numbers) + 1)]
    assert len(numbers) > 20


def test_the_checkpoint_keeps_its_kind() -> None:
    assert (checkpoint.KIND, checkpoint.SCHEMA) == ("checkpoint", 1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            there = (page.parent / file) if file else page
            assert there.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors_of(there)


def anchors_of(page: Path) -> list[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]


def test_test_files_named_exist() -> None:
    named = re.findall(r"`(tests/[a-z0-9_/.]+)`", "".join(map(Path.read_text, PAGES)))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("index", ["index.md", "benchmarks/README.md"])
def test_every_page_is_in_its_index(index: str) -> None:
    folder = (ROOT / "docs" / index).parent
    linked = re.findall(r"\]\(([^)/]+\.md)\)", text_of(index))
    pages = {path.name for path in folder.glob("*.md")}
    assert set(linked) == pages - {Path(index).name}


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150
    assert "pip install uv && uv run deepme demo" in lines
    assert "pip install uv && uv run pytest" in lines


def test_the_changelog_has_this_version() -> None:
    assert f"## [{__version__}]" in text_of("changelog.md")


def test_the_licence_holds_both() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    notice = (ROOT / "deepme" / "wordnet" / "LICENSE").read_text("utf-8")
    assert text.lstrip().startswith("Apache License")
    assert text.endswith(notice)
    assert "WordNet 3.0 Copyright 2006 by Princeton University." in notice
