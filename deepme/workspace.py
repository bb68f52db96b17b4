"""The folder in which a user's artifacts live: names, lineage and the writer's lock.

Every artifact's header names the files it was made from, by path within the
workspace and sha256. A stage loads its inputs through this class, which compares
them: an artifact whose inputs have changed since is stale, and the error names the
command that makes it anew.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from deepme.artifacts.evaluation import Evaluation, load_evaluation
from deepme.artifacts.expert import Expert, load_training
from deepme.artifacts.groups import Groups, load_groups
from deepme.artifacts.origin import Origin, digest_of, origin_of
from deepme.artifacts.similarity import Similarity, load_similarity
from deepme.artifacts.split import Split, load_split
from deepme.errors import ArtifactError, EnvironmentFault
from deepme.progress import detail, note
from deepme.storage.atomic import atomic_write, cannot_write, sweep
from deepme.storage.header import Header, reading
from deepme.text import clean

LOCK_SECONDS = 2.0
"""A refusal is promised within 3 s; on a busy machine the last sleep takes longer."""

_COMMANDS = {
    "similarity.h5": "deepme similarity --classes SOURCE",
    "groups.json": "deepme cluster",
    "memberships.h5": "deepme cluster",
    "selection.json": "deepme cluster --select",
    "split.h5": "deepme split --data IMAGES",
    "flat": "deepme train-flat",
    "features": "deepme train-gate",
    "gate": "deepme train-gate",
    "routing.json": "deepme route",
    "attention": "deepme train-attention",
    "calibration": "deepme evaluate",
    "evaluation": "deepme evaluate",
    "before": "deepme extend",
}


@dataclass(frozen=True)
class Workspace:
    """Paths, locks and checked loads below one folder.

    Attributes:
        root: the folder; made by the first writer.
    """

    root: Path

    @property
    def before(self) -> Workspace:
        """The workspace that this one extends, linked into it by ``extend``."""
        return Workspace(self.root / "before")

    @property
    def similarity_path(self) -> Path:
        """similarity.h5."""
        return self.root / "similarity.h5"

    @property
    def groups_path(self) -> Path:
        """groups.json."""
        return self.root / "groups.json"

    @property
    def memberships_path(self) -> Path:
        """memberships.h5."""
        return self.root / "memberships.h5"

    @property
    def selection_path(self) -> Path:
        """selection.json."""
        return self.root / "selection.json"

    @property
    def split_path(self) -> Path:
        """split.h5."""
        return self.root / "split.h5"

    @property
    def flat_path(self) -> Path:
        """flat/training.json."""
        return self.root / "flat" / "training.json"

    @property
    def gate_path(self) -> Path:
        """gate/training.json."""
        return self.root / "gate" / "training.json"

    @property
    def routing_path(self) -> Path:
        """routing.json."""
        return self.root / "routing.json"

    @property
    def attention_path(self) -> Path:
        """attention/training.json."""
        return self.root / "attention" / "training.json"

    def expert_path(self, number: int) -> Path:
        """training.json of a group's expert."""
        return self.root / "experts" / f"{number:02d}" / "training.json"

    def outputs_path(self, subset: str, network: Expert) -> Path:
        """What a network says of a subset's images, by the folder it lies in."""
        return self.root / "outputs" / subset / f"{network.origin.path.parent.name}.h5"

    def features_path(self, subset: str, network: Expert | None = None) -> Path:
        """Features of a subset's images: of the frozen trunk, or of a network."""
        name = f"{subset}-{network.origin.path.parent.name}" if network else subset
        return self.root / "features" / f"{name}.h5"

    def calibration_path(
        self, fusion: str, top: int | None = None, least: float = 0.0
    ) -> Path:
        """The temperature of a way to answer; a gate's that asks few has its own."""
        name = fusion
        if top is not None:
            name += f"-top{top}"
        if least > 0:
            name += f"-least{least:g}"
        return self.root / "calibration" / f"{name}.json"

    def evaluation_path(self, system: str) -> Path:
        """A system's result."""
        return self.root / "evaluation" / f"{system}.json"

    def figure_path(self, name: str) -> Path:
        """A figure."""
        return self.root / "figures" / name

    @property
    def report_path(self) -> Path:
        """report.html."""
        return self.root / "report.html"

    def name_of(self, path: Path) -> str:
        """A file's path within the workspace, as headers record it."""
        return path.relative_to(self.root).as_posix()

    def command_for(self, path: Path) -> str:
        """The command that makes a file."""
        parts = path.relative_to(self.root).parts
        if parts[0] == "experts":
            return f"deepme train-expert --group {int(parts[1])}"
        if parts[0] == "outputs":
            return "deepme evaluate" if parts[1] == "test" else "deepme train-gate"
        if parts[0] == "features" and "-" in parts[1]:
            return "deepme train-attention"
        return _COMMANDS[parts[0]]

    def similarity(self) -> Similarity:
        """Load similarity.h5."""
        self._require(self.similarity_path)
        return load_similarity(self.similarity_path)

    def groups(self) -> Groups:
        """Load groups.json and check that it is made from this similarity.h5."""
        self._require(self.groups_path)
        groups = load_groups(self.groups_path)
        self._check(groups.origin)
        return groups

    def split(self, parent: Origin) -> Split:
        """Load split.h5 and check that it has the class list of another artifact."""
        self._require(self.split_path)
        split = load_split(self.split_path)
        if split.origin.header.classes != parent.header.classes:
            raise ArtifactError(
                f"{self._show(self.split_path)} was made for another class list than "
                f"{parent.path.name}",
                "rerun `deepme split --data IMAGES`",
            )
        return split

    def expert(self, number: int) -> Expert:
        """Load a group's expert and check what it was made from."""
        self._require(self.expert_path(number))
        expert = load_training(self.expert_path(number))
        self._check(expert.origin)
        return expert

    def flat(self) -> Expert:
        """Load the flat network's training.json and check what it was made from."""
        self._require(self.flat_path)
        flat = load_training(self.flat_path, kind="flat")
        self._check(flat.origin)
        return flat

    def gate(self) -> Expert:
        """Load the gate's training.json and check what it was made from."""
        self._require(self.gate_path)
        gate = load_training(self.gate_path, kind="gate")
        self._check(gate.origin)
        return gate

    def attention(self) -> Expert:
        """Load attention's training.json and check what it was made from."""
        self._require(self.attention_path)
        attention = load_training(self.attention_path, kind="attention")
        self._check(attention.origin)
        return attention

    def earlier(self, path: Path) -> Expert:
        """Load what a network was before the workspace was extended.

        Args:
            path: training.json of the network in this workspace.

        Returns:
            The network of that place in `before`, its lineage told from here.
        """
        before = self.before
        there = before.root / self.name_of(path)
        before._require(there)
        kind = {self.gate_path: "gate", self.flat_path: "flat"}.get(path, "expert")
        found = load_training(there, kind)
        before._check(found.origin)
        prefix = before.root.name
        lineage = found.origin.header.made_from.items()
        made_from = {f"{prefix}/{name}": sha256 for name, sha256 in lineage}
        header = replace(found.origin.header, made_from=made_from)
        return replace(found, origin=replace(found.origin, header=header))

    def evaluations(self) -> list[Evaluation]:
        """Load every system's result, by name, and check what each was made from."""
        found = (self.root / "evaluation").glob("*.json")
        paths = sorted(found, key=lambda path: path.stem)
        if not paths:
            raise ArtifactError(
                f"{clean(str(self.root))} holds no evaluation", "run `deepme evaluate`"
            )
        results = [load_evaluation(path) for path in paths]
        for result in results:
            self._check(result.origin)
        return results

    def made_from(self, *origins: Origin) -> dict[str, str]:
        """The lineage of something made from loaded artifacts, back to its roots.

        With all ancestors in it, one level of comparing finds any change upstream.
        """
        lineage: dict[str, str] = {}
        for origin in origins:
            lineage |= origin.header.made_from
            lineage[self.name_of(origin.path)] = origin.sha256
        return lineage

    def is_current(self, path: Path, *expected: Header) -> bool:
        """Whether a file is intact and made by these settings from these inputs.

        Args:
            path: the artifact.
            expected: what its header would be if it were made now, or several that
                serve; may leave out of their lineage what the stage itself writes
                beside the file.
        """
        why = self.why_not_current(path, *expected)
        if why:
            detail(f"to be made: {self.name_of(path)}, since {why}")
        return not why

    def why_not_current(self, path: Path, *expected: Header) -> str:
        """Say what keeps a file from being what would be made now, as `is_current`.

        Returns:
            That it is missing or corrupt, the first setting that differs, or the first
            input that has changed; empty if it is current.
        """
        if not path.exists():
            return "it is missing"
        try:
            header = origin_of(path).header
        except ArtifactError:
            return "it is corrupt"
        reasons = [_difference(header, other) for other in expected]
        changed = self.changed(header.made_from)
        if all(reasons):
            return f"{changed} has changed" if changed else reasons[0]
        return changed and f"{changed} has changed"

    @contextmanager
    def lock(
        self, folder: Path | None = None, *, patient: bool = False
    ) -> Iterator[None]:
        """Hold the writer's lock of the workspace, or of one expert's folder.

        Experts have locks of their own, since they are trained side by side. The lock
        dies with its holder. What killed writers left behind is swept.

        Args:
            folder: below the workspace, or the workspace itself.
            patient: wait for whoever holds it, as long as it takes.

        Raises:
            EnvironmentFault: someone else holds it; the message names the process.
        """
        folder = folder or self.root
        holder = folder / ".deepme.holder"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".deepme.lock", timeout=LOCK_SECONDS)
            _acquire(lock, holder, patient)
        except Timeout:
            raise EnvironmentFault(
                f"{clean(str(folder))} is in use by {_read_holder(holder)}",
                "wait for it to end, or use another --workspace",
            ) from None
        except OSError as error:
            raise cannot_write(folder, error) from error
        try:
            for place in self._swept_with(folder):
                sweep(place)
            with atomic_write(holder) as file:
                file.write(json.dumps(_myself()).encode())
            yield
        finally:
            lock.release()

    def adopt(self, other: Workspace, *patterns: str) -> None:
        """Link files of another workspace that this one lacks.

        A link is as good as a copy, since writers replace files and never change them.
        A stage still checks origin and settings of what it finds.

        Args:
            other: a workspace on the same file system, else files are copied.
            patterns: of paths below it, as ``experts/*/*``.
        """
        for pattern in patterns:
            for source in sorted(other.root.glob(pattern)):
                target = self.root / other.name_of(source)
                if source.is_file() and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link(source, target)

    def _swept_with(self, folder: Path) -> list[Path]:
        if folder != self.root:
            return [folder]
        places = (
            *("gate", "calibration", "evaluation", "figures", "outputs/*"),
            *("export", "export/*"),
        )
        with reading(folder):
            return [folder, *(found for p in places for found in folder.glob(p))]

    def _require(self, path: Path) -> None:
        with reading(path):
            missing = not path.exists()
        if missing:
            raise ArtifactError(
                f"{self._show(path)} is missing", f"run `{self.command_for(path)}`"
            )

    def _check(self, origin: Origin) -> None:
        changed = self.changed(origin.header.made_from)
        if changed:
            command = self.command_for(origin.path)
            if origin.header.kind == "evaluation":
                command += "".join(
                    f" --{name.replace('_', '-')} {origin.header.settings[name]}"
                    for name in ("fusion", "route_top", "route_least")
                    if name in origin.header.settings
                )
            raise ArtifactError(
                f"{self._show(origin.path)} is stale: {clean(changed)} has changed "
                "since it was made",
                f"rerun `{clean(command)}`",
            )

    def changed(self, made_from: dict[str, str]) -> str:
        """The first recorded input that is no longer what it was, or nothing."""
        for name, sha256 in made_from.items():
            try:
                same = digest_of(self.root / name) == sha256
            except ArtifactError:
                same = False
            if not same:
                return name
        return ""

    def _show(self, path: Path) -> str:
        return clean(str(path))


def _difference(header: Header, expected: Header) -> str:
    """The first thing in which a header is not as expected, or nothing."""
    for key, value in expected.settings.items():
        if key not in header.settings or header.settings[key] != value:
            return f"{key} is {value}, was {header.settings.get(key)}"
    if header.classes != expected.classes:
        return "the class list is another"
    same = (
        header.kind == expected.kind
        and header.schema_version == expected.schema_version
        and header.settings == expected.settings
        and expected.made_from.items() <= header.made_from.items()
    )
    return "" if same else "it was made from something else"


def _acquire(lock: BaseFileLock, holder: Path, patient: bool) -> None:
    try:
        lock.acquire()
    except Timeout:
        if not patient:
            raise
        note(f"waiting for {_read_holder(holder)}")
        lock.acquire(timeout=-1)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        with atomic_write(target) as file:
            file.write(source.read_bytes())


def _myself() -> dict[str, Any]:
    command = " ".join(["deepme", *sys.argv[1:]])
    return {"pid": os.getpid(), "host": socket.gethostname(), "command": command}


def _read_holder(path: Path) -> str:
    try:
        values = json.loads(path.read_bytes())
        return clean(f"pid {values['pid']} on {values['host']} ({values['command']})")
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
