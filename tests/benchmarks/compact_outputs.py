"""Measure what the compact form of experts' outputs changes, by how many it keeps.

    python tests/benchmarks/compact_outputs.py

2,000 images of 21,841 classes in 15 groups: an expert gives the true class, where it
holds it, a logit of 7 ± 2 and all others 0 ± 1.5, so that of an image of another group
it spreads its probability over all of its 1,457 classes, the hardest case for the form.
The gate's logits are 3 for the right group and 0 ± 1 besides. Both forms are fused by
Eq. 3: ``hits_changed`` is the share of images of which a hit at k became a miss or the
other way round, ``largest_difference`` that of a class's probability P,
``loss_difference`` that of the gate's likelihood term. Writes
docs/benchmarks/compact-outputs.json.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from recording import record

from deepme.core.compact import compact, expand
from deepme.core.gate_loss import likelihood, true_log_probabilities
from deepme.core.metrics import true_ranks
from deepme.core.mixture import (
    Members,
    class_log_probabilities,
    fuse,
    normalize_scores,
)

PACKAGES = ("deepme", "numpy", "torch")
CLASSES, GROUPS, IMAGES, BATCH = 21_841, 15, 2000, 250
KEPT, RANKS = (8, 32, 128), (1, 3, 5)


def drawn(rng: np.random.Generator, members: Members, labels: torch.Tensor) -> list:
    """What the experts say of a batch."""
    logits = []
    for t, size in enumerate(members.sizes):
        values = rng.normal(0, 1.5, (len(labels), size)).astype(np.float32)
        place = members.position_NT[labels, t].numpy()
        known = np.flatnonzero(place >= 0)
        values[known, place[known]] = rng.normal(7, 2, len(known))
        logits.append(values)
    return logits


def shortened(logits: list, members: Members, labels: torch.Tensor, kept: int) -> list:
    """The same through the compact form."""
    places = members.position_NT[labels].numpy().astype(np.int32)
    return [
        expand(
            compact(values, places[:, t], num_kept=kept), num_outputs=values.shape[1]
        )
        for t, values in enumerate(logits)
    ]


def judged(
    logits: list, members: Members, labels: torch.Tensor, gate: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """P, the true class's rank, and the gate's loss."""
    log_p = class_log_probabilities(
        list(map(torch.from_numpy, logits)), members=members
    )
    probabilities = [each.exp() for each in log_p]
    scores = fuse(probabilities, members=members, weights_BT=gate.softmax(dim=1))
    P_BN = normalize_scores(scores)  # noqa: N806
    true = true_log_probabilities(log_p, labels_B=labels, members=members)
    loss = likelihood(gate, log_probabilities=log_p, true_log_probability_BT=true)
    return P_BN, true_ranks(P_BN, labels_B=labels), float(loss)


def measure() -> dict[str, dict[str, Any]]:
    """Compare both forms, batch by batch."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    groups = [part.tolist() for part in np.array_split(np.arange(CLASSES), GROUPS)]
    members = Members.of(groups, num_classes=CLASSES)
    changed = {kept: np.zeros(len(RANKS)) for kept in KEPT}
    largest, loss = dict.fromkeys(KEPT, 0.0), dict.fromkeys(KEPT, 0.0)
    hits = np.zeros(len(RANKS))
    for _ in range(0, IMAGES, BATCH):
        labels = torch.from_numpy(rng.integers(0, CLASSES, BATCH))
        gate = torch.from_numpy(rng.normal(0, 1, (BATCH, GROUPS)).astype(np.float32))
        gate += 3 * members.holds(labels)
        logits = drawn(rng, members, labels)
        exact, rank, right = judged(logits, members, labels, gate)
        hits += [int((rank < k).sum()) for k in RANKS]
        for kept in KEPT:
            short = shortened(logits, members, labels, kept)
            found, other, wrong = judged(short, members, labels, gate)
            changed[kept] += [int(((rank < k) != (other < k)).sum()) for k in RANKS]
            largest[kept] = max(largest[kept], float((exact - found).abs().max()))
            loss[kept] = max(loss[kept], abs(right - wrong))
    rows: dict[str, dict[str, Any]] = {
        str(kept): {
            "bytes_an_image": GROUPS * (8 * kept + 17),
            **{
                f"hits_changed_at_{k}": changed[kept][i] / IMAGES
                for i, k in enumerate(RANKS)
            },
            "largest_difference": largest[kept],
            "loss_difference": loss[kept],
        }
        for kept in KEPT
    }
    rows["all (exact)"] = {
        "bytes_an_image": 4 * CLASSES + GROUPS,
        **{f"hits_at_{k}": hits[i] / IMAGES for i, k in enumerate(RANKS)},
    }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    rows = measure()
    record(
        "compact-outputs",
        command="python tests/benchmarks/compact_outputs.py",
        packages=PACKAGES,
        figures={
            "setting": {"classes": CLASSES, "experts": GROUPS, "images": IMAGES},
            "kept": rows,
        },
    )
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
