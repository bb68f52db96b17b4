"""Names that would act on a terminal, a page or a path: shown harmless, or refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hostile import misdeeds, watched
from injection import snapshot
from PIL import Image
from tally import Tally, one_error
from world import World, link

from deepme import reporting

TIER = "hostile names and paths"

SHOWN = {
    "CSI": "\x1b[31mred",
    "OSC 52": "\x1b]52;c;eA==\x07x",
    "OSC 8": "\x1b]8;;x\x1b\\y",
    "C1": "a\x9b2Jx",
    "bidi": "\u202egnp",
    "rich markup": "[bold red]x [nothing] [link=x]y",
    "mathtext": "$$x_1$ \\alpha$",
    "script": "<script>alert(1)<!--",
    "CDATA": "]]><img src=x onerror=alert(1)>",
    "formula": "=cmd|' '!A1",
    "formula, at": "@SUM(1)",
    "format": "%s {0} \\u001b",
}
TEMPLATE = Path(reporting.__file__).with_name("page.html.j2")
Member = tuple[tarfile.TarInfo, bytes]
REFUSED = {"CR": "a\rerror: x", "newline": "a\nerror: forged"}


def plain(text: str) -> str:
    """What is wrong with a text for a terminal: control or direction characters."""
    bad = {c for c in text if not c.isprintable() and c != "\n"}
    return f"raw {sorted(bad)!r}" if bad else ""


class Shown:
    """A workspace whose classes have such names, and what is told of it.

    Args:
        world: for its settings.
        folder: an empty one.
    """

    def __init__(self, world: World, folder: Path) -> None:
        self.root, self._folder = folder / "workspace", folder
        names = list(SHOWN.values())
        rng = np.random.default_rng(0)
        for name in names:
            (folder / "images" / name).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                place = folder / "images" / name / f"{number}.png"
                Image.fromarray(pixels).save(place)
        half = np.arange(len(names)) < len(names) / 2
        matrix = 0.2 + 0.6 * (half[:, None] == half) + 0.2 * np.eye(len(names))
        with (folder / "own.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["", *names])
            writer.writerows([a, *row] for a, row in zip(names, matrix, strict=True))
        config = ("--config", world.config)
        self.terminal = self.run("similarity", "--matrix", folder / "own.csv")
        self.terminal += self.run("cluster", *config)
        self.terminal += self.run("split", "--data", folder / "images", *config)
        self.log = self.run("train-expert", "--group", "all", "-v", *config)
        self.log += self.run("train-gate", "-v", *config)
        self.terminal += self.run("evaluate", *config) + self.run("status")
        self.run("plot-accuracy", "--topk", "1")
        image = folder / "images" / names[0] / "0.png"
        predict = ("predict", image, "--topk", str(len(names)), *config)
        self.terminal += self.run(*predict)
        self.csv = self.run(*predict, "--csv")
        self.json = self.run(*predict, "--json")
        self.run("export", "--format", "hub", "--out", folder / "card", *config)
        self.run("report", "--out", folder / "report.html")

    def run(self, *arguments: object) -> str:
        end = watched(*arguments, "-w", self.root, inside=self._folder)
        assert end.code == 0, end.output
        assert not misdeeds(end), end.output
        return end.output.rpartition("peak KiB")[0]


def cells(text: str) -> str:
    """No cell of a CSV that a spreadsheet would calculate."""
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
                return f"a cell {cell!r}"
    return plain(text)


def parsed(text: str, name: str) -> str:
    """JSON that gives the name back and holds no raw control character."""
    start = min(place for place in (text.find("["), text.find("{")) if place >= 0)
    found = json.dumps(json.loads(text[start:]))
    known = json.dumps(name)[1:-1] in found
    return plain(text) or ("" if known else "the name is not there")


def drawn(folder: Path) -> str:
    """SVG that parses, without scripts, links to elsewhere or control characters."""
    for path in folder.glob("*.svg"):
        text = path.read_text("utf-8")
        for element in ElementTree.fromstring(text).iter():
            if element.tag.rpartition("}")[2] in ("script", "foreignObject", "image"):
                return f"{path.name} has a {element.tag}"
        if told := plain(text.replace("\t", " ")):
            return f"{path.name}: {told}"
    return ""


def painted(folder: Path, name: str) -> str:
    """PNG that opens; its texts do not hold the name."""
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            if name in str(image.info):
                return f"{path.name} holds it"
    return ""


def marked(text: str) -> str:
    """Markdown that hubs make a page of: nothing of HTML in it but comments."""
    found = re.search(r"(?<!\\)<(script|img|iframe|svg|a)\b", text, re.I)
    return f"{found[0]} in the card" if found else plain(text)


class Page(HTMLParser):
    """What a browser would act on in a page, its own script and its data left out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._own = TEMPLATE.read_text("utf-8").count("<script")
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = [name for name, _ in attrs if name.startswith("on")]
        if tag == "script" and self._own:
            self._own -= 1
        elif tag in ("script", "iframe", "object", "embed") or named:
            self.found.append(f"<{tag} {named}>")


