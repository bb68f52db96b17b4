"""Deep mixtures of experts for image classification with ten thousand classes."""

__version__ = "0.1.0"
