"""export: the trained classifier as ONNX, or as a folder for a model hub."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepme import __version__
from deepme.artifacts.evaluation import EvaluationContent, load_evaluation
from deepme.artifacts.expert import Expert
from deepme.artifacts.groups import Groups
from deepme.artifacts.split import Split
from deepme.classifier import Classifier, classifier_of, expert_of
from deepme.config import ExportSettings, MachineSettings
from deepme.errors import EnvironmentFault, InputError
from deepme.hub import CONFIG, Blueprint, load_hub, save_hub
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.mixture import Mixture
from deepme.model_card import Facts, write_card
from deepme.onnx_graph import require_onnx, save_onnx
from deepme.storage.atomic import remove
from deepme.systems import system_name
from deepme.text import clean
from deepme.workspace import Workspace

SUBSETS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written.

    Attributes:
        path: of the graph, or of the folder.
        format: onnx or hub.
        classes: N.
        bytes: of all its files.
        images: on which it was compared with PyTorch.
        largest_difference: of a probability on them.
    """

    path: str
    format: str
    classes: int
    bytes: int
    images: int
    largest_difference: float


def run(
    settings: ExportSettings,
    machine: MachineSettings,
    workspace: Workspace,
    *,
    out: Path | None,
) -> ExportReport:
    """Write the classifier, and compare it with PyTorch on images of the split.

    Args:
        settings: form, who answers, and how many images to compare on.
        machine: workers.
        workspace: with what the fusion needs trained.
        out: the file or folder; None for one in the workspace.

    Raises:
        UsageError: no such group, or ONNX without its packages.
        ArtifactError: a network is missing or stale.
        InputError: no image of the split can be read.
        EnvironmentFault: the export answers differently, or cannot be written.
    """
    if settings.format == "onnx":
        require_onnx()
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    classifier = _classifier(settings, machine, workspace)
    images = _images(split, classifier, settings.check, machine)
    path = out or _place(settings, workspace)
    # Under the lock, so that what a killed export leaves in the workspace is swept.
    with workspace.lock() if out is None else nullcontext():
        if settings.format == "onnx":
            trained = _trained(settings, workspace).origin
            facts = {"deepme": __version__, "trained": trained.sha256}
            difference = save_onnx(path, classifier, images, facts)
        else:
            _save_folder(settings, workspace, groups, split, classifier, path)
            difference = _reloaded_difference(path, classifier, images)
    return ExportReport(
        path=str(path),
        format=settings.format,
        classes=len(classifier.classes),
        bytes=_size(path),
        images=len(images),
        largest_difference=difference,
    )


def _place(settings: ExportSettings, workspace: Workspace) -> Path:
    name = settings.answer_by
    if settings.only is not None:
        name = f"expert-{settings.only:02d}"
    suffix = ".onnx" if settings.format == "onnx" else ""
    return workspace.root / "export" / f"{name}{suffix}"


def _save_folder(
    settings: ExportSettings,
    workspace: Workspace,
    groups: Groups,
    split: Split,
    classifier: Classifier,
    folder: Path,
) -> None:
    trained = _trained(settings, workspace)
    blueprint = _blueprint(settings, workspace, groups, classifier, trained)
    about = _facts(settings, workspace, groups, split, blueprint)
    made_from = workspace.made_from(split.origin, trained.origin)
    save_hub(folder, classifier, blueprint, made_from, write_card(classifier, about))


def _classifier(
    settings: ExportSettings, machine: MachineSettings, workspace: Workspace
) -> Classifier:
    if settings.only is not None:
        return expert_of(workspace, settings.only)
    return classifier_of(
        workspace,
        machine,
        fusion=settings.answer_by,
        route_top=settings.route_top,
        route_least=settings.route_least,
    )


def _trained(settings: ExportSettings, workspace: Workspace) -> Expert:
    """What was trained last of all that is exported."""
    if settings.only is not None:
        return workspace.expert(settings.only)
    ways = {
        "gate": workspace.gate,
        "attention": workspace.attention,
        "flat": workspace.flat,
    }
    return ways[settings.answer_by]()


