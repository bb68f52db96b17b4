"""A folder in the form that model hubs expect: weights, config.json, a model card.

``config.json`` holds what hubs show (``label_names``, ``id2label``) and, under
``deepme``, what builds the network; it names the weights by their sha256 and is the
commit. Nothing else of the workspace is needed to answer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, with_config
from torch import nn

from deepme import __version__
from deepme.artifacts.groups import Group
from deepme.classifier import Classifier, ClassName
from deepme.config import GateSettings
from deepme.core.mixture import Members
from deepme.errors import ArtifactError, UsageError
from deepme.inference import blank_gate
from deepme.mixture import Mixture
from deepme.networks import AttentionNetwork, create_network
from deepme.settings import resolve
from deepme.storage.atomic import atomic_write
from deepme.storage.header import (
    Header,
    canonical,
    class_digest,
    corrupt,
    reading,
    require_file,
    validated,
)
from deepme.storage.json import MAX_BYTES
from deepme.storage.tensors import read_tensors, write_tensors
from deepme.text import clean

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
KIND, SCHEMA = "model", 1


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What builds the network again, beside its weights.

    Attributes:
        version: of deepme.
        fusion: gate, attention, flat, or expert for one of them alone.
        backbones: timm names: of every expert, or of the one network.
        outputs: how many outputs each of them has.
        groups: the experts' groups; none for a single network.
        gate: the settings it was trained with; None without one.
        flat: timm name of the flat network that the gate sees; empty without one.
        attention: whether attention is learned; None without.
        route_top: experts asked at most; None for all.
        route_least: smallest weight that asks an expert.
        temperature: base of τ.
        temperature_slope: its slope.
        weights: sha256 of the weights.
    """

    version: str = __version__
    fusion: str
    backbones: tuple[str, ...]
    outputs: tuple[int, ...]
    groups: tuple[Group, ...] = ()
    gate: dict[str, Any] | None = None
    flat: str = ""
    attention: bool | None = None
    route_top: int | None = None
    route_least: float = 0.0
    temperature: float = 1.0
    temperature_slope: float = 0.0
    weights: str = ""


_BLUEPRINT = TypeAdapter(Blueprint)


def save_hub(
    folder: Path,
    classifier: Classifier,
    blueprint: Blueprint,
    made_from: dict[str, str],
    card: str,
) -> Path:
    """Write the folder; its config.json, written last, is the commit.

    Args:
        folder: where to; made if missing.
        classifier: what to write.
        blueprint: what builds it again, without the weights' sha256.
        made_from: name in the workspace -> sha256.
        card: text of README.md.

    Returns:
        The path of config.json.

    Raises:
        EnvironmentFault: the file system refused.
    """
    labels = [each.label for each in classifier.classes]
    header = Header(
        kind=KIND,
        schema_version=SCHEMA,
        classes=class_digest(labels),
        made_from=made_from,
    )
    state = classifier.network.state_dict()
    weights = write_tensors(folder / WEIGHTS, header, state)
    built_by = asdict(blueprint) | {"weights": weights}
    names = [each.name for each in classifier.classes]
    size = classifier.image_size
    content = {
        "architecture": f"deepme-{blueprint.fusion}",
        "library_name": "deepme",
        "num_classes": len(labels),
        "label_names": labels,
        "label_descriptions": dict(zip(labels, names, strict=True)),
        "id2label": {str(k): name for k, name in enumerate(names)},
        "input": {"size": [3, size, size], "dtype": "uint8", "colours": "RGB"},
        "deepme": built_by,
    }
    content["deepme"] = built_by | {"sha256": _digest(content)}
    with atomic_write(folder / CARD) as file:
        file.write(card.encode())
    with atomic_write(folder / CONFIG) as file:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        file.write((text + "\n").encode())
    return folder / CONFIG


def load_hub(folder: Path) -> Classifier:
    """Load a folder that `save_hub` wrote.

    Raises:
        ArtifactError: missing, corrupt, or weights of another export.
    """
    path = folder / CONFIG
    require_file(path)
    with reading(path), path.open("rb") as file:
        raw = file.read(MAX_BYTES)
    try:
        content = json.loads(raw)
        digest = content["deepme"].pop("sha256")
        size = int(content["input"]["size"][1])
        labels = list(map(str, content["label_names"]))
        names = [str(content["label_descriptions"][label]) for label in labels]
        same = digest == _digest(content)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise corrupt(path, f"no config of deepme ({type(error).__name__})") from error
    if not same:
        raise corrupt(path, "its content does not match its sha256")
    blueprint = validated(_BLUEPRINT, content["deepme"], path)
    network = _build(blueprint, labels, size, path)
    _, state, sha256 = read_tensors(folder / WEIGHTS, KIND, SCHEMA)
    shapes = {name: value.shape for name, value in state.items()}
    if sha256 != blueprint.weights or shapes != {
        name: value.shape for name, value in network.state_dict().items()
    }:
        raise ArtifactError(
            f"{clean(str(folder / WEIGHTS))} does not belong to its {CONFIG}",
            "export again",
        )
    network.load_state_dict(state)
    return Classifier(
        network,
        classes=tuple(map(ClassName, labels, names)),
        groups=blueprint.groups,
        image_size=size,
        temperature=blueprint.temperature,
        temperature_slope=blueprint.temperature_slope,
    )


def is_hub(folder: Path) -> bool:
    """Whether a folder holds an exported model rather than a workspace."""
    return (folder / CONFIG).is_file()


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()


def _build(blueprint: Blueprint, labels: list[str], size: int, path: Path) -> nn.Module:
    try:
        networks = [
            create_network(name, outputs, weights="none", image_size=size)
            for name, outputs in zip(
                blueprint.backbones, blueprint.outputs, strict=True
            )
        ]
        if blueprint.fusion == "attention":
            learned = bool(blueprint.attention)
            return AttentionNetwork(networks, len(labels), learned=learned)
        if blueprint.gate is None:
            (network,) = networks
            return network
        index = {label: k for k, label in enumerate(labels)}
        members = [[index[label] for label in g.classes] for g in blueprint.groups]
        gate = resolve(GateSettings, {}, **blueprint.gate)
        flat = None
        if gate.input == "flat":
            flat = create_network(
                blueprint.flat, len(labels), weights="none", image_size=size
            )
        seen = networks if flat is None else [flat]
        widths = [network.num_features for network in seen]
        return Mixture(
            networks,
            blank_gate(gate, len(networks), widths, size),
            Members.of(members, num_classes=len(labels)),
            input=gate.input,
            flat=flat,
            top=blueprint.route_top,
            least=blueprint.route_least,
        )
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise corrupt(path, str(error.args[0]) if error.args else "") from error
