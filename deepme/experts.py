"""Train the experts of several groups: one after the other, or side by side.

Experts do not know each other, so each can have a process and a GPU of its own. A group
that fails leaves the others alone; the end says which ones failed.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TextIO

import torch

from deepme import ranks
from deepme.config import ExpertSettings, MachineSettings
from deepme.errors import (
    DeepmeError,
    EnvironmentFault,
    InputError,
    Interrupted,
    TrainingError,
    UsageError,
)
from deepme.progress import Verbosity, note, tell, verbosity
from deepme.settings import Settings, option_name
from deepme.steps import train_expert
from deepme.text import counted, listing
from deepme.training.classify import first_weights
from deepme.workspace import Workspace

KINDS: dict[int, type[DeepmeError]] = {
    error.exit_code: error for error in (InputError, EnvironmentFault, TrainingError)
}
POLL_SECONDS = 0.2


def train(
    settings: ExpertSettings,
    machine: MachineSettings,
    workspace: Workspace,
    numbers: Sequence[int],
) -> list[Path]:
    """Train the experts of some groups.

    Args:
        settings: network, objective and schedule.
        machine: among others ``jobs``, how many at a time.
        workspace: with similarity.h5, groups.json and split.h5.
        numbers: the groups.

    Returns:
        The path of each training.json, in the order of the numbers.

    Raises:
        UsageError: no such group, or settings that no group can be trained with.
        Interrupted: stopped by a signal; every expert has its checkpoint.
        DeepmeError: some groups failed; the others are trained.
    """
    with ranks.joined(machine.timeout, machine.device):
        return _train(settings, machine, workspace, numbers)


def _train(
    settings: ExpertSettings,
    machine: MachineSettings,
    workspace: Workspace,
    numbers: Sequence[int],
) -> list[Path]:
    groups = workspace.groups()
    for number in numbers:
        groups.group(number)
    # What no group could be trained without is refused once, not for each of them.
    workspace.split(groups.origin)
    workspace.similarity()
    first_weights(settings.weights, workspace, workspace.expert_path(numbers[0]))
    slots = slots_of(machine, len(numbers))
    if len(slots) > 1:
        sizes = {number: len(groups.group(number).classes) for number in numbers}
        failed = _side_by_side(settings, slots, workspace, sizes)
    else:
        failed = _in_turn(settings, machine, workspace, numbers)
    if failed:
        first = min(failed)
        told = listing(list(map(str, sorted(failed))), 20)
        raise KINDS.get(max(f.code for f in failed.values()), TrainingError)(
            f"{len(failed)} of {counted(len(numbers), 'group')} failed ({told}), "
            f"group {first}: {failed[first].reason}",
            "the others are trained; rerun the command for these",
        )
    return [workspace.expert_path(number) for number in numbers]


class _Failure(NamedTuple):
    """Exit code and error line of a group."""

    code: int
    reason: str


def command_for(
    settings: ExpertSettings, machine: MachineSettings, workspace: Workspace
) -> list[str]:
    """The command line that trains one expert with these settings, but ``--group``."""
    options: list[str] = []
    for stage in (settings, machine):
        options += _options(stage)
    return ["train-expert", "--workspace", str(workspace.root), *options]


def sbatch(
    settings: ExpertSettings,
    machine: MachineSettings,
    workspace: Workspace,
    numbers: Sequence[int],
) -> str:
    """A SLURM array script with one task and one GPU for each group.

    Args:
        settings: network, objective and schedule.
        machine: workers and the policy for unreadable images.
        workspace: on a file system that all nodes see.
        numbers: the groups.
    """
    workspace = Workspace(workspace.root.absolute())
    command = shlex.join(command_for(settings, replace(machine, jobs=1), workspace))
    lines = (
        "#!/bin/bash",
        "#SBATCH --job-name=deepme-experts",
        f"#SBATCH --array={','.join(map(str, numbers))}",
        "#SBATCH --nodes=1 --ntasks=1 --gpus=1",
        f"#SBATCH --cpus-per-task={max(1, machine.workers + 1)}",
        "#SBATCH --output=deepme-expert-%a.log",
        "# A task that is stopped by its time limit goes on where it was.",
        "#SBATCH --requeue --signal=TERM@120",
        f'exec deepme {command} --group "$SLURM_ARRAY_TASK_ID"',
    )
    return "\n".join(lines) + "\n"


def _options(stage: Settings) -> list[str]:
    """Every setting as an option."""
    options = []
    for item in fields(stage):
        value = getattr(stage, item.name)
        if isinstance(value, bool):
            options.append(f"--{'' if value else 'no-'}{option_name(item)}")
        elif value is not None:
            options.append(f"--{option_name(item)}={value}")
    return options


def slots_of(machine: MachineSettings, num_groups: int) -> list[MachineSettings]:
    """Settings of each of the processes that may train at a time.

    Args:
        machine: the user's; ``jobs`` 0 takes as many as there are GPUs.
        num_groups: more processes than groups are of no use.
    """
    gpus = torch.cuda.device_count() if machine.device in ("auto", "cuda") else 0
    jobs = machine.jobs or max(1, gpus)
    jobs = min(jobs, num_groups)
    alone = replace(machine, jobs=1)
    if ranks.size() > 1:
        # All of them train one expert after the other.
        return [alone]
    if gpus:
        return [
            replace(alone, device=f"cuda:{job % gpus}") if jobs > 1 else alone
            for job in range(jobs)
        ]
    if jobs > 1 and not machine.threads:
        alone = replace(alone, threads=max(1, (os.cpu_count() or 1) // jobs))
    return [alone] * jobs


def _in_turn(
    settings: ExpertSettings,
    machine: MachineSettings,
    workspace: Workspace,
    numbers: Sequence[int],
) -> dict[int, _Failure]:
    """Train in this process; return the groups that failed."""
    failed: dict[int, _Failure] = {}
    for number in numbers:
        try:
            train_expert.run(settings, machine, workspace, number)
        except (UsageError, Interrupted):
            raise
        except DeepmeError as error:
            # Processes that go on alone would wait for each other in different groups.
            if len(numbers) == 1 or ranks.size() > 1:
                raise
            note(f"group {number} failed: {error}")
            failed[number] = _Failure(error.exit_code, str(error))
    return failed


def _side_by_side(
    settings: ExpertSettings,
    slots: list[MachineSettings],
    workspace: Workspace,
    sizes: dict[int, int],
) -> dict[int, _Failure]:
    """Train in processes, the largest groups first; return the groups that failed."""
    waiting = sorted(sizes, key=lambda number: (sizes[number], -number))
    free = list(slots)
    running: dict[int, tuple[subprocess.Popen[str], MachineSettings]] = {}
    failed: dict[int, _Failure] = {}
    errors: dict[int, str] = {}
    readers: dict[int, threading.Thread] = {}
    note(f"{counted(len(sizes), 'expert')}, {len(slots)} at a time")
    with _forwarded(running) as received:
        while running or (waiting and not received):
            while waiting and free and not received:
                number, slot = waiting.pop(), free.pop()
                running[number] = (
                    _start(settings, slot, workspace, number, errors, readers),
                    slot,
                )
            time.sleep(POLL_SECONDS)
            for number, (process, slot) in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[number]
                    free.append(slot)
                    readers[number].join()
                    if code:
                        reason = errors.get(number, "it ended without a word")
                        failed[number] = _Failure(code, reason)
    if received:
        raise Interrupted(
            received[0], "experts interrupted; their checkpoints are written"
        )
    return failed


def _start(
    settings: ExpertSettings,
    slot: MachineSettings,
    workspace: Workspace,
    number: int,
    errors: dict[int, str],
    readers: dict[int, threading.Thread],
) -> subprocess.Popen[str]:
    command = command_for(settings, slot, workspace)
    told = {Verbosity.QUIET: ["-q"], Verbosity.VERBOSE: ["-v"]}.get(verbosity(), [])
    process = subprocess.Popen(  # noqa: S603 - our own command, as a list
        [sys.executable, "-m", "deepme", *told, *command, f"--group={number}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Whatever a library may write there, the thread that listens goes on.
        errors="backslashreplace",
        # Ctrl-C reaches the whole group of processes: it is forwarded once, below.
        start_new_session=True,
    )
    assert process.stderr is not None
    reader = threading.Thread(target=_pass_on, args=(process.stderr, number, errors))
    reader.start()
    readers[number] = reader
    return process


def _pass_on(lines: TextIO, number: int, errors: dict[int, str]) -> None:
    """Print what a process says; bars of several would write over each other."""
    with lines:
        for line in lines:
            text = line.rstrip("\n")
            if text.startswith("error: "):
                errors[number] = text.removeprefix("error: ")
                text = f"group {number} failed: {errors[number]}"
            tell(text)


@contextmanager
def _forwarded(running: dict[int, Any]) -> Any:
    """Hand SIGINT and SIGTERM on to the processes, which write their checkpoints."""
    received: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for process, _ in running.values():
            process.send_signal(number)

    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, hand_on) for number in watched}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
