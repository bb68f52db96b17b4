"""Trained networks' outputs on a subset's images, for which each is asked once.

They are kept on disk: all logits, or, where the file would be larger than
`EXACT_BYTES`, `core.compact`'s form of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.expert import Expert
from deepme.artifacts.groups import Groups
from deepme.artifacts.outputs import (
    KIND,
    SCHEMA,
    NewOutputs,
    Outputs,
    Shortened,
    load_outputs,
    save_outputs,
)
from deepme.artifacts.split import Split
from deepme.asking import answers, passes
from deepme.config import MachineSettings
from deepme.core.compact import KEPT
from deepme.devices import Compute
from deepme.inference import load_network
from deepme.progress import progress
from deepme.storage.header import Header
from deepme.workspace import Workspace

EXACT_BYTES = 4 * 2**30
"""The largest file of all logits; beyond, `--outputs auto` keeps the compact form."""


def outputs_of_experts(
    workspace: Workspace,
    groups: Groups,
    split: Split,
    subset: str,
    *,
    compute: Compute,
    machine: MachineSettings,
    with_features: bool,
) -> list[Outputs]:
    """Load every expert's outputs on a subset; compute those missing or stale.

    Args and errors as for `outputs_of`.

    Returns:
        One entry an expert, in the order of the groups.
    """
    return outputs_of(
        [workspace.expert(group.number) for group in groups.content.groups],
        workspace,
        split,
        subset,
        compute=compute,
        machine=machine,
        with_features=with_features,
    )


def outputs_of_flat(
    workspace: Workspace,
    split: Split,
    subset: str,
    *,
    compute: Compute,
    machine: MachineSettings,
) -> Outputs:
    """Load the flat network's outputs on a subset, with its features.

    Args and errors as for `outputs_of`.
    """
    return outputs_of(
        [workspace.flat()],
        workspace,
        split,
        subset,
        compute=compute,
        machine=machine,
        with_features=True,
    )[0]


def outputs_of(
    networks: Sequence[Expert],
    workspace: Workspace,
    split: Split,
    subset: str,
    *,
    compute: Compute,
    machine: MachineSettings,
    with_features: bool,
) -> list[Outputs]:
    """Load what trained networks say of all their classes; compute it if need be.

    Those that are asked share passes over the images.

    Args:
        networks: experts, the flat network or attention.
        workspace: where they are.
        split: the images.
        subset: train, val or test.
        compute: the device.
        machine: workers, the form on disk, and the policy for unreadable images.
        with_features: whether the features are needed too.

    Returns:
        One entry a network.

    Raises:
        ArtifactError: an expert is missing or stale.
        InputError: an unreadable image, by the policy.
    """
    files = _Files(
        workspace=workspace,
        split=split,
        subset=subset,
        machine=machine,
        with_features=with_features,
    )
    missing = [network for network in networks if not files.is_there(network)]
    for some in passes(missing):
        _ask(some, files, compute)
    return [
        load_outputs(
            files.path(network), len(files.rows), len(network.training.outputs)
        )
        for network in networks
    ]


def is_compact(num_rows: int, num_outputs: int, machine: MachineSettings) -> bool:
    """Whether a network's outputs are written in compact form."""
    if machine.outputs == "auto":
        return 4 * num_rows * num_outputs > EXACT_BYTES
    return machine.outputs == "compact"


def num_bytes(num_rows: int, num_outputs: int, machine: MachineSettings) -> int:
    """What a network's outputs take on disk, without features."""
    if is_compact(num_rows, num_outputs, machine):
        return num_rows * (8 * min(KEPT, num_outputs) + 17)
    return num_rows * (4 * num_outputs + 1)


def features_of(
    network: Expert,
    workspace: Workspace,
    split: Split,
    rows: NDArray[np.int64],
    *,
    compute: Compute,
    machine: MachineSettings,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Ask a network for its features of some images, without keeping them.

    Returns:
        (R, d) float32 features, and (R,) bool, which images could be read.

    Raises:
        InputError: an unreadable image, by the policy.
    """
    training = network.training
    features = np.empty((len(rows), training.num_features), dtype=np.float32)
    readable = np.empty(len(rows), dtype=np.bool_)
    with progress("features of training images", len(rows), "images") as advance:
        for where, [(_, some_features)], some_readable in answers(
            [load_network(network, workspace).to(compute.device)],
            split.images,
            rows,
            image_size=training.image_size,
            compute=compute,
            machine=machine,
        ):
            features[where], readable[where] = some_features, some_readable
            advance(len(some_readable))
    return features, readable


@dataclass(kw_only=True)
class _Files:
    """Where networks' outputs on one subset are kept, and in which form."""

    workspace: Workspace
    split: Split
    subset: str
    machine: MachineSettings
    with_features: bool

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        return self.split.rows(self.subset)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        return self.split.images.label[self.rows]

    def path(self, network: Expert) -> Path:
        return self.workspace.outputs_path(self.subset, network)

    def is_there(self, network: Expert) -> bool:
        """Whether the file is; one with features serves where none are needed."""
        exact, compact = self._header(network), self._header(network, compact=True)
        wanted = {"exact": [exact], "compact": [compact]}.get(
            self.machine.outputs, [exact, compact]
        )
        richer = [
            replace(header, settings=header.settings | {"features": True})
            for header in wanted
        ]
        return self.workspace.is_current(self.path(network), *wanted, *richer)

    def new(self, network: Expert) -> NewOutputs:
        """The file that is about to be written."""
        training, num_rows = network.training, len(self.rows)
        compact = is_compact(num_rows, len(training.outputs), self.machine)
        header = self._header(network, compact=compact)
        return NewOutputs(
            path=self.path(network),
            header=header,
            shape=(num_rows, len(training.outputs)),
            num_features=training.num_features if self.with_features else None,
            shortened=self._shortened(network) if compact else None,
        )

    def _header(self, network: Expert, *, compact: bool = False) -> Header:
        form = {"kept": _kept(network)} if compact else {}
        return Header(
            kind=KIND,
            schema_version=SCHEMA,
            settings={"subset": self.subset, "features": self.with_features, **form},
            classes=network.origin.header.classes,
            made_from=self.workspace.made_from(network.origin, self.split.origin),
        )

    def _shortened(self, network: Expert) -> Shortened:
        classes = np.arange(self.split.num_classes)
        if network.origin.header.kind == "expert":
            classes = self.workspace.groups().members[network.training.group - 1]
        positions = np.full(self.split.num_classes, -1, dtype=np.int32)
        positions[classes] = np.arange(len(classes))
        return Shortened(self.labels, positions, _kept(network))


def _kept(network: Expert) -> int:
    return min(KEPT, len(network.training.outputs))


def _ask(networks: Sequence[Expert], files: _Files, compute: Compute) -> None:
    """Ask networks in one pass over the images."""
    blocks = answers(
        [
            load_network(network, files.workspace).to(compute.device)
            for network in networks
        ],
        files.split.images,
        files.rows,
        image_size=networks[0].training.image_size,
        compute=compute,
        machine=files.machine,
    )
    label = f"{_names(networks)}: outputs on {files.subset} images"
    with progress(label, len(files.rows), "images") as advance:
        new = [files.new(network) for network in networks]
        save_outputs(new, blocks, advance=advance)


def _names(networks: Sequence[Expert]) -> str:
    """What the networks of a pass are called."""
    if len(networks) > 1:
        return f"{len(networks)} networks"
    kind, group = networks[0].origin.header.kind, networks[0].training.group
    return {"expert": f"expert {group}", "flat": "flat network"}.get(kind, kind)
