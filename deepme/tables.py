"""What people read on stdout: tables for the eye, or JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deepme.text import clean, counted, listing, shorten

if TYPE_CHECKING:
    from deepme.artifacts.comparison import ComparisonContent
    from deepme.artifacts.evaluation import EvaluationContent
    from deepme.artifacts.groups import GroupsContent
    from deepme.artifacts.routing import RoutingContent
    from deepme.artifacts.selection import SelectionContent
    from deepme.planning import Plan
    from deepme.steps.export import ExportReport
    from deepme.steps.split import SplitReport
    from deepme.verifying import Verdict

_PIPE_WIDTH = 240
_LEAST_TEXT = 14
"""Characters of a text that are worth showing."""


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=True))


def print_paths(paths: Iterable[Path], json: bool) -> None:
    """Print the files that were written, a line each or as a list."""
    if json:
        print_json([str(path) for path in paths])
    else:
        for path in paths:
            print(clean(str(path)))


def print_groups(content: GroupsContent) -> None:
    """Print a line a group, then what holds for all of them."""
    names = dict(zip(content.classes, content.names, strict=True))
    groups_of: dict[str, int] = {}
    for group in content.groups:
        for name in group.classes:
            groups_of[name] = groups_of.get(name, 0) + 1
    rows = []
    for group in content.groups:
        shared = sum(groups_of[name] > 1 for name in group.classes)
        examples = ", ".join(names[name] for name in _spread(group.classes, 4))
        row = (group.number, group.name, len(group.classes), shared, examples)
        rows.append(tuple(map(str, row)))
    print_table(("group", "name", "classes", "shared", "examples"), rows, "rlrrl")
    summary = content.summary
    told = (
        f"{len(content.classes):,} classes in {len(content.groups)} groups, "
        f"{summary['overlap']:.3f} groups a class"
    )
    if content.delta is not None:
        alone = counted(int(summary["fallbacks"]), "class")
        told += (
            f"; δ = {content.delta:.4g} covers {summary['coverage']:.1%}, "
            f"{alone} placed by largest membership alone"
        )
    print(told)


def print_selection(content: SelectionContent) -> None:
    """Print a line a candidate, and which one was chosen."""
    header = (
        "T",
        "δ",
        "eigengap",
        "Xie–Beni",
        "balance",
        "overlap",
        "sizes",
        "mixture",
        "oracle",
        "",
    )
    rows = []
    for item in content.candidates:
        accuracies = [
            "" if share is None else f"{share:.1%}"
            for share in (item.mixture, item.oracle)
        ]
        rows.append(
            (
                str(item.num_groups),
                f"{item.delta:g}",
                f"{item.eigengap:.4f}",
                "" if item.xie_beni is None else f"{item.xie_beni:.3g}",
                f"{item.balance:.2f}",
                f"{item.overlap:.3f}",
                f"{item.smallest:,}–{item.largest:,}",
                *accuracies,
                "chosen" if item is content.best else item.refused,
            )
        )
    print_table(header, rows, "rrrrrrrrrl")
    print(
        f"heads on frozen features of {content.train_images:,} training images, "
        f"macro top-1 on {content.val_images:,} validation images (standard error "
        f"{content.standard_error:.1%}); one head without groups {content.flat:.1%}"
    )


def print_split(report: SplitReport) -> None:
    """Print the sizes of the subsets and what did not fit the class list."""
    print(
        f"{report.images:,} images of {report.classes:,} classes: "
        f"{report.train:,} train, {report.val:,} val, {report.test:,} test; "
        f"{report.bytes_per_image:.0f} bytes an image held"
    )
    if report.parts:
        told = ", ".join(f"{name}/ → {part}" for name, part in report.parts.items())
        dealt = "" if "val" in report.parts.values() else "; val is dealt from train"
        print(f"the folder's own split: {told}{dealt}")
    if report.empty_classes:
        named = listing(report.empty_classes)
        print(f"{counted(len(report.empty_classes), 'class')} without images: {named}")
    if report.unknown_folders:
        named = listing(report.unknown_folders)
        print(
            f"{counted(len(report.unknown_folders), 'folder')} without a class: {named}"
        )
    if report.unreadable is not None:
        print(f"{counted(len(report.unreadable), 'image')} cannot be read")
        for path, reason in report.unreadable:
            print(f"  {clean(path)}: {clean(reason)}")


def print_results(results: Sequence[EvaluationContent]) -> None:
    """Print a line a system, and chance."""
    ranks = list(results[0].macro)
    header = (
        "system",
        "fusion",
        *(f"macro top-{k}" for k in ranks),
        *(f"micro top-{k}" for k in ranks),
        "right group",
        "ECE",
        "calibrated",
    )
    rows = [
        (
            result.system,
            result.fusion,
            *(f"{result.macro[k]:.1%}" for k in ranks),
            *(f"{result.micro[k]:.1%}" for k in ranks),
            f"{result.right_group:.1%}",
            f"{result.calibration_error:.1%}",
            "" if result.calibrated_error is None else f"{result.calibrated_error:.1%}",
        )
        for result in results
    ]
    chance = [f"{min(1.0, int(k) / results[0].classes):.1%}" for k in ranks]
    rows.append(("chance", "", *chance, *chance, "", "", ""))
    print_table(header, rows, "ll" + "r" * (len(header) - 2))
    first = results[0]
    skipped = f", {first.unreadable:,} unreadable" if first.unreadable else ""
    print(
        f"{first.images:,} test images of {first.classes_tested:,} of "
        f"{first.classes:,} classes{skipped}"
    )


def print_routing(content: RoutingContent) -> None:
    """Print every route, the chosen one marked."""
    header = ("route", "experts asked", "macro top-1", "against all", "")
    rows = [
        (
            route.options,
            f"{route.passes:.2f}",
            f"{route.macro:.1%}",
            f"{100 * (route.macro - content.dense):+.1f}",
            "chosen" if route == content.best else "",
        )
        for route in content.routes
    ]
    print_table(header, rows, "lrrrl")
    print(
        f"{counted(content.images, 'validation image')}; chosen for `deepme evaluate`: "
        f"{content.best.options}, {content.experts / content.best.passes:.1f} times "
        f"fewer expert passes than all {content.experts}"
    )


def print_plan(plan: Plan) -> None:
    """Print what each stage takes, and what was measured."""
    rows = [
        (
            stage.command,
            f"{stage.passes:,}",
            _duration(stage.seconds),
            f"{stage.disk / 1e9:,.2f}",
        )
        for stage in plan.stages
    ]
    rows.append(("in all", "", _duration(plan.seconds), f"{plan.disk / 1e9:,.2f}"))
    print_table(("stage", "images through a network", "time", "GB"), rows, "lrrr")
    speed = plan.speed
    print(
        f"{plan.classes:,} classes, {plan.groups} groups, "
        f"{counted(plan.images['train'], 'training image')}, {plan.largest:,} in the "
        f"largest group; {counted(plan.at_a_time, 'expert')} at a time"
    )
    print(
        f"measured {plan.backbone} at {plan.image_size} pixels on {plan.device}: "
        f"{_rate(speed.training)} images/s in training, "
        f"{_rate(speed.forward)} forward, {_rate(speed.loading)} loaded by one "
        f"process; {speed.memory / 1e9:,.2f} GB of memory; "
        f"{plan.free / 1e9:,.1f} GB of disk free"
    )


def _rate(each_second: float) -> str:
    return f"{each_second:,.0f}" if each_second >= 10 else f"{each_second:.2g}"


def _duration(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print what is wrong, and how much is intact."""
    wrong = [verdict for verdict in verdicts if verdict.state != "intact"]
    if wrong:
        rows = [(v.file, v.state, v.reason, v.command) for v in wrong]
        print_table(("file", "state", "why", "rerun"), rows, "llll")
    intact = len(verdicts) - len(wrong)
    print(f"{intact:,} of {counted(len(verdicts), 'file')} intact")


