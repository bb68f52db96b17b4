"""How the commands behave at a terminal: verbosity, colours, width, completion."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from deepme.cli import app
from deepme.progress import Verbosity, progress, set_verbosity, verbosity
from deepme.tables import print_table

Invoke = Callable[..., Any]


def at_terminal(*arguments: object, columns: int, **environment: str) -> str:
    """Run a command with a terminal of some width as its output."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    plain = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "deepme", *map(str, arguments)],
        stdout=follower,
        stderr=follower,
        env=plain | {"TERM": "xterm-256color"} | environment,
    )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 4096):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(leader)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


class TestVerbosity:
    @pytest.fixture(autouse=True)
    def back_to_normal(self):
        yield
        set_verbosity(Verbosity.NORMAL)

    @pytest.mark.parametrize("where", ["before", "after"])
    def test_quiet_leaves_the_result_alone(self, tiny_workspace, invoke, where) -> None:
        command = ["cluster", "--T", "3", "-w", tiny_workspace]
        loud = invoke(*command)
        assert "up to date" in loud.stderr
        quiet = ["-q", *command] if where == "before" else [*command, "--quiet"]
        ended = invoke(*quiet)
        assert (ended.stdout, ended.stderr) == (loud.stdout, "")

    def test_quiet_keeps_warnings_and_errors(self, tiny_workspace, tmp_path, invoke):
        ended = invoke("cluster", "--T", 8, "-q", "-w", tiny_workspace)
        assert ended.stderr.startswith("warning: groups ")
        assert ended.stderr.count("\n") == ended.stderr.count("warning: ")
        ended = invoke("-q", "cluster", "-w", tmp_path)
        assert ended.stderr.startswith("error: ")

    def test_verbose_says_why_and_how_long(self, tiny_workspace, invoke) -> None:
        ended = invoke("cluster", "--T", 4, "-v", "-w", tiny_workspace)
        assert "to be made: groups.json, since num_groups is 4, was 3" in ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("took ")

    def test_both_are_refused(self, tmp_path, invoke) -> None:
        ended = invoke("status", "-q", "-v", "-w", tmp_path)
        assert ended.code == 2
        assert "--quiet and --verbose are given, expected one" in ended.stderr

    def test_a_command_does_not_inherit_from_the_last(self, tmp_path, invoke) -> None:
        invoke("-q", "status", "-w", tmp_path)
        invoke("status", "-w", tmp_path)
        assert verbosity() is Verbosity.NORMAL

    def test_no_progress_is_shown(self, capsys) -> None:
        set_verbosity(Verbosity.QUIET)
        with progress("work", 1, "images") as advance:
            advance(1)
        assert capsys.readouterr().err == ""


class TestTerminal:
    def test_a_wide_one_gets_the_table(self, finished_workspace: Path) -> None:
        shown = at_terminal("status", "-w", finished_workspace, columns=100)
        assert re.search(r"stage.*state", shown)

    def test_forty_columns_are_readable(self, finished_workspace: Path) -> None:
        """A list of rows instead of a table of ellipses."""
        shown = at_terminal("status", "-w", finished_workspace, columns=40)
        lines = [line.rstrip() for line in shown.splitlines()]
        assert lines[:3] == ["stage  similarity", "state  done", "12 classes"]
        assert lines[-1] == "next: deepme report"
        assert max(map(len, lines)) <= 40

    @pytest.mark.parametrize("columns", [30, 40, 60, 80, 120])
    def test_every_figure_is_whole_at_any_width(
        self, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        names = [f"macro top-{k}" for k in range(1, 6)]
        shares = [f"{k}{k}.{k}%" for k in range(1, 6)]
        rows = [("a system with a long name", *shares), ("雀" * 30, *shares)]
        print_table(("system", *names), rows, "lrrrrr")
        shown = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
        assert all(shown.count(share) == len(rows) for share in shares)
        assert max(map(cell_len, shown.splitlines())) <= columns
        is_table = any(all(s in line for s in shares) for line in shown.splitlines())
        assert is_table == (columns >= 100)

    def test_no_color_is_respected(self, finished_workspace: Path) -> None:
        command = ("status", "-w", finished_workspace)
        assert "\x1b[" in at_terminal(*command, columns=100)
        plain = at_terminal(*command, columns=100, NO_COLOR="1")
        assert "\x1b[3" not in plain


class TestCompletion:
    def complete(self, words: str) -> list[str]:
        """What bash would offer for the last word of a line."""
        environment = {
            "_DEEPME_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-c", "from deepme.cli import main; main()"],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            check=False,
        )
        return done.stdout.split()

    def test_commands(self) -> None:
        assert self.complete("deepme train-") == [
            *("train-expert", "train-gate", "train-flat", "train-attention")
        ]

    def test_options_and_choices(self) -> None:
        assert "--fuzzifier" in self.complete("deepme cluster --f")
        assert self.complete("deepme cluster --method r") == ["random"]

    def test_it_can_be_installed(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "deepme", "--show-completion", "bash"],
            capture_output=True,
            text=True,
            env=os.environ
            | {
                "HOME": str(tmp_path),
                "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
            },
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "_DEEPME_COMPLETE=complete_bash" in done.stdout


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("clutser", "'cluster'"),
        ("cluster --fuzifier 2", "--fuzzifier"),
        ("cluster --method windos", "'windows'"),
        ("evaluate --fusion gat", "'gate'"),
        ("similarity --classes imagenet1", "'imagenet1k'"),
        ("train-gate --recipe pape", "'paper'"),
        ("compare --data x --systems deepm", "'deepme'"),
    ],
)
def test_errors_ask_for_the_nearest(line: str, meant: str, invoke: Invoke) -> None:
    ended = invoke(*line.split())
    assert ended.code == 2
    hint = ended.stderr.replace("Possible options: ", "did you mean ")
    assert f"id you mean {meant}" in hint


RESULTS = (
    *("similarity", "cluster", "split", "train-expert", "train-gate", "evaluate"),
    *("plot-accuracy", "train-flat", "train-attention", "route", "run", "compare"),
    *("extend", "predict", "export", "plan", "report", "status", "verify", "demo"),
)


def test_every_command_that_prints_a_result_prints_json() -> None:
    from typer.main import get_command

    group: Any = get_command(app)
    with_json = [
        name
        for name, command in group.commands.items()
        if any("--json" in parameter.opts for parameter in command.params)
    ]
    assert sorted(with_json) == sorted(RESULTS) == sorted(group.commands)


def test_the_seven_commands_print_valid_json(
    tiny_workspace: Path, tiny_arguments: dict[str, list[str]], invoke: Invoke
) -> None:
    for name, arguments in tiny_arguments.items():
        ended = invoke(*arguments, "--json", "-w", tiny_workspace)
        assert ended.code == 0, ended.stderr
        found = json.loads(ended.stdout)
        assert found, name
