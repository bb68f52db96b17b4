"""Turn an image into what the network sees, (3, S, S) uint8.

A view is a box on the upright image, scaled to S pixels a side. A box of more than S
pixels a side and `LARGE` in all is scaled by PyTorch, twice as fast as by Pillow; it
takes whole pixels, so that the box's edges are rounded. A smaller one, or one on an
image that was decoded smaller, is scaled by Pillow, between pixels. Both smooth what
they shrink.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

CROP_AREA = (0.35, 1.0)
LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
CENTRE = 0.875
LARGE = 128 * 128
"""Pixels from which on PyTorch is faster than Pillow."""
SHRINKS = (8, 4, 2)
"""How many times smaller a JPEG can be decoded."""


class Crop(NamedTuple):
    """A part of an image.

    Attributes:
        box: left, top, right and bottom in pixels.
        mirrored: whether left and right change places.
    """

    box: tuple[float, float, float, float]
    mirrored: bool

    def shrink(self, size: int) -> int:
        """How many times smaller the image may be: the part keeps 2 S pixels a side.

        With S pixels alone it would differ more from the whole image's.
        """
        left, top, right, bottom = self.box
        side = min(right - left, bottom - top)
        return next((times for times in SHRINKS if side >= 2 * times * size), 1)


def centre_crop(width: int, height: int) -> Crop:
    """The centre square of 7/8 of the shorter side, as timm evaluates by default."""
    side = CENTRE * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return Crop((left, top, left + side, top + side), False)


def random_crop(width: int, height: int, generator: np.random.Generator) -> Crop:
    """A random part of 35 to 100 % of the area, mirrored half of the time.

    Args:
        width: of the image.
        height: of the image.
        generator: the source of the crop's randomness.
    """
    area = generator.uniform(*CROP_AREA) * width * height
    ratio = math.exp(generator.uniform(*LOG_RATIO))
    crop_width = min(width, math.sqrt(area * ratio))
    crop_height = min(height, math.sqrt(area / ratio))
    left = generator.uniform(0, width - crop_width)
    top = generator.uniform(0, height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    return Crop(box, bool(generator.random() < 0.5))


def view_of(
    pixels: NDArray[np.uint8], crop: Crop, full: tuple[int, int], size: int
) -> NDArray[np.uint8]:
    """Scale a part of an image to the network's size.

    Args:
        pixels: (height, width, 3), upright RGB, perhaps decoded smaller than it is.
        crop: the part, in pixels of the full image.
        full: width and height of the full image.
        size: S, pixels a side.

    Returns:
        (3, S, S) uint8.
    """
    left, top, right, bottom = crop.box
    width, height = round(right) - round(left), round(bottom) - round(top)
    decoded = pixels.shape[1], pixels.shape[0]
    if decoded != full:
        across, down = decoded[0] / full[0], decoded[1] / full[1]
        box = (left * across, top * down, right * across, bottom * down)
        view = _scaled(pixels, box, size)
    elif min(width, height) > size and width * height >= LARGE:
        view = _scaled_down(pixels, crop.box, size)
    else:
        view = _scaled(pixels, crop.box, size)
    return view[:, :, ::-1].copy() if crop.mirrored else view


def centre_view(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Make the view of `centre_crop`, (3, S, S) uint8, from (height, width, 3) RGB."""
    full = pixels.shape[1], pixels.shape[0]
    return view_of(pixels, centre_crop(*full), full, size)


def random_view(
    pixels: NDArray[np.uint8], size: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Make a view of `random_crop`, (3, S, S) uint8, from (height, width, 3) RGB."""
    full = pixels.shape[1], pixels.shape[0]
    return view_of(pixels, random_crop(*full, generator), full, size)


def _scaled(
    pixels: NDArray[np.uint8], box: tuple[float, float, float, float], size: int
) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def _scaled_down(
    pixels: NDArray[np.uint8], box: tuple[float, float, float, float], size: int
) -> NDArray[np.uint8]:
    left, top, right, bottom = map(round, box)
    part = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)[None]
    # On bytes, in whole numbers: the same on every CPU with any number of threads.
    smaller = functional.interpolate(
        part, (size, size), mode="bilinear", antialias=True
    )
    view: NDArray[np.uint8] = smaller[0].contiguous().numpy()
    return view
