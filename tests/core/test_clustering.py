from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from sklearn.cluster import SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from deepme.core.clustering import SoftSpectralClustering

POINTS, BLOB = make_blobs(90, centers=3, cluster_std=0.8, random_state=0)


def similarity_of_chains():
    """Θ-like affinities of 12 classes in 3 chains; class 3 links the first two."""
    position = np.array([0, 1, 2, 4.5, 7, 8, 9, 20, 21, 22, 23, 24])
    return np.exp(-np.abs(position[:, None] - position) / 2)


def expected_failed_checks(estimator):
    if estimator.affinity == "precomputed":
        return {"check_clustering": "gives features where affinities are expected"}
    return {}


@parametrize_with_checks(
    [
        SoftSpectralClustering(),
        SoftSpectralClustering(affinity="nearest_neighbors", n_neighbors=5),
        SoftSpectralClustering(affinity="precomputed"),
    ],
    expected_failed_checks=expected_failed_checks,
)
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


@pytest.mark.parametrize("affinity", ["rbf", "nearest_neighbors"])
def test_same_clusters_as_scikit_learn(affinity):
    ours = SoftSpectralClustering(3, affinity=affinity, random_state=0).fit(POINTS)
    theirs = SpectralClustering(3, affinity=affinity, random_state=0).fit(POINTS)
    assert adjusted_rand_score(ours.labels_, theirs.labels_) == 1


def test_class_between_two_chains_belongs_to_both():
    model = SoftSpectralClustering(
        3, affinity="precomputed", fuzzifier=1.5, random_state=0
    ).fit(similarity_of_chains())
    assert len(set(model.labels_)) == 3
    assert len(set(model.labels_[:3])) == len(set(model.labels_[4:7])) == 1
    in_both = model.memberships_[3, model.labels_[[0, 4]]]
    np.testing.assert_allclose(in_both, 1 / 2, atol=0.05)
    assert not model.collapsed_


def test_attributes_have_their_shapes():
    model = SoftSpectralClustering(3, random_state=0).fit(POINTS)
    np.testing.assert_allclose(model.memberships_.sum(axis=1), 1)
    np.testing.assert_array_equal(model.labels_, model.memberships_.argmax(axis=1))
    np.testing.assert_allclose(np.linalg.norm(model.embedding_, axis=1), 1)
    assert model.eigenvalues_[0] == pytest.approx(1)
    assert (np.diff(model.eigenvalues_) <= 0).all()
    assert model.cluster_centers_.shape == (3, 3)
    assert model.n_iter_ >= 1


