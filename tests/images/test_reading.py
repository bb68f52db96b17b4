"""A zoo of image files: each is decoded to RGB, or refused with a clear reason."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepme.images import reading
from deepme.images.index import find_images
from deepme.images.reading import MAX_BYTES, UnreadableImage, decode, read_bytes

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
ORIENTATION = 0x0112


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(size: int = 32) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def palette(**options: object) -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*BLUE, *RED])
    return encode(image, **options)


def turned(orientation: int, form: str) -> bytes:
    """A picture, 2 wide and 1 high, whose camera was held in one of 8 ways."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = Image.new("RGB", (32, 16), RED)
    image.paste(BLUE, (16, 0, 32, 16))
    return encode(image, form, exif=exif)


def bad_exif() -> bytes:
    """EXIF that Pillow reads, but fails with a TypeError when it writes it again."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    raw = bytearray(encode(Image.new("RGB", (8, 8), RED), "JPEG", exif=exif))
    place = raw.index(struct.pack(">HHI", 2, 5, 3))
    raw[place + 2 : place + 4] = struct.pack(">H", 2)
    return bytes(raw)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def giant_png(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


DECODED: dict[str, tuple[Callable[[], bytes], tuple[int, int], tuple[int, ...]]] = {
    "grey": (lambda: encode(Image.new("L", (5, 4), 9)), (5, 4), (9, 9, 9)),
    "black and white": (lambda: encode(Image.new("1", (5, 4), 1)), (5, 4), (255,) * 3),
    "grey, alpha": (lambda: encode(Image.new("LA", (5, 4), (9, 0))), (5, 4), (9, 9, 9)),
    "alpha": (lambda: encode(Image.new("RGBA", (5, 4), (*GREEN, 7))), (5, 4), GREEN),
    "palette": (palette, (4, 4), RED),
    "palette, one clear": (lambda: palette(transparency=1), (4, 4), RED),
    "palette, alpha": (lambda: palette(transparency=b"\x00\x80"), (4, 4), RED),
    "CMYK JPEG": (
        lambda: encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"),
        (8, 8),
        RED,
    ),
    "1 × 1": (lambda: encode(Image.new("RGB", (1, 1), RED)), (1, 1), RED),
    "1 × 2000": (lambda: encode(Image.new("RGB", (1, 2000), RED)), (1, 2000), RED),
    "PNG named .JPEG": (lambda: encode(Image.new("RGB", (5, 4), RED)), (5, 4), RED),
    "BMP": (lambda: encode(Image.new("RGB", (5, 4), RED), "BMP"), (5, 4), RED),
    "WEBP": (
        lambda: encode(Image.new("RGB", (5, 4), RED), "WEBP", lossless=True),
        (5, 4),
        RED,
    ),
    "animated GIF": (
        lambda: encode(
            Image.new("RGB", (5, 4), RED),
            "GIF",
            save_all=True,
            append_images=[Image.new("RGB", (5, 4), BLUE)],
        ),
        (5, 4),
        RED,
    ),
    "animated PNG": (
        lambda: encode(
            Image.new("RGB", (5, 4), RED),
            save_all=True,
            append_images=[Image.new("RGB", (5, 4), BLUE)],
        ),
        (5, 4),
        RED,
    ),
}

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", "the file is empty"),
    "text named .jpg": (lambda: b"<html>404 not found</html>", "not a JPEG, PNG, WEBP"),
    "EPS": (lambda: encode(Image.new("RGB", (5, 4)), "EPS"), "not a JPEG, PNG, WEBP"),
    "TIFF": (lambda: encode(Image.new("RGB", (5, 4)), "TIFF"), "not a JPEG, PNG, WEBP"),
    "truncated JPEG": (lambda: encode(noise(), "JPEG")[:-200], "OSError: .*truncated"),
    "half a JPEG header": (lambda: encode(noise(), "JPEG")[:30], "not a JPEG|OSError"),
    "truncated PNG": (lambda: encode(noise())[:-200], "OSError: .*truncated"),
    "PNG without pixels": (lambda: giant_png(8), "OSError|SyntaxError"),
    "65,000 × 65,000": (lambda: giant_png(65_000), "DecompressionBombError"),
    "9,000 × 9,000": (lambda: giant_png(9_000), "9000×9000 pixels, more than 64 M"),
    "EXIF that fails": (bad_exif, "Error: "),
}


@pytest.mark.parametrize("name", DECODED)
def test_is_decoded_to_rgb(name: str) -> None:
    make, size, colour = DECODED[name]
    image = decode(make())
    assert image.mode == "RGB"
    assert image.size == size
    pixels = np.asarray(image).reshape(-1, 3)
    assert np.array_equal(pixels, np.broadcast_to(colour, pixels.shape))


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_the_reason(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(UnreadableImage, match=reason):
        decode(make())


def test_16_bit_grey_keeps_its_shades() -> None:
    """Pillow's own conversion would make everything above 255 white."""
    shades = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = decode(encode(Image.fromarray(shades * 257)))
    assert np.array_equal(np.asarray(image), np.stack([shades] * 3, axis=2))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("orientation", "size", "first"),
    [
        (1, (32, 16), "left"),
        (2, (32, 16), "right"),
        (3, (32, 16), "right"),
        (4, (32, 16), "left"),
        (5, (16, 32), "top"),
        (6, (16, 32), "top"),
        (7, (16, 32), "bottom"),
        (8, (16, 32), "bottom"),
    ],
)
def test_is_turned_upright(
    orientation: int, size: tuple[int, int], first: str, form: str
) -> None:
    image = decode(turned(orientation, form))
    width, height = image.size
    assert image.size == size
    side = {
        "left": (1, height // 2),
        "right": (width - 2, height // 2),
        "top": (width // 2, 1),
        "bottom": (width // 2, height - 2),
    }
    red, _, blue = image.getpixel(side[first])
    assert red > 200 > 50 > blue


BROKEN = tuple(
    encode(noise(16), form, **options)
    for form, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08"}),
        ("PNG", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("GIF", {}),
    )
)


@given(st.sampled_from(BROKEN), st.data())
def test_a_damaged_file_is_decoded_or_refused_but_nothing_else(
    raw: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(raw[: data.draw(st.integers(1, len(raw)))])
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    with suppress(UnreadableImage):
        assert decode(bytes(damaged)).mode == "RGB"


JPEGS = [
    (mode, options)
    for mode in ("RGB", "L", "CMYK")
    for options in (
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 1, "restart_marker_rows": 1},
        {"quality": 30, "optimize": True},
    )
]


class TestDecodedByTorchvision:
    """It is asked for the time it saves alone: pixels and refusals are Pillow's."""

    def outcomes(
        self, raw: bytes, patch: pytest.MonkeyPatch
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """With torchvision and without; None where the file is refused."""
        found = []
        for ways in ({}, {"_by_torchvision": lambda _: None}):
            with patch.context() as without:
                for name, value in ways.items():
                    without.setattr(reading, name, value)
                try:
                    found.append(np.array(decode(raw)))
                except UnreadableImage:
                    found.append(None)
        return found[0], found[1]

    @pytest.mark.parametrize(("mode", "options"), JPEGS)
    @pytest.mark.parametrize("size", [(64, 64), (37, 21), (1, 9)])
    def test_whole(self, mode, options, size, monkeypatch):
        image = noise(64).resize(size).convert(mode)
        one, other = self.outcomes(encode(image, "JPEG", **options), monkeypatch)
        assert np.array_equal(one, other)

    @pytest.mark.parametrize("seed", range(60))
    def test_damaged(self, seed, monkeypatch):
        rng = np.random.default_rng(seed)
        mode, options = JPEGS[seed % 10]
        damaged = bytearray(encode(noise(48).convert(mode), "JPEG", **options))
        if seed % 3:
            for place in rng.integers(0, len(damaged), 2):
                damaged[place] = rng.integers(0, 256)
        else:
            del damaged[rng.integers(0, len(damaged)) :]
        one, other = self.outcomes(bytes(damaged), monkeypatch)
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)

    def test_it_is_asked_for_upright_jpegs_alone(self, monkeypatch):
        asked = []
        monkeypatch.setattr(reading, "_by_torchvision", asked.append)
        for raw in (turned(6, "JPEG"), encode(noise()), encode(noise(), "WEBP")):
            decode(raw)
        assert not asked
        decode(encode(noise(), "JPEG"))
        assert len(asked) == 1


class TestReadBytes:
    """What is no plain file is refused; nothing blocks."""

    def read_first(self, root: Path) -> bytes:
        images = find_images(root, {"n02084071": 0}, lambda _, figures="": None).images
        return read_bytes(images, 0)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "n02084071"
        folder.mkdir()
        return folder

    def test_a_directory_named_like_an_image_is_a_folder(self, folder, tmp_path):
        (folder / "x.jpg").mkdir()
        (folder / "x.jpg" / "1.png").write_bytes(b"inside")
        assert self.read_first(tmp_path) == b"inside"

    def test_a_dangling_link(self, folder, tmp_path):
        (folder / "x.jpg").symlink_to(tmp_path / "nowhere")
        with pytest.raises(UnreadableImage, match="no regular file of this name"):
            self.read_first(tmp_path)

    def test_a_pipe(self, folder, tmp_path):
        os.mkfifo(folder / "x.jpg")
        with pytest.raises(UnreadableImage, match="no regular file of this name"):
            self.read_first(tmp_path)

    def test_a_link_to_itself(self, folder, tmp_path):
        (folder / "x.jpg").symlink_to(folder / "x.jpg")
        with pytest.raises(UnreadableImage, match=r"no regular file|Too many levels"):
            self.read_first(tmp_path)

    def test_a_huge_file(self, folder, tmp_path):
        with (folder / "x.jpg").open("wb") as file:
            file.truncate(MAX_BYTES + 1)
        with pytest.raises(UnreadableImage, match="bytes, more than 268,435,456"):
            self.read_first(tmp_path)
