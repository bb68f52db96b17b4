"""From settings to options: one definition, told and parsed on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from deepme.config import (
    ClusterSettings,
    EvaluateSettings,
    MachineSettings,
    SplitSettings,
)
from deepme.config_file import load_toml
from deepme.errors import InputError, UsageError
from deepme.options import parse_numbers, takes_settings


class Kitchen:
    """A command that keeps what it was given."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.app = typer.Typer(rich_markup_mode=None)

        @self.app.command()
        @takes_settings
        def cook(
            *,
            pans: int = 2,
            cluster: ClusterSettings,
            split: SplitSettings,
            evaluate: EvaluateSettings,
        ) -> None:
            self.given = {"pans": pans, "cluster": cluster}
            self.given |= {"split": split, "evaluate": evaluate}

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run the command; an error of ours is raised here."""
        result = CliRunner().invoke(self.app, list(arguments), terminal_width=200)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return self.given

    def help(self) -> str:
        result = CliRunner().invoke(self.app, ["--help"], terminal_width=200)
        return " ".join(result.stdout.split())


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text("[cluster]\nT = 7\ndelta = 0.5\n[evaluate]\ntopk = [1, 2]\n")
    return path


def test_nothing_given_is_the_defaults(kitchen: Kitchen) -> None:
    assert kitchen.run() == {
        "pans": 2,
        "cluster": ClusterSettings(),
        "split": SplitSettings(),
        "evaluate": EvaluateSettings(),
    }


def test_every_kind_of_option(kitchen: Kitchen) -> None:
    given = kitchen.run(
        *("--pans", "3", "--T", "4", "--delta", "0.25", "--overlap", "1.5"),
        *("--topk", "1-3,10", "--fusion", "gate, equal"),
    )
    assert given["pans"] == 3
    assert given["cluster"] == ClusterSettings(num_groups=4, delta=0.25, overlap=1.5)
    assert given["evaluate"] == EvaluateSettings(
        topk=(1, 2, 3, 10), fusion=("gate", "equal")
    )


def test_options_win_over_the_file(kitchen: Kitchen, toml: Path) -> None:
    given = kitchen.run("--config", str(toml), "--delta", "0.1")
    assert given["cluster"] == ClusterSettings(num_groups=7, delta=0.1)
    assert given["evaluate"] == EvaluateSettings(topk=(1, 2))


def test_an_option_equal_to_its_default_wins_too(kitchen: Kitchen, toml: Path) -> None:
    default = str(ClusterSettings().delta)
    given = kitchen.run("--config", str(toml), "--delta", default)
    assert given["cluster"].delta == ClusterSettings().delta


def test_a_shared_option_goes_to_all(kitchen: Kitchen) -> None:
    given = kitchen.run("--seed", "5")
    assert (given["cluster"].seed, given["split"].seed) == (5, 5)


def test_a_table_sets_a_shared_option_apart(kitchen: Kitchen, tmp_path: Path) -> None:
    path = tmp_path / "seeds.toml"
    path.write_text("[split]\nseed = 3\n")
    given = kitchen.run("--config", str(path))
    assert (given["cluster"].seed, given["split"].seed) == (0, 3)


def test_a_value_outside_its_range_is_our_error(kitchen: Kitchen) -> None:
    with pytest.raises(UsageError, match=r"--delta is 2\.0, expected ≥ 0 and"):
        kitchen.run("--delta", "2")


def test_help_tells_default_and_range(kitchen: Kitchen) -> None:
    told = kitchen.help()
    assert "--T N number of groups = experts [default: 15; ≥ 1 and ≤ 10,000]" in told
    assert "--topk TEXT ranks of the top-k accuracies [default: 1,3,5]" in told
    assert "one of ssc, random, windows, confusion, single]" in told
    assert told.count("--seed N") == 1
    assert told.count("--config FILE") == 1


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", (3,)),
        ("1,3,5", (1, 3, 5)),
        ("1-5,9", (1, 2, 3, 4, 5, 9)),
        (" 2 , 1 ", (2, 1)),
        ("3-3", (3,)),
        ("2,1-3,2", (2, 1, 3)),
    ],
)
def test_parse_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers("--group", text) == numbers


@pytest.mark.parametrize(
    "text",
    ["", "a", "1,", ",1", "5-1", "1-", "-1", "1--2", "1.5", "1-2-3", "1-100001"],
)
def test_parse_numbers_refuses(text: str) -> None:
    with pytest.raises(UsageError, match=r"--group is .*expected numbers and"):
        parse_numbers("--group", text)


def test_a_refused_list_is_shown_cleaned() -> None:
    with pytest.raises(UsageError, match=r"--group is \\x1b\[2J, expected"):
        parse_numbers("--group", "\x1b[2J")


def test_no_file_is_no_settings() -> None:
    assert load_toml(None) == {}


def test_a_file_by_table_and_key(toml: Path) -> None:
    assert load_toml(toml) == {
        "cluster": {"T": 7, "delta": 0.5},
        "evaluate": {"topk": [1, 2]},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("T = 3", r"has a table or key \[T\], expected tables named similarity, cl"),
        ("cluster = 3", r"has a table or key \[cluster\], expected tables"),
        ("[clusters]\nT = 3", r"has a table or key \[clusters\], expected tables"),
        (
            "[cluster]\nnum_groups = 3",
            r"sets unknown num_groups in \[cluster\]; .* are method, T, delta,",
        ),
        ("[split]\nT = 3\nU = 4", r"sets unknown T, U in \[split\]"),
        ("[cluster", "cannot read --config .*settings.toml: "),
        ('[cluster]\n"\\u001b[2J" = 1', r"sets unknown \\x1b\[2J in"),
    ],
)
def test_a_wrong_file_is_refused(toml: Path, text: str, message: str) -> None:
    toml.write_text(text)
    with pytest.raises(InputError, match=message):
        load_toml(toml)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_an_unreadable_file_is_refused(toml: Path, content: bytes | None) -> None:
    toml.unlink()
    if content is not None:
        toml.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read --config .*settings\.toml"):
        load_toml(toml)


@pytest.mark.parametrize(
    ("arguments", "compiled", "deterministic"),
    [
        ((), True, False),
        (("--no-compile", "--deterministic"), False, True),
        (("--compile", "--no-deterministic"), True, False),
    ],
)
def test_a_switch_is_turned_on_and_off(
    tmp_path: Path, arguments: tuple[str, ...], compiled: bool, deterministic: bool
) -> None:
    found: list[MachineSettings] = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @takes_settings
    def cook(*, machine: MachineSettings) -> None:
        found.append(machine)

    path = tmp_path / "settings.toml"
    path.write_text("[machine]\ncompile = true\n")
    result = CliRunner().invoke(app, [*arguments, "--config", str(path)])
    assert result.exit_code == 0, result.output
    assert found == [MachineSettings(compile=compiled, deterministic=deterministic)]
    assert MachineSettings().compile is None
