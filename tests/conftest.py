"""Fixtures that several test files share: tiny pictures, a finished workspace, the CLI.

``tiny_images``     folder of 12 real WordNet classes in 3 kinds, 12 PNGs of 8 × 8 each
``tiny_config``     TOML file of settings that run all seven stages in seconds
``tiny_network``    name of a timm model that is smaller still than vgg_small
``tiny_workspace``  a finished workspace (all seven stages), copied fresh into tmp_path
``run_cli(*args)``  a command in a process of its own, with a time limit
``invoke(*args)``   the same in this process, faster
``victim``          an artifact of each kind in turn, to be damaged
``tiny_arguments``  what each of the seven commands needs beside --workspace

The finished workspace is made once a session. Both ways to run a command return
`Ended(code, stdout, stderr)`; a workspace path and other arguments are made strings::

    ended = invoke("evaluate", "--workspace", tiny_workspace, "--config", tiny_config)
    assert ended.code == 0, ended.stderr

``pytest`` shares the test files among up to 4 processes, ``pytest FILE`` and ``pytest
-n 0`` run in one.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.testing
from hypothesis import settings
from specimens import KINDS as SPECIMENS
from specimens import Specimen, small_workspace, specimen

settings.register_profile("deepme", derandomize=True, deadline=None)
settings.load_profile("deepme")

# Before numpy and torch are imported and start their threads: sums are taken in one
# order here and in child processes, and a fork finds no other thread holding a lock.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

# Hundreds of processes are started: without it each would compile torch anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Typer builds all commands anew for each invocation, which takes as long as many tests.
typer.testing._get_command = functools.cache(typer.testing._get_command)

MOST_PROCESSES = 4
"""More would wait for the files of tests that take longest; each takes up to 2 GB."""

KINDS = {
    "animals": ("n02084071", "n02121620", "n02118333", "n02374451"),
    "vehicles": ("n02958343", "n02924116", "n04490091", "n04467665"),
    "fruits": ("n07739125", "n07753592", "n07747607", "n07749582"),
}
"""Dog, cat, fox, horse; car, bus, truck, trailer truck; four fruits."""

TINY_CONFIG = """\
[cluster]
T = 3

[split]
val = 0.15
test = 0.25

[train-expert]
backbone = "vgg_tiny"
weights = "none"
image-size = 8
warmup-epochs = 1
epochs = 1
batch-size = 8
warmup-lr = 0.05
lr = 0.05
lr-end = 0.01

[train-gate]
weights = "none"
epochs = 2
batch-size = 16
lr = 0.05
lr-end = 0.01

[evaluate]
topk = [1, 3]
fusion = ["gate", "equal", "oracle"]

[machine]
device = "cpu"
workers = 0
"""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share the whole suite among the cores; run what is asked for by name in one."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


Command = Callable[..., Ended]


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw 12 classes: the kind gives the colour, the class how bright each quarter is.

    Do not write into it: it serves the whole session.
    """
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("tiny") / "images"
    rng = np.random.default_rng(0)
    for colour, classes in enumerate(KINDS.values()):
        for quarter, wnid in enumerate(classes):
            folder = root / wnid
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = rng.integers(0, 60, (8, 8, 3), dtype=np.uint8)
                pixels[..., colour] += 90
                rows, columns = divmod(quarter, 2)
                pixels[rows * 4 :, columns * 4 :, colour] += 90
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings for ``--config`` under which the seven stages take seconds."""
    path = tmp_path_factory.mktemp("settings") / "tiny.toml"
    path.write_text(TINY_CONFIG)
    return path


@pytest.fixture(scope="session")
def tiny_arguments(tiny_images: Path, tiny_config: Path) -> dict[str, list[str]]:
    """Each of the seven commands, in order, with its arguments but ``--workspace``."""
    config = ["--config", str(tiny_config)]
    images = str(tiny_images)
    return {
        "similarity": ["similarity", "--classes", images, *config],
        "cluster": ["cluster", *config],
        "split": ["split", "--data", images, *config],
        "train-expert": ["train-expert", "--group", "all", *config],
        "train-gate": ["train-gate", *config],
        "evaluate": ["evaluate", *config],
        "plot-accuracy": ["plot-accuracy", "--topk", "1"],
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images a trunk is asked about for a cache of features, call by call."""
    from deepme.training import warmup

    calls: list[int] = []
    real = warmup.answers

    def counting(networks, images, rows, **rest):
        calls.append(len(rows))
        return real(networks, images, rows, **rest)

    monkeypatch.setattr(warmup, "answers", counting)
    return calls


@pytest.fixture(scope="session")
def tiny_network() -> str:
    """A timm model of a few hundred weights, with dropout; only in this process."""
    from timm.models import register_model
    from torch import nn

    class TinyDropout(nn.Sequential):
        num_features = head_hidden_size = 6

        def __init__(self) -> None:
            convolution, mean = nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1)
            super().__init__(convolution, mean, nn.Flatten(), nn.Dropout(0.5))

    def tiny_dropout(pretrained: bool = False, **_: object) -> nn.Module:
        return TinyDropout()

    register_model(tiny_dropout)
    return "tiny_dropout"


@pytest.fixture(scope="session")
def finished_workspace(
    tmp_path_factory: pytest.TempPathFactory, tiny_arguments: dict[str, list[str]]
) -> Path:
    """The workspace that `tiny_workspace` copies. Read it, never write into it."""
    root = tmp_path_factory.mktemp("finished") / "workspace"
    for arguments in tiny_arguments.values():
        ended = _invoke(*arguments, "--workspace", root)
        assert ended.code == 0, ended.stderr
    return root


@pytest.fixture
def tiny_workspace(finished_workspace: Path, tmp_path: Path) -> Path:
    """A finished workspace of one's own: 12 classes, 3 experts, gate, 3 evaluations."""
    return Path(shutil.copytree(finished_workspace, tmp_path / "workspace"))


@pytest.fixture(scope="session")
def specimen_workspace(
    finished_workspace: Path,
    tiny_network: str,
    tiny_config: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A workspace with one small file of every kind of artifact; only read it."""
    root = tmp_path_factory.mktemp("specimens") / "workspace"
    return small_workspace(finished_workspace, root, tiny_network, tiny_config)


@pytest.fixture(params=SPECIMENS)
def victim(
    request: pytest.FixtureRequest, specimen_workspace: Path, tmp_path: Path
) -> Specimen:
    """An artifact, of each kind in turn, in a workspace of its own."""
    root = Path(shutil.copytree(specimen_workspace, tmp_path / "workspace"))
    return specimen(root, request.param)


@pytest.fixture(scope="session")
def run_cli() -> Command:
    """Run ``python -m deepme ARGS`` in a new process, at most `timeout` seconds."""

    def run(*arguments: object, timeout: float = 60, **environment: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "deepme", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | environment,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def invoke() -> Command:
    """Run a command in this process; an exception that escapes it is raised here."""
    return _invoke


def _invoke(*arguments: object) -> Ended:
    from deepme.cli import app

    before = signal.getsignal(signal.SIGTERM)
    try:
        result = typer.testing.CliRunner().invoke(
            app, [str(argument) for argument in arguments]
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)
