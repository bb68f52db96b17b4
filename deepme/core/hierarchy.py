"""A user's own taxonomy: classes outside WordNet, known by name.

It is a `Taxonomy` whose synsets have one name each instead of an offset, so that path
lengths, walks and covering synsets are computed alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

import numpy as np

from deepme.core.taxonomy import Indices, Taxonomy
from deepme.errors import InputError
from deepme.text import clean, listing, suggestion


@dataclass(frozen=True, eq=False, kw_only=True)
class Hierarchy(Taxonomy):
    """A taxonomy with names for ids; make one with `pack_hierarchy`.

    Its synsets are in the order in which the names were first mentioned.
    """

    @classmethod
    def of(
        cls, names: Sequence[str], parent_start: Indices, parent_index: Indices
    ) -> Hierarchy:
        """Put a hierarchy together from its parts.

        Args:
            names: S names.
            parent_start: (S + 1,) as `Taxonomy.hypernym_start`.
            parent_index: (E,) as `Taxonomy.hypernym_index`.

        Raises:
            ValueError: parts that do not fit, a cycle, or too deep a one.
        """
        size = len(names)
        if not (
            len(parent_start) == size + 1
            and parent_start[0] == 0
            and parent_start[-1] == len(parent_index)
            and (np.diff(parent_start) >= 0).all()
            and (parent_index >= 0).all()
            and (parent_index < size).all()
        ):
            raise ValueError("its parents point nowhere")
        texts = [name.encode() for name in names]
        hierarchy = cls(
            version="own",
            offsets=np.arange(size, dtype=np.uint32),
            text=b"".join(texts),
            text_ends=np.cumsum([len(text) for text in texts], dtype=np.int64),
            hypernym_start=parent_start,
            hypernym_index=parent_index,
        )
        _ = hierarchy.levels
        return hierarchy

    @cached_property
    def depth(self) -> int:
        """D, nodes on the longest path from the root to a class.

        Leacock and Chodorow count nodes. NLTK counts the 19 edges of WordNet, which
        makes little difference at that depth; in a hierarchy of two or three levels
        every two classes of different branches would come out at Θ = 0.
        """
        return int(self.levels.max()) + 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """(S,) names."""
        return tuple(self.name(index) for index in range(len(self)))

    @cached_property
    def leaves(self) -> Indices:
        """Who has nobody below, ascending."""
        return np.setdiff1d(np.arange(len(self)), self.hypernym_index)

    @cached_property
    def _index_of_name(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def __contains__(self, name: str) -> bool:
        """Whether somebody has this name."""
        return name in self._index_of_name

    def index_of(self, wnids: Sequence[str]) -> Indices:
        """Find classes by name.

        Args:
            wnids: N names.

        Returns:
            (N,) int64 indices, in the same order.

        Raises:
            InputError: some are not in this hierarchy.
        """
        unknown = [name for name in wnids if name not in self]
        if unknown:
            raise InputError(
                f"unknown class {clean(unknown[0])!r} ({len(unknown):,} of "
                f"{len(wnids):,} are not among the {len(self):,} names of the "
                "hierarchy)",
                f"{suggestion(unknown[0], self.names)}give each a row with its parent",
            )
        found = [self._index_of_name[name] for name in wnids]
        return np.array(found, dtype=np.int64)

    def wnids(self, indices: Iterable[int]) -> list[str]:
        """The ids of synsets: their names."""
        return [self.names[index] for index in indices]


def pack_hierarchy(edges: Sequence[tuple[str, str]]) -> Hierarchy:
    """Pack pairs of child and parent into a taxonomy.

    Args:
        edges: at least one; a child may have several parents.

    Returns:
        The hierarchy.

    Raises:
        ValueError: no pair, a pair twice, an empty name or one with a line break, a
            cycle, several roots, one level only, or a depth above
            `taxonomy.MAX_DEPTH`.
    """
    names = list(
        dict.fromkeys(name for child, parent in edges for name in (parent, child))
    )
    _check_names(edges, names)
    parents: dict[str, list[str]] = {name: [] for name in names}
    for child, parent in edges:
        parents[child].append(parent)
    _check_shape(parents)
    index = {name: number for number, name in enumerate(names)}
    above = [sorted(index[parent] for parent in parents[name]) for name in names]
    hierarchy = Hierarchy.of(
        names,
        np.cumsum([0, *map(len, above)], dtype=np.int64),
        np.array([parent for row in above for parent in row], dtype=np.int64),
    )
    _check_depth(hierarchy)
    return hierarchy


def _check_names(edges: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    if not edges:
        raise ValueError("it has no row")
    twice = [pair for pair, count in Counter(edges).items() if count > 1]
    if twice:
        child, parent = map(clean, twice[0])
        more = f" and {len(twice) - 1:,} more" if len(twice) > 1 else ""
        raise ValueError(f"it has {child!r} below {parent!r} more than once{more}")
    odd = [name for name in names if not name or len(name.splitlines()) > 1]
    if odd:
        raise ValueError(f"a name is {clean(odd[0])!r}, expected one line of text")


def _check_shape(parents: dict[str, list[str]]) -> None:
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        # graphlib goes from parent to child, with the first name again at the end.
        circle = " → ".join(map(clean, reversed(error.args[1])))
        raise ValueError(f"its parents form a cycle: {circle}") from None
    roots = [name for name, above in parents.items() if not above]
    if len(roots) > 1:
        raise ValueError(
            f"it has {len(roots):,} roots ({listing(roots)}), expected one above all"
        )


def _check_depth(hierarchy: Hierarchy) -> None:
    if hierarchy.levels.max() < 2:
        raise ValueError(
            f"all its names are directly below {clean(hierarchy.name(0))!r}, so that "
            "nothing tells which are alike; expected a level between"
        )
