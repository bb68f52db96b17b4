"""Measure `deepme split` on 200,000 image files.

    python tests/benchmarks/split.py

Files of one byte in 1,000 class folders: splitting reads names and sizes, no pixels.
They have just been made, so the file system's cache is warm. The row is one whole
process: wall time and peak memory, indexing, dealing and writing included. Prints a
Markdown table and writes docs/benchmarks/split.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recording import measure, record

PACKAGES = ("deepme", "numpy", "h5py")
IMAGES_PER_CLASS = 200


def deepme(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deepme", *arguments]


def make_images(root: Path, workspace: Path, *, per_class: int) -> None:
    """Fill one folder a class of the workspace, names as ImageNet's."""
    groups = json.loads((workspace / "groups.json").read_text())
    for wnid in groups["content"]["classes"]:
        folder = root / wnid
        folder.mkdir(parents=True)
        for number in range(per_class):
            (folder / f"{wnid}_{number:05d}.JPEG").write_bytes(b"x")


def measure_split() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        workspace, images = Path(scratch) / "workspace", Path(scratch) / "images"
        where = ("-w", str(workspace))
        for arguments in (("similarity", "--classes", "imagenet1k"), ("cluster",)):
            subprocess.run(
                deepme(*arguments, *where), check=True, stdout=subprocess.DEVNULL
            )
        make_images(images, workspace, per_class=IMAGES_PER_CLASS)
        command = deepme("split", "--data", str(images), "--json", *where)
        measured, printed = measure(command)
        report = json.loads(printed)
        size = (workspace / "split.h5").stat().st_size
        return {
            "images": report["images"],
            "classes": report["classes"],
            **measured,
            "bytes_an_image_held": report["bytes_per_image"],
            "file_mb": size / 2**20,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    row = measure_split()
    record(
        "split",
        command="python tests/benchmarks/split.py",
        packages=PACKAGES,
        figures={"split": {"deepme split, the whole command": row}},
    )
    print("| images | wall s | peak MB | bytes an image held | split.h5 MB |")
    print("|---|---|---|---|---|")
    print(
        f"| {row['images']:,} | {row['wall_s']:.1f} | {row['peak_mb']:,.0f} | "
        f"{row['bytes_an_image_held']:.1f} | {row['file_mb']:.1f} |"
    )


if __name__ == "__main__":
    main()
