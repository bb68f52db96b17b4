"""What is saved between two steps, and taken up again.

Everything is a tensor or JSON: no pickle is written or read.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from deepme import ranks
from deepme.artifacts.expert import Epoch
from deepme.errors import ArtifactError
from deepme.progress import note
from deepme.storage.header import Header
from deepme.storage.tensors import read_tensors, write_tensors
from deepme.text import clean
from deepme.training.run import Position, Run

KIND, SCHEMA = "checkpoint", 1
SUMS = "task.means."
"""Names of what each process adds up over its share of the images."""


def save(run: Run, optimizer: torch.optim.Optimizer) -> None:
    """Write everything a later process needs to continue.

    Args:
        run: at a step border.
        optimizer: of the current stage.

    Raises:
        EnvironmentFault: the file system refused; the last checkpoint is kept.
    """
    tensors = {f"model.{k}": v for k, v in run.task.network.state_dict().items()}
    tensors |= {f"task.{k}": v for k, v in run.task.state().items()}
    if run.average:
        tensors |= {f"average.{k}": v for k, v in run.average.state().items()}
    for number, buffer in optimizer.state_dict()["state"].items():
        if buffer.get("momentum_buffer") is not None:
            tensors[f"momentum.{number:05d}"] = buffer["momentum_buffer"]
    tensors |= _of_each_process(run)
    if not ranks.is_first():
        return ranks.wait()
    progress_so_far = {
        "position": asdict(run.position),
        "history": [asdict(epoch) for epoch in run.history],
        "skipped": [[row, why] for row, why in run.unreadable.reasons.items()],
    }
    header = Header(
        kind=KIND,
        schema_version=SCHEMA,
        settings={"run": run.identity.settings, "progress": progress_so_far},
        classes=run.identity.classes,
        made_from=run.identity.made_from,
    )
    write_tensors(run.checkpoint, header, tensors)
    ranks.wait()


def _of_each_process(run: Run) -> dict[str, Tensor]:
    """Random states and sums over images, the first process's without a prefix."""
    own = {"rng.cpu": torch.get_rng_state()}
    if run.device.type == "cuda":
        own["rng.cuda"] = torch.cuda.get_rng_state(run.device)
    state = {f"task.{name}": value for name, value in run.task.state().items()}
    own |= {name: value for name, value in state.items() if name.startswith(SUMS)}
    found: dict[str, Tensor] = {}
    for number, tensors in enumerate(ranks.gathered(own)):
        prefix = f"rank{number}." if number else ""
        found |= {prefix + name: value for name, value in tensors.items()}
    return found


def _own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of a checkpoint is for this process."""
    others = sorted({n.partition(".")[0] for n in tensors if n.startswith("rank")})
    own = {n: value for n, value in tensors.items() if not n.startswith("rank")}
    if 1 + len(others) == ranks.size():
        return own | _below(f"rank{ranks.rank()}.", tensors)
    # Others than those who wrote it: the first one takes over all their sums.
    for name in [name for name in own if name.startswith(SUMS)]:
        for other in others:
            own[name] = own[name] + tensors[f"{other}.{name}"]
        if not ranks.is_first():
            own[name] = torch.zeros_like(own[name])
    if not ranks.is_first():
        own = {name: value for name, value in own.items() if name[:4] != "rng."}
    return own


def resume(run: Run) -> list[Tensor]:
    """Take up the checkpoint if it is this run's.

    Args:
        run: as it would start anew; changed in place.

    Returns:
        The optimizer's momentum buffers in the order of its parameters, or none.

    Raises:
        ArtifactError: the checkpoint is corrupt, or its tensors are not this network's.
    """
    if not run.checkpoint.exists():
        return []
    header, tensors, _ = read_tensors(run.checkpoint, KIND, SCHEMA)
    same = (
        header.settings["run"] == run.identity.settings
        and header.made_from == run.identity.made_from
        and header.classes == run.identity.classes
    )
    if not same:
        note(f"{run.label}: starts anew, settings or inputs differ from the checkpoint")
        return []
    tensors = _own(tensors)
    so_far = header.settings["progress"]
    run.position = Position(**so_far["position"])
    run.history = [Epoch(**epoch) for epoch in so_far["history"]]
    run.unreadable.reasons = {int(row): why for row, why in so_far["skipped"]}
    try:
        _take_up(run, tensors)
    except (RuntimeError, TypeError) as error:
        raise ArtifactError(
            f"{clean(str(run.checkpoint))} does not fit the training it names: "
            f"{clean(str(error).splitlines()[0])}",
            "remove it and rerun the command, which then starts anew",
        ) from error
    stage = run.stages[run.position.stage] if run.stages else None
    where = f"{stage.name} epoch {run.position.epoch + 1}" if stage else "the end"
    note(f"{run.label}: continues in {where} step {run.position.step + 1}")
    return [value for _, value in sorted(_below("momentum.", tensors).items())]


def _take_up(run: Run, tensors: dict[str, Tensor]) -> None:
    run.task.network.load_state_dict(_below("model.", tensors))
    run.task.load_state(_below("task.", tensors))
    if run.average:
        run.average.load_state(_below("average.", tensors))
    if "rng.cpu" in tensors:
        torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and run.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], run.device)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


@torch.no_grad()
def set_momenta(optimizer: torch.optim.Optimizer, momenta: list[Tensor]) -> None:
    """Give an optimizer the momentum buffers that `resume` returned."""
    if not momenta:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter, momentum in zip(parameters, momenta, strict=True):
        # A fused optimizer runs through memory as it lies: with channels innermost in
        # the weights alone it would add each weight another one's momentum.
        buffer = torch.empty_like(parameter).copy_(momentum)
        optimizer.state[parameter]["momentum_buffer"] = buffer
