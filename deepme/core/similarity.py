# ruff: noqa: N803, N806
"""Semantic similarity Θ of classes from their path lengths in a taxonomy.

Path lengths are small integers, so the matrix is kept as one byte a pair and Θ is a
table of 256 entries: ``theta_table(…)[path_length]``.

Letters: N classes, M synsets in their hypernym closure, B classes in one block,
D the taxonomy's depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepme.core.taxonomy import (
    Indices,
    Taxonomy,
    ancestors,
    climb,
    hypernym_closure,
)

NO_PATH = 255
"""Stands in path lengths for two classes without a common ancestor."""

_BLOCK_BYTES = 224 * 2**20
_STRIP_BYTES = 2**20


class _Edges(NamedTuple):
    """The r-th hypernym of every synset that has one, as rows of the pass."""

    hyponym: Indices
    hypernym: Indices


class _Pass(NamedTuple):
    """The closure in working order: level by level, hypernyms first.

    Attributes:
        synsets: (M,) indices into the taxonomy.
        starts: first row of each level, and M.
        edges: first hypernyms, second hypernyms, and so on; ordered by hyponym.
    """

    synsets: Indices
    starts: Indices
    edges: list[_Edges]


def path_length_rows(
    taxonomy: Taxonomy, classes: Indices, *, block: int | None = None
) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """Compute the path lengths between all classes, some rows at a time.

    d_ij = min over common ancestors a of up(i, a) + up(j, a). One pass over the
    taxonomy, hypernyms first, gives d between every synset u of the closure and the
    classes j of a block (method section 1):

        d_uj = min(up(j, u), 1 + min over hypernyms h of u of d_hj),

    where up(j, u), the edges from j up to u, counts if u is an ancestor of j. As d is
    symmetric, the columns of a block are the rows of its classes.

    Args:
        taxonomy: the taxonomy.
        classes: (N,) indices, at least one.
        block: B, classes worked on at once; None keeps the working arrays below
            about 256 MB. The result does not depend on it.

    Yields:
        Which rows, and (B, N) uint8 path lengths in the order of `classes`;
        `NO_PATH` where two classes have no common ancestor.
    """
    plan = _plan_pass(taxonomy, hypernym_closure(taxonomy, classes))
    row_of_synset = np.zeros(len(taxonomy), dtype=np.int64)
    row_of_synset[plan.synsets] = np.arange(len(plan.synsets))
    rows_N = row_of_synset[classes]
    if block is None:
        # M bytes a class for the pass, and N for its rows: twice, since the caller
        # may still hold the block before.
        bytes_a_class = len(plan.synsets) + 2 * len(classes)
        block = max(1, _BLOCK_BYTES // bytes_a_class)
    for start in range(0, len(classes), block):
        chosen = slice(start, min(start + block, len(classes)))
        up = ancestors(taxonomy, classes[chosen])
        d_MB = np.empty((len(plan.synsets), chosen.stop - start), dtype=np.uint8)
        _run_pass(plan, d_MB, (row_of_synset[up.synset], up.target, up.distance))
        yield chosen, _transposed(d_MB, rows_N)


def theta_table(depth: int, *, formula: str, scaled: bool) -> NDArray[np.float64]:
    """Tabulate Θ for every path length d.

    ``standard``: θ = −log((d + 1) / 2D), Leacock and Chodorow (1998) as NLTK computes
    it. ``paper``: θ = −log(d / D) as printed, 0 on the diagonal and nowhere below 0.

    Args:
        depth: D, at least 1.
        formula: ``standard`` or ``paper``.
        scaled: divide by the largest value, log 2D or log D, and keep to [0, 1].

    Returns:
        (256,) float64; entry d is θ of two classes d edges apart, entry `NO_PATH` 0.

    Raises:
        ValueError: a depth below 1 or another formula.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}, expected at least 1")
    d = np.arange(1, NO_PATH)
    table = np.zeros(NO_PATH + 1)
    if formula == "standard":
        largest = math.log(2 * depth)
        table[0] = largest
        table[d] = -np.log((d + 1) / (2 * depth))
    elif formula == "paper":
        largest = math.log(depth)
        table[d] = np.maximum(0, -np.log(d / depth))
    else:
        raise ValueError(f"formula is {formula!r}, expected 'standard' or 'paper'")
    # At depth 1 the paper's Θ is 0 everywhere, and so is its largest value.
    return np.clip(table / (largest or 1), 0, 1) if scaled else table


