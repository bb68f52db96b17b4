"""Turn a decoded image into what the network sees, (3, S, S) uint8."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CROP_AREA = (0.35, 1.0)
LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
CENTRE = 0.875


def centre_view(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The centre square of 7/8 of the shorter side, as timm evaluates by default.

    Args:
        image: an RGB image.
        size: S, pixels a side.

    Returns:
        (3, S, S) uint8.
    """
    width, height = image.size
    side = CENTRE * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return _resized(image, (left, top, left + side, top + side), size)


def random_view(
    image: Image.Image, size: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """A random crop of 35 to 100 % of the area, mirrored half of the time.

    Args:
        image: an RGB image.
        size: S, pixels a side.
        generator: the source of the view's randomness.

    Returns:
        (3, S, S) uint8.
    """
    width, height = image.size
    area = generator.uniform(*CROP_AREA) * width * height
    ratio = math.exp(generator.uniform(*LOG_RATIO))
    crop_width = min(width, math.sqrt(area * ratio))
    crop_height = min(height, math.sqrt(area / ratio))
    left = generator.uniform(0, width - crop_width)
    top = generator.uniform(0, height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    view = _resized(image, box, size)
    return view[:, :, ::-1].copy() if generator.random() < 0.5 else view


def _resized(
    image: Image.Image, box: tuple[float, float, float, float], size: int
) -> NDArray[np.uint8]:
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
