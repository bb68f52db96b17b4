from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from taxonomies import (
    ANIMAL,
    CANINE,
    CARNIVORE,
    CUP,
    DOG,
    ENTITY,
    PET,
    TOY_SYNSETS,
    WOLF,
    indices,
    random_taxonomies,
    toy_taxonomy,
)

from deepme.core.taxonomy import (
    MAX_DEPTH,
    Synset,
    Taxonomy,
    ancestors,
    best_covering_synset,
    descendant_counts,
    hypernym_closure,
    pack_taxonomy,
)
from deepme.errors import InputError

TOY = toy_taxonomy()


def chain(length: int) -> list[Synset]:
    """Synsets 1 … length + 1, each below the one before."""
    above = [[], *([offset] for offset in range(1, length + 1))]
    return [Synset(i + 1, ["link"], hypernyms) for i, hypernyms in enumerate(above)]


def upward_graph(taxonomy: Taxonomy) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(taxonomy)))
    for synset in range(len(taxonomy)):
        graph.add_edges_from((synset, h) for h in taxonomy.hypernyms(synset))
    return graph


class TestPacking:
    def test_text_is_cut_out_again(self):
        assert TOY.name(DOG) == "dog"
        assert TOY.lemmas(DOG) == ["dog", "domestic dog"]
        assert TOY.lemmas(ENTITY) == ["entity"]
        assert TOY.lemmas(CUP) == ["cup"]

    def test_levels_are_longest_paths(self):
        assert TOY.levels.tolist() == [0, 1, 2, 2, 3, 4, 4, 1]
        assert TOY.depth == 4

    def test_order_of_the_input_does_not_matter(self):
        packed = pack_taxonomy(reversed(TOY_SYNSETS), version="toy")
        assert packed.text == TOY.text
        assert [packed.hypernyms(i) for i in range(8)] == [
            *([], [ENTITY], [ANIMAL], [ANIMAL]),
            *([CARNIVORE], [PET, CANINE], [CANINE], [ENTITY]),
        ]

    @pytest.mark.parametrize(
        ("synsets", "message"),
        [
            ([], "one synset or more"),
            ([Synset(1, ["a"], []), Synset(1, ["b"], [])], "each offset once"),
            ([Synset(1, [], [])], "a lemma in every synset"),
            ([Synset(1, ["a"], [2])], "hypernym 00000002 is not among"),
            ([Synset(1, ["a"], [2]), Synset(2, ["b"], [1])], "form a cycle"),
            ([Synset(1, ["a"], [1])], "form a cycle"),
            (chain(MAX_DEPTH + 1), "more than 127 edges"),
        ],
        ids=["empty", "twice", "nameless", "dangling", "cycle", "self", "deep"],
    )
    def test_refuses(self, synsets, message):
        with pytest.raises(ValueError, match=message):
            pack_taxonomy(synsets, version="bad")

    def test_deepest_allowed(self):
        assert pack_taxonomy(chain(MAX_DEPTH), version="deep").depth == MAX_DEPTH


class TestWnids:
    def test_round_trip_keeps_the_order(self):
        assert TOY.wnids([DOG, ENTITY]) == ["n00000060", "n00000010"]
        assert TOY.index_of(["n00000060", "n00000010"]).tolist() == [DOG, ENTITY]

    def test_no_wnids(self):
        assert TOY.index_of([]).tolist() == []

    @pytest.mark.parametrize(
        "wnid",
        [
            *("n00000061", "n99999999", "n00000000", "v00000060", "n60", "N00000060"),
            *("", "n000000600", " n00000060", "n0000006٠", "n00000060\n"),
        ],
    )
    def test_unknown_is_named_and_counted(self, wnid):
        with pytest.raises(InputError) as caught:
            TOY.index_of(["n00000060", wnid, "n1"])
        message = str(caught.value)
        assert message.startswith("unknown wnid ")
        assert wnid.strip() in message
        assert "2 of 3 are not among the 8 nouns of WordNet toy" in message
        assert "as n02084071" in message

    def test_control_characters_are_shown_not_sent(self):
        with pytest.raises(InputError) as caught:
            TOY.index_of(["\x1b[31m"])
        assert "\x1b" not in str(caught.value)


class TestAncestors:
    def test_of_dog_takes_the_shorter_way(self):
        up = ancestors(TOY, indices(DOG))
        assert dict(zip(up.synset.tolist(), up.distance.tolist(), strict=True)) == {
            **{DOG: 0, PET: 1, CANINE: 1, CARNIVORE: 2},
            **{ANIMAL: 2, ENTITY: 3},
        }

    def test_targets_keep_their_places(self):
        up = ancestors(TOY, indices(CUP, ANIMAL))
        assert up.target.tolist() == [0, 0, 1, 1]
        assert up.synset.tolist() == [ENTITY, CUP, ENTITY, ANIMAL]
        assert up.distance.tolist() == [1, 0, 1, 0]

    def test_closure_of_wolf(self):
        above = [ENTITY, ANIMAL, CARNIVORE, CANINE, WOLF]
        assert hypernym_closure(TOY, indices(WOLF, WOLF)).tolist() == above

    @given(random_taxonomies(), st.data())
    def test_equal_breadth_first_search(self, taxonomy, data):
        everyone = st.integers(0, len(taxonomy) - 1)
        targets = data.draw(st.lists(everyone, min_size=1, max_size=5))
        graph = upward_graph(taxonomy)
        expected = [
            (place, *pair)
            for place, target in enumerate(targets)
            for pair in sorted(
                nx.single_source_shortest_path_length(graph, target).items()
            )
        ]
        up = ancestors(taxonomy, indices(*targets))
        assert [tuple(map(int, pair)) for pair in zip(*up, strict=True)] == expected
        closure = hypernym_closure(taxonomy, indices(*targets)).tolist()
        assert closure == sorted({synset for _, synset, _ in expected})

    @given(random_taxonomies())
    def test_levels_equal_longest_paths(self, taxonomy):
        graph = upward_graph(taxonomy)
        for synset in range(len(taxonomy)):
            above = graph.subgraph(nx.descendants(graph, synset) | {synset})
            assert taxonomy.levels[synset] == nx.dag_longest_path_length(above)


class TestGroups:
    def test_descendant_counts(self):
        counts = descendant_counts(TOY, indices(ANIMAL, DOG, WOLF, CUP))
        assert counts.tolist() == [4, 3, 1, 2, 2, 1, 1, 1]

    def test_best_cover_may_miss_an_outlier(self):
        counts = descendant_counts(TOY, indices(PET, DOG, WOLF, CUP))
        best, f1 = best_covering_synset(
            TOY, indices(DOG, WOLF, CUP), class_counts_S=counts
        )
        # canine: 2 of its 2 classes are inside, of 3; entity: 3 of its 4, of 3.
        assert f1 == 2 * 3 / (4 + 3) > 2 * 2 / (2 + 3)
        assert best == ENTITY
        counts = descendant_counts(TOY, indices(ANIMAL, PET, CARNIVORE, DOG, WOLF, CUP))
        best, f1 = best_covering_synset(
            TOY, indices(DOG, WOLF, CUP), class_counts_S=counts
        )
        assert f1 == 2 * 2 / (2 + 3) > 2 * 3 / (6 + 3)
        assert best == CANINE

    def test_equal_covers_give_the_deepest(self):
        group = indices(DOG, WOLF)
        counts = descendant_counts(TOY, group)
        assert counts[ENTITY] == counts[CANINE] == len(group)
        assert best_covering_synset(TOY, group, class_counts_S=counts) == (CANINE, 1.0)
