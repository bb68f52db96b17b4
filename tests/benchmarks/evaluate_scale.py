"""Measure evaluate and train-gate on 15 experts over 21,841 classes.

    python tests/benchmarks/evaluate_scale.py

The outputs are drawn (tests/benchmarks/synthetic.py) and written as train-gate and
evaluate would write them; then each command's work is one process of its own, whose
time and peak memory are given, once on exact outputs and once on compact ones.
``exponent`` is that of the processor time over the numbers of images. ``shortcut`` is
what compact outputs change on the smallest number of test images: the share of images
of which the hit at k changes, and the largest difference of a class's probability.
Writes docs/benchmarks/evaluate-scale.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pictures import deepme
from recording import measure, record

PACKAGES = ("deepme", "numpy", "torch", "h5py")
GROUPS, RANKS = 15, (1, 3, 5)
IMAGES = (10_000, 30_000, 100_000)
FORMS = ("exact", "compact")
HERE = Path(__file__).parent


def work(stage: str, workspace: Path, form: str) -> None:
    """Do one stage in this process."""
    import synthetic
    import torch

    from deepme.config import EvaluateSettings
    from deepme.steps import evaluate
    from deepme.workspace import Workspace

    torch.set_num_threads(1)
    at = Workspace(workspace)
    if stage == "outputs":
        for subset in ("train", "val", "test"):
            synthetic.write_outputs(at, subset, form)
    elif stage == "train-gate":
        synthetic.train_a_gate(at, form)
    else:
        settings = EvaluateSettings(topk=RANKS)
        evaluate.run(settings, synthetic.machine(form), at)


def run(stage: str, workspace: Path, form: str) -> dict[str, float]:
    """Do one stage in a process of its own, and measure it."""
    command = [sys.executable, str(HERE / "evaluate_scale.py"), "--stage", stage]
    measured, _ = measure([*command, "--workspace", str(workspace), "--form", form])
    return measured


def prepare(root: Path, images: int) -> None:
    """Write split and experts for so many test images, and outputs of none."""
    import synthetic

    from deepme.workspace import Workspace

    workspace = Workspace(root)
    for name in ("experts", "outputs", "gate", "evaluation", "calibration"):
        shutil.rmtree(root / name, ignore_errors=True)
    counts = {"train": images // 5, "val": images // 20, "test": images}
    synthetic.write_split(workspace, counts)
    synthetic.write_experts(workspace)


def measure_form(root: Path, form: str) -> dict[str, Any]:
    """Measure gate and evaluation on outputs of one form."""
    for name in ("outputs", "gate", "evaluation", "calibration"):
        shutil.rmtree(root / name, ignore_errors=True)
    run("outputs", root, form)
    gate, evaluated = run("train-gate", root, form), run("evaluate", root, form)
    files = (root / "outputs" / "test").glob("*.h5")
    return {
        "gate_cpu_s": gate["cpu_s"],
        "gate_mb": gate["peak_mb"],
        "evaluate_cpu_s": evaluated["cpu_s"],
        "evaluate_wall_s": evaluated["wall_s"],
        "evaluate_mb": evaluated["peak_mb"],
        "test_outputs_mb": sum(path.stat().st_size for path in files) / 1e6,
    }


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope of the values over the sizes, both in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def shortcut(root: Path, images: int) -> dict[str, float]:
    """Compare both forms image by image, under one gate."""
    import synthetic
    import torch

    from deepme import outputs
    from deepme.core.compact import KEPT, compact, expand
    from deepme.core.metrics import true_ranks
    from deepme.core.mixture import normalize_scores
    from deepme.scoring import score, voters_of, weigh
    from deepme.workspace import Workspace

    workspace = Workspace(root)
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    voters = voters_of(
        workspace, groups, split, "test", synthetic.machine("exact"), ["gate"]
    )
    members = voters.members
    changed, largest = np.zeros(len(RANKS)), 0.0
    for votes in voters.batches():
        truth = members.position_NT[votes.labels_B].numpy().astype(np.int32)
        shortened = [
            torch.from_numpy(
                expand(
                    compact(
                        values.numpy(),
                        truth[:, t],
                        num_kept=min(KEPT, values.shape[1]),
                    ),
                    num_outputs=values.shape[1],
                )
            )
            for t, values in enumerate(votes.logits)
        ]
        short = type(votes)(
            members=members,
            labels_B=votes.labels_B,
            logits=shortened,
            gated=shortened,
            s_BT=votes.s_BT,
            whole={},
        )
        both = [
            normalize_scores(score("gate", each, weigh("gate", each)))
            for each in (votes, short)
        ]
        largest = max(largest, float((both[0] - both[1]).abs().max()))
        ranks = [true_ranks(P_BN, labels_B=votes.labels_B) for P_BN in both]
        for i, k in enumerate(RANKS):
            changed[i] += int(((ranks[0] < k) != (ranks[1] < k)).sum())
    assert outputs.KEPT == KEPT
    shares = {f"hits_at_{k}_changed": changed[i] / images for i, k in enumerate(RANKS)}
    return {"images": images, **shares, "largest_probability_difference": largest}


def measure_all(root: Path, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Measure every number of images in both forms."""
    rows: list[dict[str, Any]] = []
    change: dict[str, float] = {}
    for images in sizes:
        prepare(root, images)
        for form in reversed(FORMS):
            row = {"test_images": images, "outputs": form, **measure_form(root, form)}
            print(row, file=sys.stderr)
            rows.append(row)
        if images == sizes[0]:
            change = shortcut(root, images)
            print(change, file=sys.stderr)
    growth = {
        form: {
            "exponent": exponent(
                list(sizes),
                [row["evaluate_cpu_s"] for row in rows if row["outputs"] == form],
            ),
        }
        for form in FORMS
    }
    return {"growth": rows, "over_images": growth, "shortcut": change}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    parser.add_argument("--stage", help="used within")
    parser.add_argument("--workspace", type=Path, help="used within, or of the classes")
    parser.add_argument("--form", choices=(*FORMS, "auto"), help="used within")
    options = parser.parse_args()
    if options.stage:
        return work(options.stage, options.workspace, options.form)
    with tempfile.TemporaryDirectory() as folder:
        root = options.workspace or Path(folder)
        if not (root / "similarity.h5").exists():
            deepme("similarity", "--classes", "imagenet22k", "-w", root)
        deepme("cluster", "--T", str(GROUPS), "-w", root)
        figures = measure_all(root, tuple(options.images))
    record(
        "evaluate-scale",
        command="python tests/benchmarks/evaluate_scale.py --images "
        + " ".join(map(str, options.images)),
        packages=PACKAGES,
        figures={"setting": {"classes": 21_841, "experts": GROUPS}, **figures},
    )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
