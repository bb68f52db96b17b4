"""Place new classes in the groups that are there (docs/extending.md)."""

# ruff: noqa: N803, N806
from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepme.affinity import estimator
from deepme.artifacts.groups import (
    Groups,
    GroupsContent,
    Memberships,
    groups_header,
    load_memberships,
    save_groups,
    save_memberships,
)
from deepme.artifacts.similarity import Similarity
from deepme.artifacts.split import save_split, split_header
from deepme.config import ClusterSettings
from deepme.core.clustering import SoftSpectralClustering
from deepme.core.fuzzy import fuzzy_memberships
from deepme.core.grouping import FloatArray, assign_groups, summarize_groups
from deepme.errors import UsageError
from deepme.images.hierarchies import named_folders
from deepme.images.index import Found, class_folders, find_images
from deepme.images.joining import join_images
from deepme.images.subsets import assign_subsets, given_subsets
from deepme.progress import note, progress
from deepme.steps import similarity
from deepme.text import clean, counted
from deepme.workspace import Workspace

LINKED = (
    *("*.h5", "*.json", "flat/*", "gate/*", "attention/*", "experts/*/*"),
    *("outputs/train/*", "outputs/val/*", "before/**/*"),
)
"""What ``before/`` holds of a workspace that is extended."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where the new classes went.

    Attributes:
        groups: the grouping with them.
        classes: the new classes.
        joined: group number -> the new classes in it; groups with none are left out.
    """

    groups: Groups
    classes: tuple[str, ...]
    joined: dict[int, tuple[str, ...]]


def run(earlier: Workspace, workspace: Workspace, *, data: Path) -> Placed:
    """Write similarity.h5, split.h5 and the groups of a workspace with new classes.

    The old classes keep their positions, groups, images and subsets. A new class goes
    where the clustering would put it: its similarities to the classes that were
    clustered place it in their embedding, that gives its memberships, and the δ in
    force its groups.

    Args:
        earlier: with groups by SSC and a split; nothing in it is changed.
        workspace: another one, which links what was there into its ``before/``.
        data: class folders (or tar files) of the new classes; those of old classes are
            passed over.

    Returns:
        The grouping, and what joined which group.

    Raises:
        UsageError: groups that were not made by SSC, a user's own matrix, no new
            class, or a workspace that holds something else.
        InputError: a class that the taxonomy does not know, or no image.
        ArtifactError: something of the earlier workspace is missing or stale.
    """
    _link(earlier, workspace)
    before = workspace.before
    old = before.groups()
    old_similarity = before.similarity()
    settings = old.origin.header.settings
    if settings["method"] != "ssc":
        raise UsageError(
            f"the groups were made by --method {settings['method']}, expected ssc: no "
            "other has a place for new classes",
            "begin anew with all classes",
        )
    added = _new_classes(data, old_similarity)
    extended = similarity.extend(old_similarity, workspace, added)
    with workspace.lock():
        _extend_split(before, workspace, extended, data, added)
        _extend_groups(before, workspace, extended)
    groups = workspace.groups()
    new = set(added)
    within = {
        group.number: tuple(name for name in group.classes if name in new)
        for group in groups.content.groups
    }
    joined = {number: names for number, names in within.items() if names}
    return Placed(groups=groups, classes=tuple(added), joined=joined)


def _link(earlier: Workspace, workspace: Workspace) -> None:
    """Have the earlier workspace below the new one, and nothing else in it."""
    if workspace.root.resolve() == earlier.root.resolve():
        raise UsageError(
            f"--out is the workspace {clean(str(earlier.root))} itself, expected "
            "another folder",
            "what is there stays as it is",
        )
    earlier.groups()
    before = workspace.before
    if workspace.groups_path.exists() and not before.groups_path.exists():
        raise UsageError(
            f"--out {clean(str(workspace.root))} holds a workspace that extends no "
            "other, expected a new folder"
        )
    before.adopt(earlier, *LINKED)
    if before.groups().origin.sha256 != earlier.groups().origin.sha256:
        raise UsageError(
            f"--out {clean(str(workspace.root))} extends other groups than those of "
            f"{clean(str(earlier.root))}, expected a new folder"
        )


def _new_classes(data: Path, old: Similarity) -> list[str]:
    hierarchy = old.hierarchy
    named = named_folders(data, hierarchy) if hierarchy else class_folders(data)
    known = set(old.classes)
    added = [name for name in named if name not in known]
    if not added:
        verb = "is" if len(named) == 1 else "are"
        raise UsageError(
            f"--data {clean(str(data))} holds no new class: its "
            f"{counted(len(named), 'class')} {verb} in the workspace",
            "give class folders of new classes",
        )
    return added


