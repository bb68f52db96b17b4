"""Backing off in a taxonomy small enough to be seen through."""

# ruff: noqa: N803, N806
from __future__ import annotations

import numpy as np
import pytest

from deepme.core.backoff import Backoff
from deepme.core.taxonomy import Synset, Taxonomy, pack_taxonomy
from deepme.wordnet import load_builtin

#        1 thing
#       /       \
#   2 animal   3 toy
#    /    \    /   \
# 4 dog    5 toy dog   6 ball          5 has two hypernyms, 2 and 3
#   |
# 7 beagle
TOY = pack_taxonomy(
    [
        Synset(1, ["thing"], []),
        Synset(2, ["animal"], [1]),
        Synset(3, ["toy"], [1]),
        Synset(4, ["dog"], [2]),
        Synset(5, ["toy dog"], [2, 3]),
        Synset(6, ["ball"], [3]),
        Synset(7, ["beagle"], [4]),
    ],
    version="toy",
)
DOG, TOY_DOG, BALL, BEAGLE = range(4)


@pytest.fixture
def backoff() -> Backoff:
    """Four classes; the dog is an ancestor of the beagle."""
    return Backoff(TOY, np.array([3, 4, 5, 6]))


def told(backoff: Backoff, P: list[float], least: float) -> tuple[str, float, int]:
    found = backoff.answer(np.array(P), least)
    assert found
    return TOY.name(found.synset), round(found.probability, 9), found.steps


def test_a_sure_class_answers_itself(backoff: Backoff) -> None:
    assert told(backoff, [0.05, 0.02, 0.02, 0.91], 0.9) == ("beagle", 0.91, 0)


def test_a_class_above_others_counts_with_them(backoff: Backoff) -> None:
    assert told(backoff, [0.42, 0.05, 0.03, 0.5], 0.9) == ("dog", 0.92, 1)
    # The dog itself is best here, and sure with the beagle below it.
    assert told(backoff, [0.5, 0.05, 0.03, 0.42], 0.9) == ("dog", 0.92, 0)


def test_it_climbs_as_far_as_it_must(backoff: Backoff) -> None:
    assert told(backoff, [0.2, 0.3, 0.05, 0.45], 0.9) == ("animal", 0.95, 2)
    assert told(backoff, [0.2, 0.3, 0.05, 0.45], 0.96) == ("thing", 1.0, 3)


def test_of_two_hypernyms_as_deep_the_more_probable_answers(backoff: Backoff) -> None:
    P = [0.05, 0.5, 0.4, 0.05]
    assert told(backoff, P, 0.55) == ("toy", 0.9, 1)
    assert told(backoff, [0.2, 0.5, 0.1, 0.2], 0.55) == ("animal", 0.9, 1)


def test_of_equals_the_lowest_offset_answers(backoff: Backoff) -> None:
    assert told(backoff, [0.2, 0.6, 0.2, 0.0], 0.7) == ("animal", 0.8, 1)


def test_a_root_is_always_sure(backoff: Backoff) -> None:
    P = np.array([0.25, 0.25, 0.25, 0.25], dtype=np.float32) * np.float32(1 - 1e-7)
    found = backoff.answer(P, 1.0)
    assert found
    assert (TOY.name(found.synset), found.steps) == ("thing", 2)


def test_with_several_roots_none_may_be_sure() -> None:
    roots = pack_taxonomy(
        [Synset(1, ["a"], []), Synset(2, ["b"], []), Synset(3, ["c"], [1])],
        version="toy",
    )
    backoff = Backoff(roots, np.array([1, 2]))
    assert backoff.answer(np.array([0.5, 0.5]), 0.9) is None
    assert backoff.answer(np.array([0.05, 0.95]), 0.9) == (2, 0.95, 0)


def test_the_path_takes_the_deepest_hypernym(backoff: Backoff) -> None:
    def names(k: int) -> list[str]:
        return [TOY.name(synset) for synset in backoff.path(k)]

    assert names(BEAGLE) == ["thing", "animal", "dog", "beagle"]
    assert names(TOY_DOG) == ["thing", "animal", "toy dog"]


def test_in_wordnet_a_dog_is_a_canine_and_an_animal() -> None:
    taxonomy = load_builtin()
    dogs = taxonomy.index_of(["n02084071", "n02121620", "n07739125"])
    backoff = Backoff(taxonomy, dogs)
    names = [taxonomy.name(synset) for synset in backoff.path(0)]
    assert names[0] == "entity"
    assert names[-4:] == ["placental", "carnivore", "canine", "dog"]
    found = backoff.answer(np.array([0.5, 0.45, 0.05]), 0.9)
    assert found
    # As near to the dog is the animal, above domestic animal, but it says less.
    assert taxonomy.name(found.synset) == "carnivore"
    assert found.steps == 2


def naive(taxonomy: Taxonomy, classes: list[int], P: list[float], least: float) -> int:
    """Climb edge by edge from the best class."""

    def above(synset: int) -> set[int]:
        found = {synset}
        for hypernym in taxonomy.hypernyms(synset):
            found |= above(hypernym)
        return found

    def total(synset: int) -> float:
        return sum(p for p, k in zip(P, classes, strict=True) if synset in above(k))

    ring = {classes[int(np.argmax(P))]}
    while True:
        sure = [synset for synset in ring if total(synset) >= least]
        if sure:
            return min(sure, key=lambda s: (-taxonomy.levels[s], -total(s), s))
        ring = {h for synset in ring for h in taxonomy.hypernyms(synset)}


def test_it_equals_climbing_edge_by_edge() -> None:
    taxonomy = load_builtin()
    rng = np.random.default_rng(0)
    classes = np.sort(rng.choice(len(taxonomy), 60, replace=False))
    backoff = Backoff(taxonomy, classes)
    for _ in range(20):
        P = rng.dirichlet(np.full(60, 0.05))
        least = rng.uniform(0.3, 0.95)
        found = backoff.answer(P, least)
        assert found
        expected = naive(taxonomy, classes.tolist(), P.tolist(), least)
        assert taxonomy.wnids([found.synset]) == taxonomy.wnids([expected])
