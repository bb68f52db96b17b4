# ruff: noqa: N802, N803, N806
"""An affinity that is a table of small whole numbers, its equal rows held once.

Classes below one hypernym that have no hyponyms themselves are as far from everything
else as each other: their rows of path lengths are the same but for the two diagonal
entries. Of WordNet's 82,115 nouns 24,000 rows are different, so that the matrix takes
an eleventh, and a product with it as little.

Letters: N classes, U different rows, b columns of a block, B rows in one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Rows = Iterable[tuple[slice, NDArray[np.uint8]]]

_STRIP = 2**20
"""Entries that are looked up at a time, small enough for a cache."""


class TwinAffinity:
    """A_ij = table[code_ij] for i ≠ j, and 0 on the diagonal.

    Takes the place of a dense (N, N) array in `SoftSpectralClustering.fit` and
    `leading_eigenvectors`; build it with `of`. Takes U² + 8 N bytes.

    Attributes:
        codes_UU: (U, U) uint8, the codes between different rows.
        twins_N: (N,) int64, which of the rows a class has.
        table: (256,) float32.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(
        self,
        codes_UU: NDArray[np.uint8],
        twins_N: NDArray[np.int64],
        table: NDArray[np.floating[Any]],
    ) -> None:
        """Keep the codes as they are."""
        self.codes_UU, self.twins_N = codes_UU, twins_N
        self.table = table.astype(np.float32)
        self.shape = (len(twins_N), len(twins_N))
        columns = np.arange(len(twins_N))
        ones = np.ones(len(twins_N), dtype=np.float32)
        self._join_UN = sparse.csr_array(
            (ones, (twins_N, columns)), shape=(len(codes_UU), len(twins_N))
        )
        # What the product counts for a class with itself, and takes away again.
        self._own_N1 = self.table[codes_UU.diagonal()][twins_N, None]

    @classmethod
    def of(
        cls,
        rows: Callable[[], Rows],
        table: NDArray[np.floating[Any]],
        *,
        num_classes: int,
        twin_code: int,
    ) -> TwinAffinity:
        """Find the different rows of a symmetric matrix of codes.

        Args:
            rows: gives blocks of (rows, (B, N) uint8) in order; asked twice, so that
                no more than the different rows are ever held.
            table: (256,) float, the affinity of each code, ≥ 0.
            num_classes: N.
            twin_code: the code between twins; for path lengths 2, up and down again.
        """
        firsts, twins_N = _find_twins(rows(), num_classes, twin_code)
        codes_UU = np.empty((len(firsts), len(firsts)), dtype=np.uint8)
        for where, block_BN in rows():
            begin, end = np.searchsorted(firsts, (where.start, where.stop))
            own = firsts[begin:end]
            codes_UU[begin:end] = block_BN[own - where.start][:, firsts]
        np.fill_diagonal(codes_UU, twin_code)
        return cls(codes_UU, twins_N, table)

    def __matmul__(self, block_Nb: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Multiply with (N, b) or (N,) float; the result is float32."""
        columns_Nb = block_Nb.reshape(len(block_Nb), -1).astype(np.float32, copy=False)
        joined_Ub = self._join_UN @ columns_Nb
        product_Ub = np.empty_like(joined_Ub)
        step = max(1, _STRIP // len(joined_Ub))
        for start in range(0, len(joined_Ub), step):
            strip = slice(start, start + step)
            product_Ub[strip] = self.table[self.codes_UU[strip]] @ joined_Ub
        product_Ub = product_Ub[self.twins_N] - self._own_N1 * columns_Nb
        return product_Ub.reshape(block_Nb.shape)

    @property
    def T(self) -> TwinAffinity:
        """Itself: it is symmetric."""
        return self

    def diagonal(self) -> NDArray[np.float32]:
        """(N,) zeros."""
        return np.zeros(len(self.twins_N), dtype=np.float32)

    def sum(self, axis: int, dtype: Any = np.float64) -> NDArray[Any]:
        """Sum over a row or a column, (N,)."""
        size_U = np.bincount(self.twins_N, minlength=len(self.codes_UU)).astype(dtype)
        table = self.table.astype(dtype)
        sums_U = np.array([(table[row] * size_U).sum() for row in self.codes_UU])
        sums_N: NDArray[Any] = sums_U[self.twins_N] - self._own_N1[:, 0].astype(dtype)
        return sums_N

    def toarray(self) -> NDArray[np.float32]:
        """All of it as a dense (N, N) array, for few classes."""
        dense_NN = self.table[self.codes_UU[np.ix_(self.twins_N, self.twins_N)]]
        np.fill_diagonal(dense_NN, 0)
        return dense_NN


def _find_twins(
    rows: Rows, num_classes: int, twin_code: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the different rows; return the first class of each, and each class's.

    With its own entry set to what it is to its twins, a row equals theirs.
    """
    numbers: dict[bytes, int] = {}
    firsts: list[int] = []
    twins_N = np.empty(num_classes, dtype=np.int64)
    for where, block_BN in rows:
        block_BN = block_BN.copy()
        own = np.arange(where.start, where.start + len(block_BN))
        block_BN[own - where.start, own] = twin_code
        for index, row_N in zip(own.tolist(), block_BN, strict=True):
            digest = blake2b(row_N, digest_size=16).digest()
            number = numbers.setdefault(digest, len(numbers))
            if number == len(firsts):
                firsts.append(index)
            twins_N[index] = number
    return np.array(firsts, dtype=np.int64), twins_N
