"""Record what `deepme compare` came to beside the paper's Table 1.

    python tests/benchmarks/accuracy.py COMPARISON

COMPARISON is the folder of the comparison; docs/benchmarks/accuracy.md has the commands
that make it. Prints the table and writes docs/benchmarks/accuracy.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from recording import record

from deepme.artifacts.comparison import SystemResult, load_comparison
from deepme.tables import print_comparison

PACKAGES = ("deepme", "torch", "torchvision", "timm")


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
    parser.add_argument("comparison", type=Path, help="folder of `deepme compare`")
    content = load_comparison(parser.parse_args().comparison / "comparison.json")
    record(
        "accuracy",
        command="python tests/benchmarks/accuracy.py COMPARISON",
        packages=PACKAGES,
        figures={
            "data": {
                "classes": content.classes,
                "groups": content.groups,
                "train_images": content.train_images,
                "test_images": content.test_images,
            },
            "systems": {result.label: row_of(result) for result in content.systems},
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
