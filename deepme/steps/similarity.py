"""similarity: how near the classes are to each other (method section 1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepme.artifacts.similarity import Similarity, save_similarity, similarity_header
from deepme.config import SimilaritySettings
from deepme.core.hierarchy import Hierarchy
from deepme.core.similarity import path_length_rows, theta_table
from deepme.core.taxonomy import Indices, Taxonomy
from deepme.errors import UsageError
from deepme.images.hierarchies import read_hierarchy
from deepme.images.matrices import read_matrix
from deepme.images.sources import ALL_NOUNS, read_classes, require_distinct
from deepme.progress import note, progress
from deepme.storage.header import Header
from deepme.taxonomies import taxonomy_of
from deepme.wordnet.choice import load_chosen
from deepme.workspace import Workspace


def run(
    settings: SimilaritySettings,
    workspace: Workspace,
    *,
    classes: str = "",
    matrix: str = "",
    hierarchy: str = "",
) -> Path:
    """Write similarity.h5.

    Args:
        settings: formula and WordNet.
        workspace: where to write.
        classes: a class list (`read_classes`), ``wordnet``, or empty with `matrix` or
            `hierarchy`.
        matrix: the user's own similarity matrix, or empty.
        hierarchy: the user's own hierarchy in place of WordNet, or empty; without
            `classes` its leaves are the classes.

    Returns:
        The path of similarity.h5.

    Raises:
        UsageError: none of the three, or two that exclude each other.
        InputError: an unknown class, a class named twice, an unreadable file.
    """
    _check_sources(settings, classes, matrix, hierarchy)
    with workspace.lock():
        if matrix:
            _save_matrix(workspace, Path(matrix), classes)
        elif hierarchy:
            _save_hierarchy(settings, workspace, Path(hierarchy), classes)
        else:
            _save_wordnet(settings, workspace, classes)
    return workspace.similarity_path


def extend(
    earlier: Similarity, workspace: Workspace, added: Sequence[str]
) -> Similarity:
    """Write similarity.h5 of the classes of another one and some more.

    Args:
        earlier: in WordNet or a user's hierarchy.
        workspace: where to write.
        added: further classes of the same taxonomy; they come after the others, so
            that positions in the class list stay.

    Returns:
        What was written.

    Raises:
        InputError: a class that the taxonomy does not know.
        UsageError: similarities of a user's own matrix.
    """
    taxonomy = taxonomy_of(earlier)
    if taxonomy is None:
        raise UsageError(
            "the similarities are a matrix of your own, expected WordNet or a "
            "hierarchy: nothing tells how near the new classes are",
            "begin anew with a larger `deepme similarity --matrix`",
        )
    classes = [*earlier.classes, *added]
    indices = taxonomy.index_of(classes)
    recorded = earlier.origin.header.settings
    settings = SimilaritySettings(formula=recorded["formula"])
    with workspace.lock():
        _save_paths(settings, workspace, taxonomy, classes, indices, recorded)
    return workspace.similarity()


def _check_sources(
    settings: SimilaritySettings, classes: str, matrix: str, hierarchy: str
) -> None:
    if not (classes or matrix or hierarchy):
        raise UsageError(
            "none of --classes, --hierarchy and --matrix is given, expected one",
            "for example --classes imagenet12k",
        )
    worlds = {"--matrix": matrix, "--hierarchy": hierarchy}
    worlds["--wordnet"] = settings.wordnet
    given = [option for option, value in worlds.items() if value]
    if len(given) > 1:
        raise UsageError(
            f"{' and '.join(given)} are given, expected one of them",
            "classes are in one world",
        )


def _save_wordnet(
    settings: SimilaritySettings, workspace: Workspace, source: str
) -> None:
    taxonomy = load_chosen(settings.wordnet)
    if source == ALL_NOUNS:
        indices = np.arange(len(taxonomy))
        classes = taxonomy.wnids(indices)
    else:
        classes = read_classes(source)
        indices = taxonomy.index_of(classes)
    recorded = settings.to_dict() | {
        # Absolute: cluster reads it again, perhaps from another folder.
        "wordnet": settings.wordnet and str(Path(settings.wordnet).absolute()),
        "wordnet_version": taxonomy.version,
        "wordnet_sha256": taxonomy.sha256,
        "depth": taxonomy.depth,
    }
    _save_paths(settings, workspace, taxonomy, classes, indices, recorded)


def _save_hierarchy(
    settings: SimilaritySettings, workspace: Workspace, path: Path, source: str
) -> None:
    hierarchy = read_hierarchy(path)
    if source:
        classes = read_classes(source, hierarchy)
    else:
        classes = hierarchy.wnids(hierarchy.leaves)
        require_distinct(classes, str(path))
    indices = hierarchy.index_of(classes)
    recorded = {
        "formula": settings.formula,
        "hierarchy": f"sha256:{hierarchy.sha256}",
        "depth": hierarchy.depth,
    }
    _save_paths(settings, workspace, hierarchy, classes, indices, recorded)


def _save_paths(
    settings: SimilaritySettings,
    workspace: Workspace,
    taxonomy: Taxonomy,
    classes: list[str],
    indices: Indices,
    recorded: dict[str, object],
) -> None:
    """Count the path lengths in a taxonomy, unless they are there already."""
    header = similarity_header(classes, recorded)
    if _is_up_to_date(workspace, header):
        return
    with progress("similarity", len(classes), "classes") as advance:
        save_similarity(
            workspace.similarity_path,
            header=header,
            classes=classes,
            names=[taxonomy.name(int(index)) for index in indices],
            rows=path_length_rows(taxonomy, indices),
            tables={
                name: theta_table(
                    taxonomy.depth, formula=settings.formula, scaled=scaled
                )
                for name, scaled in (
                    ("theta_of_path_length", True),
                    ("raw_theta_of_path_length", False),
                )
            },
            hierarchy=taxonomy if isinstance(taxonomy, Hierarchy) else None,
            advance=advance,
        )


def _save_matrix(workspace: Workspace, path: Path, classes: str) -> None:
    labels, theta = read_matrix(path, classes)
    digest = hashlib.sha256(theta.tobytes()).hexdigest()
    header = similarity_header(labels, {"matrix": f"sha256:{digest}"})
    if _is_up_to_date(workspace, header):
        return
    save_similarity(
        workspace.similarity_path,
        header=header,
        classes=labels,
        names=labels,
        rows=[(slice(0, len(theta)), theta)],
        tables=None,
    )


def _is_up_to_date(workspace: Workspace, header: Header) -> bool:
    current = workspace.is_current(workspace.similarity_path, header)
    if current:
        note(f"the similarity is up to date: {workspace.similarity_path}")
    return current