def print_export(report: ExportReport) -> None:
    """Print what was written, and how well it agrees."""
    print(clean(report.path))
    print(
        f"{counted(report.classes, 'class')}, {report.bytes / 1e6:,.1f} MB; the same "
        f"answers as PyTorch on {counted(report.images, 'image')}, probabilities "
        f"within {report.largest_difference:.1g}"
    )


def print_comparison(content: ComparisonContent) -> None:
    """Print Table 1: mean ± standard deviation over seeds, and what a system takes."""
    ranks = list(content.systems[0].seeds[0].macro)
    header = (
        "system",
        *(f"macro top-{k}" for k in ranks),
        *(f"micro top-{k}" for k in ranks),
        "M weights",
        "training TFLOP",
        "GFLOP an image",
    )
    rows = [
        (
            row.label,
            *(mean_and_spread([seed.macro[k] for seed in row.seeds]) for k in ranks),
            *(mean_and_spread([seed.micro[k] for seed in row.seeds]) for k in ranks),
            f"{row.cost.parameters / 1e6:,.1f}",
            f"{row.cost.training_gflop / 1e3:,.1f}",
            f"{row.cost.inference_gflop:,.3g}",
        )
        for row in content.systems
    ]
    print_table(header, rows, "l" + "r" * (len(header) - 1))
    seeds = max(len(row.seeds) for row in content.systems)
    print(
        f"{content.classes:,} classes, T = {content.groups}, "
        f"{counted(content.train_images, 'training image')}, "
        f"{counted(content.test_images, 'test image')}; mean ± standard deviation over "
        f"{counted(seeds, 'seed')}"
    )