def _plan_pass(taxonomy: Taxonomy, closure: Indices) -> _Pass:
    levels = taxonomy.levels[closure]
    order = np.argsort(levels, kind="stable")
    synsets = closure[order]
    starts = np.searchsorted(levels[order], np.arange(levels.max() + 2))
    hyponym, hypernym = climb(taxonomy, synsets)
    row_of_synset = np.zeros(len(taxonomy), dtype=np.int64)
    row_of_synset[synsets] = np.arange(len(synsets))
    first_edge = np.searchsorted(hyponym, hyponym)
    rank = np.arange(len(hyponym)) - first_edge
    edges = [
        _Edges(hyponym[rank == r], row_of_synset[hypernym[rank == r]])
        for r in range(rank.max(initial=0) + 1)
    ]
    return _Pass(synsets, starts, edges)


def _run_pass(
    plan: _Pass,
    d_MB: NDArray[np.uint8],
    up: tuple[Indices, Indices, NDArray[np.uint8]],
) -> None:
    """Fill `d_MB` level by level; `up` is (row, column, distance) of ancestors."""
    by_row = np.argsort(up[0], kind="stable")
    row, column, distance = (values[by_row] for values in up)
    cuts = np.searchsorted(row, plan.starts)
    d_MB[: plan.starts[1]] = NO_PATH
    for level in range(len(plan.starts) - 1):
        if level:
            _inherit(plan, d_MB, plan.starts[level], plan.starts[level + 1])
        pairs = slice(cuts[level], cuts[level + 1])
        at = (row[pairs], column[pairs])
        d_MB[at] = np.minimum(d_MB[at], distance[pairs])


def _inherit(plan: _Pass, d_MB: NDArray[np.uint8], start: int, stop: int) -> None:
    """Set the rows of one level to 1 + the least of their hypernyms' rows."""
    first, *further = plan.edges
    num_roots = plan.starts[1]
    # Strips that fit a core's cache; without them each line is fetched thrice.
    step = max(1, _STRIP_BYTES // d_MB.shape[1])
    for strip in range(start, stop, step):
        rows = d_MB[strip : min(strip + step, stop)]
        hypernym = first.hypernym[strip - num_roots : strip - num_roots + len(rows)]
        # Only the rows above: with the whole array numpy sees source and target
        # overlap and copies. "clip" never clips here; "raise" would buffer `out`.
        np.take(d_MB[:start], hypernym, axis=0, out=rows, mode="clip")
        _add_one(rows)
    for edges in further:
        these = slice(*np.searchsorted(edges.hyponym, (start, stop)))
        hyponym = edges.hyponym[these]
        through = d_MB[edges.hypernym[these]]
        _add_one(through)
        d_MB[hyponym] = np.minimum(d_MB[hyponym], through)


def _add_one(d: NDArray[np.uint8]) -> None:
    """Add an edge in place; `NO_PATH` stays (no true length reaches 254 + 1)."""
    np.minimum(d, NO_PATH - 1, out=d)
    d += 1


def _transposed(d_MB: NDArray[np.uint8], rows_N: Indices) -> NDArray[np.uint8]:
    d_BN = np.empty((d_MB.shape[1], len(rows_N)), dtype=np.uint8)
    step = max(1, _STRIP_BYTES // d_MB.shape[1])
    for start in range(0, len(rows_N), step):
        strip = slice(start, start + step)
        d_BN[:, strip] = d_MB[rows_N[strip]].T
    return d_BN
