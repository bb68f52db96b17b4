"""The commands around the stages: those that run all of them, and those that look."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepme.config import ExportSettings, MachineSettings, PredictSettings
from deepme.errors import UsageError
from deepme.options import (
    HERE,
    AsJson,
    DryRun,
    Hierarchy,
    Matrix,
    Where,
    open_workspace,
    seed_range,
)
from deepme.recipe import Recipe
from deepme.systems import PAPER, SYSTEMS

if TYPE_CHECKING:
    from deepme.pipeline import Outcome
    from deepme.rehearsal import Rehearsed


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
    hierarchy: Hierarchy = "",
    matrix: Matrix = "",
    dry_run: DryRun = False,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: Recipe,
) -> None:
    """Run all stages on your images; again, it redoes only what changed.

    An option that several stages have, such as --epochs, goes to all of them; a
    --config file with one table a command sets them apart.

    Example: deepme run --data IMAGES --T 15 --config settings.toml
    """
    from deepme.pipeline import run_all
    from deepme.rehearsal import rehearse

    world: dict[str, Any] = {"data": data, "classes": classes, "matrix": matrix}
    world["hierarchy"] = hierarchy
    where = open_workspace(workspace)
    if dry_run:
        _print_rehearsal(rehearse(settings, where, **world), json)
        return
    _print_outcome(run_all(settings, where, **world), json)


def plan(
    *,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: Recipe,
) -> None:
    """Say what a run will take on this machine, before it is started.

    Needs similarity, cluster and split, which take minutes; measures a few training
    steps and a few hundred images.

    Example: deepme plan --config settings.toml
    """
    from deepme.planning import plan
    from deepme.tables import print_json, print_plan

    found = plan(settings, open_workspace(workspace))
    if json:
        total = {"seconds": found.seconds, "disk": found.disk}
        print_json(asdict(found) | total)
    else:
        print_plan(found)


def status(*, workspace: Where = HERE, json: AsJson = False) -> None:
    """Show what is in the workspace, what is stale and why, and the next command.

    Example: deepme status -w workspace
    """
    from deepme.status import status
    from deepme.status_tables import print_status
    from deepme.tables import print_json

    found = status(open_workspace(workspace))
    if json:
        print_json(asdict(found))
    else:
        print_status(found)


def verify(*, workspace: Where = HERE, json: AsJson = False) -> None:
    """Check every artifact: its content, and whether it fits what it was made from.

    Ends with 2 if any is corrupt or stale, and says which commands to rerun.

    Example: deepme verify -w workspace
    """
    from deepme.tables import print_json, print_verdicts
    from deepme.verifying import verify

    verdicts = verify(open_workspace(workspace))
    if json:
        print_json([asdict(verdict) for verdict in verdicts])
    else:
        print_verdicts(verdicts)
    if any(verdict.state in ("corrupt", "stale") for verdict in verdicts):
        raise typer.Exit(2)


def report(
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="the page (default: report.html in the workspace)",
        ),
    ] = None,
    workspace: Where = HERE,
    json: AsJson = False,
) -> None:
    """Write one HTML page of the results: groups, experts, classes, confusions.

    It needs nothing but a browser and can be passed on as it is. Takes the folder of
    a comparison too.

    Example: deepme report --out report.html
    """
    from deepme.reporting.page import run
    from deepme.tables import print_paths

    print_paths([run(open_workspace(workspace), out=out)], json)


def predict(
    *,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="image files, folders of them, patterns as '*.jpg', or - for paths "
            "on standard input",
        ),
    ],
    explain: Annotated[
        bool, typer.Option("--explain", help="show what each expert says by itself")
    ] = False,
    path: Annotated[
        bool, typer.Option("--path", help="show each guess's path in the taxonomy")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="print a line a guess")] = False,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: PredictSettings,
    machine: MachineSettings,
) -> None:
    """Say what is on some images, and which experts were trusted.

    Probabilities are calibrated on the validation images. With --backoff 0.9 the
    answer is as specific as it can be while it is right nine times in ten.

    Example: deepme predict IMAGES --topk 3 --backoff 0.9
    """
    from deepme.predicting import find, predict
    from deepme.prediction_tables import print_csv, print_predictions
    from deepme.tables import print_json

    if json and csv:
        raise UsageError("--json and --csv are given, expected one of them")
    paths = find(images, sys.stdin)
    found = predict(
        settings,
        machine,
        open_workspace(workspace),
        paths,
        explain=explain,
        with_path=path,
    )
    if json:
        print_json([asdict(prediction) for prediction in found])
    elif csv:
        print_csv(found)
    else:
        print_predictions(found)


def export(
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="the file, or with --format hub the folder (default: "
            "export/NAME.onnx or export/NAME in the workspace)",
        ),
    ] = None,
    workspace: Where = HERE,
    json: AsJson = False,
    settings: ExportSettings,
    machine: MachineSettings,
) -> None:
    """Write the trained classifier in a form that others can use.

    The export is compared with PyTorch on images of the split before it takes its
    name; ONNX needs `pip install 'deepme[onnx]'`.

    Example: deepme export --format onnx --out model.onnx
    """
    from deepme.steps.export import run
    from deepme.tables import print_export, print_json

    report = run(settings, machine, open_workspace(workspace), out=out)
    if json:
        print_json(asdict(report))
    else:
        print_export(report)


def compare(
    *,
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="the images, as for split"),
    ],
    systems: Annotated[
        str,
        typer.Option(metavar="NAMES", help=f"all, or some of: {', '.join(SYSTEMS)}"),
    ] = ",".join(PAPER),
    seeds: Annotated[
        int, typer.Option(metavar="N", help="how often, each with a seed of its own")
    ] = 3,
    first_seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="the first of them, to spread seeds over machines"
        ),
    ] = 0,
    classes: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="as for similarity; by default the image folder's"
        ),
    ] = "",
    hierarchy: Hierarchy = "",
    matrix: Matrix = "",
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", metavar="DIR", help="folder of it all")
    ] = Path("comparison"),
    dry_run: DryRun = False,
    json: AsJson = False,
    settings: Recipe,
) -> None:
    """Train and evaluate several systems on one split and one budget: Table 1.

    The settings are the budget, the same for all systems; what two of them have in
    common is trained once. Again, it continues where it stopped.

    Example: deepme compare --data IMAGES --seeds 3 --config settings.toml
    """
    from deepme.comparison import run
    from deepme.comparison_rehearsal import rehearse_comparison
    from deepme.tables import print_comparison, print_json

    names = tuple(SYSTEMS) if systems == "all" else tuple(systems.split(","))
    asked: dict[str, Any] = {"data": data, "classes": classes, "matrix": matrix}
    asked |= {"hierarchy": hierarchy, "systems": names}
    asked["seeds"] = seed_range(first_seed, seeds)
    where = open_workspace(workspace)
    if dry_run:
        _print_rehearsal(rehearse_comparison(settings, where, **asked), json)
        return
    table, figures = run(settings, where, **asked)
    if json:
        print_json(asdict(table) | {"figures": list(map(str, figures))})
    else:
        print_comparison(table)
        for path in figures:
            typer.echo(path)


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
    """Draw pictures of WordNet classes, run all stages on them and write the report.

    Example: deepme demo
    """
    from deepme.demo import run

    _print_outcome(run(open_workspace(workspace), seed=seed), json)


def _print_rehearsal(stages: list[Rehearsed], json: bool) -> None:
    from deepme.status_tables import print_rehearsal
    from deepme.tables import print_json

    if json:
        print_json([asdict(stage) for stage in stages])
    else:
        print_rehearsal(stages)


def _print_outcome(outcome: Outcome, json: bool) -> None:
    from deepme.tables import print_groups, print_json, print_results

    written = [str(path) for path in outcome.figures]
    report = str(outcome.report) if outcome.report else None
    if json:
        print_json(asdict(outcome) | {"figures": written, "report": report})
        return
    print_groups(outcome.groups)
    print_results(outcome.results)
    for path in [*written, *([report] if report else [])]:
        typer.echo(path)