def mean_and_spread(shares: Sequence[float]) -> str:
    """Write shares as percent: ``39.2 ± 0.4``, without a spread for one of them."""
    mean = f"{100 * fmean(shares):.1f}"
    return f"{mean} ± {100 * stdev(shares):.1f}" if len(shares) > 1 else mean


def _spread(items: Sequence[str], count: int) -> list[str]:
    """A few items from all over a list, since neighbours are alike."""
    step = max(1, len(items) // count)
    return list(items[::step][:count])


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], align: str
) -> None:
    """Print a table; where the terminal is too narrow for it, a list of its rows.

    Args:
        header: titles of the columns.
        rows: cells; cleaned here.
        align: a letter a column, l or r. Columns of texts (l) may be cut short, numbers
            are shown whole.
    """
    console = Console(
        width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False
    )
    cells = [[shorten(cell, 60) for cell in row] for row in rows]
    widths = _widths(header, cells, align, console.width)
    if not widths:
        for row in cells:
            for title, cell in zip(header, row, strict=True):
                if cell:
                    console.print(Text(f"{title}  {cell}" if title else cell))
            print()
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title, side, width in zip(header, align, widths, strict=True):
        table.add_column(
            title,
            justify="right" if side == "r" else "left",
            width=width,
            overflow="ellipsis",
            no_wrap=True,
        )
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _widths(
    header: Sequence[str], rows: Sequence[Sequence[str]], align: str, available: int
) -> list[int]:
    """The width of each column, texts cut where need be; none if it is of no use."""
    columns = zip(*(header, *rows), strict=True)
    natural = [max(map(cell_len, column)) for column in columns]
    widths = [
        width if side == "r" else min(width, _LEAST_TEXT)
        for width, side in zip(natural, align, strict=True)
    ]
    spare = available - 1 - sum(widths) - 3 * len(widths)
    if spare < 0:
        return []
    for number, width in enumerate(natural):
        more = min(spare, width - widths[number])
        widths[number] += more
        spare -= more
    return widths
