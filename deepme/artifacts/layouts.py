"""Which layout of each kind of artifact this version reads."""

from __future__ import annotations

from deepme.artifacts import (
    calibration,
    comparison,
    evaluation,
    expert,
    features,
    groups,
    outputs,
    routing,
    selection,
    similarity,
    split,
)

LAYOUTS = {
    **{
        module.KIND: module.SCHEMA
        for module in (
            *(calibration, comparison, evaluation, expert, features, groups, outputs),
            *(routing, selection, similarity, split),
        )
    },
    **dict.fromkeys(("flat", "gate", "attention"), expert.SCHEMA),
    evaluation.COUNTS_KIND: evaluation.COUNTS_SCHEMA,
    expert.OMEGA_KIND: expert.OMEGA_SCHEMA,
    expert.WEIGHTS_KIND: expert.WEIGHTS_SCHEMA,
    groups.MEMBERSHIPS_KIND: groups.MEMBERSHIPS_SCHEMA,
}
"""Kind -> ``schema_version``; of what can be made anew from the rest of a workspace."""
