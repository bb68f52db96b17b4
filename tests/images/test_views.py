from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.datasets import load_sample_images

from deepme.images.reading import opened
from deepme.images.views import (
    CENTRE,
    CROP_AREA,
    Crop,
    centre_crop,
    centre_view,
    random_crop,
    random_view,
    view_of,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def places(width: int, height: int) -> np.ndarray:
    """An image whose red is the column and whose green is the row."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return pixels


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 9))
@example(1, 1, 0)
@example(1, 2000, 0)
@example(2000, 1, 0)
def test_every_image_gives_views_of_its_own_pixels(
    width: int, height: int, seed: int
) -> None:
    """White stays white: no view reaches outside the image."""
    image = np.full((height, width, 3), 255, dtype=np.uint8)
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


def by_pillow(image: Image.Image, crop: Crop, size: int) -> np.ndarray:
    """The view as Pillow alone makes it, from the whole image and between pixels."""
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=crop.box)
    view = np.asarray(resized).transpose(2, 0, 1)
    return view[:, :, ::-1] if crop.mirrored else view


@given(
    st.integers(4, 127),
    st.integers(4, 127),
    st.integers(0, 99),
    st.sampled_from([9, 40]),
)
def test_a_part_of_a_small_image_is_scaled_by_pillow(
    width: int, height: int, seed: int, size: int
) -> None:
    pixels = generator(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    crop = random_crop(width, height, generator(seed))
    expected = by_pillow(Image.fromarray(pixels), crop, size)
    assert np.array_equal(view_of(pixels, crop, (width, height), size), expected)


@pytest.mark.parametrize("photo", [0, 1])
@pytest.mark.parametrize("size", [224, 64, 24])
def test_a_large_photo_gives_nearly_the_same_view(photo: int, size: int) -> None:
    """Decoded smaller, cut at whole pixels, scaled by PyTorch; in steps of 255."""
    image = Image.fromarray(load_sample_images().images[photo])
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    whole = Image.open(io.BytesIO(stream.getvalue())).convert("RGB")
    crops = [centre_crop(*image.size)]
    crops += [random_crop(*image.size, generator(seed)) for seed in range(10)]
    shrunk = set()
    for crop in crops:
        with opened(stream.getvalue()) as picture:
            assert picture.size == image.size
            decoded = picture.pixels(crop.shrink(size))
        view = view_of(decoded, crop, image.size, size)
        difference = np.abs(view.astype(float) - by_pillow(whole, crop, size))
        assert difference.mean() < 4
        shrunk.add(round(image.width / decoded.shape[1]))
    assert shrunk <= {224: {1}, 64: {1, 2}, 24: {4, 8}}[size]


def test_only_a_jpeg_in_colour_is_decoded_smaller() -> None:
    for form, mode, expected in (
        ("JPEG", "RGB", (13, 25)),
        ("JPEG", "L", (50, 100)),
        ("PNG", "RGB", (50, 100)),
    ):
        stream = io.BytesIO()
        Image.new(mode, (100, 50)).save(stream, form)
        with opened(stream.getvalue()) as picture:
            assert picture.pixels(4).shape == (*expected, 3)


def test_a_jpeg_on_its_side_is_cut_upright() -> None:
    """What is decoded smaller is turned after that."""
    image = places(240, 160)
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=98, exif=exif)
    with opened(stream.getvalue()) as picture:
        crop = Crop((0, 120, 160, 240), mirrored=False)
        small = picture.pixels(2)
        assert picture.size == (160, 240)
    assert small.shape == (120, 80, 3)
    view = view_of(small, crop, picture.size, 8).astype(float)
    # Its lower half is the right half, and its left edge was the lower one.
    assert_allclose(view[0].mean(axis=1), np.linspace(127, 232, 8), atol=12)
    assert view[1, :, 0].mean() > 140 > 20 > view[1, :, -1].mean()


def test_a_part_is_decoded_no_smaller_than_twice_the_view() -> None:
    for side, expected in ((127, 1), (128, 2), (255, 2), (256, 4), (9000, 8)):
        assert Crop((0, 0, side, 9000), mirrored=False).shrink(32) == expected
