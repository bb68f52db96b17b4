"""Compare `deepme extend` with training all classes anew.

    python tests/benchmarks/extend.py IMAGES --new 6 --seeds 3

IMAGES is a folder of class folders, all of WordNet. Under each seed some classes,
evenly spread, are left out of a first run and then added; another run has all of them
from the start. Both have the same split and settings. Time is that of the processor
in all commands, one thread each, so that other work on the machine does not count.
With --input flat the gate sees the flat network, which then goes on learning as well.
Writes docs/benchmarks/extend.json, or extend-flat.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from recording import record

SETTINGS = """\
[cluster]
T = 4
overlap = 1.1

[train-flat]
backbone = "vgg_tiny"
weights = "none"
image-size = 32
warmup-epochs = 0
epochs = 20
batch-size = 64
lr = 0.1
lr-end = 0.001

[train-expert]
backbone = "vgg_tiny"
weights = "flat"
image-size = 32
warmup-epochs = 0
epochs = 8
batch-size = 64
lr = 0.05
lr-end = 0.0005

[train-gate]
GATE
batch-size = 64

[train-attention]
epochs = 0

[evaluate]
fusion = ["gate", "attention"]

[machine]
device = "cpu"
workers = 0
threads = 1
"""

GATES = {
    "images": 'weights = "flat"\nepochs = 4\nlr = 0.02\nlr-end = 0.0002',
    "flat": 'input = "flat"\nepochs = 20\nlr = 0.1\nlr-end = 0.001',
}
"""By what a gate sees."""

PACKAGES = ("deepme", "torch", "torchvision", "timm")
MACHINE = ("--device", "cpu", "--workers", "0", "--threads", "1")


def command(*arguments: object) -> tuple[Any, float]:
    """Run deepme; return what it printed and the seconds of processor time."""
    words = [sys.executable, "-m", "deepme", "-q", *map(str, arguments), "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{words} ended with exit code {process.returncode}")
    return json.loads(printed), usage.ru_utime + usage.ru_stime


def top1(results: list[dict[str, Any]]) -> dict[str, float]:
    return {result["fusion"]: result["macro"]["1"] for result in results}


def trial(
    images: Path, num_new: int, seed: int, input: str, root: Path
) -> list[dict[str, Any]]:
    """One seed: a row for the extension, and one for training anew."""
    classes = sorted(path for path in images.iterdir() if path.is_dir())
    step = len(classes) // num_new
    new = set(classes[seed % step :: step][:num_new])
    for path in classes:
        link = root / ("new" if path in new else "old") / path.name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path)
    config = root / "settings.toml"
    config.write_text(SETTINGS.replace("GATE", GATES[input]))
    options = ("--config", config, "--seed", seed)
    command("run", "--data", root / "old", "-w", root / "first", *options)
    extended, quick = command(
        *("extend", "--data", root / "new", "-w", root / "first"),
        *("--out", root / "extended", *MACHINE),
    )
    anew, long = command("run", "--data", images, "-w", root / "anew", *options)
    rows = {"extend": (extended, quick), "anew": (anew, long)}
    return [
        {
            "what": name,
            "seed": seed,
            "classes": len(classes),
            "new": num_new,
            "experts_trained": len(extended["joined"]) if name == "extend" else 4,
            "cpu_s": seconds,
            **{
                f"top1_{fusion}": share
                for fusion, share in top1(printed["results"]).items()
            },
        }
        for name, (printed, seconds) in rows.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--new", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--input", choices=GATES, default="images")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            images = asked.images.absolute()
            rows += trial(images, asked.new, seed, asked.input, Path(folder))
        print(*rows[-2:], sep="\n")
    sides = {
        name: [row for row in rows if row["what"] == name]
        for name in ("extend", "anew")
    }
    pairs = list(zip(sides["extend"], sides["anew"], strict=True))
    flat = asked.input == "flat"
    record(
        "extend-flat" if flat else "extend",
        command=f"python tests/benchmarks/extend.py IMAGES --new {asked.new} "
        f"--seeds {asked.seeds}" + " --input flat" * flat,
        packages=PACKAGES,
        figures={
            "runs": rows,
            "summary": {
                "share_of_the_time": fmean(a["cpu_s"] / b["cpu_s"] for a, b in pairs),
                **{
                    f"points_{fusion}": fmean(
                        100 * (a[f"top1_{fusion}"] - b[f"top1_{fusion}"])
                        for a, b in pairs
                    )
                    for fusion in ("gate", "attention")
                },
            },
        },
    )


if __name__ == "__main__":
    main()
