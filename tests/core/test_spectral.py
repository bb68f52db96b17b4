from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from scipy.linalg import eigh, subspace_angles
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import spectral_embedding as sklearn_embedding
from threadpoolctl import threadpool_limits

from deepme.core import spectral
from deepme.core.spectral import (
    extend_embedding,
    leading_eigenvectors,
    spectral_embedding,
    unit_rows,
)

PATH = np.array([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])


def block_affinity(num_blocks, block_size, *, between, seed=0):
    """Random affinities in [1, 2] inside blocks, `between` across them."""
    within = np.random.default_rng(seed).uniform(1, 2, (num_blocks * block_size,) * 2)
    same_block = np.kron(np.eye(num_blocks), np.ones((block_size, block_size)))
    affinity = np.where(same_block == 1, (within + within.T) / 2, between)
    np.fill_diagonal(affinity, 0)
    return affinity


def test_spectrum_of_a_path():
    vectors, values, inv_sqrt_degree = leading_eigenvectors(PATH, 3)
    np.testing.assert_allclose(values, [1, 0, -1], atol=1e-12)
    np.testing.assert_allclose(vectors[:, 0], [1 / 2, np.sqrt(2) / 2, 1 / 2])
    np.testing.assert_allclose(inv_sqrt_degree, [1, 1 / np.sqrt(2), 1])


@pytest.mark.parametrize("block_size", [10, 150])
def test_same_space_as_scikit_learn(block_size):
    affinity = block_affinity(4, block_size, between=0.1)
    ours, _ = spectral_embedding(affinity, 4, random_state=0)
    theirs = sklearn_embedding(
        affinity, n_components=4, drop_first=False, random_state=0
    )
    # scikit-learn returns D^-½ V, which differs from V by the length of rows alone.
    assert subspace_angles(ours, unit_rows(theirs)).max() < 1e-6


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-7), (np.float32, 1e-4)]
)
@pytest.mark.parametrize("as_stored", [np.asarray, sparse.csr_array, sparse.csr_matrix])
def test_iteration_agrees_with_lapack(dtype, tolerance, as_stored, monkeypatch):
    monkeypatch.setattr(spectral, "_DENSE_LIMIT", 0)
    affinity = block_affinity(4, 30, between=0.1).astype(dtype)
    vectors, values, scale = leading_eigenvectors(as_stored(affinity), 4)
    expected_values, expected_vectors = eigh(scale[:, None] * affinity * scale)
    np.testing.assert_allclose(values, expected_values[:-5:-1], atol=tolerance)
    assert subspace_angles(vectors, expected_vectors[:, -4:]).max() < tolerance


def test_says_when_the_iteration_did_not_converge(monkeypatch):
    monkeypatch.setattr(spectral, "_DENSE_LIMIT", 0)
    monkeypatch.setattr(spectral, "_MAX_PRODUCTS", 1)
    with pytest.warns(ConvergenceWarning, match="expected 1e-09"):
        leading_eigenvectors(block_affinity(4, 30, between=0.1), 4)


def test_finds_every_block_without_links():
    # ARPACK in float32 finds 24 of these 25.
    num_blocks, block_size = 25, 40
    affinity = block_affinity(num_blocks, block_size, between=0, seed=1)
    affinity = affinity.astype(np.float32)
    embedding, values = spectral_embedding(affinity, num_blocks, random_state=0)
    np.testing.assert_allclose(values, 1, atol=1e-6)
    one_of_each = embedding[::block_size]
    np.testing.assert_allclose(
        one_of_each @ one_of_each.T, np.eye(num_blocks), atol=1e-5
    )
    np.testing.assert_allclose(
        embedding, np.repeat(one_of_each, block_size, axis=0), atol=1e-5
    )


@pytest.mark.parametrize("as_stored", [np.asarray, sparse.csr_array])
def test_diagonal_does_not_count_and_is_left_alone(as_stored):
    with_diagonal = PATH + np.diag([5.0, 0, 7])
    given = as_stored(with_diagonal.copy())
    embedding, values = spectral_embedding(given, 2)
    expected_embedding, expected_values = spectral_embedding(PATH, 2)
    np.testing.assert_array_equal(embedding, expected_embedding)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(given + np.zeros((3, 3)), with_diagonal)


@pytest.mark.parametrize("block_size", [5, 200])
def test_isolated_point_has_no_direction(block_size):
    linked = block_affinity(3, block_size, between=0.1)
    affinity = np.pad(linked, (0, 1))
    embedding, values = spectral_embedding(affinity, 3, random_state=0)
    np.testing.assert_array_equal(embedding[-1], 0)
    expected, expected_values = spectral_embedding(linked, 3, random_state=0)
    np.testing.assert_allclose(np.abs(embedding[:-1]), np.abs(expected), atol=1e-6)
    np.testing.assert_allclose(values, expected_values, atol=1e-9)


def test_rows_have_length_one_and_peaks_are_positive():
    affinity = block_affinity(3, 5, between=0.2)
    embedding, _ = spectral_embedding(affinity, 3)
    vectors = leading_eigenvectors(affinity, 3).eigenvectors_NT
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1)
    assert (vectors.max(axis=0) == np.abs(vectors).max(axis=0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extension_of_the_points_themselves_is_their_embedding(dtype):
    affinity = block_affinity(3, 5, between=0.2).astype(dtype)
    spectrum = leading_eigenvectors(affinity, 3)
    extended = extend_embedding(affinity, spectrum)
    tolerance = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(
        extended, unit_rows(spectrum.eigenvectors_NT), atol=tolerance
    )


def test_extension_depends_on_the_proportions_of_affinities_alone():
    spectrum = leading_eigenvectors(block_affinity(3, 5, between=0.2), 3)
    affinity_of_new = np.random.default_rng(1).random((2, 15))
    np.testing.assert_allclose(
        extend_embedding(10 * affinity_of_new, spectrum),
        extend_embedding(affinity_of_new, spectrum),
    )
    np.testing.assert_array_equal(extend_embedding(np.zeros((1, 15)), spectrum), 0)


def test_extension_leaves_out_eigenvalue_zero():
    spectrum = leading_eigenvectors(PATH, 2)  # eigenvalues 1 and 0
    np.testing.assert_allclose(extend_embedding(PATH, spectrum), [[1, 0]] * 3)


def test_same_seed_same_bytes_on_any_number_of_cores():
    affinity = block_affinity(3, 300, between=0.5).astype(np.float32)
    spectra = []
    for num_threads in (1, 2, 2):
        with threadpool_limits(num_threads):
            spectra.append(spectral_embedding(affinity, 3, random_state=7))
    assert len({embedding.tobytes() for embedding, _ in spectra}) == 1
    assert len({values.tobytes() for _, values in spectra}) == 1


def test_affinity_is_not_copied():
    affinity = block_affinity(3, 400, between=0.5).astype(np.float32)
    tracemalloc.start()
    spectral_embedding(affinity, 3, random_state=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < affinity.nbytes / 2


@pytest.mark.parametrize("num_components", [0, 4])
def test_number_of_components_out_of_range(num_components):
    with pytest.raises(ValueError, match=f"{num_components} components.*1 to 3"):
        spectral_embedding(PATH, num_components)
