"""What surrounds a thing in the demo's pictures: scene, clutter, light and grain.

Everything here is chance around the branch's scene; nothing depends on the class.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepme.images.shapes import Coat, Colour, Pen


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    bounded = (hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1))
    red, green, blue = colorsys.hsv_to_rgb(*bounded)
    return round(255 * red), round(255 * green), round(255 * blue)


def mix_coat(hsv: tuple[float, float, float], rng: np.random.Generator) -> Coat:
    """Mix the coat of one picture around the class's hue, saturation and value."""
    hue, saturation, value = np.array(hsv) + rng.normal(0, (0.025, 0.1, 0.08))
    return Coat(
        body=_rgb(hue, saturation, value),
        dark=_rgb(hue - 0.01, saturation + 0.1, value * 0.6),
        light=_rgb(hue + 0.01, saturation * 0.45, value * 1.2 + 0.05),
    )


def _meadow(pen: Pen, rng: np.random.Generator) -> None:
    hue, horizon = rng.normal(0.28, 0.03), rng.uniform(-0.7, 0.1)
    pen.polygon(_band(-1, horizon), _rgb(0.56, 0.25, 0.85))
    pen.polygon(_band(horizon, 1), _rgb(hue, 0.5, rng.uniform(0.45, 0.7)))
    for _ in range(24):
        x, y = rng.uniform(-1, 1), rng.uniform(horizon, 1)
        blade = [(x, y), (x + rng.normal(0, 0.06), y - 0.18)]
        pen.stroke(blade, 0.04, _rgb(hue, 0.55, rng.uniform(0.35, 0.8)))


def _table(pen: Pen, rng: np.random.Generator) -> None:
    hue, count = rng.uniform(0.5, 0.8), int(rng.integers(3, 6))
    pen.polygon(_band(-1, 1), _rgb(hue, 0.08, 0.9))
    for i in range(-count, count + 1):
        stripe = [(i / count, -1), (i / count, 1)]
        pen.stroke(stripe, 0.4 / count, _rgb(hue, 0.25, 0.82))
        pen.stroke([(y, x) for x, y in stripe], 0.2 / count, _rgb(hue, 0.3, 0.76))


def _street(pen: Pen, rng: np.random.Generator) -> None:
    horizon = rng.uniform(-0.1, 0.45)
    pen.polygon(_band(-1, horizon), _rgb(0.57, rng.uniform(0.1, 0.35), 0.88))
    for x in np.arange(-1.0, 1.0, 0.4):
        house = _band(horizon - rng.uniform(0.1, 0.7), horizon, x, x + 0.32)
        pen.polygon(house, _rgb(rng.uniform(0, 0.15), 0.15, rng.uniform(0.5, 0.75)))
    pen.polygon(_band(horizon, 1), _rgb(0.6, 0.05, rng.uniform(0.3, 0.5)))
    for x in np.arange(-1.0, 1.0, 0.5):
        pen.stroke([(x, 0.85), (x + 0.2, 0.85)], 0.06, _rgb(0.15, 0.1, 0.9))


def _stage(pen: Pen, rng: np.random.Generator) -> None:
    hue, count = rng.normal(0.93, 0.05), int(rng.integers(5, 9))
    pen.polygon(_band(-1, 1), _rgb(hue, 0.7, 0.28))
    for x in np.linspace(-1, 1, count):
        pen.stroke([(x, -1), (x, 0.6)], 0.6 / count, _rgb(hue, 0.7, 0.4))
    pen.polygon(_band(0.6, 1), _rgb(0.07, 0.5, 0.3))
    pen.ellipse(rng.normal(0, 0.2), 0.75, 0.8, 0.2, _rgb(0.1, 0.35, 0.55))


_SCENES: dict[str, tuple[Callable[[Pen, np.random.Generator], None], ...]] = {
    "dog": (_meadow,),
    "fruit": (_table,),
    "vehicle": (_street,),
    "instrument": (_stage,),
    "container": (_street, _stage),
}


def _band(
    top: float, bottom: float, left: float = -1.0, right: float = 1.0
) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def draw_scene(canvas: Image.Image, branch: str, rng: np.random.Generator) -> None:
    """Fill the canvas with the branch's scene or, one time in five, a bare wall.

    Args:
        canvas: what to draw on.
        branch: dog, fruit, vehicle, instrument or container.
        rng: the picture's chance.
    """
    pen, scenes = Pen(canvas), _SCENES[branch]
    if rng.random() < 0.2:
        wall = _rgb(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.25, 0.9))
        pen.polygon(_band(-1, 1), wall)
    else:
        scenes[int(rng.integers(len(scenes)))](pen, rng)


def draw_clutter(canvas: Image.Image, rng: np.random.Generator, *, count: int) -> None:
    """Throw in small things that mean nothing."""
    pen = Pen(canvas)
    for _ in range(count):
        x, y, dx, dy = rng.uniform((-1, -1, -0.4, -0.4), (1, 1, 0.4, 0.4))
        colour = _rgb(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.9))
        if rng.random() < 0.5:
            pen.stroke([(x, y), (x + dx, y + dy)], 0.07, colour)
        else:
            pen.ellipse(x, y, 0.05 + abs(dx) / 3, 0.05 + abs(dy) / 3, colour)


def expose(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Vary what a camera varies: slope of light, contrast, tint, brightness, grain."""
    pixels: NDArray[np.float64] = np.asarray(picture, dtype=np.float64) / 255
    slope = np.linspace(-1, 1, picture.width) * rng.normal(0, 0.1)
    pixels = pixels + (slope if rng.random() < 0.5 else slope[:, None])[..., None]
    pixels = (pixels - 0.5) * rng.uniform(0.65, 1.1) + 0.5
    pixels = pixels * rng.normal(1, 0.05, size=3) + rng.normal(0, 0.09)
    pixels += rng.normal(0, rng.uniform(0.02, 0.09), size=pixels.shape)
    return Image.fromarray(np.round(pixels.clip(0, 1) * 255).astype(np.uint8))
