"""Data and settings that cannot be used: what was found, what was expected, what to do.

Every case ends with exit code 2 and one line that names the file or option and either
the range allowed or the command to run, and leaves the workspace as it was.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from injection import command, in_child, snapshot
from tally import Tally, one_error
from world import CLASSES, World, link

TIER = "data and settings"
DOG, CAT = CLASSES[:2]
REMEDY = re.compile(
    r"expected|; (re)?run `deepme|; (remove|rename|name|number|scale|use|keep) |"
    r"did you mean|should be|unpack it|the settings of|give --hierarchy"
)
"""What a line that helps holds."""

SETTINGS: dict[str, tuple[str, str, str]] = {
    "not TOML": ("cluster", "[cluster\n", "cannot read --config"),
    "a key twice": ("cluster", "[cluster]\nT = 2\nT = 3\n", "cannot read --config"),
    "a key of no table": ("cluster", "T = 3\n", "key [T], expected tables"),
    "an unknown table": ("cluster", "[clusters]\nT = 3\n", "key [clusters]"),
    "an unknown key": ("cluster", "[cluster]\nt = 3\n", "unknown t in [cluster]"),
    "T of words": ("cluster", "[cluster]\nT = 'three'\n", "is 'three'"),
    "T of a list": ("cluster", "[cluster]\nT = [2]\n", "T is [2]"),
    "T of truth": ("cluster", "[cluster]\nT = true\n", "T is True"),
    "T of 0": ("cluster", "[cluster]\nT = 0\n", "--T is 0, expected ≥ 1 and ≤ 10,000"),
    "T above N": ("cluster", "[cluster]\nT = 7\n", "expected at most the 6 classes"),
    "delta NaN": (
        "cluster",
        "[cluster]\ndelta = nan\n",
        "is nan, expected ≥ 0 and ≤ 1",
    ),
    "delta of 2": ("cluster", "[cluster]\ndelta = 2\n", "expected ≥ 0 and ≤ 1"),
    "fuzzifier of 1": ("cluster", "[cluster]\nfuzzifier = 1\n", "expected > 1"),
    "a method": ("cluster", "[cluster]\nmethod = 'magic'\n", "magic, expected one"),
    "a learning rate": ("train-expert", "[train-expert]\nlr = 0\n", "expected > 0"),
    "an infinite rate": ("train-expert", "[train-expert]\nlr = inf\n", "expected > 0"),
    "a batch of 0": (
        "train-expert",
        "[train-expert]\nbatch-size = 0\n",
        "expected ≥ 1",
    ),
    "epochs": ("train-expert", "[train-expert]\nepochs = -1\n", "expected ≥ 0"),
    "a backbone": (
        "train-expert",
        "[train-expert]\nbackbone = 'vgg61'\n",
        "vgg61, expected a timm model; did you mean",
    ),
    "a device": ("train-expert", "[machine]\ndevice = 'cuda:99'\n", "expected auto or"),
    "a gate's input": ("train-gate", "[train-gate]\ninput = 'sound'\n", "expected one"),
    "kappa": ("train-gate", "[train-gate]\nkappa = -1\n", "expected ≥ 0"),
    "a rank": ("evaluate", "[evaluate]\ntopk = [0]\n", "expected"),
    "ranks of words": ("evaluate", "[evaluate]\ntopk = 'all'\n", "[evaluate] topk is"),
    "a fusion": ("evaluate", "[evaluate]\nfusion = ['vote']\n", "vote, expected one"),
    "shares": (
        "split",
        "[split]\nval = 0.5\ntest = 0.5\n",
        "leave nothing to train on",
    ),
    "a share": ("split", "[split]\nval = 1.5\n", "expected ≥ 0 and ≤ 0.9"),
}
"""Name -> command, settings file, and part of the error."""

LISTS: dict[str, tuple[str, str | bytes, str]] = {
    "an unknown wnid": ("txt", f"{DOG}\nn00000000\n", "n00000000"),
    "an upper case wnid": ("txt", f"{DOG}\n{CAT.upper()}\n", CAT.upper()),
    "a name": ("txt", f"{DOG}\nwolf\n", "wolf"),
    "a class twice": ("txt", f"{DOG}\n{CAT}\n{DOG}\n", "1 class more than once"),
    "one class": ("txt", f"{DOG}\n", "names 1 class, expected at least 2"),
    "no class": ("txt", "", "names 0 classes, expected at least 2"),
    "a picture": ("txt", b"\xff\xd8\xff\xe0 JFIF", "cannot read the class list"),
    "an escape": ("txt", f"{DOG}\nn\x1b[31m1\n", "x1b[31m1"),
    "a gap": ("json", f'{{"{DOG}": 0, "{CAT}": 2}}', "other indices than 0 to 1"),
    "an index of words": ("json", f'{{"{DOG}": 0, "{CAT}": "x"}}', "cannot read the"),
    "a list in JSON": ("json", f'["{DOG}", "{CAT}"]', "expected a JSON object"),
    "a name twice": ("json", f'{{"{DOG}": 0, "{DOG}": 1}}', "stands there twice"),
    "no number": ("json", f'{{"{DOG}": 0, "{CAT}": NaN}}', "NaN is no JSON"),
}
"""Name -> suffix, class list, and part of the error."""

HIERARCHIES = {
    "three columns": "a,b,c\n",
    "a cycle": "a,b\nb,a\n",
    "two roots": "a,r\nb,r\nc,s\nd,s\n",
    "a row twice": "a,r\na,r\nb,r\n",
    "no row": "child,parent\n",
}

MATRICES: dict[str, tuple[str, str]] = {
    "values above 1": (",a,b\na,1,2\nb,2,1\n", "expected similarities in [0, 1]"),
    "values below 0": (",a,b\na,1,-1\nb,-1,1\n", "expected similarities in [0, 1]"),
    "no number": (",a,b\na,1,nan\nb,nan,1\n", "expected similarities in [0, 1]"),
    "words": (",a,b\na,1,x\nb,x,1\n", "cannot read --matrix"),
    "asymmetric": (",a,b\na,1,0.5\nb,0.25,1\n", "is not symmetric; use"),
    "ragged": (",a,b\na,1,0.5\nb,0.5\n", "cannot read --matrix"),
    "other labels": (",a,b\na,1,0.5\nc,0.5,1\n", "name different labels"),
    "a label twice": (",a,a\na,1,0.5\na,0.5,1\n", "1 class more than once"),
    "empty": ("", "expected"),
}


def check(
    tally: Tally, name: str, root: Path, arguments: tuple[object, ...], part: str
) -> None:
    before = snapshot(root)
    end = in_child(command(*arguments, "-w", root))
    lines = [x for x in end.output.splitlines() if x.startswith("error: ")]
    line = "".join(lines)
    tally.case(
        name,
        one_error(end, 2),
        "" if part in line else f"no {part!r}",
        "" if REMEDY.search(line) else "no remedy",
        "" if snapshot(root) == before else "something was written",
        output=end.output,
    )


@pytest.fixture
def root(world: World, tmp_path: Path) -> Path:
    link(world.finished, tmp_path / "workspace")
    return tmp_path / "workspace"


def test_settings(world: World, tally: Tally, root: Path, tmp_path: Path) -> None:
    more = {"train-expert": ("--group", "1"), "split": ("--data", world.images)}
    for name, (stage, text, part) in SETTINGS.items():
        path = tmp_path / "settings.toml"
        path.write_text(text)
        arguments = (stage, *more.get(stage, ()), "--config", path)
        check(tally, f"settings: {name}", root, arguments, part)


def test_class_lists(tally: Tally, root: Path, tmp_path: Path) -> None:
    for name, (suffix, content, part) in LISTS.items():
        path = tmp_path / f"classes.{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        arguments = ("similarity", "--classes", path)
        check(tally, f"classes: {name}", root, arguments, part)


def test_hierarchies_and_matrices(tally: Tally, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    for name, text in HIERARCHIES.items():
        path.write_text(text)
        arguments: tuple[object, ...] = ("similarity", "--hierarchy", path)
        check(tally, f"hierarchy: {name}", root, arguments, "cannot use --hierarchy")
    for name, (text, part) in MATRICES.items():
        path.write_text(text)
        arguments = ("similarity", "--matrix", path)
        check(tally, f"matrix: {name}", root, arguments, part)
    np.save(tmp_path / "own.npy", np.eye(2))
    arguments = ("similarity", "--matrix", tmp_path / "own.npy")
    check(tally, "matrix: no labels", root, arguments, "has no labels; name them")
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["label"] = ["a", "b"]
        file["similarity"] = h5py.ExternalLink("/etc/passwd", "x")
    arguments = ("similarity", "--matrix", tmp_path / "own.h5")
    check(tally, "matrix: a link", root, arguments, "is a link to elsewhere")


def test_files_of_another_kind(tally: Tally, root: Path, tmp_path: Path) -> None:
    """In place of every file that the user may name."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**24 + 1)
    for given in ("nowhere", "folder", "pipe", "device", "large"):
        path = tmp_path / given
        arguments: tuple[object, ...] = ("cluster", "--config", path)
        check(tally, f"settings: {given}", root, arguments, "cannot read --config")
        arguments = ("similarity", "--hierarchy", path)
        check(tally, f"hierarchy: {given}", root, arguments, "cannot use --hierarchy")
        if given != "folder":
            arguments = ("similarity", "--classes", path)
            check(tally, f"classes: {given}", root, arguments, given)


