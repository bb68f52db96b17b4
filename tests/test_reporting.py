"""The report: its figures against the artifacts, its HTML, and texts that attack it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Command

from deepme.artifacts.comparison import (
    ComparisonContent,
    Cost,
    SeedResult,
    SystemResult,
    save_comparison,
)
from deepme.artifacts.similarity import load_similarity
from deepme.reporting.classes import class_columns, extremes
from deepme.reporting.confusions import by_distance, commonest, distances_between
from deepme.reporting.page import embed, render
from deepme.reporting.sources import Sources, load_sources
from deepme.reporting.systems import experts_table, systems_table
from deepme.storage.header import Header
from deepme.workspace import Workspace

ATTACK = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;"
VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """What a page holds.

    Attributes:
        tags: every (name, attributes), in order.
        texts: element name -> the texts in each of them.
        open: elements not yet closed.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def sources(finished_workspace: Path) -> Sources:
    return load_sources(Workspace(finished_workspace))


@pytest.fixture(scope="module")
def html(sources: Sources) -> str:
    return render(sources)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def data_of(page: Page) -> dict[str, Any]:
    return dict(json.loads(page.texts["script"][0]))


class TestPage:
    def test_every_element_is_closed(self, page: Page) -> None:
        assert page.open == []

    def test_it_asks_for_nothing(self, page: Page) -> None:
        addresses = [
            str(attributes[name])
            for _, attributes in page.tags
            for name in ("src", "href", "action", "data", "srcset")
            if name in attributes
        ]
        assert len(addresses) > 15
        assert all(address.startswith(("data:", "#")) for address in addresses)
        assert not page.all("link")
        assert "url(" not in page.texts["style"][0]

    def test_the_policy_allows_its_own_script_alone(self, page: Page) -> None:
        metas = page.all("meta")
        policy = next(str(m["content"]) for m in metas if "http-equiv" in m)
        script = page.texts["script"][1].encode()
        digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
        assert policy.split("; ") == [
            "default-src 'none'",
            "img-src data:",
            "style-src 'unsafe-inline'",
            f"script-src 'sha256-{digest}'",
        ]

    def test_headings_are_in_order(self, page: Page) -> None:
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        steps = pairwise(levels)
        assert all(after - before <= 1 for before, after in steps)

    def test_tables_have_captions_and_scopes(self, page: Page) -> None:
        assert len(page.all("table")) == len(page.all("caption")) > 6
        assert all(page.texts["caption"])
        assert {cell["scope"] for cell in page.all("th")} == {"col", "row"}

    def test_images_are_told_in_words(self, page: Page) -> None:
        images = page.all("img")
        assert len(images) == 4 + 12
        assert all(len(str(image["alt"])) > 15 for image in images)
        assert len(page.all("figure")) == len(page.all("figcaption")) == 4

    def test_ids_are_unique_and_lead_somewhere(self, page: Page) -> None:
        ids = [str(a["id"]) for _, a in page.tags if "id" in a]
        assert len(set(ids)) == len(ids)
        for _, attributes in page.tags:
            for name in ("for", "aria-labelledby", "aria-describedby", "href"):
                target = attributes.get(name) or ""
                assert not target or target.removeprefix("#") in ids

    def test_what_scrolls_can_be_reached_by_keyboard(self, html: str) -> None:
        scrolling = re.findall(r'<div class="(?:scroll|plate)"[^>]*>', html)
        assert sum('tabindex="0"' in tag for tag in scrolling) >= len(scrolling) - 2

    def test_the_same_artifacts_give_the_same_page(
        self, sources: Sources, html: str
    ) -> None:
        assert render(sources) == html


@pytest.fixture(scope="module")
def attacked(sources: Sources) -> Page:
    content = sources.groups.content
    named = replace(
        content,
        names=(ATTACK, *content.names[1:]),
        groups=(replace(content.groups[0], name=ATTACK), *content.groups[1:]),
    )
    result = sources.shown.content
    first = replace(result.groups[0], name=ATTACK)
    result = replace(result, system=ATTACK, groups=(first, *result.groups[1:]))
    shown = replace(sources.shown, content=result)
    others = [shown if e is sources.shown else e for e in sources.evaluations]
    groups = replace(sources.groups, content=named)
    return Page(
        render(replace(sources, groups=groups, shown=shown, evaluations=others))
    )


