"""The task of training attention over all experts at once (method section 4)."""

from __future__ import annotations

from typing import Any

from deepme.config import AttentionSettings
from deepme.networks import AttentionNetwork
from deepme.training.classifier import ClassifierTask
from deepme.training.run import Stage


class AttentionTask(ClassifierTask[AttentionSettings]):
    """Cross-entropy over all classes, with λ₁'s ridge on the head.

    Args:
        arguments: as for `ClassifierTask`, with an `AttentionNetwork`.

    Attributes:
        network: what is trained.
    """

    network: AttentionNetwork

    def start(self, stage: Stage) -> list[dict[str, Any]]:
        """Warm-up trains attention and head, joint training the experts as well."""
        groups = super().start(stage)
        if self.network.attention:
            attention = {
                "params": self.network.attention.parameters(),
                "momentum": self.settings.momentum,
                "weight_decay": self.settings.weight_decay,
            }
            groups.append(attention)
        return groups
