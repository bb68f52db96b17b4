# ruff: noqa: N803, N806, N815
"""Spectral embedding: points as directions in the leading eigenspace.

Letters: N points, M new points, T components, b columns of a block.
A is the affinity with its diagonal taken as 0, D = diag(A 1) its degrees,
S = D^-½ A D^-½ the normalised affinity (Ng, Jordan and Weiss, 2001).

S is never formed: scaling a block of vectors on both sides of A gives the same
product, and A may be a gigabyte.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import eigh
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

FloatArray: TypeAlias = NDArray[np.floating[Any]]
Affinity: TypeAlias = Any  # FloatArray, a scipy CSR array or matrix, TwinAffinity
RandomState: TypeAlias = int | np.random.RandomState | None

_DENSE_LIMIT = 512  # points up to which LAPACK solves faster than iteration
_OVERSAMPLING = 5  # columns beyond T; more columns need fewer products with A
_MAX_BLOCKS = 6  # blocks the basis holds before it restarts
_KEPT_BLOCKS = 2  # blocks of best vectors it restarts with
_MAX_PRODUCTS = 1000
_ZERO_EIGENVALUE = 1e-6  # float32's accuracy, where S's largest eigenvalue is 1


class Spectrum(NamedTuple):
    """The T leading eigenpairs of S, largest eigenvalue first, in float64.

    Attributes:
        eigenvectors_NT: (N, T), of length one.
        eigenvalues_T: (T,), at most 1.
        inv_sqrt_degree_N: (N,), the diagonal of D^(−1/2).
    """

    eigenvectors_NT: FloatArray
    eigenvalues_T: FloatArray
    inv_sqrt_degree_N: FloatArray


def spectral_embedding(
    affinity_NN: Affinity, num_components: int, *, random_state: RandomState = None
) -> tuple[FloatArray, FloatArray]:
    """Embed points by the leading eigenvectors of their normalised affinity.

    S V = V Λ; the embedding is V with each row scaled to length one
    (Ng, Jordan and Weiss, 2001).

    Args:
        affinity_NN: (N, N) float32 or float64, dense or CSR, symmetric, ≥ 0; its
            diagonal does not count. Never changed; copied once where it is dense
            and its diagonal is not 0 already.
        num_components: T, from 1 to N.
        random_state: seed of the iteration's first block.

    Returns:
        (N, T) float64 embedding and (T,) float64 eigenvalues, descending. An
        isolated point (degree 0) has no direction: its row is 0. The same seed
        gives the same bytes, whatever the number of cores.

    Raises:
        ValueError: num_components is outside 1..N.
    """
    spectrum = leading_eigenvectors(
        affinity_NN, num_components, random_state=random_state
    )
    return unit_rows(spectrum.eigenvectors_NT), spectrum.eigenvalues_T


def leading_eigenvectors(
    affinity_NN: Affinity, num_components: int, *, random_state: RandomState = None
) -> Spectrum:
    """Compute the T leading eigenpairs of S = D^-½ A D^-½.

    Args:
        affinity_NN: as in `spectral_embedding`.
        num_components: T, from 1 to N.
        random_state: seed of the iteration's first block.

    Returns:
        The spectrum. Each eigenvector's entry of largest magnitude is positive.
        For an isolated point (degree 0), D^-½ and its row of V are 0.

    Raises:
        ValueError: num_components is outside 1..N.
    """
    num_points = affinity_NN.shape[0]
    if not 1 <= num_components <= num_points:
        raise ValueError(
            f"{num_components} components asked of {num_points} points; "
            f"expected 1 to {num_points}"
        )
    affinity_NN = _without_diagonal(affinity_NN)
    degree_N = np.asarray(affinity_NN.sum(axis=1, dtype=np.float64)).ravel()
    linked_N = degree_N > 0
    scale_N = np.zeros(num_points)
    scale_N[linked_N] = degree_N[linked_N] ** -0.5
    # One thread: BLAS adds in another order for each number of threads.
    with threadpool_limits(limits=1):
        if num_points <= max(_DENSE_LIMIT, 8 * (num_components + _OVERSAMPLING)):
            values_T, vectors_NT = _solve_dense(affinity_NN, scale_N, num_components)
        else:
            rng = check_random_state(random_state)
            values_T, vectors_NT = _solve_by_blocks(
                affinity_NN, scale_N, num_components, rng
            )
    # What the solver leaves here is noise that unit_rows would blow up.
    vectors_NT[~linked_N] = 0
    return Spectrum(_fix_signs(vectors_NT), values_T, scale_N)


def extend_embedding(affinity_MN: Affinity, spectrum: Spectrum) -> FloatArray:
    """Embed new points by their affinities to the embedded ones.

    V_new = D_new^-½ A_new D^-½ V Λ^-1 (Nyström; Bengio et al., 2004), rows scaled
    to length one, which cancels D_new. S V Λ^-1 = V: a row of A itself, its
    diagonal entry 0, gives that point's own embedding.

    Args:
        affinity_MN: (M, N) float, dense or CSR, ≥ 0.
        spectrum: the embedded points' eigenpairs.

    Returns:
        (M, T) float64. A point without affinity to any other is 0. Components with
        eigenvalue 0 cannot be extended and are 0.
    """
    vectors_NT, values_T, scale_N = spectrum
    usable_T = np.abs(values_T) > _ZERO_EIGENVALUE
    inverse_T = np.zeros_like(values_T)
    inverse_T[usable_T] = 1 / values_T[usable_T]
    extension_NT = scale_N[:, None] * vectors_NT * inverse_T
    # In A's own dtype: numpy would copy all of a float32 A to float64.
    return unit_rows(
        np.asarray(affinity_MN @ extension_NT.astype(affinity_MN.dtype), np.float64)
    )


def unit_rows(vectors_NT: FloatArray) -> FloatArray:
    """Scale each row to length one; rows of zeros stay."""
    norms_N1 = np.linalg.norm(vectors_NT, axis=1, keepdims=True)
    return vectors_NT / np.where(norms_N1 > 0, norms_N1, 1)


def _without_diagonal(affinity_NN: Affinity) -> Affinity:
    diagonal_N = affinity_NN.diagonal()
    if not diagonal_N.any():
        return affinity_NN
    if isinstance(affinity_NN, np.ndarray):
        affinity_NN = affinity_NN.copy()
        np.fill_diagonal(affinity_NN, 0)
        return affinity_NN
    return affinity_NN - sparse.diags_array(diagonal_N, format="csr")


def _fix_signs(vectors_NT: FloatArray) -> FloatArray:
    columns_T = np.arange(vectors_NT.shape[1])
    peaks_T = vectors_NT[np.abs(vectors_NT).argmax(axis=0), columns_T]
    return vectors_NT * np.where(peaks_T < 0, -1, 1)


def _solve_dense(
    affinity_NN: Affinity, scale_N: FloatArray, num_components: int
) -> tuple[FloatArray, FloatArray]:
    num_points = len(scale_N)
    if not isinstance(affinity_NN, np.ndarray):
        affinity_NN = affinity_NN.toarray()
    values_T, vectors_NT = eigh(
        scale_N[:, None] * affinity_NN * scale_N,
        subset_by_index=[num_points - num_components, num_points - 1],
    )
    return values_T[::-1], vectors_NT[:, ::-1]


def _solve_by_blocks(
    affinity_NN: Affinity,
    scale_N: FloatArray,
    num_components: int,
    rng: np.random.RandomState,
) -> tuple[FloatArray, FloatArray]:
    """Find the leading eigenpairs by block Lanczos with thick restarts.

    A single-vector iteration (ARPACK) may miss copies of a repeated eigenvalue,
    that is whole groups where blocks of points have no link: measured in float32 on
    25 blocks of 40 points. A block of more than T columns finds them all.
    """
    tolerance = 1e-6 if affinity_NN.dtype == np.float32 else 1e-9
    width = num_components + _OVERSAMPLING
    basis_Nk = np.linalg.qr(rng.uniform(-1, 1, (len(scale_N), width))).Q
    images_Nk = _apply(affinity_NN, scale_N, basis_Nk)
    for _ in range(_MAX_PRODUCTS):
        values_k, rotation_kk = np.linalg.eigh(basis_Nk.T @ images_Nk)
        values_k, rotation_kk = values_k[::-1], rotation_kk[:, ::-1]
        best_Nb = basis_Nk @ rotation_kk[:, :width]
        residual_Nb = images_Nk @ rotation_kk[:, :width] - best_Nb * values_k[:width]
        errors_T = np.linalg.norm(residual_Nb[:, :num_components], axis=0)
        if errors_T.max() < tolerance:
            break
        if basis_Nk.shape[1] == _MAX_BLOCKS * width:
            kept = rotation_kk[:, : _KEPT_BLOCKS * width]
            basis_Nk, images_Nk = basis_Nk @ kept, images_Nk @ kept
        block_Nb = _orthonormal_to(basis_Nk, residual_Nb)
        basis_Nk = np.hstack([basis_Nk, block_Nb])
        images_Nk = np.hstack([images_Nk, _apply(affinity_NN, scale_N, block_Nb)])
    else:
        warnings.warn(
            f"eigenvectors reached a residual of {errors_T.max():.1e} after "
            f"{_MAX_PRODUCTS} steps; expected {tolerance:.0e}",
            ConvergenceWarning,
            stacklevel=4,
        )
    return values_k[:num_components], best_Nb[:, :num_components]


def _apply(
    affinity_NN: Affinity, scale_N: FloatArray, block_Nb: FloatArray
) -> FloatArray:
    """Compute S X; only the product with A is in A's own dtype."""
    scaled_Nb = (scale_N[:, None] * block_Nb).astype(affinity_NN.dtype)
    product_Nb: FloatArray = scale_N[:, None] * (affinity_NN @ scaled_Nb)
    return product_Nb


def _orthonormal_to(basis_Nk: FloatArray, block_Nb: FloatArray) -> FloatArray:
    # Twice: the first pass leaves rounding errors along the basis, large beside
    # a small residual.
    for _ in range(2):
        block_Nb = block_Nb - basis_Nk @ (basis_Nk.T @ block_Nb)
        block_Nb = np.linalg.qr(block_Nb).Q
    return block_Nb
