"""Take out one safeguard at a time: a test of every change must notice."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from injection import in_child
from tally import Tally
from world import with_children

TIER = "safeguards taken out"
TESTS = Path(__file__).parents[1]


def no_fsync() -> None:
    from deepme.storage import atomic

    atomic._fsync = lambda path: None


def no_rename() -> None:
    """Write at the final name."""
    from deepme.storage import atomic, hdf5

    @contextmanager
    def in_place(path: Path) -> Iterator[Path]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        try:
            yield path
        except OSError as error:
            raise atomic.cannot_write(path, error) from error

    atomic.atomic_path = hdf5.atomic_path = in_place  # type: ignore[assignment]


def no_hash() -> None:
    from deepme.storage import hdf5

    hdf5._check = lambda raw, path: hdf5._read_seal(raw, path)[0]


def no_lock() -> None:
    from deepme import workspace

    workspace._acquire = lambda lock, holder, patient: None


def no_finite_check() -> None:
    from deepme.training import stepping

    def take(stepper: stepping.Stepper) -> None:
        stepper._checks = deque(list(stepper._checks)[1:])

    stepping.Stepper._look = take  # type: ignore[method-assign]


TAKEN: dict[str, tuple[Callable[[], None], str]] = {
    "fsync": (no_fsync, "storage/test_atomic.py"),
    "rename": (no_rename, "storage/test_atomic.py"),
    "hash check": (
        no_hash,
        "storage/test_hdf5_artifacts.py::TestWrongFile::test_with_changed_content",
    ),
    "lock": (
        no_lock,
        "test_workspace.py::TestLock::test_is_refused_while_another_process_writes",
    ),
    "finite check": (
        no_finite_check,
        "training/test_loop.py::TestStops"
        "::test_a_loss_that_is_not_finite_stops_before_the_step",
    ),
}


def outcome(test: str, change: Callable[[], None] | None) -> tuple[int, str]:
    """Run a test in a child, perhaps with something taken out; pytest's exit code."""

    def run() -> None:
        if change:
            change()
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        arguments = ["-x", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
        arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        raise SystemExit(int(pytest.main([*arguments, str(TESTS / test)])))

    end = in_child(with_children(run), seconds=300)
    return end.code, end.output


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", TAKEN)
def test_is_noticed(tally: Tally, what: str) -> None:
    change, test = TAKEN[what]
    whole, output = outcome(test, None)
    without, told = outcome(test, change)
    tally.case(
        what,
        "" if whole == 0 else f"{test} fails as it is: {output}",
        "" if without == 1 else f"{test} ends with {without} without it: {told}",
    )
