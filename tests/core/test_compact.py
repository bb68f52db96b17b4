# ruff: noqa: N803, N806
from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import logsumexp

from deepme.core.compact import compact, expand


def drawn(seed: int, B: int = 7, C: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits_BC = rng.normal(0, 4, (B, C)).astype(np.float32)
    return logits_BC, rng.integers(-1, C, B).astype(np.int32)


@given(st.integers(0, 99), st.integers(1, 40))
def test_kept_logits_and_the_sum_are_exact(seed: int, K: int) -> None:
    logits_BC, true_B = drawn(seed)
    kept = compact(logits_BC, true_B, num_kept=K)
    found_BC = expand(kept, num_outputs=40)
    largest = np.sort(np.argsort(-logits_BC, axis=1, kind="stable")[:, :K], axis=1)
    assert np.array_equal(np.sort(kept.position_BK, axis=1), largest)
    exact_BC = np.zeros_like(logits_BC, dtype=bool)
    np.put_along_axis(exact_BC, largest, True, axis=1)
    for image in np.flatnonzero(true_B >= 0):
        exact_BC[image, true_B[image]] = True
    assert np.array_equal(found_BC[exact_BC], logits_BC[exact_BC])
    assert_allclose(logsumexp(found_BC, 1), logsumexp(logits_BC, 1), atol=2e-6)
    for found, logits, exact in zip(found_BC, logits_BC, exact_BC, strict=True):
        rest = np.exp(logits[~exact].astype(float))
        assert_allclose(np.exp(found[~exact].astype(float)), rest.mean(), rtol=1e-4)


def test_with_all_kept_nothing_changes() -> None:
    logits_BC, true_B = drawn(0)
    kept = compact(logits_BC, true_B, num_kept=40)
    assert np.array_equal(expand(kept, num_outputs=40), logits_BC)


def test_ranks_of_the_kept_survive_a_certain_network() -> None:
    """One logit far above: nothing is left for the others, and they stay below."""
    logits_BC, true_B = drawn(1)
    logits_BC[:, 3] = 90
    found_BC = expand(compact(logits_BC, true_B, num_kept=4), num_outputs=40)
    assert np.isfinite(found_BC).all()
    assert (found_BC.argmax(axis=1) == 3).all()
    assert (
        np.sort(found_BC, axis=1)[:, :36] <= np.sort(logits_BC, axis=1)[:, 36:37]
    ).all()
