"""similarity: how near the classes are to each other (method section 1)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from deepme.artifacts.similarity import save_similarity, similarity_header
from deepme.config import SimilaritySettings
from deepme.core.similarity import path_length_rows, theta_table
from deepme.errors import UsageError
from deepme.images.matrices import read_matrix
from deepme.images.sources import ALL_NOUNS, read_classes
from deepme.progress import note, progress
from deepme.storage.header import Header
from deepme.wordnet.choice import load_chosen
from deepme.workspace import Workspace


def run(
    settings: SimilaritySettings, workspace: Workspace, *, classes: str, matrix: str
) -> Path:
    """Write similarity.h5.

    Args:
        settings: formula and WordNet.
        workspace: where to write.
        classes: a class list (`read_classes`), ``wordnet``, or empty with `matrix`.
        matrix: the user's own similarity matrix, or empty.

    Returns:
        The path of similarity.h5.

    Raises:
        UsageError: neither classes nor matrix.
        InputError: an unknown wnid, a class named twice, an unreadable file.
    """
    if not classes and not matrix:
        raise UsageError(
            "neither --classes nor --matrix is given, expected one of them",
            "for example --classes imagenet12k",
        )
    with workspace.lock():
        if matrix:
            _save_matrix(workspace, Path(matrix), classes)
        else:
            _save_wordnet(settings, workspace, classes)
    return workspace.similarity_path


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
