"""Read one image file, or say why it cannot be read.

What is accepted: JPEG, PNG, WEBP, BMP and GIF (its first frame) of at most 64
megapixels, turned upright by its EXIF mark and converted to RGB. Everything is decoded
here, in one try: Pillow opens lazily, and a truncated file only fails when its
pixels are asked for. A JPEG can be decoded at a half, a quarter or an eighth of its
size, which skips most of the work; whole, torchvision decodes it to the same pixels in
less time (docs/benchmarks/README.md, loader).
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from deepme.artifacts.split import ImageIndex

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MAX_PIXELS = 64 * 2**20
MAX_BYTES = 256 * 2**20


class UnreadableImage(Exception):
    """An image that cannot be decoded; the message is the reason."""


def read_bytes(images: ImageIndex, row: int) -> bytes:
    """Read an image's encoded bytes, from its own file or from inside a tar file.

    Raises:
        UnreadableImage: the file is gone, unreadable or cut short.
    """
    try:
        if images.archives:
            path = images.root / images.archives[images.archive[row]]
            return _read_part(path, int(images.offset[row]), int(images.size[row]))
        path = images.root / images.paths[row]
        # A pipe or device of this name would block for ever.
        if not path.is_file():
            raise UnreadableImage("there is no regular file of this name")
        _require_size(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error


def _require_size(size: int) -> None:
    if size > MAX_BYTES:
        raise UnreadableImage(f"{size:,} bytes, more than {MAX_BYTES:,}")


def _read_part(path: Path, offset: int, size: int) -> bytes:
    _require_size(size)
    # A pipe of this name would block for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        raw = os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
    if len(raw) != size:
        raise UnreadableImage(f"{path.name} ends before this member does")
    return raw


class Picture:
    """An image file whose pixels are still to be decoded; `opened` makes one.

    Attributes:
        size: width and height, upright.
    """

    def __init__(self, raw: bytes, image: Image.Image) -> None:
        """Read the size and the EXIF mark."""
        self._raw, self._image = raw, image
        width, height = image.size
        mark = image.getexif().get(ExifTags.Base.Orientation, 1)
        self._upright = mark not in range(2, 9)
        # 5 to 8 lie on their side.
        turned = mark in (5, 6, 7, 8)
        self.size = (height, width) if turned else (width, height)

    def pixels(self, shrink: int = 1) -> NDArray[np.uint8]:
        """Decode all pixels.

        Args:
            shrink: 1, or how many times smaller a JPEG of 3 colours may be decoded: 2,
                4 or 8. Each of its pixels is about the mean of those it stands for.

        Returns:
            (height, width, 3) uint8, upright RGB; a side is ⌈size / shrink⌉ where it
            was decoded smaller.
        """
        image = self._image
        is_jpeg = image.format == "JPEG"
        if is_jpeg and shrink == 1 and self._upright and image.mode in ("RGB", "L"):
            decoded = _by_torchvision(self._raw)
            if decoded is not None:
                return decoded
        if is_jpeg and shrink > 1 and image.mode == "RGB":
            width, height = image.size
            # Pillow takes the smallest size that is no less than what is asked for.
            image.draft("RGB", (width // shrink, height // shrink))
        return np.array(upright_rgb(image))


def _by_torchvision(raw: bytes) -> NDArray[np.uint8] | None:
    """Decode a JPEG; None where torchvision refuses, and Pillow is to say why.

    Of a damaged file that still decodes libjpeg may write a line to stderr.
    """
    # Here, because commands that decode nothing start without them (see `preload`).
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    try:
        decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
    pixels: NDArray[np.uint8] = decoded.permute(1, 2, 0).numpy()
    return pixels


def preload() -> None:
    """Import what decodes now: processes forked later share its memory."""
    import torchvision.io  # noqa: F401


@contextmanager
def opened(raw: bytes) -> Iterator[Picture]:
    """Open an encoded image; in the block its pixels can be decoded.

    Args:
        raw: the encoded file.

    Yields:
        The picture.

    Raises:
        UnreadableImage: empty, of another format, broken or too large.
    """
    if not raw:
        raise UnreadableImage("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise UnreadableImage(f"{width}×{height} pixels, more than 64 M")
                yield Picture(raw, image)
    except UnidentifiedImageError as error:
        raise UnreadableImage("not a JPEG, PNG, WEBP, BMP or GIF file") from error
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:
        # Pillow ends broken files in OSError, SyntaxError, TypeError, … alike.
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error


def decode(raw: bytes) -> Image.Image:
    """Decode an image fully, as `opened` and `Picture.pixels` do.

    Returns:
        An upright RGB image.

    Raises:
        UnreadableImage: empty, of another format, broken or too large.
    """
    with opened(raw) as picture:
        return Image.fromarray(picture.pixels())


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF mark says, and convert it to RGB."""
    image = ImageOps.exif_transpose(image)
    # Pillow's own conversion would clip 16 bits a pixel at 255.
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
