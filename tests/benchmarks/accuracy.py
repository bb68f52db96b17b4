"""Record what `deepme compare` came to beside the paper's Table 1.

    python tests/benchmarks/accuracy.py COMPARISON... [--wide COMPARISON...]
    python tests/benchmarks/accuracy.py COMPARISON... --name gates

COMPARISON is a folder of `deepme compare`; docs/benchmarks/accuracy.md has the commands
that make it. Of several, made with different ``--first-seed``, the seeds are joined.
Those of ``--wide`` hold a flat network as wide as the mixture, alone.
Prints the table and writes docs/benchmarks/accuracy.json, or NAME.json.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from recording import record

from deepme.artifacts.comparison import (
    ComparisonContent,
    SystemResult,
    load_comparison,
)
from deepme.tables import print_comparison

PAPER = {"dmde": 2.6, "vgg16-ext": 4.5, "deepme-nossc": 11.9, "deepme-nogate": 24.3}
"""Points that the paper's DeepME is ahead on ImageNet10K."""

WIDE = "flat-wide"

RIVALS = (*PAPER, "flat-ensemble", "flat-longer", WIDE, "deepme", "coarse")
OURS = (
    *("deepme", "coarse", "features", "features-longer", "attention", "joint"),
    *("gate-flat", "gate-features", "gate-confidences"),
)

PACKAGES = ("deepme", "torch", "torchvision", "timm")


def joined(contents: list[ComparisonContent]) -> ComparisonContent:
    """One table of several, with the seeds of all."""
    first = contents[0]
    same = ("classes", "train_images", "test_images", "groups")
    for content in contents[1:]:
        for name in same:
            if getattr(content, name) != getattr(first, name):
                raise SystemExit(f"the comparisons differ in {name}")
    rows: dict[str, SystemResult] = {}
    for result in chain.from_iterable(content.systems for content in contents):
        known = rows.setdefault(result.system, result)
        if known is not result:
            seeds = {seed.seed: seed for seed in (*known.seeds, *result.seeds)}
            merged = tuple(seeds[number] for number in sorted(seeds))
            rows[result.system] = replace(known, seeds=merged)
    return replace(first, systems=tuple(rows.values()))


def wide_network(contents: list[ComparisonContent]) -> SystemResult:
    """The flat network of comparisons with a wider backbone, under its own name."""
    (result,) = joined(contents).systems
    return replace(result, system=WIDE, label="flat, as wide as the mixture")


def row_of(result: SystemResult) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and the cost of one."""
    row: dict[str, Any] = {"seeds": len(result.seeds)}
    for k in result.seeds[0].macro:
        shares = [seed.macro[k] for seed in result.seeds]
        row[f"macro_top{k}"] = fmean(shares)
        if len(shares) > 1:
            row[f"macro_top{k}_sd"] = stdev(shares)
    row["right_group"] = fmean(seed.right_group for seed in result.seeds)
    row["million_weights"] = result.cost.parameters / 1e6
    row["training_tflop"] = result.cost.training_gflop / 1e3
    row["gflop_an_image"] = result.cost.inference_gflop
    return row


def gaps_of(results: dict[str, SystemResult], ours: str) -> list[dict[str, Any]]:
    """How far a system is ahead, seed by seed, in points of macro top-1."""
    rows: list[dict[str, Any]] = []
    for name in RIVALS:
        if name not in results or name == ours:
            continue
        theirs = {seed.seed: seed.macro["1"] for seed in results[name].seeds}
        points = [
            100 * (seed.macro["1"] - theirs[seed.seed])
            for seed in results[ours].seeds
            if seed.seed in theirs
        ]
        rows.append(
            {
                "system": results[ours].label,
                "ahead_of": results[name].label,
                "points": fmean(points),
                "points_sd": stdev(points) if len(points) > 1 else "",
                "points_least": min(points),
                "paper": PAPER.get(name, "") if ours == "deepme" else "",
            }
        )
    return rows


def kept_of_oracle(results: dict[str, SystemResult]) -> dict[str, float]:
    """Macro top-1 as a share of the oracle gate's, mean over seeds."""
    if "oracle" not in results:
        return {}
    oracle = {seed.seed: seed.macro["1"] for seed in results["oracle"].seeds}
    return {
        results[name].label: fmean(
            seed.macro["1"] / oracle[seed.seed]
            for seed in results[name].seeds
            if seed.seed in oracle
        )
        for name in OURS
        # Other experts have another oracle.
        if name in results and name != "features-longer"
    }


def experts_of(result: SystemResult) -> dict[str, Any]:
    """The experts among their own classes, top 1: mean over seeds, best and worst."""
    own = [
        (share, name) for seed in result.seeds for name, share in seed.experts.items()
    ]
    (worst, worst_name), (best, best_name) = min(own), max(own)
    return {
        "mean": fmean(share for share, _ in own),
        "best": best,
        "best_group": best_name,
        "worst": worst,
        "worst_group": worst_name,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "comparison", type=Path, nargs="+", help="folder of `deepme compare`"
    )
    parser.add_argument("--wide", type=Path, nargs="*", default=[])
    parser.add_argument("--name", default="accuracy", help="of the record")
    found = parser.parse_args()
    content = joined(
        [load_comparison(at / "comparison.json") for at in found.comparison]
    )
    if found.wide:
        wide = wide_network(
            [load_comparison(at / "comparison.json") for at in found.wide]
        )
        content = replace(content, systems=(*content.systems, wide))
    results = {result.system: result for result in content.systems}
    command = "python tests/benchmarks/accuracy.py COMPARISON..."
    if found.wide:
        command += " --wide COMPARISON..."
    if found.name != "accuracy":
        command += f" --name {found.name}"
    record(
        found.name,
        command=command,
        packages=PACKAGES,
        figures={
            "data": {
                "classes": content.classes,
                "groups": content.groups,
                "train_images": content.train_images,
                "test_images": content.test_images,
            },
            "systems": {result.label: row_of(result) for result in content.systems},
            "ahead": [
                row
                for name in OURS
                if name in results
                for row in gaps_of(results, name)
            ],
            "share_of_oracle": kept_of_oracle(results),
            "experts": {
                result.label: experts_of(result)
                for result in content.systems
                if result.seeds[0].experts
            },
        },
    )
    print_comparison(content)


if __name__ == "__main__":
    main()
