"""docs/own-classes.md, command by command, on pictures drawn here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).parents[1] / "docs" / "own-classes.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
NAMED = re.compile(r"`([\w.-]+\.(?:csv|toml|txt|json))`[^`]*\Z")

Invoke = Callable[..., Any]


def draw(folder: Path, number: int, images: int) -> None:
    """A class is a colour: three kinds of red, green and blue."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(number)
    for image in range(images):
        pixels = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
        pixels[: 4 * (number % 4) + 4, :, number // 4 % 3] += 150
        Image.fromarray(pixels).save(folder / f"{image + 1}.png")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page shows, and the folders that it draws as trees."""
    root = tmp_path_factory.mktemp("page")
    text = PAGE.read_text("utf-8")
    for block in BLOCK.finditer(text):
        named = NAMED.search(text[: block.start()])
        if named and block[1] in ("csv", "toml", "text", "json"):
            (root / named[1]).write_text(block[2], "utf-8")
    rows = (root / "caltech.csv").read_text("utf-8").splitlines()[1:13]
    for number, name in enumerate(row.partition(",")[0] for row in rows):
        draw(root / "caltech" / name, number, 12)
    folders = re.findall(r"^((?:birds|inat)/.*/)(?:1\.jpg )?…$", text, re.M)
    for number, name in enumerate(folders):
        if not name.startswith("inat/val/"):
            draw(root / name, number, 10)
    for species in (root / "inat" / "train").iterdir():
        draw(root / "inat" / "val" / species.name, 0, 2)
    return root


def steps() -> list[tuple[str, str]]:
    """What is to be run, in order: a command with its output, or a script."""
    found: list[tuple[str, str]] = []
    for language, body in BLOCK.findall(PAGE.read_text("utf-8")):
        if language == "python":
            found.append((body, ""))
        elif language == "bash":
            found += [(line, "") for line in body.splitlines()]
        elif language == "console":
            parts = re.split(r"^\$ (.*)\n", body, flags=re.M)[1:]
            found += zip(parts[::2], parts[1::2], strict=True)
    return found


def run(step: str, invoke: Invoke) -> str:
    if not step.startswith("deepme "):
        exec(step, {})
        return ""
    ended = invoke(*shlex.split(step)[1:])
    assert ended.code == 0, f"{step}: {ended.stderr}"
    return str(ended.stdout)


def test_the_page_works_as_written(
    page: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(page)
    assert len(steps()) > 12
    for step, shown in steps():
        printed = run(step, invoke)
        if shown:
            assert words_of(printed) == words_of(shown), step


def words_of(printed: str) -> list[list[str]]:
    """Without blanks and the rule below a header, whose length is nobody's matter."""
    lines = [line.split() for line in printed.splitlines() if line.strip(" ─")]
    return [line for line in lines if line]
