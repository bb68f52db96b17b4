"""outputs/SUBSET/NN.h5: what a frozen expert says of every image of a subset.

Rows follow the split's rows of that subset. The arrays lie contiguous in the file, so
that training the gate can read any row without holding the file.
Where there are very many images and classes, the logits are kept in `core.compact`'s
form: a tenth of the space for 680 classes. Features have half precision. Subsets are
apart from each other: the gate's training never opens the test file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepme.artifacts.origin import Origin
from deepme.core.compact import CompactRows, compact, expand
from deepme.storage.hdf5 import Block, dataset, file_rows, open_hdf5, write_hdf5_files
from deepme.storage.header import Header, corrupt
from deepme.storage.rows import FileRows, HalfRows, OpenFile, Rows, half

KIND, SCHEMA = "outputs", 3


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """One expert's outputs on one subset; the large arrays are read when asked for.

    Attributes:
        origin: the file.
        logits: (R, C_t) float32, by rows.
        features: (R, d) float32, by rows, or None where they were not asked for.
        readable: (R,) bool; rows of unreadable images are zero.
    """

    origin: Origin
    logits: Rows
    features: Rows | None
    readable: NDArray[np.bool_]


@dataclass(frozen=True)
class CompactLogits:
    """Logits in compact form, given back as if they were all there.

    Attributes:
        records: (R,) of the type `_record`.
        num_outputs: C_t.
    """

    records: FileRows
    num_outputs: int

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        """Read some rows, (B, C_t) float32."""
        found = self.records[rows]
        kept = CompactRows(*(np.ascontiguousarray(found[name]) for name in _NAMES))
        return expand(kept, num_outputs=self.num_outputs)


@dataclass(frozen=True)
class Shortened:
    """How logits are kept in compact form.

    Attributes:
        labels: (R,) integers, each image's true class, shared by all networks.
        positions: (N,) int32, the output for each class, or −1.
        num_kept: K.
    """

    labels: NDArray[np.integer[Any]]
    positions: NDArray[np.int32]
    num_kept: int


def _record(num_kept: int) -> np.dtype[np.void]:
    """What is kept of an image: the fields of `CompactRows`, which one read brings."""
    return np.dtype(
        [
            ("top", np.float32, (num_kept,)),
            ("position", np.int32, (num_kept,)),
            ("log_sum", np.float64),
            ("true", np.float32),
            ("true_position", np.int32),
        ]
    )


_NAMES = _record(1).names or ()


@dataclass(frozen=True, kw_only=True)
class NewOutputs:
    """A network's outputs that are about to be written.

    Attributes:
        path: the final name.
        header: its origin.
        shape: (R, C_t).
        num_features: d, or None to leave the features out.
        shortened: for the compact form; None for all logits.
    """

    path: Path
    header: Header
    shape: tuple[int, int]
    num_features: int | None = None
    shortened: Shortened | None = None


Answer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""A network's logits (B, C_t) and features (B, d)."""

Batch = tuple[slice, Sequence[Answer], NDArray[np.bool_]]


def save_outputs(
    new: Sequence[NewOutputs],
    batches: Iterator[Batch],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Stream the outputs of networks that are asked together into a file each.

    Args:
        new: the files.
        batches: (rows, an answer of each network, readable (B,)) in order.
        advance: called with the number of rows after each batch.
    """

    def fill(files: list[h5py.File]) -> Iterator[Block]:
        pairs = zip(files, new, strict=True)
        return blocks([_Target.made_in(file, one) for file, one in pairs])

    def blocks(targets: list[_Target]) -> Iterator[Block]:
        for where, answers, readable in batches:
            for target, answer in zip(targets, answers, strict=True):
                yield from target.blocks(where, answer, readable)
            advance(len(readable))

    write_hdf5_files([(one.path, one.header) for one in new], fill)


@dataclass(frozen=True)
class _Target:
    """The datasets of a file under way."""

    logits: h5py.Dataset
    features: h5py.Dataset | None
    readable: h5py.Dataset
    shortened: Shortened | None

    @classmethod
    def made_in(cls, file: h5py.File, new: NewOutputs) -> _Target:
        rows, features = new.shape[:1], None
        if new.num_features is not None:
            wide = (*rows, new.num_features)
            features = file.create_dataset("features", wide, np.float16)
        readable = file.create_dataset("readable", rows, np.bool_)
        if new.shortened:
            record = _record(new.shortened.num_kept)
            logits = file.create_dataset("compact", rows, record)
        else:
            logits = file.create_dataset("logits", new.shape, np.float32)
        return cls(logits, features, readable, new.shortened)

    def blocks(
        self, where: slice, answer: Answer, readable: NDArray[np.bool_]
    ) -> Iterator[Block]:
        logits, features = answer
        short = self.shortened
        yield self.logits, where, _records(logits, where, short) if short else logits
        yield self.readable, where, readable
        if self.features is not None:
            yield self.features, where, half(features)


def _records(
    logits: NDArray[np.float32], where: slice, shortened: Shortened
) -> NDArray[np.void]:
    true = shortened.positions[shortened.labels[where]]
    kept = compact(logits, true, num_kept=shortened.num_kept)
    records = np.empty(len(logits), _record(shortened.num_kept))
    for name, values in zip(_NAMES, kept, strict=True):
        records[name] = values
    return records


def load_outputs(path: Path, num_rows: int, num_classes: int) -> Outputs:
    """Load one expert's outputs on one subset.

    Raises:
        ArtifactError: missing, corrupt or of another size.
    """
    with open_hdf5(path, KIND, SCHEMA) as (header, file, sha256):
        raw = OpenFile(path)

        def rows(name: str, dtype: Any, *wide: int | None) -> FileRows:
            found = dataset(file, name, dtype, (num_rows, *wide))
            return file_rows(raw, found)

        logits: Rows
        if "kept" in header.settings:
            kept = header.settings["kept"]
            if not isinstance(kept, int) or not 1 <= kept <= num_classes:
                raise corrupt(path, f"it keeps {kept!r} of {num_classes} outputs")
            logits = CompactLogits(rows("compact", _record(kept)), num_classes)
        else:
            logits = rows("logits", np.float32, num_classes)
        features = None
        if "features" in file:
            features = HalfRows(rows("features", np.float16, None))
        return Outputs(
            origin=Origin(path, header, sha256),
            logits=logits,
            features=features,
            readable=dataset(file, "readable", np.bool_, (num_rows,))[()],
        )
