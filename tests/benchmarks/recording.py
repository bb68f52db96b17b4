"""What benchmarks share: measuring a process, recording figures with their origin."""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import machine, python_version
from typing import Any

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks"


def measure(command: list[str]) -> tuple[dict[str, float], str]:
    """Run a command; return what it took, and what it printed.

    Seconds by the clock (``wall_s``) and of processors (``cpu_s``, which other work on
    the machine hardly changes), and the peak memory.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read()
    # wait4, not getrusage: that one reports the largest of all children so far.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    seconds = time.perf_counter() - started
    measured = {
        "wall_s": seconds,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }
    return measured, printed


def record(
    name: str, *, command: str, packages: tuple[str, ...], figures: dict[str, Any]
) -> None:
    """Write docs/benchmarks/NAME.json: the figures, and how they were obtained.

    Args:
        name: of the benchmark.
        command: what to type to obtain them again, without this machine's paths.
        packages: whose versions matter.
        figures: named tables; see docs/benchmarks/README.md.
    """
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "machine": f"{os.cpu_count()} cores, {cpu_model()}",
        "versions": {"python": python_version()}
        | {package: version(package) for package in packages},
        **figures,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def cpu_model() -> str:
    """Name the processor, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return models[0] if models else machine()
