"""The long tier: what each kind of fault came to, counted and recorded.

Every module here is one tier, one row of the table in docs/reliability.md::

    uv run pytest tests/faults --record

A test hands each case to `tally`, with what is wrong about it, and goes on: the row
counts what failed, and the test fails at its end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tally import Tally, record_rows
from world import World

_TALLIES = pytest.StashKey[dict[str, Tally]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record",
        action="store_true",
        help="write the counts to docs/benchmarks/faults.json",
    )

    parser.addoption(
        "--minutes", type=float, default=1.0, help="how long soak.py trains"
    )


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """The counts of this module's tier; fails the test if one of its cases failed."""
    tallies = request.config.stash.setdefault(_TALLIES, {})
    tier = tallies.setdefault(request.module.TIER, Tally())
    before, started = len(tier.problems), time.monotonic()
    yield tier
    tier.seconds += time.monotonic() - started
    new = tier.problems[before:]
    assert not new, f"{len(new)} cases failed, the first:\n" + "\n".join(new[:5])


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Six classes of four pictures, networks of a few hundred weights, all made."""
    return World(tmp_path_factory.mktemp("world"))


_broken: list[str] = []
"""Tests that ended otherwise than by the verdict of their tally."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed and report.when != "teardown":
        _broken.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    tallies = session.config.stash.get(_TALLIES, {})
    for name, tier in tallies.items():
        print(f"\n{name}: {tier.row()}", end="")
    option = session.config.option
    # A tier of which a part was chosen has not been run.
    part = option.keyword or any("::" in str(place) for place in session.config.args)
    if option.record and tallies and not part and not _broken:
        record_rows({name: tier.row() for name, tier in tallies.items()})
