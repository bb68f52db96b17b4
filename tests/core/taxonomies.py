"""Small taxonomies that the tests of core share.

                  entity 10
                  /       \\
             animal 20    cup 80
             /       \\
         pet 30    carnivore 40
            |            |
            |        canine 50
             \\       /     \\
              dog 60      wolf 70
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from deepme.core.taxonomy import Synset, Taxonomy, pack_taxonomy

ENTITY, ANIMAL, PET, CARNIVORE, CANINE, DOG, WOLF, CUP = range(8)

TOY_SYNSETS = [
    Synset(10, ["entity"], []),
    Synset(20, ["animal", "animate_being"], [10]),
    Synset(30, ["pet"], [20]),
    Synset(40, ["carnivore"], [20]),
    Synset(50, ["canine"], [40]),
    Synset(60, ["dog", "domestic_dog"], [50, 30]),
    Synset(70, ["wolf"], [50]),
    Synset(80, ["cup"], [10]),
]


def toy_taxonomy() -> Taxonomy:
    """The taxonomy drawn above: dog inherits from pet and canine; depth 4."""
    return pack_taxonomy(TOY_SYNSETS, version="toy")


@st.composite
def random_taxonomies(draw: st.DrawFn) -> Taxonomy:
    """Up to 12 synsets, several roots, several hypernyms; offsets in any order."""
    size = draw(st.integers(1, 12))
    offsets = draw(st.permutations(range(1, size + 1)))
    synsets = []
    for i, offset in enumerate(offsets):
        above = draw(st.sets(st.sampled_from(offsets[:i]), max_size=3)) if i else set()
        synsets.append(Synset(offset, [f"noun {offset}"], sorted(above)))
    return pack_taxonomy(synsets, version="random")


def indices(*synsets: int) -> np.ndarray:
    """Write a list of synsets as the array that core expects."""
    return np.array(synsets, dtype=np.int64)
