"""The commands: parse, call one step, print what it returned."""

from __future__ import annotations

import io
import resource
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepme import __version__
from deepme import cli_beside as beside
from deepme import cli_whole as whole
from deepme.cli_errors import Commands
from deepme.config import (
    ClusterSettings,
    EvaluateSettings,
    ExpertSettings,
    GateSettings,
    MachineSettings,
    SelectSettings,
    SimilaritySettings,
    SplitSettings,
)
from deepme.errors import UsageError
from deepme.options import (
    HERE,
    AsJson,
    Hierarchy,
    Matrix,
    Quiet,
    Verbose,
    Where,
    choose_verbosity,
    listens,
    open_workspace,
    parse_numbers,
    takes_settings,
)
from deepme.progress import Verbosity, set_verbosity
from deepme.torchrun import place

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepme.artifacts.selection import SelectionContent
    from deepme.workspace import Workspace

TOGETHER = ("train-flat", "train-expert")
"""The commands whose work several processes share."""

HEAD_START = 5.0
"""Seconds in which the first process can say what is wrong before others end."""

OPEN_FILES = 2**16
"""Enough for the most groups there can be, 10,000, and several subsets."""

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command; all of them can be quiet or verbose."""
    return app.command()(listens(function))


def main() -> None:
    """Run the command line; the entry point of ``deepme``."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show δ shall not end a command that has done its work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _allow_open_files()
    app(prog_name="deepme")


def _allow_open_files() -> None:
    """Raise the usual limit of 1,024: each expert's cached outputs are an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < (wanted := min(hard, OPEN_FILES)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _version(show: bool) -> None:
    if show:
        typer.echo(f"deepme {__version__}")
        raise typer.Exit


def _require_alone(command: str | None) -> None:
    """Refuse what each of torchrun's processes would do as a whole; the first says so.

    Raises:
        UsageError: in the first process.
        typer.Exit: in the others, with its code.
    """
    rank, size = place()
    if command in TOGETHER or size == 1:
        return
    if rank:
        # torchrun stops all processes once one has ended, also one about to speak.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(HEAD_START)
        raise typer.Exit(UsageError.exit_code)
    raise UsageError(
        f"{command} is started by torchrun in {size} processes, expected one: only "
        f"{' and '.join(TOGETHER)} share their work",
        "run it without torchrun",
    )


@app.callback()
def deepme(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="print the version"
        ),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Deep mixtures of experts for image classification with very many classes.

    The stages in order: similarity, cluster, split, train-expert, train-gate,
    evaluate, plot-accuracy. Each finds its inputs in the workspace and writes its
    artifact there. `deepme demo` shows all of them at work, `deepme status` what is
    there and what to do next.
    """
    _require_alone(context.invoked_subcommand)
    set_verbosity(Verbosity.NORMAL)
    choose_verbosity(quiet=quiet, verbose=verbose)


@_command
@takes_settings
def similarity(
    *,
    classes: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="text file of wnids, image folder, imagenet1k, imagenet12k, "
            "imagenet22k, or wordnet (all nouns); with --hierarchy names, by default "
            "its leaves",
        ),
    ] = "",
    hierarchy: Hierarchy = "",
    matrix: Matrix = "",
    workspace: Where = HERE,
    json: AsJson = False,
    settings: SimilaritySettings,
) -> None:
    """Compute how near the classes are to each other in WordNet or your hierarchy.

    Example: deepme similarity --classes imagenet12k
    """
    from deepme.steps.similarity import run
    from deepme.tables import print_paths

    path = run(
        settings,
        open_workspace(workspace),
        classes=classes,
        matrix=matrix,
        hierarchy=hierarchy,
    )
    print_paths([path], json)


