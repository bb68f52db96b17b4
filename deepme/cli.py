"""The commands: parse, call one step, print what it returned."""

from __future__ import annotations

import io
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepme import __version__
from deepme.cli_errors import Commands
from deepme.config import (
    ClusterSettings,
    EvaluateSettings,
    ExpertSettings,
    FlatSettings,
    GateSettings,
    MachineSettings,
    SimilaritySettings,
    SplitSettings,
)
from deepme.errors import UsageError
from deepme.options import parse_numbers, takes_settings

if TYPE_CHECKING:
    from deepme.pipeline import Outcome
    from deepme.workspace import Workspace

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Where = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="DEEPME_WORKSPACE",
        metavar="DIR",
        help="folder of the artifacts",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
HERE = Path("workspace")


def main() -> None:
    """Run the command line; the entry point of ``deepme``."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show δ shall not end a command that has done its work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="deepme")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"deepme {__version__}")
        raise typer.Exit


@app.callback()
def deepme(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="print the version"
        ),
    ] = False,
) -> None:
    """Deep mixtures of experts for image classification with very many classes.

    The stages in order: similarity, cluster, split, train-expert, train-gate,
    evaluate, plot-accuracy. Each finds its inputs in the workspace and writes its
    artifact there. `deepme demo` shows all of them at work.
    """


@app.command()
@takes_settings
def similarity(
    *,
    classes: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="text file of wnids, image folder, imagenet1k, imagenet12k, "
            "imagenet22k, or wordnet (all nouns)",
        ),
    ] = "",
    matrix: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="your own similarities, for classes outside WordNet: .csv, .h5, or "
            ".npy with --classes naming its labels",
        ),
    ] = "",
    workspace: Where = HERE,
    settings: SimilaritySettings,
) -> None:
    """Compute how near the classes are to each other in WordNet.

    Example: deepme similarity --classes imagenet12k
    """
    from deepme.steps.similarity import run

    path = run(settings, _workspace(workspace), classes=classes, matrix=matrix)
    typer.echo(path)


@app.command()
@takes_settings
def cluster(
    *, workspace: Where = HERE, json: AsJson = False, settings: ClusterSettings
) -> None:
    """Divide the classes into T overlapping groups, one for each expert.

    Example: deepme cluster --T 15 --delta 0.3
    """
    from deepme.progress import warn
    from deepme.steps.cluster import concerns, run
    from deepme.tables import print_groups, print_json

    content = run(settings, _workspace(workspace))
    found = concerns(settings, content)
    for concern in found:
        warn(concern)
    if json:
        print_json(asdict(content) | {"warnings": found})
    else:
        print_groups(content)


@app.command()
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

    report = run(settings, machine, _workspace(workspace), data=data, scan=scan)
    if json:
        print_json(asdict(report))
    else:
        print_split(report)


@app.command()
@takes_settings
def train_flat(
    *, workspace: Where = HERE, settings: FlatSettings, machine: MachineSettings
) -> None:
    """Train one network over all classes: the yardstick, and a start for experts.

    Example: deepme train-flat
    """
    from deepme.steps.train_flat import run

    typer.echo(run(settings, machine, _workspace(workspace)))


@app.command()
@takes_settings
def train_expert(
    *,
    group: Annotated[
        str,
        typer.Option(metavar="WHICH", help="a group's number, a list (1-5,9), or all"),
    ],
    workspace: Where = HERE,
    settings: ExpertSettings,
    machine: MachineSettings,
) -> None:
    """Train the expert of one group or several; continues where it stopped.

    Example: deepme train-expert --group 3
    """
    from deepme.steps.train_expert import run

    where = _workspace(workspace)
    groups = where.groups()
    numbers = tuple(range(1, groups.num_groups + 1))
    if group != "all":
        numbers = parse_numbers("--group", group)
    for number in numbers:
        groups.group(number)
    for number in numbers:
        typer.echo(run(settings, machine, where, number))


@app.command()
@takes_settings
def train_gate(
    *, workspace: Where = HERE, settings: GateSettings, machine: MachineSettings
) -> None:
    """Train the gate that weighs the experts; continues where it stopped.

    Example: deepme train-gate
    """
    from deepme.steps.train_gate import run

    typer.echo(run(settings, machine, _workspace(workspace)))


@app.command()
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

    results = run(settings, machine, _workspace(workspace))
    if json:
        print_json([asdict(result) for result in results])
    else:
        print_results(results)


@app.command()
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
) -> None:
    """Draw the accuracy of every class and expert, and the groups.

    Example: deepme plot-accuracy
    """
    from deepme.steps.plot_accuracy import run

    for path in run(_workspace(workspace), k=topk):
        typer.echo(path)


@app.command()
@takes_settings
def run(
    *,
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="the images, as for split"),
    ],
    classes: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="as for similarity; by default the image folder's"
        ),
    ] = "",
    matrix: Annotated[
        str, typer.Option(metavar="FILE", help="your own similarities instead")
    ] = "",
    workspace: Where = HERE,
    json: AsJson = False,
    similarity: SimilaritySettings,
    cluster: ClusterSettings,
    split: SplitSettings,
    flat: FlatSettings,
    expert: ExpertSettings,
    gate: GateSettings,
    evaluate: EvaluateSettings,
    machine: MachineSettings,
) -> None:
    """Run all stages on your images; again, it redoes only what changed.

    An option that several stages have, such as --epochs, goes to all of them; a
    --config file with one table a command sets them apart.

    Example: deepme run --data IMAGES --T 15 --config settings.toml
    """
    from deepme.pipeline import Recipe, run_all

    recipe = Recipe(
        similarity=similarity,
        cluster=cluster,
        split=split,
        flat=flat,
        expert=expert,
        gate=gate,
        evaluate=evaluate,
        machine=machine,
    )
    where = _workspace(workspace)
    outcome = run_all(recipe, where, data=data, classes=classes, matrix=matrix)
    _print_outcome(outcome, json)


@app.command()
def demo(
    *,
    workspace: Annotated[
        Path,
        typer.Option(
            "--workspace", "-w", metavar="DIR", help="folder of pictures and artifacts"
        ),
    ] = Path("demo"),
    seed: Annotated[
        int, typer.Option(metavar="N", help="seed of pictures, split and training")
    ] = 0,
    json: AsJson = False,
) -> None:
    """Draw pictures of WordNet classes and run all stages on them.

    Example: deepme demo
    """
    from deepme.demo import run

    _print_outcome(run(_workspace(workspace), seed=seed), json)


def _print_outcome(outcome: Outcome, json: bool) -> None:
    from deepme.tables import print_groups, print_json, print_results

    if json:
        print_json(asdict(outcome) | {"figures": list(map(str, outcome.figures))})
        return
    print_groups(outcome.groups)
    print_results(outcome.results)
    for path in outcome.figures:
        typer.echo(path)


def _workspace(root: Path) -> Workspace:
    from deepme.workspace import Workspace

    if root.exists() and not root.is_dir():
        raise UsageError(f"--workspace is {root}, a file; expected a folder")
    return Workspace(root)