def test_images(world: World, tally: Tally, root: Path, tmp_path: Path) -> None:
    def data(name: str, make: Callable[[Path], object], part: str) -> None:
        path = tmp_path / name
        make(path)
        check(tally, f"data: {name}", root, ("split", "--data", path), part)

    def both(path: Path) -> None:
        shutil.copytree(world.images, path)
        (path / f"{DOG}.tar").write_bytes(bytes(10240))

    def compressed(path: Path) -> None:
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo(f"{DOG}/a.png"), io.BytesIO())

    data("nowhere", lambda path: None, "expected a folder of class folders or a tar")
    data("empty", Path.mkdir, "holds no image of the 6 classes; expected CLASS/image")
    data("text.tar", lambda path: path.write_text("text"), "as a tar file")
    data("images.tar.gz", compressed, "unpack it with gunzip first")
    data("both", both, "holds both class folders and tar files")
    data("others", lambda path: (path / "x").mkdir(parents=True), "holds no image of")


def test_artifacts(world: World, tally: Tally, tmp_path: Path) -> None:
    for number, (gone, stage, remedy) in enumerate(
        [
            ("similarity.h5", "cluster", "run `deepme similarity"),
            ("groups.json", "train-gate", "run `deepme cluster`"),
            ("split.h5", "train-gate", "run `deepme split"),
            ("experts/01/training.json", "train-gate", "run `deepme train-expert --gr"),
            ("gate/training.json", "evaluate", "run `deepme train-gate`"),
        ]
    ):
        for way in ("missing", "corrupt"):
            root = tmp_path / f"{number}-{way}"
            link(world.finished, root)
            (root / gone).unlink()
            if way == "corrupt":
                (root / gone).write_bytes(b"")
            part = remedy if way == "missing" else "is corrupt: "
            arguments = (stage, "--config", world.config)
            check(tally, f"{gone} {way}", root, arguments, part)
