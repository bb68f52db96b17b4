# ruff: noqa: N803, N806
"""The hypernym graph of a WordNet's nouns, packed into arrays.

A synset is known by its index 0 … S−1 in the order of offsets; its wnid is ``n`` and
the offset in eight digits. A hypernym may have many hyponyms and a synset several
hypernyms (multiple inheritance); instance hypernyms count as hypernyms. A synset is
one of its own ancestors, at distance 0.

Letters: S synsets, E hypernym edges, P (target, ancestor) pairs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepme.errors import InputError
from deepme.text import clean

Indices: TypeAlias = NDArray[np.int64]

MAX_DEPTH = 127
"""Deepest taxonomy whose path lengths (up to 2 · depth) fit below 255."""

_WNID = re.compile(r"n[0-9]{8}")


class Synset(NamedTuple):
    """One synset as a WordNet lists it.

    Attributes:
        offset: its number in the WordNet's noun file.
        lemmas: its words, most usual first; underscores stand for spaces.
        hypernyms: offsets of its hypernyms and instance hypernyms.
    """

    offset: int
    lemmas: Sequence[str]
    hypernyms: Sequence[int]


class Ancestors(NamedTuple):
    """Who is above whom, ordered by target, then by synset.

    Attributes:
        target: (P,) int64, position in the list of targets.
        synset: (P,) int64, the ancestor's index.
        distance: (P,) uint8, the least number of edges between them.
    """

    target: Indices
    synset: Indices
    distance: NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class Taxonomy:
    """A taxonomy of S synsets; make one with `pack_taxonomy`.

    Attributes:
        version: the WordNet's version, for example ``3.0``.
        offsets: (S,) uint32, ascending.
        text: UTF-8; every synset's lemmas, separated by line breaks.
        text_ends: (S,) int64, where in `text` each synset's lemmas end.
        hypernym_start: (S + 1,) int64; the hypernyms of synset s are
            ``hypernym_index[hypernym_start[s] : hypernym_start[s + 1]]``.
        hypernym_index: (E,) int64, ascending within a synset.
    """

    version: str
    offsets: NDArray[np.uint32]
    text: bytes
    text_ends: Indices
    hypernym_start: Indices
    hypernym_index: Indices

    def __len__(self) -> int:
        """Count the synsets."""
        return len(self.offsets)

    @cached_property
    def levels(self) -> Indices:
        """(S,) edges on the longest path from each synset up to a root.

        Raises:
            ValueError: the hypernyms form a cycle, or a path above `MAX_DEPTH`.
        """
        hyponym, hypernym = climb(self, np.arange(len(self)))
        levels = np.zeros(len(self), dtype=np.int64)
        for _ in range(MAX_DEPTH + 1):
            deeper = np.zeros_like(levels)
            np.maximum.at(deeper, hyponym, levels[hypernym] + 1)
            if np.array_equal(deeper, levels):
                return levels
            levels = deeper
        raise ValueError(
            f"hypernyms form a cycle, or a path of more than {MAX_DEPTH} edges"
        )

    @cached_property
    def depth(self) -> int:
        """D, edges on the longest hypernym path (19 for the nouns of WordNet 3.0)."""
        return int(self.levels.max())

    @cached_property
    def sha256(self) -> str:
        """The digest of all synsets, lemmas and hypernyms."""
        sha = hashlib.sha256(self.text)
        for array in (self.offsets, self.text_ends, self.hypernym_start):
            sha.update(array.tobytes())
        sha.update(self.hypernym_index.tobytes())
        return sha.hexdigest()

    def index_of(self, wnids: Sequence[str]) -> Indices:
        """Find synsets by wnid.

        Args:
            wnids: N wnids, for example ``n02084071``.

        Returns:
            (N,) int64 indices, in the same order.

        Raises:
            InputError: some are no wnid or not in this WordNet.
        """
        offsets = [int(w[1:]) if _WNID.fullmatch(w) else -1 for w in wnids]
        wanted = np.array(offsets, dtype=np.int64)
        found = np.minimum(np.searchsorted(self.offsets, wanted), len(self) - 1)
        unknown = np.flatnonzero(self.offsets[found] != wanted)
        if len(unknown):
            raise InputError(
                f"unknown wnid {clean(wnids[unknown[0]])!r} ({len(unknown):,} of "
                f"{len(wnids):,} are not among the {len(self):,} nouns of WordNet "
                f"{self.version})",
                "a wnid is 'n' and the 8-digit offset of a noun synset, as n02084071; "
                "for other classes give --hierarchy or --matrix",
            )
        return found

    def wnids(self, indices: Iterable[int]) -> list[str]:
        """Write the wnids of synsets."""
        return [f"n{self.offsets[index]:08d}" for index in indices]

    def lemmas(self, index: int) -> list[str]:
        """Cut out the words of a synset, most usual first, with spaces."""
        start = self.text_ends[index - 1] if index else 0
        return self.text[start : self.text_ends[index]].decode().split("\n")

    def name(self, index: int) -> str:
        """Name a synset for people: its first lemma."""
        return self.lemmas(index)[0]

    def hypernyms(self, index: int) -> list[int]:
        """List the direct hypernyms of a synset, ascending."""
        start, stop = self.hypernym_start[index : index + 2]
        edges: list[int] = self.hypernym_index[start:stop].tolist()
        return edges


def pack_taxonomy(synsets: Iterable[Synset], *, version: str) -> Taxonomy:
    """Pack a list of synsets, in any order, into a taxonomy.

    Args:
        synsets: each synset once.
        version: the WordNet's version.

    Returns:
        The taxonomy.

    Raises:
        ValueError: no synset, an offset twice, a hypernym that is not listed, a
            synset without lemma, a cycle, or a depth above `MAX_DEPTH`.
    """
    ordered = sorted(synsets)
    offsets = np.array([s.offset for s in ordered], dtype=np.uint32)
    if not len(offsets) or (offsets[1:] == offsets[:-1]).any():
        raise ValueError("expected one synset or more, each offset once")
    if not all(s.lemmas for s in ordered):
        raise ValueError("expected a lemma in every synset")
    texts = ["\n".join(s.lemmas).replace("_", " ").encode() for s in ordered]
    edges = [sorted(set(s.hypernyms)) for s in ordered]
    taxonomy = Taxonomy(
        version=version,
        offsets=offsets,
        text=b"".join(texts),
        text_ends=np.cumsum([len(text) for text in texts], dtype=np.int64),
        hypernym_start=np.cumsum([0, *map(len, edges)], dtype=np.int64),
        hypernym_index=_positions(offsets, [h for row in edges for h in row]),
    )
    _ = taxonomy.levels
    return taxonomy


def _positions(offsets: NDArray[np.uint32], hypernyms: list[int]) -> Indices:
    wanted = np.array(hypernyms, dtype=np.int64)
    found = np.minimum(np.searchsorted(offsets, wanted), len(offsets) - 1)
    missing = wanted[offsets[found] != wanted]
    if len(missing):
        raise ValueError(f"hypernym {missing[0]:08d} is not among the synsets")
    return found


def climb(taxonomy: Taxonomy, synsets: Indices) -> tuple[Indices, Indices]:
    """Go one edge up from every synset of a list, to each of its hypernyms.

    Args:
        taxonomy: the taxonomy.
        synsets: (K,) indices; repetitions allowed.

    Returns:
        Position in the list and hypernym of every edge, ordered by position.
    """
    start = taxonomy.hypernym_start[synsets]
    counts = taxonomy.hypernym_start[synsets + 1] - start
    source = np.repeat(np.arange(len(synsets)), counts)
    rank = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    return source, taxonomy.hypernym_index[start[source] + rank]


def ancestors(taxonomy: Taxonomy, targets: Indices) -> Ancestors:
    """Collect the hypernym closure of each target with the shortest distances.

    All targets climb together, one edge a round; a synset first reached in round d
    is at distance d.

    Args:
        taxonomy: the taxonomy.
        targets: (N,) indices.

    Returns:
        Every (target, ancestor) pair once, the target itself at distance 0.
    """
    size = len(taxonomy)
    # A pair is one integer, target · S + synset: sorting and merging stay 1-D.
    rounds = [np.arange(len(targets)) * size + targets]
    while len(rounds[-1]):
        source, hypernym = climb(taxonomy, rounds[-1] % size)
        rounds.append(np.unique(rounds[-1][source] // size * size + hypernym))
    pairs, first = np.unique(np.concatenate(rounds), return_index=True)
    starts = np.cumsum([len(pairs_of_round) for pairs_of_round in rounds])
    distance = np.searchsorted(starts, first, side="right").astype(np.uint8)
    return Ancestors(pairs // size, pairs % size, distance)


def hypernym_closure(taxonomy: Taxonomy, synsets: Indices) -> Indices:
    """List the synsets and everything above them, ascending."""
    inside = np.zeros(len(taxonomy), dtype=bool)
    frontier = np.unique(synsets)
    while len(frontier):
        inside[frontier] = True
        hypernyms = np.unique(climb(taxonomy, frontier)[1])
        frontier = hypernyms[~inside[hypernyms]]
    return np.flatnonzero(inside)


def descendant_counts(taxonomy: Taxonomy, classes: Indices) -> Indices:
    """Count for every synset the classes that are it or lie below it.

    A class is a leaf among the classes exactly where its own count is 1.

    Args:
        taxonomy: the taxonomy.
        classes: (N,) distinct indices.

    Returns:
        (S,) int64 counts.
    """
    return np.bincount(ancestors(taxonomy, classes).synset, minlength=len(taxonomy))


def best_covering_synset(
    taxonomy: Taxonomy, group: Indices, *, class_counts_S: Indices
) -> tuple[int, float]:
    """Find the synset whose descendants describe a group of classes best.

    u* = argmax_u F1(u), F1(u) = 2 |desc(u) ∩ G| / (|desc(u) ∩ classes| + |G|).

    Args:
        taxonomy: the taxonomy.
        group: (C,) distinct indices of classes, at least one: G.
        class_counts_S: (S,) `descendant_counts` of all N classes; the same array
            serves every group.

    Returns:
        The synset's index and its F1 in (0, 1]; among equals the deepest, then the
        one with the lowest offset.
    """
    inside_S = descendant_counts(taxonomy, group)
    f1_S = 2 * inside_S / (class_counts_S + len(group))
    best = _deepest(taxonomy, np.flatnonzero(f1_S == f1_S.max()))
    return best, float(f1_S[best])


def _deepest(taxonomy: Taxonomy, synsets: Indices) -> int:
    return int(synsets[np.argmax(taxonomy.levels[synsets])])
