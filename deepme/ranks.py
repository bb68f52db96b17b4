"""Several processes that train one network together, as torchrun starts them.

Each has a *rank* from 0 on and a share of every batch. All hold the same weights and
come to the same figures; the first one writes, holds the lock and speaks. The processes
agree through gloo on the host, so that no GPU waits for it; gradients go through NCCL
between GPUs. Outside torchrun every function here does nothing, at no cost.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from deepme.errors import RankLost, UsageError
from deepme.progress import Verbosity, set_verbosity
from deepme.torchrun import place

PATIENCE = timedelta(days=7)
"""For work of the first process that the others wait for; its death ends it at once."""

POLL_SECONDS = 0.0005


class _Group(NamedTuple):
    """The processes this one has joined.

    Attributes:
        device: who exchange tensors on GPUs; None without.
        timeout: seconds without a sign of life.
    """

    device: distributed.ProcessGroup | None
    timeout: float


_group: _Group | None = None


def size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _group else 1


def rank() -> int:
    """The number of this one, from 0."""
    return distributed.get_rank() if _group else 0


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def local_rank() -> int:
    """The number of this process on its machine, which is that of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if _group else 0


@contextmanager
def joined(timeout: float, device: str) -> Iterator[None]:
    """Join the other processes where torchrun has started several.

    Processes after the first say nothing from then on but errors.

    Args:
        timeout: seconds without a sign of life after which a process counts as lost.
        device: as in `MachineSettings`.

    Raises:
        RankLost: another process has ended or hangs.
        UsageError: torchrun's variables are missing or no numbers.
    """
    global _group
    if _group or place().size == 1:
        yield
        return
    try:
        _join(timeout, gpu=device != "cpu" and torch.cuda.is_available())
        yield
        wait()
        distributed.destroy_process_group()
        _group = None
    except RuntimeError as error:
        if not _tells_of_loss(error):
            raise
        raise _lost() from error


def _join(timeout: float, *, gpu: bool) -> None:
    global _group
    missing = [
        name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise UsageError(
            f"RANK and WORLD_SIZE are set, {' and '.join(missing)} not, expected all "
            "of them as torchrun sets them",
            "start the command with torchrun, or unset RANK and WORLD_SIZE",
        )
    seconds = timedelta(seconds=timeout)
    distributed.init_process_group("gloo", timeout=seconds)
    device = None
    if gpu:
        # Twice the time: NCCL aborts the process without a word, so `until` goes first.
        device = distributed.new_group(backend="nccl", timeout=2 * seconds)
    _group = _Group(device, timeout)
    if not is_first():
        set_verbosity(Verbosity.SILENT)
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the end


def _tells_of_loss(error: RuntimeError) -> bool:
    text = str(error)
    words = ("gloo", "NCCL", "monitoredBarrier", "Connection closed by peer")
    return isinstance(error, distributed.DistError) or any(w in text for w in words)


def _lost() -> RankLost:
    assert _group
    # Threads and GPUs that wait for the lost process would keep this one from ending.
    atexit.register(os._exit, RankLost.exit_code)
    return RankLost(
        f"process {rank()} of {size()}: another process of this training has ended, or "
        f"has given no sign of life for {_group.timeout:g} s",
        "its own line above says why, if it could write one; run all of them again, "
        "they continue from the checkpoint",
    )


def wait() -> None:
    """Wait until all processes are here, as long as all are alive."""
    if size() > 1:
        distributed.monitored_barrier(timeout=PATIENCE)


def until(done: Callable[[], bool]) -> None:
    """Wait for this process's GPU, which itself may wait for a process that is lost.

    Raises:
        RankLost: it takes longer than the time-out.
    """
    assert _group
    deadline = time.monotonic() + _group.timeout
    while not done():
        if time.monotonic() > deadline:
            raise _lost()
        time.sleep(POLL_SECONDS)


@contextmanager
def writing(lock: AbstractContextManager[None]) -> Iterator[None]:
    """Hold a lock in the first process while all of them work under it."""
    if not is_first():
        wait()
        yield
        wait()
        return
    with lock:
        wait()
        yield
        wait()


@contextmanager
def first_alone(lock: AbstractContextManager[None]) -> Iterator[None]:
    """Let the first process do some work under a lock; the others find it done."""
    if is_first():
        with lock:
            yield
        wait()
    else:
        wait()
        yield


def largest(number: int) -> int:
    """The largest of all processes' numbers."""
    if size() == 1:
        return number
    numbers = torch.tensor([number])
    distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
    return int(numbers)


def totals(*numbers: int) -> list[int]:
    """The sums over all processes of some numbers."""
    if size() == 1:
        return list(numbers)
    sums = torch.tensor(numbers)
    distributed.all_reduce(sums)
    return [int(total) for total in sums]


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, where the tensor is; the same bits in each."""
    if size() == 1:
        return tensor
    assert _group
    total = tensor.clone()
    distributed.all_reduce(total, group=_group.device if total.is_cuda else None)
    return total


def gathered(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Each process's tensors, by rank, in the first process; empty in the others.

    Args:
        tensors: of the same names, shapes and dtypes in all.
    """
    if size() == 1:
        return [tensors]
    found: list[dict[str, Tensor]] = [{} for _ in range(size() if is_first() else 0)]
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        parts = [torch.empty_like(own) for _ in found] or None
        distributed.gather(own, parts)
        for one, part in zip(found, parts or (), strict=True):
            one[name] = part
    return found


def union(of_each: dict[int, str]) -> dict[int, str]:
    """All processes' entries together."""
    if size() == 1:
        return of_each
    parts: list[dict[int, str]] = [{} for _ in range(size())]
    distributed.all_gather_object(parts, of_each)
    return {key: value for part in parts for key, value in part.items()}


def synchronised(module: nn.Module) -> DistributedDataParallel:
    """Have the gradients of a module's parameters averaged after each backward pass."""
    parallel = DistributedDataParallel(module, process_group=gpu_group())
    # DDP refuses a function whose annotations are text, as all of them are here.
    parallel.register_comm_hook(None, lambda _, bucket: _average_each(bucket))
    return parallel


def _average_each(bucket: Any) -> torch.futures.Future[Tensor]:
    """Average each gradient of a `torch.distributed.GradBucket` by itself.

    In which order the processes' numbers are added depends on their place in what is
    summed. DDP arranges its buckets anew after the first step, so that three processes
    or more would add up otherwise after resuming than without an interruption.
    """
    futures = []
    for gradient in bucket.gradients():
        gradient.div_(size())
        work = distributed.all_reduce(gradient, group=gpu_group(), async_op=True)
        futures.append(work.get_future())
    return torch.futures.collect_all(futures).then(lambda _: bucket.buffer())


def gpu_group() -> distributed.ProcessGroup | None:
    """Who exchange tensors between GPUs; None where no GPU is in use."""
    return _group.device if _group else None


def keep_first_buffers(module: nn.Module) -> None:
    """Give all processes the first one's buffers, as running means."""
    if size() > 1:
        for buffer in module.buffers():
            held = buffer.detach().cpu().contiguous()
            distributed.broadcast(held, src=0)
            buffer.copy_(held)
