from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepme.artifacts.paths import PackedPaths
from deepme.artifacts.split import ImageIndex
from deepme.images.subsets import assign_subsets, given_subsets

TRAIN, VAL, TEST = 0, 1, 2
PAPER = {"val": 0.05, "test": 0.10}

Subsets = dict[str, int]


def index(paths_of_classes: list[list[str]]) -> ImageIndex:
    """An index of images that need not exist, ordered as `find_images` orders."""
    paths = [path for paths in paths_of_classes for path in sorted(paths)]
    label = np.repeat(
        np.arange(len(paths_of_classes)), list(map(len, paths_of_classes))
    )
    none = np.empty(0)
    return ImageIndex(
        root=Path("/images"),
        paths=PackedPaths.pack(paths),
        label=label.astype(np.int32),
        archives=(),
        archive=none.astype(np.int16),
        offset=none.astype(np.int64),
        size=none.astype(np.uint32),
    )


def names(wnid: str, count: int) -> list[str]:
    return [f"{wnid}/{number}.jpg" for number in range(count)]


def subsets(paths_of_classes: list[list[str]], seed: int = 0, **shares: float):
    images = index(paths_of_classes)
    subset = assign_subsets(images, **(PAPER | shares), seed=seed)
    return {images.paths[row]: int(subset[row]) for row in range(len(images))}


def sizes(count: int, **shares: float) -> list[int]:
    found = subsets([names("a", count)], **shares)
    return np.bincount(list(found.values()), minlength=3).tolist()


def test_the_first_by_keyed_hash_go_to_test_the_next_to_validation() -> None:
    """The rule of the docstring in plain Python: it holds on every machine."""
    paths = names("n02084071", 40)
    key = (7).to_bytes(8, "little")
    order = sorted(
        paths,
        key=lambda path: hashlib.blake2b(
            path.encode(), digest_size=8, key=key
        ).digest(),
    )
    by_rule = dict.fromkeys(order, TRAIN)
    by_rule |= dict.fromkeys(order[: 40 // 10], TEST)
    by_rule |= dict.fromkeys(order[4 : 4 + 40 // 20], VAL)
    assert subsets([paths], seed=7) == by_rule


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, [0, 0, 0]),
        (1, [1, 0, 0]),
        (2, [1, 0, 1]),
        (3, [1, 1, 1]),
        (10, [8, 1, 1]),
        (20, [17, 1, 2]),
        (100, [85, 5, 10]),
        (1300, [1105, 65, 130]),
    ],
)
def test_sizes_of_a_class(count: int, expected: list[int]) -> None:
    assert sizes(count) == expected


@given(st.integers(3, 400))
def test_85_5_10_within_one_image(count: int) -> None:
    train, val, test = sizes(count)
    assert train + val + test == count
    assert abs(test - 0.10 * count) <= 1
    assert abs(val - 0.05 * count) <= 1
    assert abs(train - 0.85 * count) <= 2


@given(st.integers(3, 12), st.integers(0, 90), st.integers(0, 90))
def test_every_subset_with_a_share_has_an_image_from_3_images_on(
    count: int, val: int, test: int
) -> None:
    assume(val + test < 100)
    found = sizes(count, val=val / 100, test=test / 100)
    assert sum(found) == count
    assert found[TRAIN] >= 1
    assert (found[VAL] >= 1) == (val > 0)
    assert (found[TEST] >= 1) == (test > 0)


def test_no_share_leaves_all_for_training() -> None:
    assert sizes(50, val=0, test=0) == [50, 0, 0]


def test_every_class_is_split_on_its_own() -> None:
    both = subsets([names("a", 40), names("b", 30)])
    assert both == subsets([names("a", 40)]) | subsets([names("b", 30)])


def test_the_seed_chooses_the_images_not_the_sizes() -> None:
    paths = [names("a", 100)]
    one, two = subsets(paths, seed=0), subsets(paths, seed=1)
    assert one == subsets(paths, seed=0)
    assert one != two
    assert sorted(one.values()) == sorted(two.values())


def test_the_largest_seed_is_taken() -> None:
    assert len(subsets([names("a", 10)], seed=2**63 - 1)) == 10


@given(st.integers(3, 200), st.integers(0, 10_000))
def test_one_more_image_moves_at_most_three_others(count: int, number: int) -> None:
    paths = names("a", count)
    before = subsets([paths])
    after = subsets([[*paths, f"a/new-{number}.jpg"]])
    assert sum(before[path] != after[path] for path in paths) <= 3


class TestGiven:
    PATHS = (
        [f"train/a/{n}.jpg" for n in range(40)] + ["val/a/1.jpg", "test/a/1.jpg"],
        ["train/b/1.jpg", "val/b/1.jpg"],
    )

    def given(self, parts: dict[str, str], paths: object = PATHS) -> Subsets:
        images = index(paths)
        subset = given_subsets(images, parts, val=0.1, seed=3)
        return {images.paths[row]: int(subset[row]) for row in range(len(images))}

    def test_three_parts_stay_as_they_are(self) -> None:
        found = self.given({"train": "train", "val": "val", "test": "test"})
        assert all(
            subset == ("train", "val", "test").index(path.partition("/")[0])
            for path, subset in found.items()
        )

    def test_a_missing_val_is_dealt_from_train(self) -> None:
        paths = [[p for p in some if "test" not in p] for some in self.PATHS]
        found = self.given({"train": "train", "val": "test"}, paths)
        assert [p for p, subset in found.items() if subset == TEST] == [
            *("val/a/1.jpg", "val/b/1.jpg")
        ]
        dealt = [p for p, subset in found.items() if subset == VAL]
        assert len(dealt) == 4  # a tenth of 40; class b has but one image
        assert all(path.startswith("train/a/") for path in dealt)
        training = [paths[0][:-1], paths[1][:-1]]
        alike = subsets(training, val=0.1, test=0, seed=3)
        assert {p for p, subset in alike.items() if subset == VAL} == set(dealt)
