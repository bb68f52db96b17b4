"""What people see before anything runs: help, examples, and how soon it is there."""

from __future__ import annotations

import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from deepme.cli import app

ROOT = Path(__file__).parents[1]
SEVEN = (
    *("similarity", "cluster", "split", "train-expert", "train-gate"),
    *("evaluate", "plot-accuracy"),
)
GROUP: Any = get_command(app)
COMMANDS = list(GROUP.commands)
HEAVY = ("torch", "nltk", "timm", "numpy", "h5py", "matplotlib", "rich")


def help_of(*command: str) -> str:
    result = CliRunner().invoke(
        app,
        [*command, "--help"],
        prog_name="deepme",
        terminal_width=80,
        env={"COLUMNS": "80"},
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def parse(line: str) -> None:
    """Let Typer read a command line as far as it can without running it."""
    program, *arguments = shlex.split(line, comments=True)
    assert program == "deepme"
    if arguments[0] in GROUP.commands:
        GROUP.commands[arguments[0]].make_context(arguments[0], arguments[1:])
    else:
        assert arguments in (["--help"], ["--version"]), f"no command: {line}"


def shown_lines(page: Path) -> list[str]:
    """The command lines of ``deepme`` that a page shows in its code blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    wanted = re.compile(r"(?:\$ |.* && )?(?:uv run )?(deepme .*)")
    return [found[1] for line in lines if (found := wanted.fullmatch(line))]


def documented_lines() -> list[str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    shown = [line for page in pages for line in shown_lines(page)]
    return list(dict.fromkeys(shown))


def cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_is_quick() -> None:
    """In processor time, so that a busy machine does not count; best of 5."""
    needed = []
    for _ in range(5):
        before = cpu_seconds_of_children()
        command = [sys.executable, "-m", "deepme", "--help"]
        subprocess.run(command, check=True, capture_output=True)
        needed.append(cpu_seconds_of_children() - before)
        if needed[-1] < 0.4:
            return
    pytest.fail(f"deepme --help took {min(needed):.2f} s, expected less than 0.4 s")


def test_help_imports_nothing_heavy() -> None:
    """In a process of its own: this one has imported everything long ago."""
    script = f"""
import sys
from typer.testing import CliRunner
from deepme.cli import app
for name in {["", *COMMANDS]}:
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.stdout.startswith("Usage: "), result.output
print(sorted(set({HEAVY}) & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_the_seven_commands_come_first_and_in_order() -> None:
    assert tuple(COMMANDS[:7]) == SEVEN


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name: str) -> None:
    example = re.search(r"^ *Example: (deepme .*)$", help_of(name), re.M)
    assert example, f"deepme {name} --help has no Example line"
    assert example[1].split()[1] == name
    parse(example[1])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    silent = [
        parameter.name
        for parameter in GROUP.commands[name].params
        if not (parameter.help or parameter.hidden)
    ]
    assert silent == []


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_the_page_shows_the_help_as_it_is(command: list[str]) -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    title = "## " + " ".join(["deepme", *command])
    assert f"{title}\n\n```text\n{help_of(*command).strip()}\n```\n" in page, (
        "run `uv run cog -r docs/cli.md`"
    )


def test_help_does_not_depend_on_the_surroundings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = help_of("cluster")
    monkeypatch.setenv("DEEPME_WORKSPACE", os.fspath(ROOT))
    monkeypatch.setenv("LINES", "5")
    assert help_of("cluster") == plain


@pytest.mark.parametrize("line", documented_lines())
def test_documented_command_lines_parse(line: str) -> None:
    parse(line)


def test_pages_show_command_lines() -> None:
    assert len(documented_lines()) >= len(SEVEN)


@pytest.mark.parametrize(
    "line", ["deepme cluster --bogus 1", "deepme split", "deepme nothing"]
)
def test_a_wrong_line_does_not_parse(line: str) -> None:
    with pytest.raises(Exception, match=r"bogus|data|no command"):
        parse(line)


MANY_FILES = """
import atexit, resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
atexit.register(lambda: print(*resource.getrlimit(resource.RLIMIT_NOFILE)))
from deepme.cli import main
main()
"""


def test_as_many_files_may_be_open_as_experts_can_have() -> None:
    words = [sys.executable, "-c", MANY_FILES, "--version"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    soft, hard = map(int, ended.stdout.splitlines()[-1].split())
    assert soft == min(hard, 2**16)
    assert hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
