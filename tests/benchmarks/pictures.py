"""Pictures of many classes that are as alike as WordNet says, for the benchmarks.

What is on a picture (the colours and the direction and width of the stripes) is drawn
for each class from a normal distribution with Θ as its covariance, so that classes
below one hypernym look alike. Every picture has noise of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from deepme.artifacts.similarity import load_similarity

TRAITS = 8
SPREAD = 0.16
"""By how much a picture's traits differ from its class's, which have deviation 1."""


def deepme(*arguments: str | Path) -> None:
    """Run a command, its results thrown away."""
    command = [sys.executable, "-m", "deepme", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write_classes(path: Path, count: int) -> None:
    """Write a class list, evenly out of ImageNet-1k."""
    import timm

    table = Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt"
    wnids = table.read_text().split()
    chosen = [wnids[i * len(wnids) // count] for i in range(count)]
    path.write_text("\n".join(chosen) + "\n")


def write_pictures(
    folder: Path, similarity: Path, *, per_class: int, size: int, seed: int = 0
) -> None:
    """Draw PNG files into class folders.

    Args:
        folder: of the class folders.
        similarity: similarity.h5 with the classes and their Θ.
        per_class: pictures of each class.
        size: pixels a side.
        seed: of all that is drawn.
    """
    loaded = load_similarity(similarity)
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(loaded.theta().astype(np.float64))
    root = vectors * np.sqrt(values.clip(min=0))
    traits = root @ rng.standard_normal((len(values), TRAITS))
    traits = (traits - traits.mean(axis=0)) / traits.std(axis=0)
    for wnid, own in zip(loaded.classes, traits, strict=True):
        (folder / wnid).mkdir(parents=True)
        for number in range(per_class):
            varied = own + SPREAD * rng.standard_normal(TRAITS)
            pixels = draw(varied, size, rng)
            Image.fromarray(pixels).save(folder / wnid / f"{number:04d}.png")


def draw(traits: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw stripes, (S, S, 3) uint8.

    Args:
        traits: (8,) three of the ground's colour, three of the stripes', their
            direction and their width.
        size: S.
        rng: of their place and the noise.
    """
    x, y = np.meshgrid(*[np.linspace(0, 1, size)] * 2)
    angle, waves = np.arctan(traits[6]), 4 * 2 ** (traits[7] / 2)
    along = x * np.cos(angle) + np.abs(y - 0.5) * np.sin(angle)
    stripes = np.sin(2 * np.pi * (waves * along + rng.random()))[:, :, None]
    ground, paint = np.tanh(traits[:3]), np.tanh(traits[3:6])
    noise = rng.normal(0, 0.2, (size, size, 3))
    pixels = 0.5 + 0.2 * ground + 0.2 * paint * stripes + 0.5 * noise
    return (255 * pixels.clip(0, 1)).astype(np.uint8)
