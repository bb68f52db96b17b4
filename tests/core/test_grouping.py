from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepme.core.grouping import (
    assign_groups,
    cap_group_sizes,
    delta_for_overlap,
    summarize_groups,
)

MEMBERSHIPS = np.array(
    [
        [0.9, 0.1, 0.0],
        [0.6, 0.4, 0.0],
        [0.5, 0.3, 0.2],
        [0.2, 0.7, 0.1],
        [0.25, 0.35, 0.4],
    ]
)

weights = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 12), st.integers(1, 5)),
    elements=st.integers(1, 20).map(float),  # integers, so that equal values occur
)
memberships = weights.map(lambda w: w / w.sum(axis=1, keepdims=True))
deltas = st.floats(0, 1)


def test_groups_hold_what_reaches_delta_and_what_reaches_it_nowhere():
    np.testing.assert_array_equal(
        assign_groups(MEMBERSHIPS, delta=0.4),
        [[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
    )
    np.testing.assert_array_equal(
        assign_groups(MEMBERSHIPS, delta=0.65),
        [[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
    )


@pytest.mark.parametrize("delta", [-0.1, 1.1, float("nan")])
def test_delta_out_of_range(delta):
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        assign_groups(MEMBERSHIPS, delta=delta)


@given(memberships, deltas)
def test_every_class_has_its_group_of_largest_membership(p, delta):
    assigned = assign_groups(p, delta=delta)
    assert assigned[np.arange(len(p)), p.argmax(axis=1)].all()
    assert (assigned | (p < delta)).all()


@given(memberships, deltas, deltas)
def test_larger_delta_never_adds(p, one, other):
    low, high = sorted((one, other))
    assert (assign_groups(p, delta=high) <= assign_groups(p, delta=low)).all()


@pytest.mark.parametrize(
    ("overlap", "delta"),
    [
        (1, (0.4 + 0.5) / 2),  # every second membership out, the largest is 0.4
        (1 + 1 / 5, (0.35 + 0.4) / 2),
        (1 + 2 / 5, (0.3 + 0.35) / 2),
        (3, 0),
    ],
)
def test_delta_lies_between_what_is_out_and_what_is_in(overlap, delta):
    assert delta_for_overlap(MEMBERSHIPS, overlap=overlap) == pytest.approx(delta)


def test_equal_memberships_come_in_together():
    p = np.array([[0.6, 0.2, 0.2]] * 4)
    for overlap, expected in ((1.5, 1), (2.5, 3)):
        delta = delta_for_overlap(p, overlap=overlap)
        assert assign_groups(p, delta=delta).sum(axis=1).mean() == expected


@given(memberships, st.data())
def test_no_delta_comes_nearer_to_the_wanted_overlap(p, data):
    wanted = data.draw(st.floats(1, p.shape[1]))
    reached = assign_groups(p, delta=delta_for_overlap(p, overlap=wanted))
    error = abs(reached.sum(axis=1).mean() - wanted)
    for delta in [*np.unique(p), 1.0]:
        other = assign_groups(p, delta=delta).sum(axis=1).mean()
        assert error <= abs(other - wanted) + 1e-12


@pytest.mark.parametrize("overlap", [0.9, 3.1])
def test_overlap_out_of_range(overlap):
    with pytest.raises(ValueError, match="from 1 to the 3 groups"):
        delta_for_overlap(MEMBERSHIPS, overlap=overlap)


def test_group_above_the_limit_loses_its_least_members():
    assigned = assign_groups(MEMBERSHIPS, delta=0.2)
    np.testing.assert_array_equal(assigned.sum(axis=0), [5, 4, 2])
    capped = cap_group_sizes(assigned, MEMBERSHIPS, max_classes=3)
    np.testing.assert_array_equal(capped[:, 0], [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(capped[:, 1], [0, 1, 0, 1, 1])
    np.testing.assert_array_equal(capped[:, 2], assigned[:, 2])


def test_group_of_primary_classes_stays_above_the_limit():
    capped = cap_group_sizes(
        assign_groups(MEMBERSHIPS, delta=0.2), MEMBERSHIPS, max_classes=1
    )
    np.testing.assert_array_equal(capped.sum(axis=0), [3, 1, 1])


def test_limit_out_of_range():
    with pytest.raises(ValueError, match="max_classes is 0"):
        cap_group_sizes(MEMBERSHIPS > 0, MEMBERSHIPS, max_classes=0)


@given(memberships, deltas, st.integers(1, 12))
def test_cap_drops_shared_classes_only_and_no_more_than_needed(p, delta, limit):
    assigned = assign_groups(p, delta=delta)
    capped = cap_group_sizes(assigned, p, max_classes=limit)
    primary = np.zeros_like(assigned)
    primary[np.arange(len(p)), p.argmax(axis=1)] = True
    assert (primary <= capped).all()
    assert (capped <= assigned).all()
    np.testing.assert_array_equal(
        capped.sum(axis=0),
        np.minimum(assigned.sum(axis=0), np.maximum(limit, primary.sum(axis=0))),
    )


def test_summary_counts():
    assigned = assign_groups(MEMBERSHIPS, delta=0.45)
    assigned[3, 0] = True
    summary = summarize_groups(assigned, MEMBERSHIPS, delta=0.45)
    assert summary.sizes_T == (4, 1, 1)
    assert summary.shared_T == (1, 1, 0)
    assert summary.coverage == 4 / 5
    assert summary.num_fallbacks == 1
    assert summary.overlap == 6 / 5
    assert summary.empty_groups == ()


def test_summary_names_empty_groups():
    p = np.array([[0.5, 0.1, 0.4], [0.4, 0.1, 0.5]])
    summary = summarize_groups(assign_groups(p, delta=0.3), p, delta=0.3)
    assert summary.sizes_T == (2, 0, 2)
    assert summary.empty_groups == (1,)
    assert summary.num_filled == 2
