"""Table 1: every system by name, what is shared, what it costs, and its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from conftest import Command
from injection import snapshot

from deepme.artifacts.comparison import load_comparison
from deepme.artifacts.evaluation import load_evaluation
from deepme.comparison import plan_trials
from deepme.demo import demo_recipe
from deepme.errors import ArtifactError, UsageError
from deepme.systems import PAPER, SYSTEMS
from deepme.tables import mean_and_spread
from deepme.workspace import Workspace

ALL = tuple(SYSTEMS)


@pytest.fixture(scope="module")
def compare(tiny_images: Path, tiny_config: Path, invoke: Command) -> Any:
    """``deepme compare`` on the tiny pictures in a folder."""

    def run(root: Path, *options: object) -> dict[str, Any]:
        arguments = ["compare", "--data", tiny_images, "--config", tiny_config]
        ended = invoke(*arguments, "-w", root, "--json", *options)
        assert ended.code == 0, ended.stderr
        return json.loads(ended.stdout)

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, compare: Any) -> Any:
    """All systems under one seed: where they are, and the table."""
    root = tmp_path_factory.mktemp("comparison") / "all"
    return root, compare(root, "--systems", "all", "--seeds", 1)


def row(table: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [item for item in table["systems"] if item["system"] == name]
    return found


class TestPlan:
    def test_systems_that_differ_in_fusion_share_a_trial(self):
        trials = plan_trials(demo_recipe(), ("deepme", "oracle", "hard", "dmde"), 0)
        assert [list(trial.systems) for trial in trials] == [
            ["deepme", "oracle", "hard"],
            ["dmde"],
        ]
        assert trials[0].fusions == ("gate", "oracle", "hard")

    def test_seed_goes_to_all_that_is_trained_and_not_to_the_split(self):
        recipe = demo_recipe()
        (trial,) = plan_trials(recipe, ("deepme",), 7)
        stages = (trial.recipe.cluster, trial.recipe.flat, trial.recipe.expert)
        assert {stage.seed for stage in (*stages, trial.recipe.gate)} == {7}
        assert trial.recipe.split == recipe.split

    @pytest.mark.parametrize("name", ALL)
    def test_a_system_differs_from_the_recipe_where_it_says_so(self, name):
        recipe, system = demo_recipe(), SYSTEMS[name]
        (trial,) = plan_trials(recipe, (name,), 0)
        own = trial.recipe
        groups = system.cluster | {"num_groups": own.cluster.num_groups}
        assert own.cluster == replace(recipe.cluster, **groups)
        assert own.cluster.num_groups - 4 == (name == "flat-ensemble")
        if system.like_flat:
            shared = own.flat.to_dict() | {"lambda2": 0, "lambda3": 0}
            assert own.expert.to_dict().items() >= shared.items()
            assert own.expert.weights == "none" != recipe.expert.weights
        else:
            assert own.expert == replace(recipe.expert, **system.expert)
        assert own.attention == replace(recipe.attention, **system.attention)
        assert own.gate == replace(recipe.gate, **system.gate)
        longer = {"flat-twice": 2, "flat-longer": 3, "features-longer": 2}
        assert own.flat.epochs == recipe.flat.epochs * longer.get(name, 1)

    @pytest.mark.parametrize("names", [("deepme", "vgg"), ("deepme", "deepme"), ()])
    def test_unknown_or_repeated_systems(self, names):
        with pytest.raises(UsageError, match="expected different ones of vgg16-ext"):
            plan_trials(demo_recipe(), names, 0)


class TestTable:
    def test_every_system_runs_by_name(self, whole):
        root, table = whole
        assert [item["system"] for item in table["systems"]] == list(ALL)
        assert table["train_images"] + table["test_images"] < 144
        figures = table.pop("figures")
        assert json.loads((root / "comparison.json").read_text())["content"] == table
        names = ("class-accuracy", "groups", "expert-accuracy")
        assert figures == [
            str(root / "figures" / f"{name}.{suffix}")
            for name in names
            for suffix in ("png", "svg")
        ]
        svg = (root / "figures" / "class-accuracy.svg").read_text()
        assert all(SYSTEMS[name].label[:30] in svg for name in PAPER)

    def test_figures_are_the_evaluations(self, whole):
        root, table = whole
        for name, place, system in (
            ("vgg16-ext", "vgg16-ext", "vgg16-ext"),
            ("deepme", "deepme", "deepme"),
            ("oracle", "deepme", "ssc-oracle"),
            ("dmde", "dmde", "dmde"),
        ):
            folders = [
                path
                for path in (root / "seed-0").iterdir()
                if (path / "evaluation" / f"{system}.json").exists()
            ]
            assert folders, place
            found = [
                load_evaluation(folder / "evaluation" / f"{system}.json").content
                for folder in folders
            ]
            (seed,) = row(table, name)["seeds"]
            assert seed["macro"] in [content.macro for content in found]
            assert seed["micro"] in [content.micro for content in found]

    def test_chance_groups_have_the_sizes_of_the_real_ones(self, whole):
        root, _ = whole
        sizes = {}
        for name in ("deepme-nossc", "paper-gate"):
            groups = Workspace(root / "seed-0" / name).groups()
            sizes[name] = [len(group.classes) for group in groups.content.groups]
            sizes[name, "classes"] = [g.classes for g in groups.content.groups]
        assert sizes["deepme-nossc"] == sizes["paper-gate"]
        assert sizes["deepme-nossc", "classes"] != sizes["paper-gate", "classes"]

    def test_costs(self, whole):
        _, table = whole
        cost = {item["system"]: item["cost"] for item in table["systems"]}
        flat = cost["vgg16-ext"]
        assert cost["flat-longer"]["training_gflop"] > flat["training_gflop"]
        ensemble = cost["flat-ensemble"]
        # T + 1 = 4 networks like the flat one.
        assert ensemble["parameters"] == 4 * flat["parameters"]
        for key in ("training_gflop", "inference_gflop"):
            assert ensemble[key] == pytest.approx(4 * flat[key])
        gate = cost["deepme"]["inference_gflop"] - cost["oracle"]["inference_gflop"]
        assert gate == pytest.approx(flat["inference_gflop"], rel=0.05)
        assert cost["hard"] == cost["deepme"]
        oracle, attention = cost["oracle"], cost["attention"]
        assert attention["inference_gflop"] == pytest.approx(
            oracle["inference_gflop"], rel=0.05
        )
        assert attention["training_gflop"] > oracle["training_gflop"]
        assert cost["joint"]["training_gflop"] > attention["training_gflop"]
        assert cost["hd-cnn"]["parameters"] > cost["mixdcnn"]["parameters"]

    def test_what_is_shared_is_trained_once(self, whole):
        root, _ = whole
        seed = root / "seed-0"
        of = {path.name: path for path in seed.iterdir()}
        assert len(of) < len(ALL)
        experts = "experts/01/weights.safetensors"
        same = (of["vgg16-ext"] / experts).stat().st_ino
        assert (of["paper-gate"] / experts).stat().st_ino == same
        assert (of["no-margin"] / experts).stat().st_ino == same
        assert (of["no-omega"] / experts).stat().st_ino != same
        for path in of.values():
            assert (path / "split.h5").stat().st_ino == (
                root / "split.h5"
            ).stat().st_ino


def test_attention_alone_has_no_figure_of_experts(tmp_path, compare):
    table = compare(tmp_path, "--systems", "attention", "--seeds", 1)
    names = {Path(path).stem for path in table["figures"]}
    assert names == {"class-accuracy", "groups"}
    (only,) = table["systems"]
    assert only["cost"]["training_gflop"] > only["cost"]["inference_gflop"] > 0


class TestAgain:
    def test_nothing_is_done_twice_and_a_seed_is_added(self, tmp_path, compare):
        options = ("--systems", "vgg16-ext,deepme,deepme-nogate")
        first = compare(tmp_path, *options, "--seeds", 1)
        before = snapshot(tmp_path)
        assert compare(tmp_path, *options, "--seeds", 1) == first
        assert snapshot(tmp_path) == before
        both = compare(tmp_path, *options, "--seeds", 2)
        for old, new in zip(first["systems"], both["systems"], strict=True):
            assert new["seeds"][:1] == old["seeds"]
            assert [seed["seed"] for seed in new["seeds"]] == [0, 1]
        after = snapshot(tmp_path)
        kept = {name for name in before if name.startswith("seed-0/")}
        assert {name: after[name] for name in kept} == {
            name: before[name] for name in kept
        }
        other = compare(tmp_path, *options, "--seeds", 1, "--first-seed", 1)
        for item in other["systems"]:
            assert item["seeds"] == row(both, item["system"])["seeds"][1:]

    def test_a_file_that_is_bad_is_refused(self, tmp_path):
        path = tmp_path / "comparison.json"
        with pytest.raises(ArtifactError):
            load_comparison(path)
        path.write_text("{}")
        with pytest.raises(ArtifactError):
            load_comparison(path)


def test_mean_and_spread():
    shares = [0.1, 0.25, 0.3]
    m, s = 100 * mean(shares), 100 * stdev(shares)
    assert mean_and_spread(shares) == f"{m:.1f} ± {s:.1f}" == "21.7 ± 10.4"
    assert mean_and_spread([0.5]) == "50.0"


def test_printed_table(tmp_path, tiny_images, tiny_config, invoke):
    arguments = ["compare", "--data", tiny_images, "--config", tiny_config]
    ended = invoke(*arguments, "-w", tmp_path, "--seeds", 1)
    assert ended.code == 0, ended.stderr
    for name in PAPER:
        assert SYSTEMS[name].label in ended.stdout
    assert "12 classes, T = 3" in ended.stdout
    assert "over 1 seed" in ended.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--systems", "vgg"), "--systems is vgg, expected different ones of"),
        (("--seeds", "0"), "--seeds is 0, expected ≥ 1 and ≤ 10,000"),
        (("--seeds", 10**30), "--seeds is 1000000000000000000000000000000, expected"),
        (("--first-seed", -1), "--first-seed is -1, expected ≥ 0 and"),
    ],
)
def test_bad_options(tmp_path, tiny_images, invoke, options, message):
    ended = invoke("compare", "--data", tiny_images, "-w", tmp_path, *options)
    assert ended.code == 2
    assert ended.stderr.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []
