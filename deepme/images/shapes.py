"""The things the demo's pictures show, each drawn from a few proportions.

Shapes live in the square [-1, 1]², x to the right and y down; `Pen` moves, turns and
scales them onto a canvas. A painter draws one kind of thing; its keyword arguments
are what tells one class of that kind from another, its generator the chance in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]] | NDArray[np.float64]

BLACK: Colour = (24, 22, 26)
WHITE: Colour = (240, 238, 230)
GLASS: Colour = (178, 214, 226)


class Coat(NamedTuple):
    """The colours of one thing in one picture.

    Attributes:
        body: of most of it.
        dark: of what lies in shadow.
        light: of what lies in the light.
    """

    body: Colour
    dark: Colour
    light: Colour


class Pen:
    """Draws shapes of the unit square, moved, turned and scaled, on a canvas."""

    def __init__(
        self,
        canvas: Image.Image,
        *,
        scale: float = 1.0,
        turn: float = 0.0,
        flip: bool = False,
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Place the unit square on the canvas; `turn` is in degrees."""
        self._draw = ImageDraw.Draw(canvas)
        self._half = canvas.width / 2
        self._scale = scale
        cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        mirror = np.array([-1.0 if flip else 1.0, 1.0])
        self._matrix = scale * np.array([[cos, -sin], [sin, cos]]) * mirror
        self._shift = np.array(shift)

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._place(points), fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Fill an ellipse around (x, y)."""
        self.polygon(arc(x, y, rx, ry), colour)

    def stroke(self, points: Points, width: float, colour: Colour) -> None:
        """Draw a line of `width` with round ends and joints."""
        placed = self._place(points)
        thickness = max(1, round(width * self._scale * self._half))
        self._draw.line(placed, fill=colour, width=thickness, joint="curve")
        radius = thickness / 2
        for x, y in (placed[0], placed[-1]):
            box = (x - radius, y - radius, x + radius, y + radius)
            self._draw.ellipse(box, fill=colour)

    def _place(self, points: Points) -> list[tuple[float, float]]:
        placed = np.asarray(points) @ self._matrix.T + self._shift
        return [(float(x), float(y)) for x, y in (placed + 1) * self._half]


def arc(
    x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360
) -> NDArray[np.float64]:
    """Points of an ellipse's arc, angles in degrees clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, 33))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


Painter = Callable[[Pen, Coat, np.random.Generator], None]


def dog(
    pen: Pen,
    coat: Coat,
    rng: np.random.Generator,
    *,
    ear: float,
    face: float,
    blaze: float = 0.0,
    pricked: bool = False,
    mask: bool = False,
) -> None:
    """A dog's head; now and then it lacks its breed's mark or wears another's."""
    ear *= rng.normal(1, 0.18)
    face *= rng.normal(1, 0.05)
    for side in (-1, 1):
        if pricked:
            tip = (side * 0.6 * face, -0.55 - ear)
            base = [(side * 0.68 * face, -0.2), tip, (side * 0.1, -0.5)]
            pen.polygon(base, coat.dark)
        else:
            x, y = side * 0.66 * face, 1.8 * ear - 0.86
            pen.ellipse(x, y, 0.1 + 0.16 * ear, ear, coat.dark)
    pen.ellipse(0, -0.1, 0.62 * face, 0.58, coat.body)
    if rng.random() < (0.8 if blaze else 0.15):
        pen.ellipse(0, -0.25, blaze or 0.1, 0.42, WHITE)
    muzzle = coat.dark if rng.random() < (0.8 if mask else 0.15) else coat.light
    pen.ellipse(0, 0.38, 0.4 * face, 0.34, muzzle)
    pen.ellipse(0, 0.26, 0.15, 0.11, BLACK)
    if rng.random() < 0.4:
        pen.ellipse(0, 0.62, 0.1, 0.17, (214, 106, 118))
    for side in (-1, 1):
        pen.ellipse(side * 0.27 * face, -0.14, 0.09, 0.1, BLACK)


def fruit(
    pen: Pen,
    coat: Coat,
    rng: np.random.Generator,
    *,
    aspect: float,
    tip: float = 0.0,
    stem: float = 0.0,
    cleft: bool = False,
    pair: float = 0.0,
    size: float = 1.0,
) -> None:
    """One fruit or, with probability `pair`, two, with tips, cleft and stem."""
    centres = [(-0.42, 0.2), (0.42, 0.3)] if rng.random() < pair else [(0.0, 0.1)]
    radius = 0.72 * size / len(centres) ** 0.4
    for x, y in centres:
        rx, ry = radius * aspect * rng.normal(1, 0.07), radius
        if tip:
            pen.ellipse(x - rx, y, tip, 0.8 * tip, coat.dark)
            pen.ellipse(x + rx, y, tip, 0.8 * tip, coat.dark)
        pen.ellipse(x, y, rx, ry, coat.dark)
        pen.ellipse(x - 0.04, y - 0.04, rx * 0.93, ry * 0.93, coat.body)
        if cleft:
            groove = arc(x - 0.3 * rx, y, 0.4 * rx, ry * 0.9, -70, 70)
            pen.stroke(groove, 0.05, coat.dark)
        pen.ellipse(x - 0.35 * rx, y - 0.4 * ry, 0.25 * rx, 0.18 * ry, coat.light)
        if stem:
            end = (0.1, y - ry - stem)
            pen.stroke([(x, y - ry * 0.9), end], 0.08, (92, 70, 40))
    if rng.random() < 0.5:
        pen.ellipse(0.32, -0.02 - radius, 0.3, 0.13, (70, 128, 52))


def _wheels(pen: Pen, radius: float, *centres: float) -> None:
    for x in centres:
        pen.ellipse(x, 0.45, radius, radius, BLACK)
        pen.ellipse(x, 0.45, radius * 0.45, radius * 0.45, (160, 160, 164))


def car(
    pen: Pen,
    coat: Coat,
    rng: np.random.Generator,
    *,
    roof: float,
    slope: float,
    open_top: float = 0.0,
    wheel: float = 0.22,
) -> None:
    """A car from the side: cabin (or windscreen alone), hull, lamps, wheels."""
    top = -0.02 - roof * rng.normal(1, 0.1)
    if rng.random() < open_top:
        pen.stroke([(0.35, 0.0), (0.35 - slope, top)], 0.07, coat.dark)
        pen.polygon([(-0.5, 0.0), (-0.45, -0.14), (-0.25, -0.14), (-0.2, 0.0)], BLACK)
    else:
        cabin = [(-0.7, 0), (-0.6 + slope / 2, top), (0.45 - slope, top), (0.5, 0)]
        pen.polygon(cabin, coat.dark)
        inner = [(x * 0.82 - 0.01, y * 0.78) for x, y in cabin]
        pen.polygon(inner, GLASS)
        pen.stroke([(-0.1, 0), (-0.1, top)], 0.07, coat.dark)
    nose = 0.08 + slope * 0.2
    hull = [(-0.95, 0.0), (0.6, 0.0), (0.95, nose), (0.98, 0.42), (-0.98, 0.42)]
    pen.polygon(hull, coat.body)
    pen.stroke([(-0.9, 0.2), (0.9, 0.2)], 0.05, coat.light)
    _wheels(pen, wheel, -0.55, 0.55)


def truck(
    pen: Pen,
    coat: Coat,
    rng: np.random.Generator,
    *,
    load: float,
    ladder: bool = False,
    round_rear: bool = False,
) -> None:
    """A truck from the side: cab in front, a load space of height `load` behind."""
    top = 0.1 - load * rng.normal(1, 0.2)
    pen.polygon([(-0.98, top), (0.3, top), (0.3, 0.42), (-0.98, 0.42)], coat.body)
    if round_rear and rng.random() < 0.75:
        pen.ellipse(-0.75, (top + 0.42) / 2, 0.34, (0.42 - top) / 2, coat.body)
        pen.stroke([(-0.4, top), (-0.5, 0.4)], 0.07, coat.dark)
    if ladder and rng.random() < 0.75:
        pen.stroke([(-0.95, top - 0.1), (0.5, top - 0.16)], 0.1, WHITE)
        pen.stroke([(-0.9, 0.22), (0.3, 0.22)], 0.08, WHITE)
    cab = [(0.34, -0.4), (0.74, -0.4), (0.95, 0.0), (0.98, 0.42), (0.34, 0.42)]
    pen.polygon(cab, coat.dark)
    pen.polygon([(0.45, -0.3), (0.7, -0.3), (0.84, -0.02), (0.45, -0.02)], GLASS)
    _wheels(pen, 0.2, -0.6, 0.62)


