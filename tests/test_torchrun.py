"""Commands that torchrun starts in several processes, as its environment says."""

from __future__ import annotations

import pytest

from deepme import cli
from deepme.torchrun import ALONE, place


def start(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def commands() -> list[str]:
    registered = [command.callback.__name__ for command in cli.app.registered_commands]
    return [name.replace("_", "-") for name in registered]


@pytest.mark.parametrize("command", [c for c in commands() if c not in cli.TOGETHER])
def test_the_first_process_refuses_what_cannot_be_shared(command, invoke, monkeypatch):
    start(monkeypatch, RANK="0", WORLD_SIZE="2")
    ended = invoke(command)
    assert ended.code == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        f"error: {command} is started by torchrun in 2 processes, expected one: only "
        "train-flat and train-expert share their work; run it without torchrun\n"
    )


def test_the_others_say_nothing_and_let_the_first_one_speak(invoke, monkeypatch):
    start(monkeypatch, RANK="1", WORLD_SIZE="2")
    waited = []
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    ended = invoke("evaluate")
    assert (ended.code, ended.stdout, ended.stderr) == (2, "", "")
    assert waited == [cli.HEAD_START]


@pytest.mark.parametrize("command", cli.TOGETHER)
def test_what_can_be_shared_is_not_refused(command, invoke, monkeypatch):
    start(monkeypatch, RANK="0", WORLD_SIZE="2")
    ended = invoke(command, "--no-such-option")
    assert "No such option" in ended.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2"},
        {"RANK": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
    ],
)
def test_other_environments_are_none_of_torchruns(variables, invoke, monkeypatch):
    start(monkeypatch, **variables)
    assert place() == ALONE
    assert "No such option" in invoke("evaluate", "--no-such-option").stderr


@pytest.mark.parametrize("size", ["two", "", "²", "-2", "9" * 5000])
def test_a_size_that_is_no_number_is_refused(size, invoke, monkeypatch):
    start(monkeypatch, RANK="0", WORLD_SIZE=size)
    ended = invoke("evaluate")
    assert ended.code == 2
    assert ended.stderr.startswith("error: WORLD_SIZE in the environment is ")
    assert len(ended.stderr.splitlines()) == 1
