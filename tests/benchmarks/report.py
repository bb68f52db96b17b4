"""Measure `deepme report` at 10,184 classes: the command, the page, a real browser.

    python tests/benchmarks/report.py

Similarity, groups and split are made by the commands, from drawn pictures, two a
class; the evaluations are drawn by chance, since ten thousand classes are not trained
here. The page is opened in headless Chromium (``--browser``; in the dependency group
`browser`). Every character of some searches is typed and timed until the next frame is
shown; the keyboard goes through all that can be focussed; axe-core, fetched with npm,
looks for faults of accessibility, wide and narrow, light and dark. Writes
docs/benchmarks/report.json.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect, sync_playwright
from recording import measure, record

from deepme.artifacts.evaluation import (
    KIND,
    NUM_BINS,
    SCHEMA,
    Counts,
    EvaluationContent,
    GroupResult,
    save_evaluation,
)
from deepme.artifacts.groups import Groups
from deepme.images.sources import read_classes
from deepme.storage.header import Header
from deepme.workspace import Workspace

PACKAGES = ("deepme", "jinja2", "matplotlib", "playwright")
CLASSES, GROUPS, TESTED = 10_184, 15, 50
SYSTEMS = {"deepme": ("gate", 0.40), "deepme-nogate": ("equal", 0.25)}
SYSTEMS |= {"vgg16-ext": ("flat", 0.35)}
TOPK = (1, 5)
SEARCHES = ("terrier", "n0210", "zz", "e")
NARROW, WIDE = 375, 1280

# Until the browser has shown the next frame: what a reader waits for.
TIMED_INPUT = """([id, text]) => new Promise((done) => {
  const input = document.getElementById(id);
  input.value = text;
  const start = performance.now();
  input.dispatchEvent(new Event("input", { bubbles: true }));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start), 0));
})"""
AXE_RUN = """() => axe.run().then((found) => ({
  violations: found.violations, passes: found.passes.length,
}))"""
FOCUSABLE = "a[href], button:not(:disabled), input, select, summary, [tabindex='0']"


def prepare(root: Path) -> Workspace:
    """Make a workspace as after evaluate, but for the networks."""
    listed = read_classes("imagenet12k")
    chosen = np.linspace(0, len(listed) - 1, CLASSES).round().astype(int)
    wnids = [listed[index] for index in chosen]
    (root / "classes.txt").write_text("\n".join(wnids))
    draw_images(root / "images", wnids)
    workspace = Workspace(root / "workspace")
    for arguments in (
        ["similarity", "--classes", str(root / "classes.txt")],
        ["cluster", "--T", str(GROUPS), "--delta", "0.3"],
        ["split", "--data", str(root / "images"), "--test", "0.5", "--val", "0"],
    ):
        command = [sys.executable, "-m", "deepme", *arguments]
        subprocess.run([*command, "-w", str(workspace.root), "-q"], check=True)
    groups = workspace.groups()
    split = workspace.split(groups.origin)
    made_from = workspace.made_from(groups.origin, split.origin)
    for seed, (system, (fusion, accuracy)) in enumerate(SYSTEMS.items()):
        header = Header(
            kind=KIND,
            schema_version=SCHEMA,
            settings={"fusion": fusion, "topk": list(TOPK)},
            classes=groups.origin.header.classes,
            made_from=made_from,
        )
        counts = draw_counts(groups, accuracy, seed)
        content = describe(groups, counts, system, fusion)
        save_evaluation(workspace.evaluation_path(system), header, content, counts)
    return workspace


def draw_images(root: Path, wnids: list[str]) -> None:
    """Two pictures a class, of 64 different ones."""
    from PIL import Image

    rng = np.random.default_rng(0)
    originals = []
    (root.parent / "originals").mkdir()
    for number in range(64):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((320, 240))
        originals.append(root.parent / "originals" / f"{number}.jpg")
        picture.save(originals[-1], quality=90)
    for index, wnid in enumerate(wnids):
        (root / wnid).mkdir(parents=True)
        for number in range(2):
            original = originals[(2 * index + number) % len(originals)]
            (root / wnid / f"{number}.jpg").hardlink_to(original)


def draw_counts(groups: Groups, accuracy: float, seed: int) -> Counts:
    """Hits by chance; errors go to other classes of the same group."""
    rng = np.random.default_rng(seed)
    size = groups.num_classes
    images = np.full(size, TESTED, dtype=np.int64)
    shares = rng.beta(4 * accuracy, 4 * (1 - accuracy), size)
    first = rng.binomial(TESTED, shares)
    among_five = first + rng.binomial(TESTED - first, 0.6)
    confusions: list[tuple[int, int, int]] = []
    group_of = np.zeros(size, dtype=np.int64)
    for number, members in enumerate(groups.members):
        group_of[members] = number
    for true in range(size):
        others = groups.members[group_of[true]]
        others = others[others != true]
        taken = rng.choice(others, TESTED - first[true])
        for other, times in zip(*np.unique(taken, return_counts=True), strict=True):
            confusions.append((true, int(other), int(times)))
    bins = draw_bins(rng, int(images.sum()), int(first.sum()))
    none = np.zeros(NUM_BINS, dtype=np.int64)
    return Counts(
        topk=np.array(TOPK, dtype=np.int64),
        hits=np.stack([first, among_five]),
        images=images,
        confusions=np.array(confusions, dtype=np.int64),
        bin_images=bins[0],
        bin_hits=bins[1],
        bin_confidence=bins[0] * (np.arange(NUM_BINS) + 0.5) / NUM_BINS,
        calibrated_images=none,
        calibrated_hits=none,
        calibrated_confidence=none.astype(np.float64),
    )


def draw_bins(
    rng: np.random.Generator, images: int, hits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spread images and hits over the bins."""
    sizes = rng.multinomial(images, np.full(NUM_BINS, 1 / NUM_BINS))
    right = rng.multivariate_hypergeometric(sizes, hits, method="marginals")
    return sizes.astype(np.int64), right.astype(np.int64)


