"""outputs/SUBSET/NETWORK.h5 in both forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.special import logsumexp

from deepme.artifacts.outputs import (
    SCHEMA,
    NewOutputs,
    Shortened,
    load_outputs,
    save_outputs,
)
from deepme.errors import ArtifactError
from deepme.storage.header import Header

IMAGES, CLASSES, FEATURES = 10, 6, 3
LABELS = np.arange(IMAGES) % CLASSES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "01.h5"


@pytest.fixture
def logits() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (5 * rng.normal(size=(IMAGES, CLASSES))).astype(np.float32)


def save(
    path: Path, logits: np.ndarray, settings: dict[str, Any], *, kept: int | None
) -> None:
    features = np.full((IMAGES, FEATURES), 1 / 3, np.float32)
    features[:, 0] = 1e6
    readable = np.arange(IMAGES) != 4
    positions = np.arange(CLASSES, dtype=np.int32)
    new = NewOutputs(
        path=path,
        header=Header(kind="outputs", schema_version=SCHEMA, settings=settings),
        shape=logits.shape,
        num_features=FEATURES,
        shortened=Shortened(LABELS, positions, kept) if kept else None,
    )
    parts = (slice(0, 7), slice(7, IMAGES))
    save_outputs(
        [new],
        iter([(at, [(logits[at], features[at])], readable[at]) for at in parts]),
    )


def test_all_logits_come_back(path: Path, logits: np.ndarray):
    save(path, logits, {}, kept=None)
    found = load_outputs(path, IMAGES, CLASSES)
    np.testing.assert_array_equal(found.logits[:], logits)
    np.testing.assert_array_equal(found.logits[np.array([8, 2])], logits[[8, 2]])
    assert found.features is not None
    features = found.features[:]
    assert (features.dtype, features.shape) == (np.float32, (IMAGES, FEATURES))
    assert (features[:, 0] == 65_504).all()  # the largest number of half precision
    np.testing.assert_allclose(features[:, 1:], 1 / 3, rtol=2**-11)
    assert np.flatnonzero(~found.readable).tolist() == [4]


def test_the_compact_form_keeps_sum_largest_and_truth(path: Path, logits: np.ndarray):
    save(path, logits, {"kept": 2}, kept=2)
    found = load_outputs(path, IMAGES, CLASSES).logits[np.arange(IMAGES)[::-1]][::-1]
    np.testing.assert_allclose(
        logsumexp(found, axis=1), logsumexp(logits, axis=1), rtol=1e-5
    )
    largest = np.argsort(logits, axis=1)[:, -2:]
    for columns in (largest, LABELS[:, None]):
        np.testing.assert_array_equal(
            np.take_along_axis(found, columns, axis=1),
            np.take_along_axis(logits, columns, axis=1),
        )
    with h5py.File(path) as file:
        assert file["compact"].dtype.names == (
            *("top", "position", "log_sum", "true", "true_position"),
        )
        assert file["compact"].dtype.itemsize == 8 * 2 + 16


@pytest.mark.parametrize("kept", [0, -3, CLASSES + 1, 10**12, "2", 2.0, None])
def test_a_header_that_keeps_what_cannot_be(
    path: Path, logits: np.ndarray, kept: object
):
    save(path, logits, {"kept": kept}, kept=2)
    with pytest.raises(ArtifactError, match=f"keeps {kept!r} of 6 outputs"):
        load_outputs(path, IMAGES, CLASSES)


@pytest.mark.parametrize("kept", [1, 3])
def test_a_header_that_keeps_another_number(path: Path, logits: np.ndarray, kept: int):
    save(path, logits, {"kept": kept}, kept=2)
    with pytest.raises(ArtifactError, match="found compact: "):
        load_outputs(path, IMAGES, CLASSES)
