"""A network's logits by their largest, their sum and the true class's, and back.

Letters: B images, C outputs, K kept. The rest of an image's probability is spread
evenly over its other outputs, so that the sum of all, the largest K and the true class
keep their probabilities; only how the rest share theirs is lost.
"""

# ruff: noqa: N803, N806, N815
from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

KEPT = 32
"""K; docs/benchmarks/README.md, compact-outputs, has what it changes."""


class CompactRows(NamedTuple):
    """What is kept of some images.

    Attributes:
        top_BK: (B, K) float32, the largest logits, in no order.
        position_BK: (B, K) int32, the outputs they belong to.
        log_sum_B: (B,) float64, log Σ exp of all logits.
        true_B: (B,) float32, the true class's logit; 0 where the network lacks it.
        true_position_B: (B,) int32, its output, or −1.
    """

    top_BK: NDArray[np.float32]
    position_BK: NDArray[np.int32]
    log_sum_B: NDArray[np.float64]
    true_B: NDArray[np.float32]
    true_position_B: NDArray[np.int32]


def compact(
    logits_BC: NDArray[np.float32],
    true_position_B: NDArray[np.int32],
    *,
    num_kept: int = KEPT,
) -> CompactRows:
    """Keep the largest logits, the sum and the true class's.

    Args:
        logits_BC: (B, C) float32.
        true_position_B: (B,) int32 in [−1, C), −1 where no output stands for the truth.
        num_kept: K, at most C.
    """
    position_BK = np.argpartition(logits_BC, -num_kept, axis=1)[:, -num_kept:]
    known_B1 = true_position_B.clip(min=0).astype(np.int64)[:, None]
    true_B = np.take_along_axis(logits_BC, known_B1, axis=1)[:, 0]
    return CompactRows(
        top_BK=np.take_along_axis(logits_BC, position_BK, axis=1),
        position_BK=position_BK.astype(np.int32),
        log_sum_B=logsumexp(logits_BC.astype(np.float64), axis=1),
        true_B=np.where(true_position_B >= 0, true_B, 0).astype(np.float32),
        true_position_B=true_position_B,
    )


def expand(kept: CompactRows, *, num_outputs: int) -> NDArray[np.float32]:
    """Give back logits: exact where they were kept, alike for all others.

    Args:
        kept: from `compact`.
        num_outputs: C.

    Returns:
        (B, C) float32, with the same log-sum-exp.
    """
    position_BK = kept.position_BK.astype(np.int64)
    true_B1 = kept.true_position_B.astype(np.int64)[:, None]
    apart_B = ((position_BK != true_B1).all(axis=1)) & (kept.true_position_B >= 0)
    share_B = np.exp(kept.top_BK - kept.log_sum_B[:, None]).sum(axis=1)
    share_B += apart_B * np.exp(kept.true_B - kept.log_sum_B)
    others_B = num_outputs - position_BK.shape[1] - apart_B
    # Rounding can leave less than nothing.
    rest_B = np.maximum(1 - share_B, 1e-12) / np.maximum(others_B, 1)
    tail_B = np.minimum(kept.log_sum_B + np.log(rest_B), kept.top_BK.min(axis=1))
    logits_BC = np.repeat(tail_B.astype(np.float32)[:, None], num_outputs, axis=1)
    np.put_along_axis(logits_BC, position_BK, kept.top_BK, axis=1)
    known_B = np.flatnonzero(kept.true_position_B >= 0)
    logits_BC[known_B, true_B1[known_B, 0]] = kept.true_B[known_B]
    return logits_BC
