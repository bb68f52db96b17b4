"""The systems of the paper: a grouping, an expert objective and a fusion each."""

from __future__ import annotations

# (cluster --method, evaluate --fusion) -> the name people know it by.
_NAMES = {
    ("ssc", "gate"): "deepme",
    ("ssc", "equal"): "deepme-nogate",
}


def system_name(method: str, fusion: str) -> str:
    """Name what is evaluated.

    Args:
        method: how the classes were grouped.
        fusion: how the experts are weighed.

    Returns:
        The paper's name where it has one, else ``METHOD-FUSION``.
    """
    return _NAMES.get((method, fusion), f"{method}-{fusion}")
