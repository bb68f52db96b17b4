"""Count the points that are tried, and record the counts of a run that passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from recording import record

_COUNTS = pytest.StashKey[Counter[tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record",
        action="store_true",
        help="write the counts to docs/benchmarks/faults.json if all tests pass",
    )


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Add to the points of one kind of fault; the case is the test's parameter."""
    counts = request.config.stash.setdefault(_COUNTS, Counter())
    case = next(iter(request.node.callspec.params.values()))

    def add(fault: str, points: int) -> None:
        counts[str(case), fault] += points

    return add


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    counts = session.config.stash.get(_COUNTS, Counter())
    table: dict[str, dict[str, int]] = {}
    for (case, fault), points in counts.items():
        table.setdefault(case, {})[fault] = points
    for case, row in table.items():
        print(f"\n{case}: {row}", end="")
    if exitstatus == 0 and session.config.option.record:
        record(
            "faults",
            command="uv run pytest tests/faults --record",
            packages=("deepme", "torch", "h5py", "safetensors"),
            figures={"faults": table},
        )