class TestTexts:
    def test_they_add_no_element(self, attacked: Page, page: Page) -> None:
        assert [tag for tag, _ in attacked.tags] == [tag for tag, _ in page.tags]
        assert len(attacked.all("script")) == 2

    def test_they_arrive_unchanged(self, attacked: Page) -> None:
        data = data_of(attacked)
        assert data["name"][0] == data["groups"][0] == ATTACK
        assert any(ATTACK in text for text in attacked.texts["h4"])
        assert ATTACK in attacked.texts["b"][0]

    def test_json_in_a_page_shows_no_bracket(self) -> None:
        told = embed({"a": [ATTACK, "<!--", "\u2028", "δ"]})
        assert not set("<>&'") & set(told)
        assert json.loads(told) == {"a": [ATTACK, "<!--", "\u2028", "δ"]}


class TestFigures:
    def test_the_classes_are_those_of_the_evaluation(
        self, sources: Sources, page: Page, finished_workspace: Path
    ) -> None:
        data = data_of(page)
        groups = json.loads((finished_workspace / "groups.json").read_text())["content"]
        with h5py.File(finished_workspace / "evaluation/deepme.h5") as file:
            assert data["images"] == file["images"][()].tolist()
            assert data["hits"] == file["hits"][0].tolist()
            confusions = file["confusions"][()].tolist()
        assert data["id"] == groups["classes"]
        for number, group in enumerate(groups["groups"], start=1):
            held = [data["id"][i] for i in range(12) if number in data["groups_of"][i]]
            assert held == group["classes"]
        for index, (taken, times) in enumerate(
            zip(data["taken"], data["times"], strict=True)
        ):
            own = {other: count for true, other, count in confusions if true == index}
            assert times == max(own.values(), default=0)
            assert own.get(taken, 0) == times

    def test_best_and_worst_are_ordered_and_apart(self, sources: Sources) -> None:
        best, worst = extremes(sources)
        columns = class_columns(sources)
        accuracy = dict(
            zip(
                columns["name"],
                np.array(columns["hits"]) / columns["images"],
                strict=True,
            )
        )
        highest = sorted(accuracy.values(), reverse=True)
        assert [accuracy[str(row[0])] for row in best.rows] == highest[:3]
        assert [accuracy[str(row[0])] for row in worst.rows] == highest[::-1][:3]
        assert not {row[0] for row in best.rows} & {row[0] for row in worst.rows}

    def test_distances_are_path_lengths(
        self, sources: Sources, finished_workspace: Path
    ) -> None:
        pairs = np.random.default_rng(0).integers(0, 12, (100, 2))
        with h5py.File(finished_workspace / "similarity.h5") as file:
            expected = file["path_length"][()][pairs[:, 0], pairs[:, 1]]
        assert distances_between(sources, pairs).tolist() == expected.tolist()

    def test_confusions_add_up(self, sources: Sources) -> None:
        errors = int(sources.shown.counts.confusions[:, 2].sum())
        assert errors > 0
        table, distances = commonest(sources), by_distance(sources)
        assert sum(int(str(row[2])) for row in table.rows) == errors
        assert distances
        assert sum(int(str(row[1])) for row in distances.rows) == errors
        any_two = [row[3] for row in distances.rows]
        assert sum(cell.value for cell in any_two) == pytest.approx(1)  # type: ignore[union-attr]

    def test_classes_of_a_matrix_have_similarities(
        self, sources: Sources, invoke: Command, tmp_path: Path
    ) -> None:
        names = sources.groups.content.classes
        matrix = np.round(np.random.default_rng(0).uniform(size=(12, 12)), 3)
        matrix = np.triu(matrix, 1) + np.triu(matrix, 1).T + np.eye(12)
        np.savetxt(tmp_path / "bare.csv", matrix, delimiter=",")
        lines = (tmp_path / "bare.csv").read_text().splitlines()
        rows = [f"{name},{line}" for name, line in zip(names, lines, strict=True)]
        (tmp_path / "own.csv").write_text("\n".join([f",{','.join(names)}", *rows]))
        where = tmp_path / "own"
        own = ("similarity", "--matrix", tmp_path / "own.csv", "-w", where)
        assert not invoke(*own).code
        others = replace(sources, similarity=load_similarity(where / "similarity.h5"))
        order = [others.similarity.classes.index(name) for name in names]
        assert order == list(range(12))
        table = commonest(others)
        assert "similarity" in table.header
        true, other, _ = sources.shown.counts.confusions[0]
        name = sources.class_name
        row = next(r for r in table.rows if r[:2] == [name(true), name(other)])
        assert row[4] == f"{matrix[true, other]:.2f}"
        assert by_distance(others) is None

    def test_experts_and_systems_are_those_evaluated(self, sources: Sources) -> None:
        groups = sources.shown.content.groups
        rows = experts_table(sources).rows
        assert [row[4].value for row in rows] == [g.load for g in groups]  # type: ignore[union-attr]
        table = systems_table(sources)
        names = [row[0] for row in table.rows]
        assert names == ["deepme", "deepme-nogate", "ssc-oracle", "chance"]
        assert table.marked == {0}

    def test_calibration_is_shown_before_and_after(
        self, sources: Sources, page: Page
    ) -> None:
        content, counts = sources.shown.content, sources.shown.counts
        for error, images, hits, confidence in (
            (
                content.calibration_error,
                counts.bin_images,
                counts.bin_hits,
                counts.bin_confidence,
            ),
            (
                content.calibrated_error,
                counts.calibrated_images,
                counts.calibrated_hits,
                counts.calibrated_confidence,
            ),
        ):
            assert images.sum() == content.images
            assert np.abs(hits - confidence).sum() / content.images == pytest.approx(
                error
            )
            assert any(f"ECE {error:.1%}" in text for text in page.texts["figcaption"])

    @pytest.mark.parametrize(
        ("slope", "told"),
        [
            (0.0, "A temperature of 2 was fitted on"),
            (np.log(1.5), "A temperature, 2 for images that it is certain of to 3 for"),
        ],
    )
    def test_a_temperature_is_told(
        self, sources: Sources, slope: float, told: str
    ) -> None:
        assert sources.calibration is not None
        fitted = {"temperature": 2.0, "temperature_slope": slope}
        changed = replace(sources.calibration, **fitted)
        page = Page(render(replace(sources, calibration=changed)))
        assert told in " ".join(page.texts["main"][0].split())

    def test_without_a_temperature_there_is_one_diagram(self, sources: Sources) -> None:
        equal = next(e for e in sources.evaluations if e.content.fusion == "equal")
        page = Page(render(replace(sources, shown=equal, calibration=None)))
        titles = [t for t in page.texts["figcaption"] if "calibration" in t]
        assert len(titles) == 1
        assert "no temperature" in page.texts["main"][0]