@pytest.mark.timeout(3600)
def test_shown(world: World, tally: Tally, tmp_path: Path) -> None:
    shown = Shown(world, tmp_path)
    figures = shown.root / "figures"
    card = (tmp_path / "card" / "README.md").read_text("utf-8")
    page = (tmp_path / "report.html").read_text("utf-8")
    acts = Page(page).found
    sinks: dict[str, Callable[[str], str]] = {
        "terminal": lambda name: plain(shown.terminal),
        "log": lambda name: plain(shown.log),
        "JSON": lambda name: parsed(shown.json, name),
        "CSV": lambda name: cells(shown.csv),
        "HTML": lambda name: f"{acts}" if acts else plain(page),
        "model card": lambda name: marked(card),
        "SVG": lambda name: drawn(figures),
        "PNG": lambda name: painted(figures, name),
    }
    for what, name in SHOWN.items():
        for sink, check in sinks.items():
            tally.case(f"{what} in {sink}", check(name))
    tally.figures["injections"] = len(SHOWN) * len(sinks)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", REFUSED)
def test_refused(world: World, tally: Tally, tmp_path: Path, what: str) -> None:
    """A name of two lines would forge a line of the log."""
    for name in SHOWN.values():
        (tmp_path / "images" / name).mkdir(parents=True)
    (tmp_path / "images" / REFUSED[what]).mkdir()
    root = tmp_path / "workspace"
    end = watched("similarity", "--classes", tmp_path / "images", "-w", root,
                  inside=tmp_path)  # fmt: skip
    told = end.output.rpartition("peak KiB")[0]
    tally.case(what, one_error(end, 2), misdeeds(end), plain(told), output=end.output)


def member(
    name: str, raw: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object
) -> Member:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, len(raw)
    for key, value in more.items():
        setattr(entry, key, value)
    return entry, raw


def archives(picture: bytes, secret: Path) -> dict[str, list[Member]]:
    dog = "n02084071"
    outside = str(secret)
    return {
        "up and out": [member(f"{dog}/../../../../{outside}.png", picture)],
        "absolute": [member(f"/{dog}{outside}.png", picture)],
        "encoded dots": [member(f"{dog}/%2e%2e/%2e%2e/x.png", picture)],
        "backslashes": [member(f"{dog}\\..\\..\\x.png", picture)],
        "a symbolic link": [
            member(f"{dog}/x.png", kind=tarfile.SYMTYPE, linkname=outside)
        ],
        "a hard link": [member(f"{dog}/x.png", kind=tarfile.LNKTYPE, linkname=outside)],
        "a link, then a file below it": [
            member(dog, kind=tarfile.SYMTYPE, linkname=str(secret.parent)),
            member(f"{dog}/secret.png", picture),
        ],
        "a device": [member(f"{dog}/x.png", kind=tarfile.CHRTYPE, devmajor=1)],
        "a pipe": [member(f"{dog}/x.png", kind=tarfile.FIFOTYPE)],
        "the same name twice": [member(f"{dog}/x.png", picture)] * 2,
        "names that differ in case": [
            member(f"{dog}/x.png", picture), member(f"{dog}/X.PNG", picture)
        ],
        "500 empty members": [member(f"{dog}/{n}.png") for n in range(500)],
        "a name of 4,000 letters": [member(f"{dog}/{'x' * 4000}.png", picture)],
        "an escape in a name": [member(f"{dog}/\x1b[2J.png", picture)],
    }  # fmt: skip


