"""The systems of the paper: a grouping, an expert objective and a fusion each."""

from __future__ import annotations

# (cluster --method, evaluate --fusion) -> the name people know it by.
_NAMES = {
    ("ssc", "gate"): "deepme",
    ("ssc", "equal"): "deepme-nogate",
    ("random", "gate"): "deepme-nossc",
    ("windows", "stacking"): "dmde",
    ("ssc", "max-logit"): "mixdcnn",
    ("confusion", "coarse"): "hd-cnn",
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
