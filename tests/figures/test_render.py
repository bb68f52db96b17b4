from __future__ import annotations

import io
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from deepme.figures.class_accuracy import plot_class_accuracy
from deepme.figures.expert_accuracy import plot_expert_accuracy
from deepme.figures.group_map import plot_group_map
from deepme.figures.render import png_bytes, svg_bytes

HOSTILE = [
    "$$",
    "$x",
    r"$\frac{1}{0}$ %_^{}\\",
    "\x1b[31m\x1b]52;c;aGk=\x07",
    "<script>alert(1)</script>]]>--><!--",
    "a\r\nb\x00\x85\u2028\u202e\ud800\ufffe",
    "犬 🐕 كلب",
    "y" * 4096,
    "_hidden",
    "",
]


def figures(*names: str) -> list[Figure]:
    """One figure of each kind, every name a system, a group and a class."""
    accuracies = np.linspace(0, 1, len(names))
    members = [np.arange(i, min(i + 2, len(names))) for i in range(len(names))]
    return [
        plot_class_accuracy(dict.fromkeys(names, accuracies), k=1),
        plot_expert_accuracy(names, accuracies, [2] * len(names), k=1),
        plot_group_map(names, members, names),
    ]


@pytest.mark.parametrize("kind", range(3))
def test_hostile_names_are_drawn_as_plain_text(kind: int) -> None:
    figure = figures(*HOSTILE)[kind]
    assert Image.open(io.BytesIO(png_bytes(figure, dpi=40))).format == "PNG"
    svg = svg_bytes(figure).decode()
    assert all(c.isprintable() or c == "\n" for c in svg)
    assert len(svg) < 100_000
    elements = list(ET.fromstring(svg).iter())
    assert "script" not in {element.tag.rpartition("}")[2] for element in elements}
    texts = " ".join(element.text or "" for element in elements)
    for shown in ("$$", "$x", "\\x1b[31m", "<script>", "\\r\\nb", "犬 🐕 كلب", "yyy…"):
        assert shown in texts


@pytest.mark.parametrize("kind", range(3))
def test_no_text_is_read_as_mathematics(kind: int) -> None:
    texts = figures("$x$")[kind].findobj(Text)
    modes = {text.get_parse_math() for text in texts if "$x$" in text.get_text()}
    assert modes == {False}


@pytest.mark.parametrize("kind", range(3))
def test_the_same_figure_gives_the_same_bytes(kind: int) -> None:
    figure, again = figures("dog")[kind], figures("dog")[kind]
    assert svg_bytes(figure) == svg_bytes(again)
    assert png_bytes(figure, 50) == png_bytes(again, 50)


def test_bytes_do_not_depend_on_the_process() -> None:
    program = (
        "import sys, numpy as np\n"
        "from deepme.figures.class_accuracy import plot_class_accuracy\n"
        "from deepme.figures.render import svg_bytes\n"
        "figure = plot_class_accuracy({'a': np.array([0.5, 0.25])}, k=1)\n"
        "sys.stdout.buffer.write(svg_bytes(figure))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True
    )
    figure = plot_class_accuracy({"a": np.array([0.5, 0.25])}, k=1)
    assert run.stdout == svg_bytes(figure)


def test_no_date_and_no_version_are_written() -> None:
    figure = figures("dog")[0]
    svg = svg_bytes(figure).decode()
    assert "<dc:date>" not in svg
    assert matplotlib.__version__ not in svg
    assert not Image.open(io.BytesIO(png_bytes(figure))).text


def test_resolution_follows_dpi() -> None:
    figure = figures("dog")[0]
    width, height = figure.get_size_inches()
    picture = Image.open(io.BytesIO(png_bytes(figure, dpi=50)))
    assert picture.size == (width * 50, height * 50)


def test_settings_of_the_caller_neither_matter_nor_change() -> None:
    expected = svg_bytes(figures("dog")[0])
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        before = dict(matplotlib.rcParams)
        assert svg_bytes(figures("dog")[0]) == expected
        assert dict(matplotlib.rcParams) == before


def test_ten_thousand_classes_fit_into_two_megabytes() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 15, 10_184)
    members = [
        np.flatnonzero((group == t) | (rng.random(10_184) < 0.01)) for t in range(15)
    ]
    lines = plot_class_accuracy({f"{i}": rng.random(10_184) for i in range(8)}, k=1)
    groups = plot_group_map(["x"] * 15, members, ["y"] * 10_184)
    for figure in (lines, groups):
        assert len(svg_bytes(figure)) < 2_000_000