def describe(
    groups: Groups, counts: Counts, system: str, fusion: str
) -> EvaluationContent:
    """What follows from the counts, as evaluate would say it."""
    shares = counts.hits / counts.images
    macro = {str(k): float(row.mean()) for k, row in zip(TOPK, shares, strict=True)}
    error = np.abs(counts.bin_hits - counts.bin_confidence).sum() / counts.images.sum()
    results = []
    for group, members in zip(groups.content.groups, groups.members, strict=True):
        own = {
            str(k): float(row[members].mean())
            for k, row in zip(TOPK, shares, strict=True)
        }
        results.append(
            GroupResult(
                number=group.number,
                name=group.name,
                classes=len(members),
                images=int(counts.images[members].sum()),
                expert=own,
                system=own,
                chosen=len(members) / groups.num_classes,
                load=len(members) / groups.num_classes,
                entropy=0.2,
            )
        )
    return EvaluationContent(
        system=system,
        fusion=fusion,
        classes=groups.num_classes,
        classes_tested=groups.num_classes,
        images=int(counts.images.sum()),
        unreadable=0,
        macro=macro,
        micro=macro,
        right_group=0.9,
        expert_passes=float(GROUPS),
        calibration_error=float(error),
        temperature=None,
        calibrated_error=None,
        groups=tuple(results),
    )


