"""A classifier as an ONNX graph: pixels as bytes in, probabilities out."""

# ruff: noqa: N806
from __future__ import annotations

import importlib.util
import json
import os
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepme.classifier import Classifier
from deepme.errors import EnvironmentFault, UsageError
from deepme.mixture import Mixture
from deepme.storage.atomic import atomic_path
from deepme.text import clean

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-4
"""Of a probability, between PyTorch and onnxruntime."""

INLINE_BYTES = 2**30
"""Weights above this go to a file beside the graph: a protobuf ends at 2 GiB."""

INPUT = (
    "images: (batch, 3, {size}, {size}) uint8, RGB; the centre square of 7/8 of the "
    "shorter side, resized bilinearly; mean and deviation are subtracted inside"
)


def require_onnx() -> None:
    """Check that the optional packages are there.

    Raises:
        UsageError: one is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--format onnx needs {', '.join(missing)}, which {_are(missing)} not "
            "installed",
            "pip install 'deepme[onnx]'",
        )


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


class _Answers(nn.Module):
    """What the graph computes: no routing by image, no parts, the same answers."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images to probabilities, and for a mixture to the experts' weights."""
        P_BN, weights_BT = self.classifier.probabilities(images)
        return (P_BN,) if weights_BT is None else (P_BN, weights_BT)


def save_onnx(
    path: Path, classifier: Classifier, images: Tensor, facts: Mapping[str, str]
) -> float:
    """Write a classifier as ONNX, after onnxruntime has given the same answers.

    The graph takes any number of images and gives ``probabilities`` (batch, N), and
    for a mixture ``weights`` (batch, T). Its metadata holds classes and names as JSON
    lists, and how to make the input. Where the weights are larger than
    `INLINE_BYTES` they lie beside it in ``STEM-*.data``.

    Args:
        path: where to, replaced at the end if it is there.
        classifier: on the CPU.
        images: (B, 3, S, S) uint8, B ≥ 2, to compare the answers on.
        facts: more metadata.

    Returns:
        The largest difference of a probability on the images.

    Raises:
        UsageError: the optional packages are missing.
        EnvironmentFault: the answers differ, or the file cannot be written.
    """
    require_onnx()
    expected, _ = classifier.probabilities(images)
    program = _converted(classifier, images[:2])
    named = {
        "classes": json.dumps([each.label for each in classifier.classes]),
        "names": json.dumps([each.name for each in classifier.classes]),
        "input": INPUT.format(size=classifier.image_size),
    }
    program.model.metadata_props.update(named | dict(facts))
    size = sum(value.nbytes for value in classifier.state_dict().values())
    data = f"{path.stem}-{secrets.token_hex(4)}.data" if size > INLINE_BYTES else None
    try:
        with atomic_path(path) as temporary:
            _save(program, temporary, data)
            difference = _difference(temporary, images, expected.numpy())
    except BaseException:
        if data:
            (path.parent / data).unlink(missing_ok=True)
        raise
    for old in path.parent.glob(f"{path.stem}-????????.data"):
        if old.name != data:
            old.unlink()
    return difference


def _converted(classifier: Classifier, images: Tensor) -> Any:
    """Trace the classifier; its own way to take images in parts is put aside."""
    network = classifier.network
    sizes = classifier.batch_size, getattr(network, "batch_size", None)
    classifier.batch_size = None
    if isinstance(network, Mixture):
        network.batch_size = None
    outputs = ["probabilities", "weights"][: 1 + isinstance(network, Mixture)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                _Answers(classifier),
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=outputs,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    finally:
        classifier.batch_size = sizes[0]
        if isinstance(network, Mixture):
            network.batch_size = sizes[1]


def _save(program: Any, path: Path, data: str | None) -> None:
    import onnx_ir

    onnx_ir.save(program.model, path, external_data=data)
    if data:
        # The graph names it, so it must be on the disk before the graph is.
        with (path.parent / data).open("rb") as file:
            os.fsync(file.fileno())


def _difference(path: Path, images: Tensor, expected: NDArray[np.float32]) -> float:
    """Ask onnxruntime, about several images and about one.

    Raises:
        EnvironmentFault: other answers.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    largest = 0.0
    for some in (slice(None), slice(0, 1)):
        (P_BN,) = session.run(["probabilities"], {"images": images[some].numpy()})
        largest = max(largest, float(np.abs(P_BN - expected[some]).max()))
    if not largest <= LARGEST_DIFFERENCE:
        raise EnvironmentFault(
            f"onnxruntime {clean(onnxruntime.__version__)} answers differently from "
            f"PyTorch, by up to {largest:.2g}; expected at most "
            f"{LARGEST_DIFFERENCE:g}",
            "nothing was written; try another version of onnxruntime",
        )
    return largest
