"""evaluation/SYSTEM.json and SYSTEM.h5: how well a system does on the test images.

The HDF5 file holds counts per class and the confusions that occurred; the JSON file
holds what follows from them for people, and is the commit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, with_config

from deepme.artifacts.origin import Origin
from deepme.storage.hdf5 import dataset, open_hdf5, write_hdf5
from deepme.storage.header import Header, validated
from deepme.storage.json import read_json, write_json

KIND, SCHEMA = "evaluation", 5
COUNTS_KIND, COUNTS_SCHEMA = "evaluation-counts", 3

NUM_BINS = 15
"""Bins of the calibration."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """How one expert and its group do.

    Attributes:
        number: the group.
        name: its name.
        classes: C.
        images: test images of its classes.
        expert: macro top-k of the expert alone among its own classes.
        system: macro top-k of the system, among all N classes, on the same images.
        chosen: share of all test images for which this expert weighs most.
        load: mean share of the weights that this expert has.
        entropy: mean entropy of the weights, in shares of log T, over the images for
            which this expert weighs most; None without any.
    """

    number: int
    name: str
    classes: int
    images: int
    expert: dict[str, float]
    system: dict[str, float]
    chosen: float
    load: float
    entropy: float | None


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class EvaluationContent:
    """What SYSTEM.json holds; accuracies are shares in [0, 1].

    Attributes:
        system: the system's name.
        fusion: how its experts are weighed.
        classes: N; classes without test images do not enter the macro means.
        classes_tested: classes with test images.
        images: test images.
        unreadable: test images left out because they could not be read.
        macro: top-k -> mean over classes of the accuracy per class.
        micro: top-k -> share of images.
        right_group: share of images whose heaviest expert holds the true class.
        expert_passes: experts asked an image, on average.
        calibration_error: expected calibration error of F/ΣF, 15 bins.
        temperature: base of the temperature fitted on validation images; None for a
            fusion that nobody predicts with, or without validation images.
        temperature_slope: its slope.
        calibrated_error: the calibration error under it.
        groups: one entry an expert.
    """

    system: str
    fusion: str
    classes: int
    classes_tested: int
    images: int
    unreadable: int
    macro: dict[str, float]
    micro: dict[str, float]
    right_group: float
    expert_passes: float
    calibration_error: float
    temperature: float | None
    temperature_slope: float | None
    calibrated_error: float | None
    groups: tuple[GroupResult, ...]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Per-class counts, linear in N and in the number of different confusions.

    Attributes:
        topk: (K,) int64, the ranks.
        hits: (K, N) int64, images of the class with the truth among the first k.
        images: (N,) int64, test images of the class.
        confusions: (E, 3) int64: true class, predicted class, how often (errors only).
        bin_images: (15,) int64, images by the probability of the class predicted, in
            bins of equal width over [0, 1].
        bin_hits: (15,) int64, those of them whose class it was.
        bin_confidence: (15,) float64, the sum of their probabilities.
        calibrated_images: (15,) int64, as `bin_images` under the temperature; all
            three are zero where there is none.
        calibrated_hits: (15,) int64.
        calibrated_confidence: (15,) float64.
    """

    topk: NDArray[np.int64]
    hits: NDArray[np.int64]
    images: NDArray[np.int64]
    confusions: NDArray[np.int64]
    bin_images: NDArray[np.int64]
    bin_hits: NDArray[np.int64]
    bin_confidence: NDArray[np.float64]
    calibrated_images: NDArray[np.int64]
    calibrated_hits: NDArray[np.int64]
    calibrated_confidence: NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """One system's result.

    Attributes:
        origin: its JSON file.
        content: what that holds.
        counts: what the HDF5 file holds.
    """

    origin: Origin
    content: EvaluationContent
    counts: Counts


_CONTENT = TypeAdapter(EvaluationContent)


def save_evaluation(
    path: Path, header: Header, content: EvaluationContent, counts: Counts
) -> str:
    """Write SYSTEM.h5, then SYSTEM.json, and return the latter's sha256."""
    counts_path = path.with_suffix(".h5")
    counts_header = Header(
        kind=COUNTS_KIND,
        schema_version=COUNTS_SCHEMA,
        classes=header.classes,
        made_from=header.made_from,
    )

    def fill(file: h5py.File) -> None:
        for name, array in asdict(counts).items():
            file[name] = array

    counts_sha256 = write_hdf5(counts_path, counts_header, fill)
    made_from = header.made_from | {
        f"{path.parent.name}/{counts_path.name}": counts_sha256
    }
    complete = Header(**(header.to_dict() | {"made_from": made_from}))
    return write_json(path, complete, asdict(content))


def load_evaluation(path: Path) -> Evaluation:
    """Load a system's result.

    Raises:
        ArtifactError: missing or corrupt.
    """
    header, values, sha256 = read_json(path, KIND, SCHEMA)
    content = validated(_CONTENT, values, path)
    counts_path = path.with_suffix(".h5")
    with open_hdf5(counts_path, COUNTS_KIND, COUNTS_SCHEMA) as (_, file, _sha256):
        topk = dataset(file, "topk", np.int64, (None,))[()]
        shape = (len(topk), content.classes)
        counts = Counts(
            topk=topk,
            hits=dataset(file, "hits", np.int64, shape)[()],
            images=dataset(file, "images", np.int64, shape[1:])[()],
            confusions=dataset(file, "confusions", np.int64, (None, 3))[()],
            **_bins(file, "bin"),
            **_bins(file, "calibrated"),
        )
    return Evaluation(Origin(path, header, sha256), content, counts)


def _bins(file: h5py.File, prefix: str) -> dict[str, NDArray[Any]]:
    kinds = {"images": np.int64, "hits": np.int64, "confidence": np.float64}
    return {
        name: dataset(file, name, kind, (NUM_BINS,))[()]
        for name, kind in ((f"{prefix}_{part}", kind) for part, kind in kinds.items())
    }
