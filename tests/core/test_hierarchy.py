from __future__ import annotations

import math
from collections.abc import Sequence

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepme.core.hierarchy import Hierarchy, pack_hierarchy
from deepme.core.similarity import NO_PATH, path_length_rows, theta_table
from deepme.core.taxonomy import best_covering_synset, descendant_counts
from deepme.core.windows import walk_order
from deepme.errors import InputError

ZOO = [
    ("sea lion", "predator"),
    ("wild cat", "predator"),
    ("wild cat", "pet"),
    ("Élan", "animal"),
    ("predator", "animal"),
    ("pet", "animal"),
    ("犬", "pet"),
    ("animal", "thing"),
    ("cup", "thing"),
]
"""Wild cats have two parents; four levels of names."""


def lengths(hierarchy: Hierarchy, classes: Sequence[str]) -> np.ndarray:
    (block,) = path_length_rows(hierarchy, hierarchy.index_of(classes))
    return block[1]


def test_names_are_found_as_they_are() -> None:
    zoo = pack_hierarchy(ZOO)
    assert zoo.wnids(zoo.index_of(["犬", "sea lion", "Élan"])) == [
        *("犬", "sea lion", "Élan")
    ]
    assert len(zoo) == len(zoo.names) == 9
    assert zoo.wnids(zoo.leaves) == ["sea lion", "wild cat", "Élan", "犬", "cup"]


def test_paths_take_the_shorter_of_several_parents() -> None:
    zoo = pack_hierarchy(ZOO)
    classes = ["wild cat", "sea lion", "犬", "Élan", "cup"]
    assert lengths(zoo, classes).tolist() == [
        [0, 2, 2, 3, 4],
        [2, 0, 4, 3, 4],
        [2, 4, 0, 3, 4],
        [3, 3, 3, 0, 3],
        [4, 4, 4, 3, 0],
    ]


def test_the_depth_counts_nodes_so_that_no_branch_is_cut_off() -> None:
    """As Leacock and Chodorow do: θ = −log(nodes of the path / 2D)."""
    zoo = pack_hierarchy(ZOO)
    assert zoo.depth == 4  # thing, animal, predator, sea lion
    theta = theta_table(zoo.depth, formula="standard", scaled=True)
    nodes_between_sea_lion_and_cup = 4 + 1
    assert theta[4] == pytest.approx(
        -math.log(nodes_between_sea_lion_and_cup / (2 * 4)) / math.log(2 * 4)
    )
    farthest = 2 * (zoo.depth - 1)
    assert 0 < theta[farthest] < theta[4] < theta[2] < theta[0] == 1


def test_walks_and_covering_names_work_as_in_wordnet() -> None:
    zoo = pack_hierarchy(ZOO)
    classes = zoo.index_of(["sea lion", "cup", "wild cat", "Élan"])
    order = walk_order(zoo, classes).tolist()
    assert abs(order.index(0) - order.index(2)) == 1
    best, f1 = best_covering_synset(
        zoo, classes[[0, 2]], class_counts_S=descendant_counts(zoo, classes)
    )
    assert (zoo.name(best), f1) == ("predator", 1.0)


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Up to 12 names below one root, some with several parents, two levels or more."""
    size = draw(st.integers(3, 12))
    edges = [("1", "0"), ("2", "1")]
    for child in range(3, size):
        parents = draw(st.sets(st.integers(0, child - 1), min_size=1, max_size=3))
        edges += [(str(child), str(parent)) for parent in sorted(parents)]
    return draw(st.permutations(edges))


@given(trees())
def test_path_lengths_equal_a_search_in_networkx(edges: list[tuple[str, str]]) -> None:
    hierarchy = pack_hierarchy(edges)
    graph = nx.DiGraph(edges)
    up = {name: nx.single_source_shortest_path_length(graph, name) for name in graph}
    expected = [
        [min(up[a][c] + up[b][c] for c in up[a].keys() & up[b].keys()) for b in graph]
        for a in graph
    ]
    assert lengths(hierarchy, list(graph)).tolist() == expected
    assert hierarchy.depth == nx.dag_longest_path_length(graph) + 1
    assert NO_PATH not in np.array(expected)


@given(trees(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_length(edges, random) -> None:
    names = sorted({name for edge in edges for name in edge})
    before = lengths(pack_hierarchy(edges), names)
    random.shuffle(edges)
    assert np.array_equal(lengths(pack_hierarchy(edges), names), before)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([], "it has no row"),
        ([*ZOO, ZOO[0]], "it has 'sea lion' below 'predator' more than once"),
        ([*ZOO, *ZOO], "below 'predator' more than once and 8 more"),
        ([*ZOO, ("animal", "犬")], "a cycle: (animal|pet|犬) → .* → "),
        ([*ZOO, ("thing", "thing")], "a cycle: thing → thing"),
        ([*ZOO, ("spoon", "ware")], r"2 roots \(thing, ware\), expected one above all"),
        ([("a", "all"), ("b", "all")], "all its names are directly below 'all'"),
        ([*ZOO, ("two\nlines", "pet")], "a name is 'two.*nlines', expected one line"),
        ([*ZOO, ("", "pet")], "a name is '', expected one line"),
        ([(str(n + 1), str(n)) for n in range(130)], "more than 127 edges"),
    ],
)
def test_what_is_no_hierarchy_is_told(edges, message) -> None:
    with pytest.raises(ValueError, match=message):
        pack_hierarchy(edges)


def test_an_unknown_class_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        pack_hierarchy(ZOO).index_of(["wild cat", "sealion", "spoon"])
    assert str(caught.value) == (
        "unknown class 'sealion' (2 of 3 are not among the 9 names of the hierarchy); "
        "did you mean 'sea lion'? give each a row with its parent"
    )


@pytest.mark.parametrize(
    ("start", "parents"),
    [([0, 1], [0]), ([0, 0, 2], [0]), ([0, 0, 1], [2]), ([0, 1, 2], [1, 0])],
)
def test_parts_that_do_not_fit_are_refused(start, parents) -> None:
    with pytest.raises(ValueError, match=r"point nowhere|form a cycle"):
        Hierarchy.of(["a", "b"], np.array(start), np.array(parents))
