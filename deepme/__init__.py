"""Deep mixtures of experts for image classification with ten thousand classes.

The Python interface (docs/python.md): `load`, `evaluate`, `similarity`, `Classifier`,
`Mixture`, `SoftSpectralClustering`. Names are imported when they are first used, so
that ``import deepme`` takes no time.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "Classifier": "deepme.classifier",
    "Mixture": "deepme.mixture",
    "SoftSpectralClustering": "deepme.core.clustering",
    "evaluate": "deepme.interface",
    "load": "deepme.interface",
    "similarity": "deepme.interface",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name from where it is defined (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deepme' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted(__all__)