def strings(
    pen: Pen,
    coat: Coat,
    rng: np.random.Generator,
    *,
    body: float,
    neck: float,
    round_hole: bool = False,
    pin: float = 0.0,
) -> None:
    """A stringed instrument standing: neck, two bouts, sound holes, bridge."""
    body *= rng.normal(1, 0.06)
    shoulder = 0.75 - 1.75 * body
    pen.stroke([(0, shoulder), (0, shoulder - neck)], 0.12, coat.dark)
    pen.ellipse(0, shoulder - neck, 0.11, 0.13, coat.dark)
    if pin:
        pen.stroke([(0, 0.7), (0, 0.75 + pin)], 0.06, BLACK)
    for y, width in ((0.75 - 1.3 * body, 0.62), (0.75 - 0.55 * body, 0.82)):
        pen.ellipse(0, y, width * body, 0.58 * body, coat.dark)
    for y, width in ((0.75 - 1.3 * body, 0.52), (0.75 - 0.55 * body, 0.72)):
        pen.ellipse(0, y, width * body, 0.48 * body, coat.body)
    if round_hole:
        pen.ellipse(0, 0.75 - 0.95 * body, 0.22 * body, 0.22 * body, BLACK)
    else:
        for side in (-1, 1):
            x = side * 0.34 * body
            pen.stroke([(x, 0.75 - 1.1 * body), (x, 0.75 - 0.6 * body)], 0.06, BLACK)
    pen.stroke([(0, 0.75 - 0.4 * body), (0, shoulder - neck)], 0.04, coat.light)


def brass(
    pen: Pen,
    coat: Coat,
    rng: np.random.Generator,
    *,
    straight: float,
    loop: float,
    bell: float,
    valves: int = 0,
) -> None:
    """A brass instrument lying: a tube bent into a loop, valves, a bell."""
    straight *= rng.normal(1, 0.1)
    loop *= rng.normal(1, 0.08)
    left, right = -0.15 - straight / 2, -0.15 + straight / 2
    pen.stroke([(right, loop), (left, loop)], 0.13, coat.dark)
    pen.stroke(arc(left, 0, loop, loop, 90, 270), 0.13, coat.body)
    pen.stroke(arc(right, 0, loop, loop, -90, 90), 0.13, coat.dark)
    pen.stroke([(left, -loop), (right, -loop)], 0.13, coat.body)
    for i in range(valves):
        x = -0.15 + 0.2 * (i - (valves - 1) / 2)
        pen.stroke([(x, -loop - 0.18), (x, 0.6 * loop)], 0.11, coat.light)
    mouth = right + 0.4 + bell / 2
    for reach, flare in ((right, 0.07), (mouth - 0.18, 0.4 * bell)):
        flank = [(reach, -loop - flare), (mouth, -loop - bell)]
        pen.polygon([*flank, (mouth, -loop + bell), (reach, -loop + flare)], coat.body)
    pen.ellipse(mouth, -loop, 0.09, bell, coat.light)


def barrel(pen: Pen, coat: Coat, rng: np.random.Generator) -> None:
    """A cask: bulging staves, two hoops, a lid."""
    bulge = 0.62 * rng.normal(1, 0.08)
    pen.ellipse(0, 0, bulge, 1.1, coat.body)
    for x in (-0.3, 0.0, 0.3):
        pen.stroke([(x, -0.8), (x * 1.3, 0), (x, 0.8)], 0.04, coat.dark)
    for y in (-0.4, 0.4):
        pen.stroke([(-bulge * 0.92, y), (bulge * 0.92, y)], 0.13, BLACK)
    pen.ellipse(0, -0.78, 0.44, 0.16, coat.light)


def basket(pen: Pen, coat: Coat, rng: np.random.Generator) -> None:
    """A basket: a handle over a woven bowl."""
    pen.stroke(arc(0, -0.05, 0.6, 0.8 * rng.normal(1, 0.1), 180, 360), 0.1, coat.dark)
    pen.polygon([(-0.8, -0.1), (0.8, -0.1), (0.58, 0.75), (-0.58, 0.75)], coat.body)
    for y in (0.08, 0.32, 0.56):
        pen.stroke([(-0.7, y), (0.7, y)], 0.05, coat.dark)
    for x in (-0.45, -0.15, 0.15, 0.45):
        pen.stroke([(x * 1.2, -0.05), (x, 0.7)], 0.06, coat.light)
    pen.stroke([(-0.82, -0.1), (0.82, -0.1)], 0.12, coat.dark)
