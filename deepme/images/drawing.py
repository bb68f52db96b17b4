"""Pictures of WordNet synsets whose look follows their place in the taxonomy.

The branch of a class (dog, fruit, vehicle, instrument) decides what is drawn and on
which scene, its sub-branch the colours, and the class itself the proportions and
details. Place, size, turn, light, clutter and noise are chance, so that a small
network soon tells the branches apart and the classes within one only in part.
Two containers lie between vehicles and instruments, in WordNet (wheeled vehicles are
containers there) as in the pictures, and give soft clustering something to share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from deepme.images.scenes import draw_clutter, draw_scene, expose, mix_coat
from deepme.images.shapes import (
    Painter,
    Pen,
    barrel,
    basket,
    brass,
    car,
    dog,
    fruit,
    strings,
    truck,
)
from deepme.storage.atomic import atomic_write

_OVERSAMPLING = 4


class Look(NamedTuple):
    """What a sub-branch has in common.

    Attributes:
        branch: decides the scene.
        turn: how far its things lean, as a standard deviation in degrees.
        hsv: hue, saturation and value of its coats, each in [0, 1].
    """

    branch: str
    turn: float
    hsv: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class DemoClass:
    """One class of the demo.

    Attributes:
        wnid: 'n' + the offset of a noun synset in WordNet 3.0.
        name: its first lemma there.
        look: what it shares with its sub-branch.
        paint: draws it.
    """

    wnid: str
    name: str
    look: Look
    paint: Painter


_HOUND = Look("dog", 14, (0.085, 0.55, 0.80))
_SHEPHERD = Look("dog", 14, (0.075, 0.50, 0.50))
_ORANGE = Look("fruit", 25, (0.10, 0.85, 0.90))
_LEMON = Look("fruit", 25, (0.145, 0.80, 0.90))
_LIME = Look("fruit", 25, (0.19, 0.75, 0.80))
_PLUM = Look("fruit", 25, (0.90, 0.60, 0.60))
_PEACH = Look("fruit", 25, (0.99, 0.58, 0.80))
_CHERRY = Look("fruit", 25, (0.96, 0.75, 0.70))
_CAR = Look("vehicle", 7, (0.58, 0.65, 0.75))
_TRUCK = Look("vehicle", 7, (0.02, 0.75, 0.80))
_WOOD = Look("instrument", 30, (0.065, 0.68, 0.74))
_BRASS = Look("instrument", 30, (0.125, 0.60, 0.86))
_STAVES = Look("container", 14, (0.07, 0.55, 0.55))
_WICKER = Look("container", 14, (0.10, 0.50, 0.66))

_BEAGLE = partial(dog, ear=0.42, face=0.85, blaze=0.14)
_BASSET = partial(dog, ear=0.56, face=0.85, blaze=0.09)
_BLOODHOUND = partial(dog, ear=0.56, face=0.95, mask=True)
_COLLIE = partial(dog, ear=0.22, face=0.72, pricked=True, blaze=0.12)
_ALSATIAN = partial(dog, ear=0.36, face=0.82, pricked=True, mask=True)
_CHERRIES = partial(fruit, aspect=1.0, stem=0.5, pair=0.6, size=0.75)
_CONVERTIBLE = partial(car, roof=0.45, slope=0.3, open_top=0.85)
_SPORTS_CAR = partial(car, roof=0.32, slope=0.45, open_top=0.05)
_JEEP = partial(car, roof=0.55, slope=0.08, open_top=0.1, wheel=0.28)
_GARBAGE_TRUCK = partial(truck, load=0.56, round_rear=True)
_CELLO = partial(strings, body=0.62, neck=0.45, pin=0.25)
_GUITAR = partial(strings, body=0.56, neck=0.7, round_hole=True)
_CORNET = partial(brass, straight=0.7, loop=0.26, bell=0.28, valves=3)
_TROMBONE = partial(brass, straight=1.2, loop=0.15, bell=0.3)
_HORN = partial(brass, straight=0.15, loop=0.46, bell=0.42, valves=2)

DEMO_CLASSES = (
    DemoClass("n02088364", "beagle", _HOUND, _BEAGLE),
    DemoClass("n02088238", "basset", _HOUND, _BASSET),
    DemoClass("n02088466", "bloodhound", _HOUND, _BLOODHOUND),
    DemoClass("n02106030", "collie", _SHEPHERD, _COLLIE),
    DemoClass("n02106662", "German shepherd", _SHEPHERD, _ALSATIAN),
    DemoClass("n02106550", "Rottweiler", _SHEPHERD, partial(dog, ear=0.27, face=0.95)),
    DemoClass("n07747607", "orange", _ORANGE, partial(fruit, aspect=1.0)),
    DemoClass(
        "n07749582", "lemon", _LEMON, partial(fruit, aspect=1.2, tip=0.2, size=0.85)
    ),
    DemoClass(
        "n07749731", "lime", _LIME, partial(fruit, aspect=1.1, tip=0.12, size=0.8)
    ),
    DemoClass(
        "n07751451", "plum", _PLUM, partial(fruit, aspect=0.85, cleft=True, pair=0.25)
    ),
    DemoClass("n07751004", "peach", _PEACH, partial(fruit, aspect=1.05, cleft=True)),
    DemoClass("n07757132", "cherry", _CHERRY, _CHERRIES),
    DemoClass("n03100240", "convertible", _CAR, _CONVERTIBLE),
    DemoClass("n04285008", "sports car", _CAR, _SPORTS_CAR),
    DemoClass("n03594945", "jeep", _CAR, _JEEP),
    DemoClass(
        "n03345487", "fire engine", _TRUCK, partial(truck, load=0.5, ladder=True)
    ),
    DemoClass("n03417042", "garbage truck", _TRUCK, _GARBAGE_TRUCK),
    DemoClass("n03930630", "pickup", _TRUCK, partial(truck, load=0.2)),
    DemoClass("n04536866", "violin", _WOOD, partial(strings, body=0.52, neck=0.5)),
    DemoClass("n02992211", "cello", _WOOD, _CELLO),
    DemoClass("n02676566", "acoustic guitar", _WOOD, _GUITAR),
    DemoClass("n03110669", "cornet", _BRASS, _CORNET),
    DemoClass("n04487394", "trombone", _BRASS, _TROMBONE),
    DemoClass("n03394916", "French horn", _BRASS, _HORN),
    DemoClass("n02795169", "barrel", _STAVES, barrel),
    DemoClass("n02801938", "basket", _WICKER, basket),
)
"""Real ImageNet classes: four branches of six, and two containers between."""

_BY_WNID = {demo_class.wnid: demo_class for demo_class in DEMO_CLASSES}


def draw_picture(wnid: str, *, size: int, seed: int) -> Image.Image:
    """Draw one picture of a class of `DEMO_CLASSES`.

    Args:
        wnid: the class.
        size: side in pixels.
        seed: which picture of the class, ≥ 0.

    Returns:
        An RGB image, the same on every call.

    Raises:
        ValueError: `wnid` is not a class of the demo.
    """
    if wnid not in _BY_WNID:
        raise ValueError(f"wnid is {wnid!r}, expected one of DEMO_CLASSES")
    look, paint = _BY_WNID[wnid].look, _BY_WNID[wnid].paint
    rng = np.random.default_rng([int(wnid[1:]), seed])
    canvas = Image.new("RGB", (size * _OVERSAMPLING, size * _OVERSAMPLING))
    draw_scene(canvas, look.branch, rng)
    draw_clutter(canvas, rng, count=int(rng.integers(2, 6)))
    pen = Pen(
        canvas,
        scale=rng.uniform(0.5, 0.85),
        turn=rng.normal(0, look.turn),
        flip=bool(rng.random() < 0.5),
        shift=(rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)),
    )
    paint(pen, mix_coat(look.hsv, rng), rng)
    draw_clutter(canvas, rng, count=int(rng.integers(0, 3)))
    return expose(canvas.resize((size, size), Image.Resampling.BOX), rng)


def write_demo_images(root: Path, *, per_class: int, size: int, seed: int) -> None:
    """Write `per_class` pictures of every class as ``WNID/0000.png`` and so on.

    Those already there stay: a picture's file is whole or absent.

    Args:
        root: the folder to fill.
        per_class: pictures a class, at most 1,000,000.
        size: side in pixels.
        seed: another seed shares no picture with this one.

    Raises:
        EnvironmentFault: the file system refused.
    """
    for demo_class in DEMO_CLASSES:
        for number in range(per_class):
            path = root / demo_class.wnid / f"{number:04d}.png"
            if path.exists():
                continue
            picture = draw_picture(
                demo_class.wnid, size=size, seed=seed * 1_000_000 + number
            )
            with atomic_write(path) as file:
                picture.save(file, format="PNG")
