"""Compare the image loader with timm's, and measure its memory over 9 million images.

    python tests/benchmarks/loader.py

Both read the same JPEG folder with as many worker processes, cut random parts of 35 to
100 % of the area (3:4 to 4:3), scale them bilinearly, mirror half of them and give
batches of bytes; timm's is `create_loader` up to its collation, before pixels become
floats. Pictures are cut out of scikit-learn's two photos. Each round runs both once,
in processes of their own; ratios are within a round. ``cpu_ms`` is processor time an
image, workers included, which other work on the machine hardly changes; the ratio
recorded is of it, and ``by_clock`` that of the time that passed.

Each takes four epochs over 500 pictures, so that the start of the processes counts
little. ``keep`` takes three over 2,000 of 64 pixels, which deepme keeps in memory.
``decoding`` compares the ways to decode one of the 500 × 375 pictures. ``memory`` is
of main process and 8 workers together (PSS, so that shared pages count once); of it
``code`` are pages of files, nearly all of torch's libraries, of which the kernel keeps
as many as there is room for, and ``own`` is what each worker has alone. Writes
docs/benchmarks/loader.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from recording import measure, record

from deepme.artifacts.paths import PackedPaths
from deepme.artifacts.split import ImageIndex, load_split, save_split, split_header
from deepme.images import loading
from deepme.images.index import find_images
from deepme.images.keeping import room_for
from deepme.images.loading import ImageDataset, training_batches

PACKAGES = ("deepme", "torch", "torchvision", "timm", "pillow")
BATCH, WORKERS = 64, 2
SETTINGS = {
    "224 px": {"size": 224, "picture": "large", "epochs": 4},
    "64 px": {"size": 64, "picture": "large", "epochs": 4},
    "32 px, keep": {"size": 32, "picture": "small", "epochs": 3},
}
PICTURES = {"large": (500, 375, 500), "small": (64, 64, 2000)}
INDEXED, INDEX_WORKERS = 9_000_000, 8


def draw(root: Path) -> None:
    """Cut pictures out of two photos."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = np.random.default_rng(0)
    for kind, (width, height, count) in PICTURES.items():
        for number in range(count):
            folder = root / kind / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            photo = photos[number // 2 % 2]
            share = rng.uniform(0.5, 1)
            w, h = share * photo.width, share * photo.height
            x, y = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
            cut = photo.resize((width, height), box=(x, y, x + w, y + h))
            cut.save(folder / f"{number:04d}.jpg", quality=90)


def ours(root: Path, size: int, epochs: int, keep: bool) -> Iterator[Any]:
    """The loader of training."""
    images = find_images(root, {"a": 0, "b": 1}, lambda _, figures="": None).images
    rows = np.arange(len(images))
    kept = room_for(images, rows, gigabytes=1) if keep else None
    dataset = ImageDataset(images, size=size, augment=True, seed=0, kept=kept)
    return training_batches(
        dataset, rows, BATCH, epochs=range(epochs), first_step=0, workers=WORKERS
    )


def timms(root: Path, size: int, epochs: int, keep: bool) -> Iterator[Any]:
    """The loader of timm's training script, up to the bytes."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(root)),
        input_size=(3, size, size),
        batch_size=BATCH,
        is_training=True,
        scale=(0.35, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.5,
        color_jitter=None,
        interpolation="bilinear",
        num_workers=WORKERS,
        pin_memory=False,
        device=torch.device("cpu"),
        persistent_workers=epochs > 1,
    )
    for _ in range(epochs):
        yield from loader.loader


LOADERS: dict[str, Callable[..., Iterator[Any]]] = {"deepme": ours, "timm": timms}


def load(name: str, root: Path, setting: str) -> dict[str, float]:
    """Run one loader once in this process."""
    about = SETTINGS[setting]
    keep = "keep" in setting
    import timm.data  # noqa: F401 - not to be timed

    torch.set_num_threads(1)
    started, used = time.perf_counter(), processor_seconds()
    batches = LOADERS[name](
        root / str(about["picture"]), about["size"], about["epochs"], keep
    )
    images = 0
    for batch in batches:
        images += len(batch.rows if name == "deepme" else batch[1])
    del batch, batches
    seconds = time.perf_counter() - started
    return {
        "images": images,
        "seconds": seconds,
        "cpu": processor_seconds() - used,
    }


def processor_seconds() -> float:
    """Of this process and of its workers that have ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(each) for each in who]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare(root: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Alternate both loaders; ratios are within a round."""
    found: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in LOADERS}
    for _ in range(rounds):
        for name, measured in found.items():
            command = [sys.executable, __file__, "--one", name, "--root", str(root)]
            measured.append(json.loads(measure(command)[1].splitlines()[-1]))
    rows = {}
    for setting in SETTINGS:
        ours, timms = ([one[setting] for one in found[name]] for name in LOADERS)
        pairs = list(zip(ours, timms, strict=True))
        ratios = [timm["cpu"] / own["cpu"] for own, timm in pairs]
        rows[setting] = {
            "deepme_cpu_ms": _milliseconds(ours),
            "timm_cpu_ms": _milliseconds(timms),
            "deepme_is_times_as_fast": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            "by_clock": statistics.median(
                timm["seconds"] / own["seconds"] for own, timm in pairs
            ),
        }
        print(setting, rows[setting], file=sys.stderr)
    return rows


def _milliseconds(measured: list[dict[str, float]]) -> float:
    each = [1000 * one["cpu"] / one["images"] for one in measured]
    return statistics.median(each)


def ways_to_decode(root: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Time decoding alone, each way on the same files in turn."""
    from deepme.images.reading import opened, upright_rgb

    def by_pillow(raw: bytes) -> np.ndarray:
        return np.array(upright_rgb(Image.open(io.BytesIO(raw))))

    def ours(shrink: int) -> Callable[[bytes], np.ndarray]:
        def decode(raw: bytes) -> np.ndarray:
            with opened(raw) as picture:
                return picture.pixels(shrink)

        return decode

    torch.set_num_threads(1)
    paths = sorted((root / "large").glob("*/*"))[:50]
    raws = [path.read_bytes() for path in paths]
    ways: dict[str, Callable[[bytes], np.ndarray]] = {
        "Pillow": by_pillow,
        "deepme": ours(1),
        "deepme, half the size": ours(2),
        "deepme, a quarter": ours(4),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, decode in ways.items():
            started = time.process_time()
            for raw in raws:
                decode(raw)
            seconds[name].append((time.process_time() - started) / len(raws))
    assert all(np.array_equal(by_pillow(raw), ours(1)(raw)) for raw in raws)
    return {
        name: {"cpu_ms": 1000 * statistics.median(values)}
        for name, values in seconds.items()
    }


def write_index(path: Path) -> None:
    """Write a split of 9 million images with names like ImageNet's, of 30 bytes."""
    names = (
        f"n{2_000_000 + row // 3047:08}/n{2_000_000 + row // 3047:08}_{row % 3047}.JPEG"
        for row in range(INDEXED)
    )
    none = np.empty(0)
    images = ImageIndex(
        root=Path("/images"),
        paths=PackedPaths.pack(names),
        label=np.arange(INDEXED, dtype=np.int32) // 3047,
        archives=(),
        archive=none.astype(np.int16),
        offset=none.astype(np.int64),
        size=none.astype(np.uint32),
    )
    subset = np.zeros(INDEXED, np.uint8)
    save_split(path, split_header("", {}), images, subset, INDEXED // 3047 + 1)


def measure_memory(path: Path) -> dict[str, float]:
    """Draw batches from an index of 9 million images with 8 workers."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    # No 9 million files: every one has the same bytes, its path is looked up.
    loading.read_bytes = lambda images, row: images.paths[row] and stream.getvalue()
    started = time.process_time()
    split = load_split(path)
    load_s = time.process_time() - started
    dataset = ImageDataset(split.images, size=32, augment=True, seed=0)
    batches = training_batches(
        dataset,
        split.rows("train"),
        256,
        epochs=range(1),
        first_step=0,
        workers=INDEX_WORKERS,
    )
    for _ in range(6 * INDEX_WORKERS):
        next(batches)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    workers = [int(pid) for pid in children.read_text().split()]
    all_of_them = [memory(pid) for pid in (os.getpid(), *workers)]
    found = {
        "images": INDEXED,
        "workers": len(workers),
        "index_bytes_an_image": split.images.nbytes / INDEXED,
        "load_s": load_s,
        "index_mib": split.images.nbytes / 2**20,
        "all_mib": sum(one["Pss"] for one in all_of_them),
        "code_mib": sum(one["Pss_File"] for one in all_of_them),
        "main_mib": all_of_them[0]["Pss"],
        "own_mib": statistics.mean(one["Private_Dirty"] for one in all_of_them[1:]),
    }
    batches.close()  # type: ignore[attr-defined]
    return found


def memory(pid: int) -> dict[str, float]:
    """A process's memory in MiB, by kind."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {
        name: int(value.split()[0]) / 1024
        for name, value in (line.split(":") for line in lines)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help="used within: one loader, as JSON on stdout")
    parser.add_argument("--root", type=Path, help="used within")
    arguments = parser.parse_args()
    if arguments.one == "index":
        return write_index(arguments.root / "split.h5")
    if arguments.one == "memory":
        return print(json.dumps(measure_memory(arguments.root / "split.h5")))
    if arguments.one:
        found = {
            setting: load(arguments.one, arguments.root, setting)
            for setting in SETTINGS
        }
        return print(json.dumps(found))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for one in ("index", "memory"):
            command = [sys.executable, __file__, "--one", one, "--root", folder]
            _, printed = measure(command)
        draw(root)
        rows = compare(root, arguments.rounds)
        decoding = ways_to_decode(root, arguments.rounds)
    figures = {
        "setting": {
            "large": "500 × 375",
            "small": "64 × 64",
            "workers": WORKERS,
            "batch_size": BATCH,
            "rounds": arguments.rounds,
        },
        "views": rows,
        "decoding": decoding,
        "memory": json.loads(printed),
    }
    record(
        "loader",
        command="python tests/benchmarks/loader.py",
        packages=PACKAGES,
        figures=figures,
    )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