def _extend_split(
    before: Workspace,
    workspace: Workspace,
    extended: Similarity,
    data: Path,
    added: list[str],
) -> None:
    """Old images keep their rows and subsets; new ones are dealt as they were."""
    old = before.split(before.similarity().origin)
    first = len(extended.classes) - len(added)
    index = {name: first + position for position, name in enumerate(added)}
    with progress("indexing", None, "images") as advance:
        found = find_images(data, index, advance)
    recorded = old.origin.header.settings
    subset = _subsets(found, recorded)
    images = join_images(old.images, found.images)
    told = f"{recorded['fingerprint']} {found.fingerprint}"
    fingerprint = hashlib.sha256(told.encode()).hexdigest()
    header = split_header(
        extended.origin.header.classes,
        recorded | {"data": str(images.root), "fingerprint": fingerprint},
    )
    path = workspace.split_path
    if workspace.is_current(path, header):
        note(f"the split is up to date: {path}")
        return
    both = np.concatenate([old.subset, subset])
    save_split(path, header, images, both, len(extended.classes))


def _subsets(found: Found, recorded: dict[str, object]) -> NDArray[np.uint8]:
    shares = {name: recorded[name] for name in ("val", "seed")}
    if found.parts:
        return given_subsets(found.images, found.parts, **shares)  # type: ignore[arg-type]
    return assign_subsets(found.images, test=recorded["test"], **shares)  # type: ignore[arg-type]


def _extend_groups(
    before: Workspace, workspace: Workspace, extended: Similarity
) -> None:
    old = before.groups()
    settings = dict(old.origin.header.settings)
    clustered = settings.setdefault("clustered", old.num_classes)
    made_from = workspace.made_from(extended.origin)
    made_from |= {
        f"{before.root.name}/{name}": sha256
        for name, sha256 in before.made_from(old.origin).items()
    }
    header = groups_header(extended.origin.header.classes, settings, made_from)
    if workspace.is_current(workspace.groups_path, header):
        note(f"the groups are up to date: {workspace.groups_path}")
        return
    model = _refitted(before, settings)
    new_M = np.arange(old.num_classes, len(extended.classes))
    theta_MN = extended.theta_to_all(new_M)[:, :clustered]
    points_MT = model.embed(theta_MN)
    placed_MT = fuzzy_memberships(
        points_MT, model.cluster_centers_, fuzzifier=model.fuzzifier
    )
    memberships = _joined(before, old, points_MT, placed_MT)
    path = workspace.memberships_path
    digest = save_memberships(path, memberships, made_from, header.classes)
    complete = replace(header, made_from=made_from | {workspace.name_of(path): digest})
    content = _content(old.content, extended, memberships, placed_MT)
    save_groups(workspace.groups_path, complete, content)


def _refitted(before: Workspace, settings: dict[str, object]) -> SoftSpectralClustering:
    """The clustering of the classes that were clustered; fitting repeats itself."""
    first = before
    while first.before.groups_path.exists():
        first = first.before
    asked = {name: value for name, value in settings.items() if name != "clustered"}
    model = estimator(ClusterSettings(**asked))  # type: ignore[arg-type]
    return model.fit(first.similarity().affinity())


def _joined(
    before: Workspace, old: Groups, points_MT: FloatArray, placed_MT: FloatArray
) -> Memberships:
    found = load_memberships(before.memberships_path, old.num_classes, old.num_groups)
    return Memberships(
        p=np.vstack([found.p, placed_MT.astype(np.float32)]),
        embedding=np.vstack([found.embedding, points_MT.astype(np.float32)]),
        eigenvalues=found.eigenvalues,
    )


def _content(
    old: GroupsContent,
    extended: Similarity,
    memberships: Memberships,
    placed_MT: FloatArray,
) -> GroupsContent:
    """The old groups with the new classes after the old ones in each."""
    assert old.delta is not None, "groups by SSC are cut at some δ"
    assigned_MT = assign_groups(placed_MT, delta=old.delta)
    added = extended.classes[len(old.classes) :]
    groups = tuple(
        replace(
            group,
            classes=(
                *group.classes,
                *(added[row] for row in np.flatnonzero(assigned_MT[:, number])),
            ),
        )
        for number, group in enumerate(old.groups)
    )
    position = {name: row for row, name in enumerate(extended.classes)}
    assigned_NT = np.zeros(memberships.p.shape, dtype=bool)
    for number, group in enumerate(groups):
        assigned_NT[[position[name] for name in group.classes], number] = True
    summary = summarize_groups(assigned_NT, memberships.p, delta=old.delta)
    return GroupsContent(
        delta=old.delta,
        classes=extended.classes,
        names=extended.names,
        groups=groups,
        summary=old.summary
        | {
            "coverage": summary.coverage,
            "fallbacks": summary.num_fallbacks,
            "overlap": summary.overlap,
        },
    )
