"""Everything public is documented; what Python users import, with its arguments too."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepme
from deepme.config_file import STAGES
from deepme.settings import Settings

PACKAGE = Path(deepme.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
EXPORTED = [name for name in deepme.__all__ if not name.startswith("_")]

Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Documented]]:
    """Public classes, functions and methods, and the special methods of classes."""
    for node in getattr(tree, "body", []):
        if not isinstance(node, Documented):
            continue
        special = prefix and node.name.startswith("__")
        if node.name.startswith("_") and not special:
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public(node, f"{prefix}{node.name}.")


def is_settings(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).endswith("Settings") for base in node.bases)


def undocumented_fields(node: ast.ClassDef) -> list[str]:
    """Annotated attributes that neither the docstring nor a line below tells of."""
    text = ast.get_docstring(node) or ""
    followed = [
        isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        for after in [*node.body[1:], ast.Pass()]
    ]
    return [
        item.target.id
        for item, told in zip(node.body, followed, strict=True)
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and not item.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(item.annotation)
        and not told
        and not re.search(rf"\b{item.target.id}\b[^:]*:", text)
    ]


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_everything_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), "the module"
    bare = [name for name, node in public(tree) if not ast.get_docstring(node)]
    bare += [
        f"{name}.{attribute}"
        for name, node in public(tree)
        if isinstance(node, ast.ClassDef) and not is_settings(node)
        for attribute in undocumented_fields(node)
    ]
    assert not bare


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_has_a_help_text(stage: type[Settings]) -> None:
    assert all(field.metadata["help"] for field in dataclasses.fields(stage))


def members(name: str) -> Iterator[tuple[str, object]]:
    """An exported name, and if it is a class its own public methods."""
    exported = getattr(deepme, name)
    yield name, exported
    if inspect.isclass(exported):
        for method, function in vars(exported).items():
            if not method.startswith("_") and callable(function):
                yield f"{name}.{method}", function


def lacks(function: object) -> Iterator[str]:
    """Parts that the docstring of something exported should have and has not."""
    assert callable(function)
    text = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    for parameter in signature.parameters:
        if parameter != "self" and not re.search(rf"^\s*\**{parameter}: ", text, re.M):
            yield parameter
    if inspect.isclass(function):
        return
    if signature.return_annotation not in ("None", None) and "Returns:" not in text:
        yield "Returns"
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    if "Raises:" not in text and any(isinstance(n, ast.Raise) for n in ast.walk(tree)):
        yield "Raises"


@pytest.mark.parametrize("name", EXPORTED)
def test_what_is_exported_has_its_arguments_explained(name: str) -> None:
    missing = {place: list(lacks(found)) for place, found in members(name)}
    assert {place: parts for place, parts in missing.items() if parts} == {}


@pytest.mark.parametrize("name", EXPORTED)
def test_what_is_exported_is_on_the_page(name: str) -> None:
    page = (PACKAGE.parent / "docs" / "python.md").read_text("utf-8")
    assert re.search(rf"\b{name}\b", page)


def test_the_stub_names_what_is_exported() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text("utf-8"))
    imported = [
        alias.asname
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(filter(None, imported)) == sorted(EXPORTED)
    for name in EXPORTED:
        assert getattr(deepme, name).__module__ in {
            node.module for node in stub.body if isinstance(node, ast.ImportFrom)
        }
    assert importlib.import_module("deepme") is deepme