@contextmanager
def opened(
    browser: Browser, path: Path, *, width: int, scheme: Any, bypass: bool = False
) -> Iterator[tuple[Page, list[str]]]:
    """Open the page; what it complains of is gathered in the list."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        bypass_csp=bypass,
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console",
        lambda told: complaints.append(told.text) if told.type == "error" else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url[:80]))
    page.goto(path.as_uri())
    yield page, complaints
    context.close()


def time_page(browser: Browser, path: Path) -> dict[str, Any]:
    """Open it once, and type every search into both fields."""
    with opened(browser, path, width=WIDE, scheme="light") as (page, complaints):
        loaded = page.evaluate("performance.getEntriesByType('navigation')[0].duration")
        waits = {"group-query": [], "class-query": []}
        for search in SEARCHES:
            for field, measured in waits.items():
                for length in (*range(1, len(search) + 1), 0):
                    text = search[:length]
                    measured.append(page.evaluate(TIMED_INPUT, [field, text]))
        return {
            "load_ms": loaded,
            "keystrokes": sum(map(len, waits.values())),
            **{
                f"{name}_filter_{kind}_ms": of(waits[f"{name}-query"])
                for name in ("group", "class")
                for kind, of in (("median", statistics.median), ("worst", max))
            },
            "console_errors": len(complaints),
        }


def use(browser: Browser, path: Path, groups: Groups) -> None:
    """Search, narrow, sort and turn pages; every answer must be the right one."""
    content = groups.content
    named = [
        f"{a}\n{b}".lower() for a, b in zip(content.names, content.classes, strict=True)
    ]
    terriers = sum("terrier" in text for text in named)
    with opened(browser, path, width=WIDE, scheme="light") as (page, _):
        page.fill("#class-query", "Terrier")
        expect(page.locator("#class-count")).to_have_text(
            f"{terriers:,} of {CLASSES:,} classes"
        )
        page.fill("#group-query", "terrier")
        holding = [
            group.number
            for group, members in zip(content.groups, groups.members, strict=True)
            if any("terrier" in named[index] for index in members)
        ]
        expect(page.locator(".card:visible")).to_have_count(len(holding))
        page.fill("#group-query", "")
        page.click("a[data-group='3']")
        size = len(groups.members[2])
        expect(page.locator("#class-count")).to_have_text(
            f"{size:,} of {CLASSES:,} classes"
        )
        page.click("th[data-sort='accuracy'] button")
        expect(page.locator("th[data-sort='accuracy']")).to_have_attribute(
            "aria-sort", "ascending"
        )
        column = page.locator("#class-table td.share").all_text_contents()
        shares = [float(text.rstrip("%")) for text in column]
        assert len(shares) == 50
        assert shares == sorted(shares)
        page.click("#next")
        expect(page.locator("#page-number")).to_have_text(f"page 2 of {-(-size // 50)}")


def walk(browser: Browser, path: Path) -> dict[str, Any]:
    """Press Tab until the page has been gone through; count what was reached."""
    with opened(browser, path, width=WIDE, scheme="light") as (page, _):
        visible = f"[...document.querySelectorAll({FOCUSABLE!r})]"
        visible += ".filter((e) => e.checkVisibility())"
        wanted = page.evaluate(f"(window.wanted = {visible}).length")
        reached, outlined = set(), 0
        for _ in range(wanted + 5):
            page.keyboard.press("Tab")
            place, outline = page.evaluate(
                "[window.wanted.indexOf(document.activeElement),"
                " getComputedStyle(document.activeElement).outlineStyle]"
            )
            if place >= 0 and place not in reached:
                reached.add(place)
                outlined += outline != "none"
        return {
            "focusable": wanted,
            "reached_by_tab": len(reached),
            "focus_shown": outlined,
        }


def check(browser: Browser, path: Path, axe: str) -> dict[str, dict[str, Any]]:
    """Let axe-core look at it, at every width and in both colour schemes."""
    rows = {}
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        for scheme in ("light", "dark"):
            with opened(browser, path, width=width, scheme=scheme, bypass=True) as (
                page,
                complaints,
            ):
                page.evaluate(axe)
                found = page.evaluate(AXE_RUN)
                overflow = page.evaluate(
                    "document.documentElement.scrollWidth - innerWidth"
                )
            for violation in found["violations"]:
                print(violation["id"], violation["help"])
                for node in violation["nodes"][:3]:
                    print("   ", node["html"][:160], node["failureSummary"][:300])
            rows[f"{name}, {scheme}"] = {
                "rules_passed": found["passes"],
                "rules_violated": len(found["violations"]),
                "pixels_too_wide": max(0, overflow),
                "console_errors": len(complaints),
            }
    return rows


def cpu_seconds() -> float:
    """Of the processes that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def fetch_axe(folder: Path) -> str:
    """The script of axe-core, by npm."""
    subprocess.run(
        ["npm", "pack", "axe-core", "--silent"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (archive,) = folder.glob("axe-core-*.tgz")
    with tarfile.open(archive) as members:
        script = members.extractfile("package/axe.min.js")
        assert script
        return script.read().decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--browser", default=shutil.which("chromium"))
    parser.add_argument(
        "--keep", type=Path, help="keep the page and what it is of here"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.keep or Path(folder)
        root.mkdir(exist_ok=True)
        workspace = Workspace(root / "workspace")
        if not workspace.groups_path.exists():
            workspace = prepare(root)
        command = [sys.executable, "-m", "deepme", "report", "-w", str(workspace.root)]
        before = cpu_seconds()
        used, printed = measure(command)
        used["cpu_s"] = cpu_seconds() - before
        path = Path(printed.splitlines()[-1]).absolute()
        axe = fetch_axe(Path(folder))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=arguments.browser, args=["--no-sandbox"]
            )
            use(browser, path, workspace.groups())
            in_browser = {**time_page(browser, path), **walk(browser, path)}
            in_browser["chromium"] = browser.version
            access = check(browser, path, axe)
            browser.close()
        page_mb = path.stat().st_size / 1e6
    setting = {"classes": CLASSES, "groups": GROUPS, "systems": len(SYSTEMS)}
    figures = {
        "report": {**setting, **used, "page_mb": page_mb},
        "browser": in_browser,
        "axe-core": access,
    }
    print(figures)
    record(
        "report",
        command="uv run --group browser python tests/benchmarks/report.py",
        packages=PACKAGES,
        figures=figures,
    )


if __name__ == "__main__":
    main()
