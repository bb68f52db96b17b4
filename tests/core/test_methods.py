from __future__ import annotations

import numpy as np
import pytest

from deepme.core.clustering import SoftSpectralClustering
from deepme.core.grouping import assign_groups, delta_for_overlap
from deepme.core.methods import (
    Grouping,
    cluster_softly,
    deal_anew,
    with_equal_memberships,
)


def affinity(num_classes: int = 60, seed: int = 0) -> np.ndarray:
    """Affinities that fall with the distance of random points."""
    points = np.random.default_rng(seed).random((num_classes, 2))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    values = np.exp(-8 * distance)
    np.fill_diagonal(values, 0)
    return values


def clustered(**settings: object) -> Grouping:
    model = SoftSpectralClustering(4, affinity="precomputed", random_state=0)
    defaults = {"delta": 0.3, "overlap": None, "max_classes": 1000}
    return cluster_softly(model, affinity(), **(defaults | settings))


def multiset(array: np.ndarray) -> list:
    return sorted(array.tolist())


class TestSoft:
    def test_groups_are_what_reaches_delta(self):
        found = clustered(delta=0.2)
        assert found.delta == 0.2
        np.testing.assert_array_equal(
            found.assigned_NT, assign_groups(found.memberships_NT, delta=0.2)
        )
        assert found.summarize().overlap > 1

    def test_a_wanted_overlap_finds_delta(self):
        found = clustered(overlap=1.5)
        assert found.delta == delta_for_overlap(found.memberships_NT, overlap=1.5)
        assert found.summarize().overlap == 1.5

    def test_a_limit_on_the_size_drops_shared_classes(self):
        free = clustered(overlap=2)
        capped = clustered(overlap=2, max_classes=20)
        assert max(capped.summarize().sizes_T) == 20 < max(free.summarize().sizes_T)
        assert capped.delta == free.delta

    def test_the_embedding_has_a_dimension_a_group(self):
        found = clustered()
        assert found.embedding_NE.shape == (60, 4)
        assert found.eigenvalues_E.shape == (4,)


class TestDealtAnew:
    def test_every_count_stays(self):
        before = clustered(overlap=1.4, max_classes=25)
        after = deal_anew(before, seed=3)
        assert after.summarize() == before.summarize()
        # Which groups a class shares, not only how many, is dealt to another class.
        assert multiset(after.assigned_NT) == multiset(before.assigned_NT)
        assert (after.assigned_NT != before.assigned_NT).any()

    def test_memberships_and_embedding_go_with_their_place(self):
        before = clustered(overlap=1.4)
        after = deal_anew(before, seed=3)
        rows = [
            np.hstack([g.assigned_NT, g.memberships_NT, g.embedding_NE])
            for g in (before, after)
        ]
        assert multiset(rows[0]) == multiset(rows[1])
        assert after.delta == before.delta
        np.testing.assert_array_equal(after.eigenvalues_E, before.eigenvalues_E)

    def test_the_seed_decides(self):
        before = clustered()
        one, same, other = (deal_anew(before, seed=s).assigned_NT for s in (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()

    def test_the_order_of_the_classes_is_lost(self):
        before = with_equal_memberships(np.eye(1000, dtype=bool))
        places = deal_anew(before, seed=0).assigned_NT.argmax(axis=1)
        # A class keeps its place with chance 1/1000; 10 of them have chance 1e-7.
        assert (places == np.arange(1000)).sum() < 10
        assert abs(np.corrcoef(places, np.arange(1000))[0, 1]) < 0.2


class TestEqual:
    def test_memberships_are_shared_equally(self):
        assigned = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=bool)
        found = with_equal_memberships(assigned)
        np.testing.assert_allclose(
            found.memberships_NT, [[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3]
        )
        assert found.delta is None
        assert found.embedding_NE.shape == (3, 0)
        assert found.eigenvalues_E.shape == (0,)

    @pytest.mark.parametrize("num_groups", [1, 5])
    def test_nothing_is_uncovered_or_collapsed(self, num_groups):
        found = with_equal_memberships(np.ones((4, num_groups), dtype=bool))
        summary = found.summarize()
        assert summary.coverage == 1
        assert summary.num_fallbacks == 0
        assert summary.overlap == num_groups
        assert not found.collapsed
