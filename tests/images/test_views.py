from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from PIL import Image

from deepme.images.views import CENTRE, CROP_AREA, centre_view, random_view


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def places(width: int, height: int) -> Image.Image:
    """An image whose red is the column and whose green is the row."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 9))
@example(1, 1, 0)
@example(1, 2000, 0)
@example(2000, 1, 0)
def test_every_image_gives_views_of_its_own_pixels(
    width: int, height: int, seed: int
) -> None:
    """White stays white: no view reaches outside the image."""
    image = Image.new("RGB", (width, height), "white")
    for view in (centre_view(image, 8), random_view(image, 8, generator(seed))):
        assert view.shape == (3, 8, 8)
        assert view.dtype == np.uint8
        assert view.flags.c_contiguous
        assert (view == 255).all()


def test_the_centre_view_is_seven_eighths_of_the_shorter_side() -> None:
    view = centre_view(places(128, 64), 56)
    assert CENTRE * 64 == 56
    left, top = (128 - 56) // 2, (64 - 56) // 2
    assert view[0, 0].tolist() == list(range(left, left + 56))
    assert view[1, :, 0].tolist() == list(range(top, top + 56))


def test_a_random_view_depends_on_its_generator_alone() -> None:
    image = places(60, 40)
    first = random_view(image, 8, generator(3))
    assert np.array_equal(first, random_view(image, 8, generator(3)))
    assert not np.array_equal(first, random_view(image, 8, generator(4)))


def test_half_of_the_random_views_are_mirrored() -> None:
    views = [random_view(places(200, 200), 4, generator(seed)) for seed in range(200)]
    mirrored = sum(view[0, 0, 0] > view[0, 0, -1] for view in views)
    assert mirrored == pytest.approx(100, abs=25)


def test_random_crops_keep_35_to_100_percent_of_the_area() -> None:
    areas = []
    for seed in range(200):
        view = random_view(places(240, 240), 120, generator(seed)).astype(float)
        # The columns between the first and the last pixel's centre, and so the rows.
        width = abs(view[0, 0, -1] - view[0, 0, 0]) * 120 / 119
        height = abs(view[1, -1, 0] - view[1, 0, 0]) * 120 / 119
        areas.append(width * height / 240**2)
    low, high = CROP_AREA
    assert low - 0.02 < min(areas) < low + 0.05
    assert high - 0.15 < max(areas) < high + 0.02
    assert_allclose(np.mean(areas), (low + high) / 2, atol=0.05)
