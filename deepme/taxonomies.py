"""The taxonomy behind a similarity.h5: WordNet, another WordNet, or a user's own."""

from __future__ import annotations

from deepme.artifacts.similarity import Similarity
from deepme.core.taxonomy import Taxonomy
from deepme.errors import ArtifactError
from deepme.text import clean
from deepme.wordnet.choice import load_chosen


def taxonomy_of(similarity: Similarity) -> Taxonomy | None:
    """Load the taxonomy that path lengths were counted in.

    Args:
        similarity: the artifact; its class ids are what the taxonomy's ``index_of``
            takes.

    Returns:
        The taxonomy, or None where similarities are a user's matrix.

    Raises:
        InputError: the other WordNet is gone.
        ArtifactError: it is no longer the one it was.
    """
    if similarity.theta_of_path_length is None:
        return None
    if similarity.hierarchy is not None:
        return similarity.hierarchy
    settings = similarity.origin.header.settings
    directory = str(settings["wordnet"])
    taxonomy = load_chosen(directory)
    if directory and taxonomy.sha256 != settings["wordnet_sha256"]:
        raise ArtifactError(
            f"the WordNet in {clean(directory)} is not the one that "
            f"{similarity.origin.path.name} was made with",
            "rerun `deepme similarity`",
        )
    return taxonomy
