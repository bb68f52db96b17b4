"""The WordNet a user asked for: the built-in one, or one read through NLTK."""

from __future__ import annotations

from pathlib import Path

from deepme.core.taxonomy import Taxonomy
from deepme.wordnet import load_builtin
from deepme.wordnet.nltk_reader import load_wordnet


def load_chosen(directory: str) -> Taxonomy:
    """Load a taxonomy.

    Args:
        directory: a folder for NLTK, or empty for the built-in WordNet 3.0.

    Raises:
        InputError: no readable WordNet there.
    """
    return load_wordnet(Path(directory)) if directory else load_builtin()