@_command
@takes_settings
def cluster(
    *,
    select: Annotated[
        bool,
        typer.Option(
            "--select", help="find T and δ by cross-validation; needs train-flat"
        ),
    ] = False,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: ClusterSettings,
    grid: SelectSettings,
    machine: MachineSettings,
) -> None:
    """Divide the classes into T overlapping groups, one for each expert.

    Example: deepme cluster --T 15 --delta 0.3
    """
    from deepme.progress import warn
    from deepme.steps.cluster import concerns, run
    from deepme.tables import print_groups, print_json, print_selection

    where = open_workspace(workspace)
    found = _selected(settings, grid, machine, where) if select else None
    if found:
        T, delta = found.best.num_groups, found.best.delta  # noqa: N806
        settings = replace(settings, num_groups=T, delta=delta, overlap=None)
    content = run(settings, machine, where)
    worries = concerns(settings, content)
    for concern in worries:
        warn(concern)
    if json:
        told = asdict(content) | {"warnings": worries}
        print_json(told | ({"selection": asdict(found)} if found else {}))
        return
    if found:
        print_selection(found)
    print_groups(content)


def _selected(
    settings: ClusterSettings,
    grid: SelectSettings,
    machine: MachineSettings,
    workspace: Workspace,
) -> SelectionContent:
    """Find T and δ; here, since the step imports torch."""
    from deepme.steps.select import run

    return run(settings, grid, machine, workspace)


@_command
@takes_settings
def split(
    *,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="folder of class folders, tar file, or folder of CLASS.tar files",
        ),
    ],
    scan: Annotated[
        bool, typer.Option("--scan", help="decode every image and list the bad ones")
    ] = False,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: SplitSettings,
    machine: MachineSettings,
) -> None:
    """Deal the images of each class into train, validation and test.

    Example: deepme split --data IMAGES --scan
    """
    from deepme.steps.split import run
    from deepme.tables import print_json, print_split

    report = run(settings, machine, open_workspace(workspace), data=data, scan=scan)
    if json:
        print_json(asdict(report))
    else:
        print_split(report)


@_command
@takes_settings
def train_expert(
    *,
    group: Annotated[
        str,
        typer.Option(metavar="WHICH", help="a group's number, a list (1-5,9), or all"),
    ],
    print_sbatch: Annotated[
        bool,
        typer.Option(
            "--print-sbatch", help="print a SLURM array script instead of training"
        ),
    ] = False,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: ExpertSettings,
    machine: MachineSettings,
) -> None:
    """Train the expert of one group or several; continues where it stopped.

    Example: deepme train-expert --group 3
    """
    from deepme.experts import sbatch, train
    from deepme.tables import print_paths

    where = open_workspace(workspace)
    groups = where.groups()
    numbers = tuple(range(1, groups.num_groups + 1))
    if group != "all":
        numbers = parse_numbers("--group", group)
    if print_sbatch:
        typer.echo(sbatch(settings, machine, where, numbers), nl=False)
        return
    print_paths(train(settings, machine, where, numbers), json)


@_command
@takes_settings
def train_gate(
    *,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: GateSettings,
    machine: MachineSettings,
) -> None:
    """Train the gate that weighs the experts; continues where it stopped.

    Example: deepme train-gate
    """
    from deepme.steps.train_gate import run
    from deepme.tables import print_paths

    print_paths([run(settings, machine, open_workspace(workspace))], json)


@_command
@takes_settings
def evaluate(
    *,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: EvaluateSettings,
    machine: MachineSettings,
) -> None:
    """Measure the mixture on the test images.

    Example: deepme evaluate --topk 1,3,5
    """
    from deepme.steps.evaluate import run
    from deepme.tables import print_json, print_results

    results = run(settings, machine, open_workspace(workspace))
    if json:
        print_json([asdict(result) for result in results])
    else:
        print_results(results)


@_command
def plot_accuracy(
    *,
    topk: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="rank of the accuracy shown; by default 5 as in the paper, or the "
            "largest that was evaluated",
        ),
    ] = None,
    workspace: Where = HERE,
    json: AsJson = False,
) -> None:
    """Draw the accuracy of every class and expert, and the groups.

    Example: deepme plot-accuracy
    """
    from deepme.steps.plot_accuracy import run
    from deepme.tables import print_paths

    print_paths(run(open_workspace(workspace), k=topk), json)


_command(takes_settings(beside.train_flat))
_command(takes_settings(beside.train_attention))
_command(takes_settings(beside.route))
_command(takes_settings(beside.extend))
_command(takes_settings(whole.run))
_command(takes_settings(whole.compare))
_command(takes_settings(whole.predict))
_command(takes_settings(whole.export))
_command(whole.report)
_command(takes_settings(whole.plan))
_command(whole.status)
_command(whole.verify)
_command(whole.demo)
