"""cluster: divide the classes into overlapping groups (method section 2)."""

# ruff: noqa: N806
from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.groups import (
    Group,
    GroupsContent,
    Memberships,
    groups_header,
    save_groups,
    save_memberships,
)
from deepme.artifacts.similarity import Similarity
from deepme.config import ClusterSettings
from deepme.core.clustering import SoftSpectralClustering
from deepme.core.grouping import (
    assign_groups,
    cap_group_sizes,
    delta_for_overlap,
    medoid,
    summarize_groups,
)
from deepme.core.taxonomy import best_covering_synset, descendant_counts
from deepme.errors import UsageError
from deepme.progress import note
from deepme.storage.header import Header
from deepme.wordnet.choice import load_chosen
from deepme.workspace import Workspace

TINY = 2
"""A group of fewer classes gives its expert nothing to tell apart."""


def run(settings: ClusterSettings, workspace: Workspace) -> GroupsContent:
    """Write memberships.h5 and groups.json.

    Args:
        settings: method, T, δ and the like.
        workspace: with similarity.h5.

    Returns:
        What groups.json holds; `concerns` tells what to know before training.

    Raises:
        UsageError: T larger than the number of classes, an overlap larger than T, or
            a T for which some group stays empty.
    """
    similarity = workspace.similarity()
    _check_counts(settings, len(similarity.classes))
    header = groups_header(
        similarity.origin.header.classes,
        settings.to_dict(),
        workspace.made_from(similarity.origin),
    )
    with workspace.lock():
        if workspace.is_current(workspace.groups_path, header):
            note(f"the groups are up to date: {workspace.groups_path}")
            return workspace.groups().content
        model = SoftSpectralClustering(
            settings.num_groups,
            affinity="precomputed",
            fuzzifier=settings.fuzzifier,
            random_state=settings.seed,
        )
        model.fit(_affinity(similarity))
        content = _content(similarity, settings, model)
        _save(workspace, header, content, model)
    return content


def concerns(settings: ClusterSettings, content: GroupsContent) -> list[str]:
    """Say what the user should know before training on these groups."""
    sizes = {group.number: len(group.classes) for group in content.groups}
    tiny = [number for number, size in sizes.items() if size < TINY]
    large = [number for number, size in sizes.items() if size > settings.max_classes]
    found = []
    if content.summary["collapsed"]:
        found.append(
            "the memberships collapsed: all classes belong about equally to all "
            f"groups; use a --fuzzifier below {settings.fuzzifier:g}"
        )
    if tiny:
        found.append(
            f"groups {_numbers(tiny)} have fewer than {TINY} classes; use a smaller --T"
        )
    if large:
        found.append(
            f"groups {_numbers(large)} have more than --max-classes "
            f"{settings.max_classes:,} classes of their own; use a larger --T"
        )
    return found


def _check_counts(settings: ClusterSettings, num_classes: int) -> None:
    if settings.num_groups > num_classes:
        raise UsageError(
            f"--T is {settings.num_groups:,}, expected at most the {num_classes:,} "
            "classes of similarity.h5"
        )
    if settings.overlap is not None and settings.overlap > settings.num_groups:
        raise UsageError(
            f"--overlap is {settings.overlap:g}, expected at most --T "
            f"{settings.num_groups}"
        )


def _affinity(similarity: Similarity) -> NDArray[np.float32]:
    """Θ with its diagonal zeroed, as spectral clustering wants it."""
    theta_NN = similarity.theta()
    np.fill_diagonal(theta_NN, 0)
    return theta_NN


def _content(
    similarity: Similarity, settings: ClusterSettings, model: SoftSpectralClustering
) -> GroupsContent:
    memberships_NT = model.memberships_
    delta = settings.delta
    if settings.overlap is not None:
        delta = delta_for_overlap(memberships_NT, overlap=settings.overlap)
    assigned_NT = cap_group_sizes(
        assign_groups(memberships_NT, delta=delta),
        memberships_NT,
        max_classes=settings.max_classes,
    )
    summary = summarize_groups(assigned_NT, memberships_NT, delta=delta)
    if summary.empty_groups:
        raise UsageError(
            f"--T {settings.num_groups} leaves {len(summary.empty_groups)} groups "
            "without a class",
            f"use --T {summary.num_filled} or a smaller --delta",
        )
    members = [np.flatnonzero(column) for column in assigned_NT.T]
    names = _group_names(similarity, members)
    groups = tuple(
        Group(
            number=number,
            name=name,
            classes=tuple(similarity.classes[index] for index in indices),
        )
        for number, (name, indices) in enumerate(
            zip(names, members, strict=True), start=1
        )
    )
    return GroupsContent(
        delta=delta,
        classes=similarity.classes,
        names=similarity.names,
        groups=groups,
        summary={
            "coverage": summary.coverage,
            "fallbacks": summary.num_fallbacks,
            "overlap": summary.overlap,
            "collapsed": float(model.collapsed_),
        },
    )


def _group_names(similarity: Similarity, members: list[NDArray[np.int64]]) -> list[str]:
    """Name each group by the synset that fits it best, or by its medoid."""
    if similarity.theta_of_path_length is None:
        return [
            similarity.names[indices[medoid(similarity.theta(indices))]]
            for indices in members
        ]
    taxonomy = load_chosen(str(similarity.origin.header.settings["wordnet"]))
    synsets_N = taxonomy.index_of(list(similarity.classes))
    counts_S = descendant_counts(taxonomy, synsets_N)
    best = [
        best_covering_synset(taxonomy, synsets_N[indices], class_counts_S=counts_S)[0]
        for indices in members
    ]
    return _told_apart([taxonomy.name(synset) for synset in best], similarity, members)


def _told_apart(
    names: list[str], similarity: Similarity, members: list[NDArray[np.int64]]
) -> list[str]:
    """Add its medoid to a name that several groups have."""
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name}: {similarity.names[indices[medoid(similarity.theta(indices))]]}"
        if name in repeated
        else name
        for name, indices in zip(names, members, strict=True)
    ]


def _save(
    workspace: Workspace,
    header: Header,
    content: GroupsContent,
    model: SoftSpectralClustering,
) -> None:
    memberships = Memberships(
        p=model.memberships_.astype(np.float32),
        embedding=model.embedding_.astype(np.float32),
        eigenvalues=model.eigenvalues_.astype(np.float64),
    )
    path = workspace.memberships_path
    sha256 = save_memberships(path, memberships, header.made_from, header.classes)
    made_from = header.made_from | {workspace.name_of(path): sha256}
    complete = replace(header, made_from=made_from)
    save_groups(workspace.groups_path, complete, content)


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
