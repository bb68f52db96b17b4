"""Every option of every command with values that it cannot take."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import typer.main
from tally import Tally
from typer.testing import CliRunner
from world import World

from deepme.cli import app

TIER = "option battery"
ESCAPE, LONG = "\x1b[2Jx", "x" * 4096
NO_NUMBERS = ("", "x", ESCAPE, LONG, "0x10", "1,5", "½", "--")
OUTSIDE = {"N": (f"{10**30}", f"-{10**30}"), "X": ("nan", "inf", "-1e999")}
UNBOUNDED = {f"{10**30}": "≤", "inf": "≤"}
"""Values that an option may take, unless its help names such a bound."""
EACH = 1
"""Values that are no numbers, for each option in turn; beside those out of range."""


def options(*kinds: str) -> list[tuple[str, Any]]:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return [
        (name, parameter)
        for name, command in commands.items()
        for parameter in command.params
        if parameter.metavar in kinds
    ]


def refused(tally: Tally, root: Path, name: str, option: str, value: str) -> None:
    """One line that names the option and says what it may be."""
    needed = ["1" if name == "train-expert" else "x"]
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    others = [
        text
        for parameter in command.params
        if parameter.required
        for text in [word for word in parameter.opts if word[0] == "-"][:1] + needed
    ]
    place = [] if name == "demo" else ["-w", str(root)]
    line = [name, *others, *place, f"{option}={value}"]
    result = CliRunner().invoke(app, line)
    errors = [text for text in result.stderr.splitlines() if "error" in text.lower()]
    told = errors[0] if errors else ""
    crash = result.exception and not isinstance(result.exception, SystemExit)
    tally.case(
        f"{name} {option}={value[:20]!r}",
        "" if result.exit_code == 2 else f"exit code {result.exit_code}",
        "" if len(errors) == 1 else f"{len(errors)} error lines",
        f"{result.exception!r}" if crash else "",
        "" if option in told else "the option is not named",
        "" if any(word in told for word in SAYS) else "no range is told",
        "" if told.isprintable() else "a control character",
        output=result.output,
    )


SAYS = ("expected", "not a valid", "is not in the range", "requires", "Invalid value")


@pytest.mark.timeout(3600)
def test_numbers(world: World, tally: Tally, tmp_path: Path) -> None:
    values = cycle(NO_NUMBERS)
    for name, option in options("N", "X"):
        outside = OUTSIDE[option.metavar]
        for value in (*islice(values, EACH), *outside):
            if UNBOUNDED.get(value, "") in option.help:
                refused(tally, tmp_path, name, option.opts[0], value)


@pytest.mark.timeout(3600)
def test_choices(world: World, tally: Tally, tmp_path: Path) -> None:
    """Text of which only some words are allowed."""
    values = cycle((ESCAPE, LONG, "no such word"))
    known = ("--method", "--recipe", "--precision", "--input", "--others", "--warmup")
    for name, option in options("TEXT", "NAME"):
        if option.opts[0] in known:
            for value in islice(values, EACH):
                refused(tally, tmp_path, name, option.opts[0], value)