def test_images_that_are_gone_are_left_out(sources: Sources, tmp_path: Path) -> None:
    moved = replace(sources.split.images, root=tmp_path)
    gone = replace(sources, split=replace(sources.split, images=moved))
    page = Page(render(gone))
    assert len(page.all("img")) == 4
    assert "12 sample images could not be read" in page.texts["main"][0]


def test_the_command_writes_where_it_is_told(
    invoke: Command, tiny_workspace: Path, tmp_path: Path, html: str
) -> None:
    ended = invoke("report", "-w", tiny_workspace, "--json")
    assert json.loads(ended.stdout) == [str(tiny_workspace / "report.html")]
    written = (tiny_workspace / "report.html").read_text()
    assert written == html
    out = tmp_path / "elsewhere.html"
    assert not invoke("report", "-w", tiny_workspace, "--out", out).code
    assert out.read_text() == written
    shutil.rmtree(tiny_workspace / "evaluation")
    ended = invoke("report", "-w", tiny_workspace)
    assert ended.code == 2
    assert "run `deepme evaluate`" in ended.stderr


def test_a_comparison_shows_its_table_and_one_of_its_trials(
    sources: Sources, finished_workspace: Path, tmp_path: Path
) -> None:
    def row(system: str, label: str, macro: dict[str, float]) -> SystemResult:
        seeds = tuple(
            SeedResult(
                seed=seed,
                macro={k: value + 0.02 * seed for k, value in macro.items()},
                micro=macro,
                right_group=1.0,
                calibration_error=0.1,
                experts={},
            )
            for seed in (0, 1)
        )
        cost = Cost(parameters=10**6, training_gflop=5e3, inference_gflop=0.5)
        return SystemResult(system=system, label=label, cost=cost, seeds=seeds)

    macro = sources.shown.content.macro
    rows = (
        row("vgg16-ext", "VGG16-Ext", {"1": 0.2, "3": 0.5}),
        row("deepme", "DeepME", macro),
    )
    content = ComparisonContent(
        classes=12, train_images=84, test_images=36, groups=3, systems=rows
    )
    save_comparison(
        tmp_path / "comparison.json",
        Header(kind="comparison", schema_version=1),
        content,
    )
    shutil.copytree(finished_workspace, tmp_path / "seed-0" / "vgg16-ext")
    found = load_sources(Workspace(tmp_path))
    assert found.workspace.root == tmp_path / "seed-0" / "vgg16-ext"
    assert found.title == tmp_path.name
    assert found.shown.content == sources.shown.content
    table = systems_table(found)
    assert "2 seeds" in table.caption
    assert table.rows[0][:2] == ["VGG16-Ext", "21.0 ± 1.4"]
    assert table.marked == {1}
