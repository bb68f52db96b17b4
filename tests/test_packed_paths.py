"""Front-coded paths come back as they were, in little room; forgery is seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepme.artifacts.paths import BLOCK, LONGEST, PackedPaths, leads_out
from deepme.errors import InputError

# Few letters, so that much is shared; a NUL as forged tar members may hold it, and a
# byte that is no UTF-8.
LETTERS = st.sampled_from(["a", "b", "/", ".", "..", "\0", "ü", "\udcff"])
PATHS = st.lists(st.lists(LETTERS, min_size=1, max_size=4).map("".join), max_size=20)


@given(PATHS, st.booleans())
@example(["ab", "ab\0", "ab"], False)
@example(["ü", "û"], False)
def test_they_come_back(paths: list[str], in_order: bool) -> None:
    paths = sorted(paths) if in_order else paths
    packed = PackedPaths.pack(iter(paths))
    assert list(packed) == paths
    assert [packed[row] for row in range(len(packed))] == paths
    assert packed.are_whole()


def test_over_many_blocks() -> None:
    paths = [f"n{row // 700:08}/{row}.jpg" for row in range(5000)]
    packed = PackedPaths.pack(paths)
    assert list(packed) == paths
    rows = np.random.default_rng(0).integers(0, 5000, 200).tolist()
    assert [packed[row] for row in rows] == [paths[row] for row in rows]
    assert packed[-1] == paths[-1]
    with pytest.raises(IndexError):
        packed[5000]


def test_names_like_imagenets_take_a_third_of_their_bytes() -> None:
    rng = np.random.default_rng(0)
    paths = sorted(
        f"n{label:08}/n{label:08}_{image}.JPEG"
        for label in range(10)
        for image in rng.choice(30_000, 1000, replace=False)
    )
    packed = PackedPaths.pack(paths)
    assert packed.nbytes / len(paths) < 14
    assert sum(map(len, paths)) / len(paths) > 29


@given(PATHS)
@example(["..a", ".."])
@example([".a", ".."])
@example(["..a", "../b"])
def test_the_first_that_leads_out_is_found(paths: list[str]) -> None:
    found = PackedPaths.pack(paths).leading_out()
    assert found == next(filter(leads_out, paths), None)


@given(PATHS, st.data())
def test_of_forged_arrays_too(paths: list[str], data: st.DataObject) -> None:
    """What a path shares with the one before need not be all that it could."""
    packed = PackedPaths.pack(paths)
    shared = [data.draw(st.integers(0, most)) for most in packed.shared.tolist()]
    raw = [path.encode("utf-8", "surrogateescape") for path in paths]
    rests = [path[same:] for path, same in zip(raw, shared, strict=True)]
    forged = PackedPaths(
        np.array(shared, np.uint16),
        np.array([len(rest) for rest in rests], np.uint16),
        np.frombuffer(b"".join(rests), np.uint8),
    )
    assert forged.are_whole()
    assert list(forged) == paths
    assert forged.leading_out() == next(filter(leads_out, paths), None)


def test_one_that_is_too_long() -> None:
    assert len(PackedPaths.pack(["a" * LONGEST])[0]) == LONGEST
    with pytest.raises(InputError, match=r"65,536 bytes, expected at most 65,535: a+…"):
        PackedPaths.pack(["b"] * BLOCK + ["a" * (LONGEST + 1)])