def _images(
    split: Split, classifier: Classifier, count: int, machine: MachineSettings
) -> Tensor:
    """Some images of the split, from all over it; those of the test subset first."""
    rows = split.rows("test")
    if len(rows) < count:
        rows = np.arange(len(split.images))
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round()
    dataset = ImageDataset(
        split.images, size=classifier.image_size, augment=False, seed=0
    )
    chosen = rows[places.astype(np.int64)]
    parts = evaluation_batches(dataset, chosen, 256, machine.workers)
    images = torch.cat([part.inputs for part in parts])
    if len(images) < 2:
        raise InputError(
            "fewer than 2 images of the split can be read, to compare the export on",
            "put the images back where `deepme split` found them",
        )
    return images


def _blueprint(
    settings: ExportSettings,
    workspace: Workspace,
    groups: Groups,
    classifier: Classifier,
    trained: Expert,
) -> Blueprint:
    experts = [trained]
    if settings.only is None and settings.answer_by != "flat":
        numbers = [group.number for group in groups.content.groups]
        experts = [workspace.expert(number) for number in numbers]
    blueprint = Blueprint(
        fusion="expert" if settings.only is not None else settings.answer_by,
        backbones=tuple(expert.training.backbone for expert in experts),
        outputs=tuple(len(expert.training.outputs) for expert in experts),
        temperature=classifier.temperature,
        temperature_slope=classifier.temperature_slope,
    )
    recorded = trained.origin.header.settings
    if isinstance(classifier.network, Mixture):
        sees_flat = recorded["input"] == "flat"
        return replace(
            blueprint,
            groups=classifier.groups,
            gate=dict(recorded) | {"weights": "none"},
            flat=workspace.flat().training.backbone if sees_flat else "",
            route_top=settings.route_top,
            route_least=settings.route_least,
        )
    if blueprint.fusion == "attention":
        return replace(blueprint, attention=recorded["attention"] == "learned")
    return blueprint


def _facts(
    settings: ExportSettings,
    workspace: Workspace,
    groups: Groups,
    split: Split,
    blueprint: Blueprint,
) -> Facts:
    backbones = blueprint.backbones
    if blueprint.gate and blueprint.gate["input"] == "images":
        backbones += (str(blueprint.gate["backbone"]),)
    if blueprint.flat:
        backbones += (blueprint.flat,)
    alone = settings.only is not None
    group = groups.group(settings.only).name if settings.only is not None else ""
    routed = settings.route_top is not None or settings.route_least > 0
    command = f"deepme evaluate --fusion {settings.answer_by}"
    if settings.route_top is not None:
        command += f" --route-top {settings.route_top}"
    if settings.route_least > 0:
        command += f" --route-least {settings.route_least:g}"
    return Facts(
        fusion=blueprint.fusion,
        backbones=backbones,
        licence=settings.license,
        images=_counts(groups, split, settings.only),
        group=group,
        evaluation=None
        if alone
        else _evaluation(workspace, groups, settings.answer_by, routed),
        command=command,
    )


def _counts(groups: Groups, split: Split, number: int | None) -> dict[str, int]:
    """Subset -> its images, of one group's classes or of all."""
    known = np.arange(groups.num_classes)
    if number is not None:
        known = groups.members[number - 1]
    labels = split.images.label
    return {
        name: int(np.isin(labels[split.rows(name)], known).sum()) for name in SUBSETS
    }


def _evaluation(
    workspace: Workspace, groups: Groups, fusion: str, routed: bool
) -> EvaluationContent | None:
    """What evaluate has measured of it, if it still holds."""
    method = str(groups.origin.header.settings["method"])
    name = system_name(method, fusion) + ("-routed" if routed else "")
    path = workspace.evaluation_path(name)
    if not path.exists():
        return None
    found = load_evaluation(path)
    stale = workspace.changed(found.origin.header.made_from)
    return None if stale else found.content


def _reloaded_difference(folder: Path, classifier: Classifier, images: Tensor) -> float:
    """Load the folder again and ask it about the images.

    Raises:
        EnvironmentFault: it does not give the same answers.
    """
    again = load_hub(folder)
    expected, _ = classifier.probabilities(images)
    difference = float((again.probabilities(images)[0] - expected).abs().max())
    if not difference <= 1e-6:
        remove(folder / CONFIG)
        raise EnvironmentFault(
            f"{clean(str(folder))}, loaded again, answers differently by "
            f"{difference:.2g}; its {CONFIG} is taken away",
            "export again",
        )
    return difference


def _size(path: Path) -> int:
    """Bytes of a folder's files, or of a graph and the weights beside it."""
    beside = path.parent.glob(f"{path.stem}-????????.data")
    files = path.iterdir() if path.is_dir() else [path, *beside]
    return sum(file.stat().st_size for file in files)
