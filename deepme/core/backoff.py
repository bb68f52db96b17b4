"""Answers that are less specific and surer: up the taxonomy until it is safe.

When a classifier does not know a beagle from a basset, it may well know that it sees a
dog (Deng et al., "Hedging Your Bets", 2012).

Letters: N classes, S synsets, A synsets that are classes or above some.
"""

# ruff: noqa: N803, N815
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from deepme.core.taxonomy import Ancestors, Indices, Taxonomy, ancestors

_SLACK = 1e-6
"""Probabilities of all classes add up to 1 only nearly, and those of a root must reach
any bar."""


class SureAnswer(NamedTuple):
    """What is sure enough.

    Attributes:
        synset: its index in the taxonomy.
        probability: of the classes that are it or lie below it.
        steps: edges from the best class up to it, 0 for the class itself.
    """

    synset: int
    probability: float
    steps: int


@dataclass(frozen=True, eq=False)
class Backoff:
    """The classes in their taxonomy.

    Attributes:
        taxonomy: with all classes.
        classes_N: (N,) distinct indices of the classes. One may lie above others.
    """

    taxonomy: Taxonomy
    classes_N: Indices

    def answer(self, P_N: NDArray[np.floating], least: float) -> SureAnswer | None:
        """Find the nearest ancestor of the best class that is sure enough.

        A synset's probability is the sum over the classes that are it or lie below
        it, by any path. Among ancestors equally near the deepest in the taxonomy
        answers, which says most; then the most probable; then the one with the lowest
        offset. Of equal classes the first is best.

        Args:
            P_N: (N,) probabilities, in the order of the classes.
            least: in [0, 1].

        Returns:
            The answer; None where the taxonomy has several roots and none is sure.
        """
        pairs, best = self._pairs, int(P_N.argmax())
        start, stop = np.searchsorted(pairs.target, [best, best + 1])
        above, steps = pairs.synset[start:stop], pairs.distance[start:stop]
        total = self._below[np.searchsorted(self._known, above)] @ P_N
        sure = np.flatnonzero(total >= least - _SLACK)
        if not len(sure):
            return None
        depth = self.taxonomy.levels[above]
        chosen = min(sure, key=lambda i: (steps[i], -depth[i], -total[i], above[i]))
        return SureAnswer(
            int(above[chosen]), min(1.0, float(total[chosen])), int(steps[chosen])
        )

    def path(self, k: int) -> list[int]:
        """List the synsets from a root down to a class.

        Of several hypernyms the deepest is taken, which says most; of equals the one
        with the lowest offset.

        Args:
            k: the class, in [0, N).
        """
        synset, path = int(self.classes_N[k]), []
        levels = self.taxonomy.levels
        while True:
            path.append(synset)
            above = self.taxonomy.hypernyms(synset)
            if not above:
                return path[::-1]
            synset = max(above, key=lambda index: (levels[index], -index))

    @cached_property
    def _pairs(self) -> Ancestors:
        return ancestors(self.taxonomy, self.classes_N)

    @cached_property
    def _known(self) -> Indices:
        """(A,) indices of all ancestors, ascending."""
        return np.unique(self._pairs.synset)

    @cached_property
    def _below(self) -> csr_array:
        """(A, N) 1 where a class is the synset or lies below it."""
        rows = np.searchsorted(self._known, self._pairs.synset)
        shape = (len(self._known), len(self.classes_N))
        return csr_array((np.ones(len(rows)), (rows, self._pairs.target)), shape=shape)
