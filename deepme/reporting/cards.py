"""A card a group: its name, size, neighbours, accuracy and images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from deepme.reporting.classes import groups_of_classes
from deepme.reporting.samples import Sample, spread
from deepme.reporting.sources import Sources
from deepme.reporting.tables import Cell, share
from deepme.text import clean, counted, listing

NAMED = 12
"""Classes named on a card."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the page says of one group.

    Attributes:
        number: 1 to T.
        name: its name.
        classes: C.
        shared: classes that other groups hold too.
        shared_with: which groups, and how many classes each; or empty.
        expert: accuracy of its expert among its own classes.
        system: accuracy of the system on the same images, among all classes.
        named: some of its classes, from all over it.
        rest: how many more there are.
        samples: images.
    """

    number: int
    name: str
    classes: int
    shared: int
    shared_with: str
    expert: Cell
    system: Cell
    named: str
    rest: int
    samples: list[Sample]


def make_cards(sources: Sources, samples: list[list[Sample]]) -> list[Card]:
    """Describe every group, in the order of their numbers."""
    groups_of = groups_of_classes(sources)
    names = [clean(group.name) for group in sources.groups.content.groups]
    k = str(sources.rank)
    cards = []
    for members, result, images in zip(
        sources.groups.members, sources.shown.content.groups, samples, strict=True
    ):
        shared = [i for i in members.tolist() if len(groups_of[i]) > 1]
        named = spread(members, NAMED).tolist()
        others = Counter(
            number for i in shared for number in groups_of[i] if number != result.number
        )
        told = [
            f"{counted(times, 'class')} with group {number} ({names[number - 1]})"
            for number, times in others.most_common()
        ]
        cards.append(
            Card(
                number=result.number,
                name=clean(result.name),
                classes=len(members),
                shared=len(shared),
                shared_with=listing(told, 4),
                expert=share(result.expert.get(k)),
                system=share(result.system.get(k)),
                named=", ".join(sources.class_name(i) for i in named),
                rest=len(members) - len(named),
                samples=images,
            )
        )
    return cards
