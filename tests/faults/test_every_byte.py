"""Every byte of every kind of artifact changed, and every length it can be cut to."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from specimens import Specimen

from deepme.errors import ArtifactError

LARGEST = 20_000
"""Files beyond this many bytes are changed at that many places of them."""


def places(size: int) -> list[int]:
    return (
        list(range(size))
        if size <= LARGEST
        else sorted(random.Random(size).sample(range(size), LARGEST))
    )


@pytest.mark.timeout(3600)
class TestEveryByte:
    def test_changed(self, victim: Specimen, counted: Callable[[str, int], None]):
        raw = victim.path.read_bytes()
        rng = random.Random(victim.path.name)
        for place in places(len(raw)):
            changed = bytearray(raw)
            changed[place] ^= 1 << rng.randrange(8)
            victim.path.write_bytes(changed)
            with pytest.raises(ArtifactError):
                victim.load()
        counted("a bit of a byte changed", len(places(len(raw))))

    def test_cut(self, victim: Specimen, counted: Callable[[str, int], None]):
        raw = victim.path.read_bytes()
        for place in places(len(raw)):
            victim.path.write_bytes(raw[:place])
            with pytest.raises(ArtifactError):
                victim.load()
        counted("cut to a length", len(places(len(raw))))
