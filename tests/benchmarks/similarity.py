"""Measure `deepme similarity` beside NLTK, and how it grows with the classes.

    python tests/benchmarks/similarity.py --classes imagenet10k_synsets.txt

Every row is one whole process started for it: wall time and peak memory, reading,
computing and writing included. NLTK (where it finds its WordNet; NLTK_DATA may name
the folder) is asked for a sample of pairs, and the time for all pairs is that sample's
mean times N (N − 1) / 2; its loading time is left out. Prints Markdown tables and
writes docs/benchmarks/similarity.json.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import measure, record

PACKAGES = ("deepme", "numpy", "h5py", "nltk")
PARTS_OF_THE_LIST = (1_000, 2_500, 5_000)
NAMED_LISTS = ("imagenet22k", "wordnet")
NLTK_PAIRS = 10_000


def measure_similarity(classes: str) -> dict[str, Any]:
    """Measure one whole `deepme similarity` in a workspace of its own."""
    with tempfile.TemporaryDirectory() as workspace:
        command = [sys.executable, "-m", "deepme", "similarity"]
        measured, _ = measure([*command, "--classes", classes, "-w", workspace])
        artifact = Path(workspace) / "similarity.h5"
        return {
            "classes": count_classes(artifact),
            **measured,
            "file_mb": artifact.stat().st_size / 2**20,
        }


def count_classes(artifact: Path) -> int:
    """Count them in a process of its own: a child's peak starts at its parent's."""
    program = "import sys, h5py; print(len(h5py.File(sys.argv[1])['path_length']))"
    counted = subprocess.run(
        [sys.executable, "-c", program, str(artifact)],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(counted.stdout)


def measure_growth(wnids: list[str], *, largest: int) -> list[dict[str, Any]]:
    """Measure random parts of the list, the list, and the two larger lists."""
    rng = random.Random(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (*PARTS_OF_THE_LIST, len(wnids)):
            part = Path(folder) / f"{count}.txt"
            part.write_text("\n".join(rng.sample(wnids, count)) + "\n")
            rows.append(measure_similarity(str(part)))
        rows += [
            measure_similarity(name)
            for name, count in zip(NAMED_LISTS, (21_841, 82_115), strict=True)
            if count <= largest
        ]
    return rows


def measure_nltk(classes: Path) -> dict[str, float] | None:
    """Time NLTK on a sample of pairs, in a process of its own."""
    measured, printed = measure(
        [sys.executable, __file__, "--classes", str(classes), "--nltk"]
    )
    sampled = json.loads(printed)
    return sampled and {**sampled, "peak_mb": measured["peak_mb"]}


def time_nltk(wnids: list[str]) -> dict[str, float] | None:
    """Time NLTK's lch_similarity over random pairs of distinct classes."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    synsets = [wordnet.synset_from_pos_and_offset("n", int(w[1:])) for w in wnids]
    rng = random.Random(0)
    pairs = [rng.sample(synsets, 2) for _ in range(NLTK_PAIRS)]
    synsets[0].lch_similarity(synsets[1])  # computes the depth once
    started = time.perf_counter()
    for a, b in pairs:
        a.lch_similarity(b)
    seconds_a_pair = (time.perf_counter() - started) / NLTK_PAIRS
    num_pairs = len(synsets) * (len(synsets) - 1) // 2
    return {
        "sampled_pairs": NLTK_PAIRS,
        "us_a_pair": seconds_a_pair * 1e6,
        "extrapolated_s": seconds_a_pair * num_pairs,
    }


def as_tables(growth: list[dict[str, Any]], nltk: dict[str, float] | None) -> str:
    """Write the growth and the comparison as Markdown."""
    lines = ["| classes | wall s | peak MB | similarity.h5 MB |", "|---|---|---|---|"]
    lines += [
        f"| {row['classes']:,} | {row['wall_s']:.1f} | {row['peak_mb']:,.0f} | "
        f"{row['file_mb']:.1f} |"
        for row in growth
    ]
    if nltk is None:
        return "\n".join([*lines, "", "NLTK's WordNet was not found: not compared."])
    ours = growth[len(PARTS_OF_THE_LIST)]
    lines += [
        "",
        f"| {ours['classes']:,} classes | seconds | peak MB |",
        "|---|---|---|",
        f"| deepme similarity, the whole process | {ours['wall_s']:.1f} | "
        f"{ours['peak_mb']:,.0f} |",
        f"| NLTK pair by pair, extrapolated from {nltk['sampled_pairs']:,} pairs at "
        f"{nltk['us_a_pair']:.0f} µs | {nltk['extrapolated_s']:,.0f} | "
        f"{nltk['peak_mb']:,.0f} |",
        "",
        f"{nltk['extrapolated_s'] / ours['wall_s']:,.0f} times faster.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure everything, or time NLTK in the child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--classes", type=Path, required=True, help="text file of 5,000 wnids or more"
    )
    parser.add_argument(
        "--largest", type=int, default=82_115, help="leave out larger named lists"
    )
    parser.add_argument("--nltk", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    wnids = options.classes.read_text().split()
    if options.nltk:
        return print(json.dumps(time_nltk(wnids)))
    growth = measure_growth(wnids, largest=options.largest)
    nltk = measure_nltk(options.classes)
    given = f"--classes {options.classes.name}"
    record(
        "similarity",
        command=f"python tests/benchmarks/similarity.py {given}",
        packages=PACKAGES,
        figures={"growth": growth, "nltk_pair_by_pair": nltk},
    )
    print(as_tables(growth, nltk))


if __name__ == "__main__":
    main()
