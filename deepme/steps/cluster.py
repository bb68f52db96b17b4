"""cluster: divide the classes into overlapping groups (method section 2)."""

# ruff: noqa: N806
from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepme.affinity import TINY, affinity, estimator
from deepme.artifacts.groups import (
    Group,
    GroupsContent,
    Memberships,
    groups_header,
    save_groups,
    save_memberships,
)
from deepme.artifacts.origin import Origin
from deepme.artifacts.similarity import Similarity
from deepme.config import ClusterSettings, MachineSettings
from deepme.core.methods import (
    Grouping,
    cluster_softly,
    deal_anew,
    with_equal_memberships,
)
from deepme.core.taxonomy import best_covering_synset, descendant_counts
from deepme.core.windows import linkage_order, walk_order, window_groups
from deepme.errors import UsageError
from deepme.progress import note
from deepme.storage.header import Header
from deepme.taxonomies import taxonomy_of
from deepme.workspace import Workspace

# Groups without a meaning that a synset or a medoid could name.
_NAMES = {"random": "random classes", "single": "all classes"}


def run(
    settings: ClusterSettings,
    machine: MachineSettings,
    workspace: Workspace,
) -> GroupsContent:
    """Write memberships.h5 and groups.json.

    Args:
        settings: method, T, δ and the like.
        machine: where the flat network is asked for its confusions.
        workspace: with similarity.h5; for method confusion also split.h5 and the flat
            network.

    Returns:
        What groups.json holds; `concerns` tells what to know before training.

    Raises:
        UsageError: T larger than the number of classes, an overlap larger than T, or
            a T for which some group stays empty.
        ArtifactError: similarity.h5 or the flat network is missing or stale.
        InputError: method confusion without a validation image.
    """
    similarity = workspace.similarity()
    settings = _in_force(settings)
    _check_counts(settings, len(similarity.classes))
    header = groups_header(
        similarity.origin.header.classes,
        settings.to_dict(),
        workspace.made_from(*_sources(settings, workspace, similarity)),
    )
    with workspace.lock():
        if workspace.is_current(workspace.groups_path, header):
            note(f"the groups are up to date: {workspace.groups_path}")
            return workspace.groups().content
        grouping = _group(settings, workspace, similarity, machine)
        content = _content(similarity, settings, grouping)
        _save(workspace, header, content, grouping)
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
    if large and settings.method != "single":
        own = "" if settings.method == "windows" else " of their own"
        found.append(
            f"groups {_numbers(large)} have more than --max-classes "
            f"{settings.max_classes:,} classes{own}; use a larger --T"
        )
    return found


def _in_force(settings: ClusterSettings) -> ClusterSettings:
    """Fill in the overlap of windows, so that the header records it."""
    if settings.method != "windows" or settings.overlap is not None:
        return settings
    overlap = min(settings.windows_overlap, settings.num_groups)
    return replace(settings, overlap=float(overlap))


def _check_counts(settings: ClusterSettings, num_classes: int) -> None:
    if settings.method == "single":
        return
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


def _sources(
    settings: ClusterSettings, workspace: Workspace, similarity: Similarity
) -> list[Origin]:
    """What the groups are made from."""
    if settings.method == "confusion":
        return [similarity.origin, workspace.flat().origin]
    return [similarity.origin]


def _group(
    settings: ClusterSettings,
    workspace: Workspace,
    similarity: Similarity,
    machine: MachineSettings,
) -> Grouping:
    num_groups = settings.num_groups
    if settings.method == "single":
        shape = (len(similarity.classes), num_groups)
        return with_equal_memberships(np.ones(shape, dtype=bool))
    if settings.method == "windows":
        assert settings.overlap is not None
        order_N = _order(similarity)
        return with_equal_memberships(
            window_groups(order_N, num_groups, overlap=settings.overlap)
        )
    grouping = cluster_softly(
        estimator(settings),
        affinity(settings, workspace, similarity, machine),
        delta=settings.delta,
        overlap=settings.overlap,
        max_classes=settings.max_classes,
    )
    if settings.method == "random":
        return deal_anew(grouping, seed=settings.seed)
    return grouping


def _order(similarity: Similarity) -> NDArray[np.int64]:
    """The order that windows are laid over; similar classes are near in it."""
    taxonomy = taxonomy_of(similarity)
    if taxonomy is None:
        return linkage_order(similarity.theta())
    return walk_order(taxonomy, taxonomy.index_of(similarity.classes))


def _content(
    similarity: Similarity, settings: ClusterSettings, grouping: Grouping
) -> GroupsContent:
    summary = grouping.summarize()
    if summary.empty_groups:
        raise UsageError(
            f"--T {settings.num_groups} leaves {len(summary.empty_groups)} groups "
            "without a class",
            f"use --T {summary.num_filled} or a smaller --delta",
        )
    members = [np.flatnonzero(column) for column in grouping.assigned_NT.T]
    names = _group_names(similarity, settings.method, members)
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
        delta=grouping.delta,
        classes=similarity.classes,
        names=similarity.names,
        groups=groups,
        summary={
            "coverage": summary.coverage,
            "fallbacks": summary.num_fallbacks,
            "overlap": summary.overlap,
            "collapsed": float(grouping.collapsed),
        },
    )


def _group_names(
    similarity: Similarity, method: str, members: list[NDArray[np.int64]]
) -> list[str]:
    """Name each group by the synset that fits it best, or by its medoid."""
    if method in _NAMES:
        return [_NAMES[method]] * len(members)
    taxonomy = taxonomy_of(similarity)
    if taxonomy is None:
        return [similarity.names[similarity.medoid(indices)] for indices in members]
    synsets_N = taxonomy.index_of(similarity.classes)
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
        f"{name}: {similarity.names[similarity.medoid(indices)]}"
        if name in repeated
        else name
        for name, indices in zip(names, members, strict=True)
    ]


def _save(
    workspace: Workspace,
    header: Header,
    content: GroupsContent,
    grouping: Grouping,
) -> None:
    memberships = Memberships(
        p=grouping.memberships_NT.astype(np.float32),
        embedding=grouping.embedding_NE.astype(np.float32),
        eigenvalues=grouping.eigenvalues_E.astype(np.float64),
    )
    path = workspace.memberships_path
    sha256 = save_memberships(path, memberships, header.made_from, header.classes)
    made_from = header.made_from | {workspace.name_of(path): sha256}
    complete = replace(header, made_from=made_from)
    save_groups(workspace.groups_path, complete, content)


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