def test_fitted_points_get_their_memberships_again_rbf():
    points = np.vstack([POINTS, POINTS[:5]])  # some twice
    model = SoftSpectralClustering(3, random_state=0).fit(points)
    np.testing.assert_allclose(
        model.predict_memberships(points), model.memberships_, atol=1e-8
    )
    np.testing.assert_array_equal(model.predict(points), model.labels_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fitted_points_get_their_memberships_again_precomputed(dtype):
    theta = similarity_of_chains().astype(dtype)
    model = SoftSpectralClustering(3, affinity="precomputed", random_state=0).fit(theta)
    np.fill_diagonal(theta, 0)
    np.testing.assert_allclose(
        model.predict_memberships(theta), model.memberships_, atol=1e-4
    )


def test_fitted_points_keep_their_cluster_nearest_neighbors():
    model = SoftSpectralClustering(3, affinity="nearest_neighbors", random_state=0).fit(
        POINTS
    )
    np.testing.assert_array_equal(model.predict(POINTS), model.labels_)


@pytest.mark.parametrize("affinity", ["rbf", "nearest_neighbors"])
def test_new_points_join_the_cluster_around_them(affinity):
    model = SoftSpectralClustering(3, affinity=affinity, random_state=0).fit(POINTS)
    new_points = POINTS + np.random.default_rng(0).normal(0, 0.05, POINTS.shape)
    np.testing.assert_array_equal(model.predict(new_points), model.labels_)


def test_point_without_affinity_says_nothing():
    theta = np.pad(similarity_of_chains(), (0, 1))
    model = SoftSpectralClustering(
        3, affinity="precomputed", fuzzifier=2, random_state=0
    ).fit(theta)
    np.testing.assert_allclose(model.memberships_[-1], 1 / 3, atol=0.02)
    np.testing.assert_allclose(
        model.predict_memberships(theta[-1:]), model.memberships_[-1:], atol=1e-12
    )


def test_large_fuzzifier_collapses():
    theta = similarity_of_chains()
    soft = SoftSpectralClustering(
        4, affinity="precomputed", fuzzifier=20, random_state=0
    )
    assert soft.fit(theta).collapsed_
    assert not soft.set_params(fuzzifier=1.5).fit(theta).collapsed_


def test_one_cluster_holds_everything():
    model = SoftSpectralClustering(1, random_state=0).fit(POINTS)
    np.testing.assert_array_equal(model.memberships_, 1)
    assert not model.collapsed_


def test_sparse_affinity_equals_dense():
    theta = similarity_of_chains()
    dense, stored = (
        SoftSpectralClustering(3, affinity="precomputed", random_state=0).fit(affinity)
        for affinity in (theta, sparse.csr_array(theta))
    )
    np.testing.assert_allclose(stored.memberships_, dense.memberships_, atol=1e-10)
    np.testing.assert_allclose(
        stored.predict_memberships(sparse.csr_array(theta)),
        dense.predict_memberships(theta),
        atol=1e-10,
    )


def test_same_seed_same_bytes():
    first, again = (
        SoftSpectralClustering(3, random_state=3).fit(POINTS) for _ in range(2)
    )
    assert first.memberships_.tobytes() == again.memberships_.tobytes()
    restored = pickle.loads(pickle.dumps(first))
    assert restored.predict_memberships(POINTS).tobytes() == (
        first.predict_memberships(POINTS).tobytes()
    )


def test_float32_affinity_is_neither_copied_nor_changed():
    theta = np.random.default_rng(0).random((1200, 1200), dtype=np.float32)
    theta += theta.T
    np.fill_diagonal(theta, 0)
    theta.flags.writeable = False
    model = SoftSpectralClustering(
        3, affinity="precomputed", fuzzifier=1.1, random_state=0
    )
    tracemalloc.start()
    model.fit(theta)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < theta.nbytes / 2


def test_says_when_the_iterations_ran_out():
    with pytest.warns(ConvergenceWarning, match="after 1 iterations; raise max_iter"):
        SoftSpectralClustering(3, max_iter=1, tol=0, random_state=0).fit(POINTS)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_clusters": 91}, "from 1 to the 90 samples"),
        ({"n_clusters": 2.5}, "n_clusters is 2.5"),
        ({"affinity": "cosine"}, "one of .'precomputed'"),
        ({"fuzzifier": 1}, "fuzzifier is 1; expected a number above 1"),
        ({"gamma": 0}, "gamma is 0"),
        ({"tol": -1}, "tol is -1"),
        ({"max_iter": 0}, "max_iter is 0"),
        ({"affinity": "nearest_neighbors", "n_neighbors": 0}, "n_neighbors"),
    ],
)
def test_parameter_out_of_range(parameters, message):
    with pytest.raises(ValueError, match=message):
        SoftSpectralClustering(**{"n_clusters": 3} | parameters).fit(POINTS)


@pytest.mark.parametrize(
    ("affinity", "message"),
    [
        (np.ones((3, 4)), "expected a square"),
        (np.array([[0, 1, 2], [1, 0, 1], [1, 1, 0.0]]), "expected symmetry"),
        (-np.ones((3, 3)), "Negative values"),
        (np.full((3, 3), np.nan), "NaN"),
    ],
)
def test_unusable_affinity(affinity, message):
    with pytest.raises(ValueError, match=message):
        SoftSpectralClustering(2, affinity="precomputed").fit(affinity)


def test_predict_needs_fit():
    with pytest.raises(NotFittedError):
        SoftSpectralClustering().predict(POINTS)
