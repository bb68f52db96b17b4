from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from deepme.figures.group_map import plot_group_map


def synthetic(num_classes: int, num_groups: int, shared: float) -> list[np.ndarray]:
    """Random groups of uneven sizes; a share of the classes in a second group."""
    rng = np.random.default_rng(0)
    first = rng.choice(num_groups, num_classes, p=rng.dirichlet(np.full(num_groups, 5)))
    second = (first + rng.integers(1, num_groups, num_classes)) % num_groups
    also = rng.permutation(num_classes) < shared * num_classes
    return [
        np.flatnonzero((first == t) | (also & (second == t))) for t in range(num_groups)
    ]


def plot(num_classes: int, num_groups: int, shared: float) -> Figure:
    return plot_group_map(
        [f"{t + 1} · group" for t in range(num_groups)],
        synthetic(num_classes, num_groups, shared),
        [f"class {i}" for i in range(num_classes)],
    )


def artists(figure: Figure) -> dict[str, int]:
    (axes,) = figure.axes
    count = {c.get_gid(): len(c.get_offsets()) for c in axes.collections}
    links = next(c for c in axes.collections if c.get_gid() == "links")
    return count | {"links": len(links.get_segments())}


@pytest.mark.parametrize(
    ("num_classes", "num_groups"), [(24, 4), (200, 10), (10_184, 15)]
)
def test_every_membership_is_a_dot(num_classes: int, num_groups: int) -> None:
    figure = plot(num_classes, num_groups, 0.125)
    twice = int(np.ceil(0.125 * num_classes))
    assert artists(figure) == {
        "classes": num_classes - twice,
        "shared": 2 * twice,
        "links": twice,
    }
    assert len(figure.axes[0].patches) == num_groups


def test_labels_name_groups_and_count_classes() -> None:
    members = [np.array([0, 1, 2]), np.array([2])]
    figure = plot_group_map(["1 · dog", "2 · cat"], members, ["a", "b", "c"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:4] == ["a", "b", "c", "c"]
    assert sorted(texts[4:]) == [
        "1 class, 1 shared",
        "1 · dog",
        "2 · cat",
        "3 classes, 1 shared",
    ]
    title, note = (text.get_text() for text in figure.texts)
    assert title == "3 classes in 2 groups"
    assert note == f"in several groups: 1 ({1 / 3:.1%})"


@pytest.mark.parametrize(("num_classes", "named"), [(24, True), (200, False)])
def test_class_names_are_written_where_they_have_room(
    num_classes: int, named: bool
) -> None:
    figure = plot(num_classes, 4, 0.1)
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert ("class 0" in texts) is named


@pytest.mark.parametrize(("num_classes", "raster"), [(200, False), (10_184, True)])
def test_many_dots_are_rasterized(num_classes: int, raster: bool) -> None:
    (axes,) = plot(num_classes, 10, 0.1).axes
    dots = [c for c in axes.collections if c.get_gid() in ("classes", "shared")]
    assert [c.get_rasterized() for c in dots] == [raster, raster]


@pytest.mark.parametrize("num_groups", [1, 2, 15, 40])
def test_labels_of_one_side_do_not_overlap(num_groups: int) -> None:
    sizes = np.random.default_rng(1).integers(1, 300, num_groups)
    bounds = np.cumsum([0, *sizes])
    members = [np.arange(a, b) for a, b in pairwise(bounds)]
    names = [f"{t + 1} · group" for t in range(num_groups)]
    figure = plot_group_map(names, members, ["x"] * int(bounds[-1]))
    (axes,) = figure.axes
    labels = [text for text in axes.texts if text.get_text() in names]
    assert len(labels) == num_groups
    inch = np.ptp(axes.get_ylim()) / figure.get_figheight()
    for side in ("left", "right"):
        heights = [t.xy[1] for t in labels if t.get_horizontalalignment() == side]
        assert (np.diff(np.sort(heights)) > 0.3 * inch).all()
        assert all(axes.get_ylim()[0] < y < axes.get_ylim()[1] for y in heights)


def test_an_empty_group_is_an_empty_disc() -> None:
    members = [np.array([0, 1]), np.array([], dtype=np.int64)]
    figure = plot_group_map(["1", "2"], members, ["a", "b"])
    assert artists(figure) == {"classes": 2, "shared": 0, "links": 0}
    assert figure.axes[0].patches[1].radius == 0


@pytest.mark.parametrize(
    ("names", "members"),
    [([], []), (["1"], [np.arange(0)]), (["1"], [np.arange(2), np.arange(2)])],
)
def test_one_name_a_group_and_a_class_are_needed(
    names: list[str], members: list[np.ndarray]
) -> None:
    with pytest.raises(ValueError, match="one name a group"):
        plot_group_map(names, members, ["a", "b"])
