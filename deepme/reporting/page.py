"""report: everything about a result on one page that needs nothing but a browser.

The page fetches nothing and runs no script but its own: its content security policy
names that script by digest. All text passes through jinja2's escaping, and what the
script reads lies in a JSON element in which no ``<`` is written out.
"""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from deepme import __version__
from deepme.progress import note
from deepme.reporting.cards import make_cards
from deepme.reporting.classes import class_columns, extremes
from deepme.reporting.confusions import by_distance, commonest
from deepme.reporting.drawings import draw_classes, draw_groups, draw_reliability
from deepme.reporting.lineage import digests, trace
from deepme.reporting.samples import draw_samples
from deepme.reporting.sources import Sources, load_sources
from deepme.reporting.systems import experts_table, systems_table
from deepme.storage.atomic import atomic_write
from deepme.text import clean
from deepme.workspace import Workspace

_FOLDER = Path(__file__).parent


def run(workspace: Workspace, *, out: Path | None = None) -> Path:
    """Write the report.

    Args:
        workspace: of a finished run or of a comparison.
        out: the file; None for report.html in the workspace.

    Returns:
        The file written.

    Raises:
        ArtifactError: an artifact that it needs is missing, corrupt or stale.
        EnvironmentFault: the file cannot be written.
    """
    page = render(load_sources(workspace))
    path = out or workspace.report_path
    held = workspace.lock() if out is None else nullcontext()
    with held, atomic_write(path) as file:
        file.write(page.encode())
    return path


def render(sources: Sources) -> str:
    """Make the page's HTML; the same artifacts and images give the same page."""
    samples, unreadable = draw_samples(sources)
    if unreadable:
        note(f"{unreadable:,} sample images cannot be read and are left out")
    best, worst = extremes(sources)
    script = (_FOLDER / "page.js").read_text("utf-8")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            version=__version__,
            style=(_FOLDER / "page.css").read_text("utf-8"),
            script=script,
            script_digest=_digest(script),
            data=embed(_data(sources)),
            shown=sources.shown.content,
            rank=sources.rank,
            groups=sources.groups.content,
            title=sources.title,
            systems=systems_table(sources),
            flat=_macro_of(sources, "flat"),
            group_map=draw_groups(sources),
            cards=make_cards(sources, samples),
            unreadable=unreadable,
            experts=experts_table(sources),
            class_accuracy=draw_classes(sources),
            best=best,
            worst=worst,
            confusions=commonest(sources),
            distances=by_distance(sources),
            reliability=draw_reliability(sources),
            calibration=sources.calibration,
            stages=trace(sources),
            digests=digests(sources),
        )
    )


def embed(values: Any) -> Markup:
    """Write JSON that can lie inside a script element whatever its texts are.

    Returns:
        Markup in which ``<``, ``>``, ``&`` and ``'`` are escaped as JSON allows.
    """
    compact = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
    return htmlsafe_json_dumps(values, dumps=compact)


def _data(sources: Sources) -> dict[str, Any]:
    groups = [clean(group.name) for group in sources.groups.content.groups]
    return {"rank": sources.rank, "groups": groups, **class_columns(sources)}


def _macro_of(sources: Sources, fusion: str) -> float | None:
    for evaluation in sources.evaluations:
        if evaluation.content.fusion == fusion:
            return evaluation.content.macro.get(str(sources.rank))
    return None


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _digest(script: str) -> str:
    """The script's sha256 as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
