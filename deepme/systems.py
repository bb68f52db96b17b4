"""The systems of Table 1, as data: each is a grouping, an expert objective, a fusion.

A system says only what differs from the recipe that all of them share; `comparison`
walks the table and trains what two of them have in common once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deepme.config import RECIPES

NEEDS_GATE = frozenset({"gate", "hard"})
"""The fusions that ask the gate."""

NEEDS_FLAT = frozenset({"flat", "coarse"})
"""The fusions that ask the flat network."""

NEEDS_NO_EXPERT = frozenset({"flat"})
"""The fusions without a mixture."""

WHOLE = frozenset({"flat", "attention"})
"""The fusions by one network over all classes, which ask no expert for its classes."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of the table.

    Attributes:
        label: for people.
        fusion: of ``evaluate``.
        cluster: settings of ``cluster`` that differ from the recipe.
        expert: settings of ``train-expert`` that differ.
        gate: settings of ``train-gate`` that differ.
        attention: settings of ``train-attention`` that differ.
        more_groups: added to the recipe's T.
        longer: factor on the recipe's epochs of the flat network.
        like_flat: whether experts are trained as the flat network is.
    """

    label: str
    fusion: str
    cluster: dict[str, Any] = field(default_factory=dict)
    expert: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    attention: dict[str, Any] = field(default_factory=dict)
    more_groups: int = 0
    longer: float = 1.0
    like_flat: bool = False


_PLAIN = {"lambda2": 0.0, "lambda3": 0.0}
"""Cross-entropy alone, with λ₁."""

_PAPER_GATE = RECIPES["paper"]["train-gate"]
"""The loss of Eq. 4, whose terms are taken away one by one."""

SYSTEMS = {
    "vgg16-ext": System(label="VGG16-Ext (one flat network)", fusion="flat"),
    "dmde": System(
        label="DMDE (our reconstruction)",
        fusion="stacking",
        cluster={"method": "windows"},
        expert={"lambda3": 0.0, "others": 0.5},
    ),
    "deepme-nossc": System(
        label="DeepME-NoSSC", fusion="gate", cluster={"method": "random"}
    ),
    "deepme-nogate": System(label="DeepME-NoGate", fusion="equal"),
    "deepme": System(label="DeepME", fusion="gate"),
    "mixdcnn": System(label="MixDCNN-style", fusion="max-logit", expert=_PLAIN),
    "hd-cnn": System(
        label="HD-CNN-style",
        fusion="coarse",
        cluster={"method": "confusion"},
        expert=_PLAIN,
    ),
    "hard": System(label="DeepME, hard routing", fusion="hard"),
    "oracle": System(label="DeepME, oracle gate", fusion="oracle"),
    "joint": System(
        label="DeepME, one head, joint training",
        fusion="attention",
        attention={"attention": "equal"},
    ),
    "attention-joint": System(
        label="DeepME, attention, joint training",
        fusion="attention",
        attention={"attention": "learned"},
    ),
    "features": System(
        label="DeepME, one head on all features",
        fusion="attention",
        attention={"epochs": 0, "attention": "equal"},
    ),
    "features-longer": System(
        label="DeepME, one head, twice the epochs of the flat network",
        fusion="attention",
        attention={"epochs": 0, "attention": "equal"},
        longer=2.0,
    ),
    "attention": System(
        label="DeepME, attention",
        fusion="attention",
        attention={"epochs": 0, "attention": "learned"},
    ),
    "coarse": System(label="DeepME, gate of the flat network", fusion="coarse"),
    "no-omega": System(
        label="DeepME without Ω", fusion="gate", expert={"lambda2": 0.0}
    ),
    "no-theta": System(
        label="DeepME without Θ", fusion="gate", expert={"lambda3": 0.0}
    ),
    "paper-gate": System(
        label="DeepME, the paper's gate loss", fusion="gate", gate=_PAPER_GATE
    ),
    "no-selection": System(
        label="the same without selection",
        fusion="gate",
        gate=_PAPER_GATE | {"selection": 0.0},
    ),
    "no-consistency": System(
        label="the same without consistency",
        fusion="gate",
        gate=_PAPER_GATE | {"consistency": 0.0},
    ),
    "no-margin": System(
        label="the same without margin",
        fusion="gate",
        gate=_PAPER_GATE | {"margin": 0.0},
    ),
    "gate-flat": System(
        label="DeepME, gate on the flat network", fusion="gate", gate={"input": "flat"}
    ),
    "gate-features": System(
        label="DeepME, gate on features", fusion="gate", gate={"input": "features"}
    ),
    "gate-confidences": System(
        label="DeepME, gate on features and confidences",
        fusion="gate",
        gate={"input": "confidences"},
    ),
    "gate-held-out": System(
        label="the same from held-out images",
        fusion="gate",
        gate={"input": "confidences", "learn_from": "val"},
    ),
    "gate-temperature": System(
        label="DeepME, temperatures learned",
        fusion="gate",
        gate={"temperature": "learned"},
    ),
    "others": System(
        label="DeepME, experts know of other groups",
        fusion="gate",
        expert={"others": 0.5},
    ),
    "no-overlap": System(
        label="DeepME without overlap", fusion="gate", cluster={"overlap": 1.0}
    ),
    "confusion": System(
        label="DeepME on confused groups",
        fusion="gate",
        cluster={"method": "confusion"},
    ),
    "flat-twice": System(label="flat, twice the epochs", fusion="flat", longer=2.0),
    "flat-longer": System(
        label="flat, three times the epochs", fusion="flat", longer=3.0
    ),
    "flat-ensemble": System(
        label="flat, as many as experts and gate",
        fusion="equal",
        cluster={"method": "single"},
        like_flat=True,
        more_groups=1,
    ),
}

PAPER = ("vgg16-ext", "dmde", "deepme-nossc", "deepme-nogate", "deepme")
"""The rows of the paper's Table 1."""

# (cluster --method, evaluate --fusion) -> the name people know it by.
_NAMES = {
    ("ssc", "gate"): "deepme",
    ("ssc", "equal"): "deepme-nogate",
    ("ssc", "attention"): "deepme-attention",
    ("random", "gate"): "deepme-nossc",
    ("windows", "stacking"): "dmde",
}


def system_name(method: str, fusion: str) -> str:
    """Name what is evaluated.

    Args:
        method: how the classes were grouped.
        fusion: how the experts are weighed; ``flat`` asks none of them.

    Returns:
        The paper's name where it has one, else ``METHOD-FUSION``.
    """
    if fusion == "flat":
        return "vgg16-ext"
    return _NAMES.get((method, fusion), f"{method}-{fusion}")
