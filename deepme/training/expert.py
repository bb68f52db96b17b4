"""The task of training one expert by Eq. 1 (method section 3)."""

# ruff: noqa: N803, N806
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepme import ranks
from deepme.config import ExpertSettings
from deepme.core.regularizers import (
    ClassMeans,
    blend,
    expert_objective,
    normalized_laplacian,
    visual_similarity,
)
from deepme.training.classifier import ClassifierTask


class ExpertTask(ClassifierTask[ExpertSettings]):
    """One group's network, its images and Eq. 1.

    Args:
        settings: network, objective and schedule.
        theta: (C, C) float32, the classes' semantic similarity.
        arguments: as for `ClassifierTask`.
    """

    def __init__(
        self, settings: ExpertSettings, *arguments: Any, theta: NDArray[np.float32],
        **options: Any,
    ) -> None:  # fmt: skip
        """Begin with Ω zero: untrained features say nothing of the classes."""
        super().__init__(settings, *arguments, **options)
        self.laplacian_theta = normalized_laplacian(self._move(torch.from_numpy(theta)))
        self.omega = torch.zeros_like(self.laplacian_theta)
        self.omega_epochs = torch.zeros((), dtype=torch.int64)
        self.laplacian_omega = normalized_laplacian(self.omega)
        self.means = self._no_means()

    def objective(
        self, logits_BC: Tensor, features_Bd: Tensor, labels_B: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute Eq. 1, and gather the features for the next Ω."""
        own_B = labels_B < self.num_classes
        self.means.update(features_Bd[own_B], labels_B=labels_B[own_B])
        return expert_objective(
            logits_BC=logits_BC,
            labels_B=labels_B,
            weight_Cd=self.network.head.weight[: self.num_classes],
            laplacian_omega=self.laplacian_omega,
            laplacian_theta=self.laplacian_theta,
            lambda1=self.settings.lambda1,
            lambda2=self.settings.lambda2,
            lambda3=self.settings.lambda3,
        )

    def end_epoch(self) -> None:
        """Renew Ω from the epoch's class means; there is none before the first."""
        parts = self.means.state_dict().items()
        means = ClassMeans(**{key: ranks.summed(value) for key, value in parts})
        newest = visual_similarity(means.means(), seen_C=means.seen())
        momentum = self.settings.omega_momentum if self.omega_epochs else 0.0
        self.omega = blend(self.omega, newest, momentum=momentum)
        self.omega_epochs += 1
        self.laplacian_omega = normalized_laplacian(self.omega)
        self.means = self._no_means()

    def state(self) -> dict[str, Tensor]:
        """Ω and the class means of the unfinished epoch."""
        means = {
            f"means.{key}": value for key, value in self.means.state_dict().items()
        }
        return {"omega": self.omega, "omega_epochs": self.omega_epochs, **means}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned."""
        self.omega = self._move(state["omega"])
        self.omega_epochs = state["omega_epochs"]
        self.laplacian_omega = normalized_laplacian(self.omega)
        means = {key: state[f"means.{key}"] for key in self.means.state_dict()}
        self.means = ClassMeans(**{k: self._move(v) for k, v in means.items()})

    def _no_means(self) -> ClassMeans:
        return ClassMeans.zeros(
            self.num_classes,
            width=self.network.head.in_features,
            device=self.compute.device,
        )