@pytest.mark.timeout(3600)
def test_tar_members(world: World, tally: Tally, tmp_path: Path) -> None:
    """Read in place and never unpacked: nothing outside is read or written."""
    secret, inside = tmp_path / "secret", tmp_path / "inside"
    secret.write_text("secret")
    inside.mkdir()
    picture = next(world.images.rglob("*.png")).read_bytes()
    rest = [
        member(str(path.relative_to(world.images)), path.read_bytes())
        for path in sorted(world.images.rglob("*.png"))
    ]
    for what, entries in archives(picture, secret).items():
        root = inside / "workspace"
        link(world.finished, root)
        path = inside / "images.tar"
        with tarfile.open(path, "w") as archive:
            for entry, raw in [*rest, *entries]:
                archive.addfile(entry, io.BytesIO(raw))
        before = snapshot(tmp_path)
        split = watched("split", "--data", path, "--config", world.config, "-w", root,
                        inside=inside, secret=secret)  # fmt: skip
        train = watched("train-expert", "--group", "all", "--config", world.config,
                        "--on-bad", "skip", "--max-bad", "0.9", "-w", root,
                        inside=inside, secret=secret)  # fmt: skip
        after = snapshot(tmp_path)
        added = [n for n in after if n not in before and "workspace" not in n]
        told = split.output + train.output
        tally.case(
            f"tar: {what}",
            one_error(split, 0, 2), one_error(train, 0, 2),
            misdeeds(split), misdeeds(train),
            f"made {added}" if added else "",
            "" if after["secret"] == b"secret" else "the secret was changed",
            plain(told.replace("\r", "")),
            output=told,
        )  # fmt: skip
        shutil.rmtree(root)
    tally.figures["paths"] = tally.figures.get("paths", 0) + 14


NAMES = ("../../secret", "/etc/passwd", "..", "a/../../b", "a\0b", "~root", "C:\\x")


@pytest.mark.timeout(3600)
def test_class_names(world: World, tally: Tally, tmp_path: Path) -> None:
    """Names of classes never become paths."""
    secret, inside = tmp_path / "secret", tmp_path / "inside"
    secret.write_text("secret")
    inside.mkdir()
    size = 6
    for name in NAMES:
        labels = [name, *(f"class {number}" for number in range(size - 1))]
        np.save(inside / "own.npy", np.eye(size) * 0.5 + 0.5)
        (inside / "labels.txt").write_text("\n".join(labels), "utf-8")
        root = inside / "workspace"
        ends = [
            watched("similarity", "--matrix", inside / "own.npy", "--classes",
                    inside / "labels.txt", "-w", root, inside=inside, secret=secret),
            watched("cluster", "--T", "2", "-w", root, inside=inside, secret=secret),
            watched("split", "--data", world.images, "-w", root, inside=inside,
                    secret=secret),
        ]  # fmt: skip
        told = "".join(end.output for end in ends)
        tally.case(
            f"class {name!r}",
            *(one_error(end, 0, 2) for end in ends),
            *(misdeeds(end) for end in ends),
            plain(told),
            output=told,
        )
    tally.figures["paths"] = tally.figures.get("paths", 0) + len(NAMES)
