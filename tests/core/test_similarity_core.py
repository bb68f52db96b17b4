from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from taxonomies import (
    CUP,
    DOG,
    PET,
    WOLF,
    indices,
    random_taxonomies,
    toy_taxonomy,
)

from deepme.core import similarity
from deepme.core.similarity import NO_PATH, path_length_rows, theta_table
from deepme.core.taxonomy import Synset, Taxonomy, pack_taxonomy

TOY = toy_taxonomy()

TOY_PATH_LENGTHS = [
    # entity, animal, pet, carnivore, canine, dog, wolf, cup
    [0, 1, 2, 2, 3, 3, 4, 1],  # entity
    [1, 0, 1, 1, 2, 2, 3, 2],  # animal
    [2, 1, 0, 2, 3, 1, 4, 3],  # pet: 3 to canine, since dog is below both
    [2, 1, 2, 0, 1, 2, 2, 3],  # carnivore
    [3, 2, 3, 1, 0, 1, 1, 4],  # canine
    [3, 2, 1, 2, 1, 0, 2, 4],  # dog: 4 to cup, through pet
    [4, 3, 4, 2, 1, 2, 0, 5],  # wolf
    [1, 2, 3, 3, 4, 4, 5, 0],  # cup
]


def path_lengths(taxonomy: Taxonomy, classes: np.ndarray, **options) -> np.ndarray:
    blocks = list(path_length_rows(taxonomy, classes, **options))
    assert np.concatenate(
        [np.arange(len(classes))[rows] for rows, _ in blocks]
    ).tolist() == list(range(len(classes)))
    return np.concatenate([values for _, values in blocks])


def searched_path_lengths(taxonomy: Taxonomy, classes: list[int]) -> np.ndarray:
    """The definition: the least sum of two upward distances to a common ancestor."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(taxonomy)))
    for synset in range(len(taxonomy)):
        graph.add_edges_from((synset, h) for h in taxonomy.hypernyms(synset))
    up = [nx.single_source_shortest_path_length(graph, c) for c in classes]
    return np.array(
        [
            [
                min((a[s] + b[s] for s in a.keys() & b.keys()), default=NO_PATH)
                for b in up
            ]
            for a in up
        ]
    )


class TestPathLengths:
    def test_of_the_toy_taxonomy(self):
        found = path_lengths(TOY, np.arange(8))
        assert found.dtype == np.uint8
        assert found.tolist() == TOY_PATH_LENGTHS

    def test_classes_keep_their_order(self):
        chosen = [WOLF, PET, CUP, DOG]
        expected = np.array(TOY_PATH_LENGTHS)[np.ix_(chosen, chosen)]
        assert path_lengths(TOY, indices(*chosen)).tolist() == expected.tolist()

    def test_one_class(self):
        assert path_lengths(TOY, indices(DOG)).tolist() == [[0]]

    @pytest.mark.parametrize("block", [1, 2, 3, 7, 8, 100])
    def test_block_size_does_not_matter(self, block):
        found = path_lengths(TOY, np.arange(8), block=block)
        assert found.tolist() == TOY_PATH_LENGTHS

    def test_small_strips_and_budget_do_not_matter(self, monkeypatch):
        monkeypatch.setattr(similarity, "_STRIP_BYTES", 1)
        monkeypatch.setattr(similarity, "_BLOCK_BYTES", 3 * (8 + 2 * 8))
        blocks = list(path_length_rows(TOY, np.arange(8)))
        assert [len(values) for _, values in blocks] == [3, 3, 2]
        assert np.concatenate([v for _, v in blocks]).tolist() == TOY_PATH_LENGTHS

    def test_without_common_ancestor_there_is_no_path(self):
        two_trees = [
            *(Synset(1, ["a"], []), Synset(2, ["below a"], [1])),
            *(Synset(3, ["b"], []), Synset(4, ["below b"], [3])),
        ]
        taxonomy = pack_taxonomy(two_trees, version="two trees")
        none = NO_PATH
        assert path_lengths(taxonomy, np.arange(4)).tolist() == [
            [0, 1, none, none],
            [1, 0, none, none],
            [none, none, 0, 1],
            [none, none, 1, 0],
        ]

    def test_longest_possible_path_is_not_taken_for_none(self):
        arm = 127
        left = [Synset(i + 1, ["left"], [i] if i else []) for i in range(arm + 1)]
        right = [Synset(200 + i, ["r"], [199 + i if i else 1]) for i in range(arm)]
        taxonomy = pack_taxonomy(left + right, version="arms")
        ends = indices(arm, len(taxonomy) - 1)
        assert path_lengths(taxonomy, ends).tolist() == [[0, 2 * arm], [2 * arm, 0]]

    @given(random_taxonomies(), st.data())
    def test_equal_search_from_both_ends(self, taxonomy, data):
        everyone = list(range(len(taxonomy)))
        classes = data.draw(
            st.lists(st.sampled_from(everyone), min_size=1, unique=True)
        )
        block = data.draw(st.integers(1, 13))
        found = path_lengths(taxonomy, indices(*classes), block=block)
        assert found.tolist() == searched_path_lengths(taxonomy, classes).tolist()


class TestTheta:
    def test_standard(self):
        table = theta_table(4, formula="standard", scaled=False)
        assert table[0] == pytest.approx(math.log(8), abs=1e-15)
        assert table[1] == pytest.approx(-math.log(2 / 8), abs=1e-15)
        assert table[5] == pytest.approx(-math.log(6 / 8), abs=1e-15)
        assert table[NO_PATH] == 0

    def test_standard_scaled(self):
        table = theta_table(4, formula="standard", scaled=True)
        assert table[0] == 1
        assert table[3] == pytest.approx(-math.log(4 / 8) / math.log(8), abs=1e-15)
        assert table[7] == 0
        assert table[8] == 0 > theta_table(4, formula="standard", scaled=False)[8]

    def test_paper_has_neither_infinity_nor_negative_values(self):
        table = theta_table(4, formula="paper", scaled=False)
        assert table[0] == 0
        assert table[1] == pytest.approx(-math.log(1 / 4), abs=1e-15)
        assert table[3] == pytest.approx(-math.log(3 / 4), abs=1e-15)
        assert not table[4:].any()

    def test_paper_scaled(self):
        table = theta_table(4, formula="paper", scaled=True)
        assert table[1] == 1
        assert table[2] == pytest.approx(math.log(4 / 2) / math.log(4), abs=1e-15)

    @pytest.mark.parametrize("formula", ["standard", "paper"])
    @pytest.mark.parametrize("depth", [1, 2, 19, 127])
    def test_scaled_is_an_affinity(self, formula, depth):
        table = theta_table(depth, formula=formula, scaled=True)
        assert table.shape == (256,)
        assert table.dtype == np.float64
        assert table.min() >= 0
        assert table.max() <= 1
        assert (np.diff(table[1:]) <= 0).all()

    def test_refuses_other_formulas_and_depths(self):
        with pytest.raises(ValueError, match="formula is 'wup', expected"):
            theta_table(4, formula="wup", scaled=True)
        with pytest.raises(ValueError, match="depth is 0, expected at least 1"):
            theta_table(0, formula="standard", scaled=True)
