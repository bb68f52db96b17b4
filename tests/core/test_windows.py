from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import AgglomerativeClustering
from taxonomies import (
    ANIMAL,
    CANINE,
    CUP,
    DOG,
    ENTITY,
    PET,
    WOLF,
    indices,
    random_taxonomies,
    toy_taxonomy,
)

from deepme.core import windows
from deepme.core.taxonomy import Synset, Taxonomy, pack_taxonomy
from deepme.core.windows import linkage_order, walk_order, window_groups

TOY = toy_taxonomy()


def walked(taxonomy: Taxonomy, *classes: int) -> list[int]:
    """The classes themselves in the order of the walk."""
    return [classes[place] for place in walk_order(taxonomy, indices(*classes))]


class TestWalk:
    def test_hypernyms_first_then_hyponyms_by_offset(self):
        # The dog is met below the pet, which comes before the carnivore.
        assert walked(TOY, CUP, WOLF, DOG, PET, ENTITY, CANINE, ANIMAL) == [
            *(ENTITY, ANIMAL, PET, DOG, CANINE, WOLF, CUP)
        ]

    def test_only_the_classes_and_what_is_above_them_are_walked(self):
        # Without the pet among the classes its branch still leads to the dog first.
        assert walked(TOY, WOLF, CANINE, DOG) == [DOG, CANINE, WOLF]
        assert walked(TOY, WOLF, CANINE) == [CANINE, WOLF]

    def test_one_class(self):
        assert walked(TOY, CUP) == [CUP]

    def test_several_roots_ascend_by_offset(self):
        synsets = [
            Synset(4, ["under two"], [2]),
            *(Synset(2, ["two"], []), Synset(1, ["one"], [])),
            Synset(3, ["under one"], [1]),
        ]
        assert walked(pack_taxonomy(synsets, version="forest"), 3, 2, 1, 0) == [
            *(0, 2, 1, 3)
        ]

    @given(random_taxonomies(), st.data())
    def test_equals_networkx(self, taxonomy, data):
        everyone = list(range(len(taxonomy)))
        classes = data.draw(
            st.lists(st.sampled_from(everyone), min_size=1, unique=True)
        )
        upward = nx.DiGraph()
        upward.add_nodes_from(everyone)
        for synset in everyone:
            upward.add_edges_from((synset, h) for h in taxonomy.hypernyms(synset))
        above = set().union(*(nx.descendants(upward, c) | {c} for c in classes))
        downward = nx.DiGraph()
        for synset in sorted(above):
            over = taxonomy.hypernyms(synset) or ["top"]
            downward.add_edges_from((hypernym, synset) for hypernym in over)
        walk = [s for s in nx.dfs_preorder_nodes(downward, "top") if s in classes]
        assert walked(taxonomy, *classes) == walk


def theta_of_line(points: list[float]) -> np.ndarray:
    """Θ that falls with the distance on a line of length 1."""
    places = np.array(points, dtype=np.float32)
    return 1 - np.abs(places[:, None] - places)


class TestLinkage:
    @given(st.permutations([0.0, 0.05, 0.15, 0.3, 0.5, 0.75, 1.0]))
    def test_points_of_a_line_come_in_its_order(self, points):
        order = linkage_order(theta_of_line(points))
        found = [points[place] for place in order]
        assert found in (sorted(points), sorted(points, reverse=True))

    @pytest.mark.parametrize("limit", [0, 1000])
    def test_every_cluster_is_a_run(self, limit, monkeypatch):
        monkeypatch.setattr(windows, "_ORDERED_LIMIT", limit)
        theta = np.random.default_rng(0).random((40, 40))
        theta = (theta + theta.T) / 2
        np.fill_diagonal(theta, 1)
        order = linkage_order(theta)
        assert sorted(order) == list(range(40))
        for count in (2, 5, 15, 39):
            labels = AgglomerativeClustering(
                count, metric="precomputed", linkage="average"
            ).fit_predict(1 - theta)
            assert np.count_nonzero(np.diff(labels[order])) == count - 1

    def test_turning_the_branches_brings_neighbours_nearer(self, monkeypatch):
        theta = theta_of_line(list(np.random.default_rng(1).random(60)))

        def steps() -> float:
            order = linkage_order(theta)
            return float((1 - theta[order[1:], order[:-1]]).sum())

        turned = steps()
        monkeypatch.setattr(windows, "_ORDERED_LIMIT", 59)
        assert turned < steps()

    @pytest.mark.parametrize("size", [1, 2])
    def test_few_classes(self, size):
        assert sorted(linkage_order(np.ones((size, size)))) == list(range(size))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    """N, T and M."""
    num_classes = draw(st.integers(1, 30))
    num_groups = draw(st.integers(1, num_classes))
    total = draw(st.integers(num_classes, num_classes * num_groups))
    return num_classes, num_groups, total


class TestWindows:
    def test_by_hand(self):
        groups = window_groups(np.arange(10), 3, overlap=1.3)
        assert [np.flatnonzero(column).tolist() for column in groups.T] == [
            *([0, 1, 2, 3, 4], [4, 5, 6, 7], [6, 7, 8, 9])
        ]

    def test_they_lie_over_the_order_not_over_the_list(self):
        order = np.array([3, 0, 2, 1])
        groups = window_groups(order, 2, overlap=1.5)
        assert [set(np.flatnonzero(column)) for column in groups.T] == [
            *({3, 0, 2}, {0, 2, 1})
        ]

    def test_steps_are_even(self):
        groups = window_groups(np.arange(1000), 10, overlap=1.9)
        # Nine steps of 90 lead from the first window of 190 to the last.
        assert groups.argmax(axis=0).tolist() == list(range(0, 811, 90))

    def test_without_overlap_they_are_apart(self):
        groups = window_groups(np.arange(11), 4, overlap=1)
        assert groups.sum(axis=0).tolist() == [3, 3, 3, 2]
        assert (groups.sum(axis=1) == 1).all()

    def test_with_all_the_overlap_each_holds_all(self):
        assert window_groups(np.arange(7), 3, overlap=3).all()

    @given(sizes(), st.randoms(use_true_random=False))
    def test_equal_sizes_cover_all_with_the_overlap_asked_for(self, wanted, random):
        num_classes, num_groups, total = wanted
        order = np.array(random.sample(range(num_classes), num_classes))
        groups = window_groups(order, num_groups, overlap=total / num_classes)
        assert groups.shape == (num_classes, num_groups)
        assert groups.sum() == total
        assert groups.any(axis=1).all()
        assert np.ptp(groups.sum(axis=0)) <= 1
        in_order = groups[order]
        for column in in_order.T:
            assert np.ptp(np.flatnonzero(column)) == column.sum() - 1
        assert (np.diff(in_order.argmax(axis=0)) >= 0).all()

    @pytest.mark.parametrize(
        ("num_groups", "overlap", "message"),
        [
            (0, 1, "0 windows asked of 5 classes; expected 1 to 5"),
            (6, 1, "6 windows asked of 5 classes; expected 1 to 5"),
            (3, 0.9, r"overlap is 0\.9; expected a number from 1 to the 3 groups"),
            (3, 3.1, r"overlap is 3\.1; expected a number from 1 to the 3 groups"),
            (3, float("nan"), "overlap is nan"),
        ],
    )
    def test_refuses(self, num_groups, overlap, message):
        with pytest.raises(ValueError, match=message):
            window_groups(np.arange(5), num_groups, overlap=overlap)
