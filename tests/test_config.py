"""What two modules state each for itself must not drift apart."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from deepme.config import ClusterSettings, EvaluateSettings, GateSettings, SplitSettings
from deepme.core.clustering import SoftSpectralClustering
from deepme.core.gate_loss import GateLossWeights
from deepme.errors import UsageError


def test_the_gate_loss_has_the_command_lines_defaults() -> None:
    settings = asdict(GateSettings())
    for name, value in asdict(GateLossWeights()).items():
        assert settings[name] == value, name


def test_the_estimator_has_the_command_lines_fuzzifier() -> None:
    assert SoftSpectralClustering().fuzzifier == ClusterSettings().fuzzifier


@pytest.mark.parametrize("topk", [(), (0,), (1, 1), (1, -5)])
def test_ranks_are_different_and_positive(topk: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="--topk"):
        EvaluateSettings(topk=topk)


@pytest.mark.parametrize("fusion", [(), ("gates",), ("gate", "gate")])
def test_fusions_are_known_and_named_once(fusion: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--fusion"):
        EvaluateSettings(fusion=fusion)


def test_a_split_leaves_something_to_train_on() -> None:
    with pytest.raises(UsageError, match=r"val \+ test < 1"):
        SplitSettings(val=0.5, test=0.5)
