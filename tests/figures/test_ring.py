from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepme.figures.ring import (
    Dots,
    arrange_ring,
    join_twins,
    outer_points,
    place_dots,
    spread,
    sunflower,
)

SIZES = st.lists(st.integers(0, 5000), min_size=1, max_size=40).filter(any)


@given(SIZES)
def test_discs_never_touch(sizes: list[int]) -> None:
    ring = arrange_ring(sizes)
    apart = np.linalg.norm(ring.centres[:, None] - ring.centres, axis=-1)
    touching = ring.radii[:, None] + ring.radii
    others = ~np.eye(len(sizes), dtype=bool)
    assert (apart[others] > touching[others]).all()


@given(SIZES)
def test_areas_are_in_proportion_to_sizes(sizes: list[int]) -> None:
    radii = arrange_ring(sizes).radii
    np.testing.assert_allclose(radii**2 * np.mean(sizes), sizes, atol=1e-9)


def test_discs_run_clockwise_from_the_top() -> None:
    centres = arrange_ring([5, 5, 5, 5]).centres
    assert [tuple(sign) for sign in np.sign(centres)] == [
        (1, 1),
        (1, -1),
        (-1, -1),
        (-1, 1),
    ]


def test_a_single_disc_stands_in_the_middle() -> None:
    ring = arrange_ring([7])
    np.testing.assert_array_equal(ring.centres, [[0, 0]])
    np.testing.assert_array_equal(outer_points(ring), [[1, 0]])


def test_outer_points_lie_on_the_rim_away_from_the_middle() -> None:
    ring = arrange_ring([1, 4, 9])
    lengths = np.linalg.norm(outer_points(ring), axis=1)
    expected = np.linalg.norm(ring.centres, axis=1) + ring.radii
    np.testing.assert_allclose(lengths, expected)


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_seeds_fill_the_disc_evenly(count: int) -> None:
    radius = np.linalg.norm(sunflower(count), axis=1)
    np.testing.assert_allclose(radius**2, (np.arange(count) + 0.5) / max(1, count))


def test_seeds_keep_their_distance() -> None:
    seeds = sunflower(400)
    apart = np.linalg.norm(seeds[:, None] - seeds, axis=-1)[~np.eye(400, dtype=bool)]
    even = np.sqrt(np.pi / 400)
    assert apart.min() > even / 2


def make_dots(members: list[list[int]], num_classes: int) -> Dots:
    ring = arrange_ring([len(group) for group in members])
    arrays = [np.array(group, dtype=np.int64) for group in members]
    return place_dots(ring, arrays, num_classes=num_classes)


def test_dots_stand_in_their_discs() -> None:
    members = [[0, 1, 2, 3], [3, 4], [5, 0, 6, 7, 8]]
    ring = arrange_ring([4, 2, 5])
    dots = make_dots(members, 9)
    assert dots.groups.tolist() == [0] * 4 + [1] * 2 + [2] * 5
    assert dots.classes.tolist() == [0, 1, 2, 3, 3, 4, 5, 0, 6, 7, 8]
    assert dots.classes[dots.is_shared].tolist() == [0, 3, 3, 0]
    away = np.linalg.norm(dots.positions - ring.centres[dots.groups], axis=1)
    assert (away < ring.radii[dots.groups]).all()
    assert len(np.unique(dots.positions, axis=0)) == len(dots.positions)


def test_shared_dots_are_nearest_to_the_middle() -> None:
    rest = iter(range(10, 100))
    members = [[0, 1, 2, *(next(rest) for _ in range(20))] for _ in range(3)]
    dots = make_dots(members, 100)
    ring = arrange_ring([23] * 3)
    depth = (dots.positions * ring.centres[dots.groups]).sum(axis=1)
    for group in range(3):
        inside = dots.groups == group
        shared, single = inside & dots.is_shared, inside & ~dots.is_shared
        assert depth[shared].max() < depth[single].min()


def crosses(a: np.ndarray, b: np.ndarray) -> bool:
    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> float:
        return float(
            np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))
        )

    return side(a[0], a[-1], b[0]) != side(a[0], a[-1], b[-1]) and side(
        b[0], b[-1], a[0]
    ) != side(b[0], b[-1], a[-1])


def test_links_of_two_discs_do_not_cross() -> None:
    members = [[*range(6), *range(10, 40)], [*range(6), *range(40, 70)], [70, 71]]
    links = join_twins(make_dots(members, 72))
    pairs = [(i, j) for i in range(6) for j in range(i)]
    assert not any(crosses(links[i], links[j]) for i, j in pairs)


def test_a_class_in_n_groups_has_n_minus_one_links() -> None:
    dots = make_dots([[0, 1], [0, 1, 2], [0, 3]], 4)
    links = join_twins(dots)
    assert links.shape == (2 + 1, 17, 2)
    ends = {tuple(p.round(9)) for p in links[:, [0, -1]].reshape(-1, 2)}
    assert ends == {tuple(p.round(9)) for p in dots.positions[dots.is_shared]}


def test_links_bend_towards_the_middle() -> None:
    dots = make_dots([[0, 1], [0, 2], [3], [4], [5]], 6)
    (link,) = join_twins(dots)
    straight = np.linalg.norm((link[0] + link[-1]) / 2)
    assert np.linalg.norm(link[8]) < straight


def test_no_shared_class_gives_no_link() -> None:
    assert join_twins(make_dots([[0, 1], [2]], 3)).shape == (0, 17, 2)


def test_spread_moves_apart_only_what_is_too_near() -> None:
    moved = spread(np.array([0.0, 5.0, 5.0, 9.0]), gap=1, low=-10, high=10)
    np.testing.assert_allclose(moved, [0, 4.5, 5.5, 9])


def test_spread_stays_inside() -> None:
    moved = spread(np.array([9.0, 9.5, 10.0]), gap=1, low=0, high=10)
    np.testing.assert_allclose(moved, [8, 9, 10])
    crowded = spread(np.zeros(5), gap=7, low=0, high=8)
    np.testing.assert_allclose(crowded, [0, 2, 4, 6, 8])
    assert spread(np.zeros(0), gap=1, low=0, high=1).shape == (0,)
