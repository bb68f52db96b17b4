"""Table 1 of the paper, and what each expert does in the system shown."""

from __future__ import annotations

from statistics import fmean, stdev

from deepme.artifacts.comparison import ComparisonContent
from deepme.artifacts.evaluation import Evaluation, EvaluationContent
from deepme.reporting.sources import Sources
from deepme.reporting.tables import Cell, Table, percent, share
from deepme.text import clean, counted

FUSIONS = {
    "gate": "the gate's weights",
    "equal": "all experts alike",
    "hard": "the heaviest expert alone",
    "oracle": "the experts that hold the true class",
    "stacking": "each expert's softmax, not weighed",
    "max-logit": "the largest logit",
    "coarse": "the flat network's mass on each group",
    "flat": "one network of all classes",
    "attention": "one head on all experts' features",
}
"""How a system weighs its experts, for people."""


def systems_table(sources: Sources) -> Table:
    """Make Table 1: over seeds from a comparison, else of the evaluations there are."""
    if sources.comparison is not None:
        return _compared(sources.comparison)
    return _evaluated(sources.evaluations, sources.shown)


def _evaluated(evaluations: list[Evaluation], shown: Evaluation) -> Table:
    ranks = list(shown.content.macro)
    chance = [min(1.0, int(k) / shown.content.classes) for k in ranks]
    by_chance: list[Cell] = ["chance", None, share(chance[0])]
    by_chance += [*map(_percent, chance[1:]), *map(_percent, chance)]
    header = (
        *("system", "weighed by"),
        *(f"macro top-{k}" for k in ranks),
        *(f"micro top-{k}" for k in ranks),
        *("right group", "experts asked", "ECE", "calibrated"),
    )
    by_chance += [None] * (len(header) - len(by_chance))
    images = counted(shown.content.images, "test image")
    return Table(
        caption=f"Table 1. The systems on {images}",
        header=header,
        align="ll" + "r" * (len(header) - 2),
        rows=[*(_row(e.content, ranks) for e in evaluations), by_chance],
        marked=frozenset({evaluations.index(shown)}),
    )


def _row(content: EvaluationContent, ranks: list[str]) -> list[Cell]:
    return [
        clean(content.system),
        FUSIONS.get(content.fusion, clean(content.fusion)),
        share(content.macro.get(ranks[0])),
        *(_percent(content.macro.get(k)) for k in ranks[1:]),
        *(_percent(content.micro.get(k)) for k in ranks),
        _percent(content.right_group),
        f"{content.expert_passes:.2f}",
        _percent(content.calibration_error),
        _percent(content.calibrated_error),
    ]


def _compared(comparison: ComparisonContent) -> Table:
    ranks = list(comparison.systems[0].seeds[0].macro)
    header = (
        "system",
        *(f"macro top-{k}" for k in ranks),
        *(f"micro top-{k}" for k in ranks),
        *("ECE", "M weights", "training TFLOP", "GFLOP an image"),
    )
    rows = [
        [
            clean(row.label),
            *(_spread([seed.macro[k] for seed in row.seeds]) for k in ranks),
            *(_spread([seed.micro[k] for seed in row.seeds]) for k in ranks),
            _spread([seed.calibration_error for seed in row.seeds]),
            f"{row.cost.parameters / 1e6:,.1f}",
            f"{row.cost.training_gflop / 1e3:,.1f}",
            f"{row.cost.inference_gflop:,.3g}",
        ]
        for row in comparison.systems
    ]
    seeds = max(len(row.seeds) for row in comparison.systems)
    names = [row.system for row in comparison.systems]
    return Table(
        caption="Table 1. The systems in percent, mean ± standard deviation over "
        f"{counted(seeds, 'seed')}, on {counted(comparison.test_images, 'test image')}",
        header=header,
        align="l" + "r" * (len(header) - 1),
        rows=rows,
        marked=frozenset({names.index("deepme")} if "deepme" in names else ()),
    )


def experts_table(sources: Sources) -> Table:
    """Say of each expert how well it does and how much the gate trusts it."""
    content, k = sources.shown.content, str(sources.rank)
    rows: list[list[Cell]] = [
        [
            f"{group.number} {clean(group.name)}",
            f"{group.classes:,}",
            share(group.expert.get(k)),
            share(group.system.get(k)),
            share(group.load),
            share(group.chosen),
            None if group.entropy is None else f"{group.entropy:.2f}",
        ]
        for group in content.groups
    ]
    return Table(
        caption=f"The experts under {clean(content.system)}",
        header=(
            *("expert", "classes", f"alone, top-{k}", f"system, top-{k}"),
            *("load", "chosen", "entropy"),
        ),
        align="lrrrrrr",
        rows=rows,
    )


def _percent(value: float | None) -> str | None:
    return None if value is None else percent(value)


def _spread(values: list[float]) -> str:
    mean = f"{100 * fmean(values):.1f}"
    return f"{mean} ± {100 * stdev(values):.1f}" if len(values) > 1 else mean
