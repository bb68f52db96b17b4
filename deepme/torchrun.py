"""What torchrun tells a process through the environment; told without torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from deepme.errors import UsageError
from deepme.text import clean


class Place(NamedTuple):
    """Where a process stands among those that were started together.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int
    size: int


ALONE = Place(0, 1)


def place() -> Place:
    """Where torchrun has put this process; alone without torchrun.

    Schedulers and containers set one of the two variables for ends of their own, so
    only both together count.

    Raises:
        UsageError: they are no numbers.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return ALONE
    return Place(_number("RANK"), _number("WORLD_SIZE"))


def _number(name: str) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(
            f"{name} in the environment is {clean(text)}, expected a number as "
            "torchrun sets it",
            "unset RANK and WORLD_SIZE, or start the command with torchrun",
        )
    return int(text)
