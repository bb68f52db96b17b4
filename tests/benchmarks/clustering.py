"""Measure clustering on a real Θ beside scikit-learn and scikit-fuzzy, and at scale.

    python tests/benchmarks/clustering.py --workspace WORKSPACE --large FOLDER
    python tests/benchmarks/clustering.py --theta FILE.npy

Each part runs in a fresh process: wall time and peak memory are the whole process's,
"work" is the time from Θ in memory to memberships. With --workspace, Θ comes from
its similarity.h5 and the whole `deepme cluster` command is measured too. With --large
so are the 21,841 classes of ImageNet-22k and all nouns of WordNet, from path lengths
that are computed before (docs/benchmarks/similarity.json has what that takes). Prints
a Markdown table and writes docs/benchmarks/clustering.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recording import measure, record

NUM_GROUPS = 15
FUZZIFIER = 1.3
PACKAGES = ("deepme", "numpy", "scipy", "scikit-learn", "scikit-fuzzy")
LARGE = (("imagenet22k", 15), ("imagenet22k", 30), ("wordnet", 15))
COMMAND, OURS, THEIRS = (
    "deepme cluster, the whole command",
    "SoftSpectralClustering.fit",
    "spectral_embedding + cmeans (scikit-learn, scikit-fuzzy)",
)


def cluster_with_deepme(theta):
    import numpy as np

    from deepme.core.clustering import SoftSpectralClustering

    def work():
        np.fill_diagonal(theta, 0)  # as the command does; spares fit a copy
        model = SoftSpectralClustering(
            NUM_GROUPS, affinity="precomputed", fuzzifier=FUZZIFIER, random_state=0
        )
        return model.fit(theta).memberships_

    return work


def cluster_with_libraries(theta):
    import skfuzzy
    from sklearn.manifold import spectral_embedding
    from sklearn.preprocessing import normalize

    def work():
        embedding = spectral_embedding(
            theta, n_components=NUM_GROUPS, drop_first=False, random_state=0
        )
        _, memberships, *_ = skfuzzy.cmeans(
            normalize(embedding).T,
            NUM_GROUPS,
            FUZZIFIER,
            error=1e-4,
            maxiter=300,
            seed=0,
        )
        return memberships.T

    return work


PARTS = {OURS: cluster_with_deepme, THEIRS: cluster_with_libraries}


def run_part(part: str, theta_path: Path) -> None:
    """Cluster in this process and print the seconds of work and the size."""
    import numpy as np

    theta = np.load(theta_path)
    work = PARTS[part](theta)
    started = time.perf_counter()
    memberships = work()
    seconds = time.perf_counter() - started
    print(json.dumps({"work_s": seconds, "classes": len(memberships)}))


def measure_part(part: str, theta_path: Path) -> dict[str, float]:
    measured, printed = measure(
        [sys.executable, __file__, "--theta", str(theta_path), "--part", part]
    )
    return measured | json.loads(printed)


def measure_command(workspace: Path, scratch: Path) -> dict[str, float]:
    # In a workspace of its own, where no groups are up to date yet.
    shutil.copy(workspace / "similarity.h5", scratch)
    cluster = [sys.executable, "-m", "deepme", "cluster", "-w", str(scratch)]
    measured, _ = measure([*cluster, "--T", str(NUM_GROUPS)])
    return measured


def measure_large(folder: Path) -> list[dict[str, float]]:
    """Measure the whole command on lists that have more classes than ImageNet10K.

    Args:
        folder: of a workspace for each list; what it lacks is made first.
    """
    rows = []
    for name, num_groups in LARGE:
        workspace = folder / name
        deepme = [sys.executable, "-m", "deepme"]
        if not (workspace / "similarity.h5").exists():
            similarity = [*deepme, "similarity", "--classes", name]
            subprocess.run([*similarity, "-w", str(workspace)], check=True)
        (workspace / "groups.json").unlink(missing_ok=True)
        cluster = [*deepme, "cluster", "-w", str(workspace), "--json"]
        measured, printed = measure([*cluster, "--T", str(num_groups)])
        content = json.loads(printed)
        row = {
            "deepme_cluster": name,
            "classes": len(content["classes"]),
            "groups": len(content["groups"]),
            **measured,
        }
        print(row, file=sys.stderr)
        rows.append(row)
    return rows


def save_theta(workspace: Path, theta_path: Path) -> None:
    """Write Θ of a workspace as .npy, in a process of its own.

    A child's peak memory starts at its parent's.
    """
    program = (
        "import sys, numpy, pathlib\n"
        "from deepme.artifacts.similarity import load_similarity\n"
        "theta = load_similarity(pathlib.Path(sys.argv[1])).theta()\n"
        "numpy.save(sys.argv[2], theta)\n"
    )
    source = workspace / "similarity.h5"
    subprocess.run(
        [sys.executable, "-c", program, str(source), str(theta_path)], check=True
    )


def measure_all(theta: Path | None, workspace: Path | None) -> dict[str, dict]:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if workspace is not None:
            results[COMMAND] = measure_command(workspace, scratch)
        if theta is None:
            theta = scratch / "theta.npy"
            save_theta(workspace, theta)
        for part in PARTS:
            results[part] = measure_part(part, theta)
    return results


def as_table(results: dict[str, dict]) -> str:
    theirs = results[THEIRS]
    lines = [
        f"| {theirs['classes']:,} classes, T = {NUM_GROUPS} | wall s | faster | "
        "work s | faster | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        cells = [
            name,
            f"{row['wall_s']:.1f}",
            f"{theirs['wall_s'] / row['wall_s']:.1f}",
        ]
        if "work_s" in row:
            faster = theirs["work_s"] / row["work_s"]
            cells += [f"{row['work_s']:.1f}", f"{faster:.1f}"]
        else:
            cells += ["–", "–"]
        lines.append(f"| {' | '.join(cells)} | {row['peak_mb']:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--theta", type=Path, help="(N, N) float32 .npy")
    parser.add_argument("--workspace", type=Path, help="folder with similarity.h5")
    parser.add_argument(
        "--large", type=Path, help="folder; also measure 21,841 and 82,115 classes"
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return run_part(options.part, options.theta)
    if options.theta is None and options.workspace is None:
        parser.error("give --workspace or --theta")
    results = measure_all(options.theta, options.workspace)
    given = "--workspace WORKSPACE" if options.workspace else "--theta FILE.npy"
    large = {"large": measure_large(options.large)} if options.large else {}
    given += " --large FOLDER" if options.large else ""
    record(
        "clustering",
        command=f"python tests/benchmarks/clustering.py {given}",
        packages=PACKAGES,
        figures={
            "settings": {"num_groups": NUM_GROUPS, "fuzzifier": FUZZIFIER},
            "results": results,
            **large,
        },
    )
    print(as_table(results))


if __name__ == "__main__":
    main()
