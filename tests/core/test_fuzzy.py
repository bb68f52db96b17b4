from __future__ import annotations

import numpy as np
import pytest
import skfuzzy

from deepme.core.fuzzy import fuzzy_c_means, fuzzy_memberships, has_collapsed

POINTS = (
    np.random.default_rng(0).normal(size=(40, 3)) + 3 * np.eye(4, 3)[np.arange(40) % 4]
)
CENTERS = POINTS[:4]


@pytest.mark.parametrize(
    ("fuzzifier", "near", "far"), [(2, 1, 1 / 4), (3, 1, 1 / 2), (1.5, 1, 1 / 16)]
)
def test_memberships_of_a_point_at_distances_1_and_2(fuzzifier, near, far):
    memberships = fuzzy_memberships(
        np.array([[1.0]]), np.array([[0.0], [3.0]]), fuzzifier=fuzzifier
    )
    np.testing.assert_allclose(memberships, [[near / (near + far), far / (near + far)]])


@pytest.mark.parametrize("fuzzifier", [1.0001, 1.5, 50])
def test_point_on_centres_belongs_to_them_alone(fuzzifier):
    centers = np.array([[0.0], [0.0], [1.0], [1e6]])
    memberships = fuzzy_memberships(
        np.array([[0.0], [1.0]]), centers, fuzzifier=fuzzifier
    )
    np.testing.assert_allclose(
        memberships, [[1 / 2, 1 / 2, 0, 0], [0, 0, 1, 0]], atol=1e-5
    )


def test_near_one_memberships_are_hard():
    memberships = fuzzy_memberships(POINTS, CENTERS, fuzzifier=1.0001)
    np.testing.assert_allclose(memberships.max(axis=1), 1)


@pytest.mark.parametrize("fuzzifier", [1.2, 1.5, 2.0])
@pytest.mark.parametrize("num_steps", [1, 50])
def test_equals_scikit_fuzzy_from_the_same_start(fuzzifier, num_steps):
    ours = fuzzy_c_means(
        POINTS, CENTERS, fuzzifier=fuzzifier, tol=0, max_iter=num_steps
    )
    start = fuzzy_memberships(POINTS, CENTERS, fuzzifier=fuzzifier)
    centers, memberships, *_ = skfuzzy.cmeans(
        POINTS.T, 4, fuzzifier, error=0, maxiter=num_steps, init=start.T
    )
    # skfuzzy's memberships are those its returned centres were computed for.
    np.testing.assert_allclose(ours.centers_Td, centers, atol=1e-6)
    np.testing.assert_allclose(ours.memberships_NT, memberships.T, atol=1e-6)


def test_stops_when_memberships_stand_still():
    partition = fuzzy_c_means(POINTS, CENTERS, fuzzifier=1.5, tol=1e-10)
    assert partition.converged
    one_more = fuzzy_c_means(POINTS, partition.centers_Td, fuzzifier=1.5, max_iter=1)
    assert one_more.converged
    np.testing.assert_allclose(
        one_more.memberships_NT, partition.memberships_NT, atol=1e-9
    )


def test_says_when_the_limit_came_first():
    partition = fuzzy_c_means(POINTS, CENTERS, fuzzifier=1.5, max_iter=1)
    assert not partition.converged
    assert partition.n_iter == 1


def test_memberships_belong_to_the_returned_centres():
    partition = fuzzy_c_means(POINTS, CENTERS, fuzzifier=1.5, max_iter=2)
    np.testing.assert_array_equal(
        partition.memberships_NT,
        fuzzy_memberships(POINTS, partition.centers_Td, fuzzifier=1.5),
    )


def test_centre_without_points_stays():
    points = np.array([[0.0], [0.1], [1.0], [1.1]])
    partition = fuzzy_c_means(points, np.array([[0.0], [1.0], [99.0]]), fuzzifier=1.001)
    np.testing.assert_allclose(partition.centers_Td, [[0.05], [1.05], [99.0]])


@pytest.mark.parametrize("fuzzifier", [1, 0.5, float("nan")])
def test_fuzzifier_out_of_range(fuzzifier):
    with pytest.raises(ValueError, match="expected a number above 1"):
        fuzzy_c_means(POINTS, CENTERS, fuzzifier=fuzzifier)


def test_equal_centres_collapse():
    partition = fuzzy_c_means(POINTS, np.zeros((4, 3)), fuzzifier=2)
    np.testing.assert_allclose(partition.memberships_NT, 1 / 4)
    assert has_collapsed(partition.memberships_NT)


@pytest.mark.parametrize(
    ("largest", "rest", "expected"),
    [
        (0.49, [0.17] * 3, True),  # 2/T = 0.5
        (0.52, [0.16] * 3, False),
        (0.74, [0.26], True),  # T = 2: 3/4
        (0.76, [0.24], False),
        (1.0, [], False),  # T = 1
    ],
)
def test_collapse_is_a_mean_largest_membership_below_the_bound(largest, rest, expected):
    assert has_collapsed(np.array([[largest, *rest]] * 3)) is expected
