"""The settings of all stages together."""

from __future__ import annotations

from dataclasses import dataclass

from deepme.config import (
    AttentionSettings,
    ClusterSettings,
    EvaluateSettings,
    ExpertSettings,
    FlatSettings,
    GateSettings,
    MachineSettings,
    SimilaritySettings,
    SplitSettings,
)
from deepme.systems import NEEDS_FLAT, NEEDS_GATE, NEEDS_NO_EXPERT


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of every stage.

    Attributes:
        similarity: of the class list and Θ.
        cluster: of the groups.
        split: of the subsets.
        flat: of the network over all classes.
        expert: of the experts.
        gate: of the gate.
        attention: of the attention over all experts.
        evaluate: of what is measured.
        machine: of devices, processes and unreadable images.
    """

    similarity: SimilaritySettings
    cluster: ClusterSettings
    split: SplitSettings
    flat: FlatSettings
    expert: ExpertSettings
    gate: GateSettings
    attention: AttentionSettings
    evaluate: EvaluateSettings
    machine: MachineSettings

    @property
    def needs_flat(self) -> bool:
        """Whether any stage builds on the flat network."""
        return (
            self.cluster.method == "confusion"
            or "flat" in (self.expert.weights, self.gate.weights, self.gate.input)
            or not NEEDS_FLAT.isdisjoint(self.evaluate.fusion)
        )

    def builds_on_flat(self, fusion: str) -> bool:
        """Say whether anything that a fusion asks is made with the flat network."""
        return (
            fusion in NEEDS_FLAT
            or self.cluster.method == "confusion"
            or (fusion not in NEEDS_NO_EXPERT and self.expert.weights == "flat")
            or (fusion in NEEDS_GATE and "flat" in (self.gate.weights, self.gate.input))
        )
