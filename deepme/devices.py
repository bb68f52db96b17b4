"""Where tensors are computed, and in which precision."""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from deepme import ranks
from deepme.config import MachineSettings
from deepme.errors import UsageError
from deepme.text import clean


@dataclass(frozen=True)
class Compute:
    """A device and its arithmetic.

    Attributes:
        device: where the network is.
        bfloat16: whether matrix products run in it; losses stay in float32.
        compiled: whether networks that are trained are compiled.
    """

    device: torch.device
    bfloat16: bool
    compiled: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        """The context for a network's forward pass."""
        if self.bfloat16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


def choose_compute(machine: MachineSettings, precision: str) -> Compute:
    """Resolve ``auto`` for the machine at hand; set the process's CPU threads.

    Args:
        machine: the device, and the threads (0 leaves torch's choice).
        precision: auto, float32 or bfloat16.

    Returns:
        A device that exists; bfloat16 by default on CUDA only, compiled by default on
        CUDA where there is a C compiler.

    Raises:
        UsageError: no such device here.
    """
    if machine.threads:
        torch.set_num_threads(machine.threads)
    gpus = torch.cuda.device_count()
    device = machine.device
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and ranks.size() > 1:
        device = f"cuda:{ranks.local_rank()}"
    allowed = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{n}" for n in range(gpus))]
    if device not in allowed:
        raise UsageError(
            f"--device is {clean(device)}, expected auto or one of {', '.join(allowed)}"
        )
    chosen = torch.device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    elif ranks.size() > 1:
        torch.cuda.set_device(chosen)
    bfloat16 = precision == "bfloat16" or (
        precision == "auto" and chosen.type == "cuda"
    )
    compiled = machine.compile
    if compiled is None:
        compiled = chosen.type == "cuda" and any(map(shutil.which, ("cc", "gcc")))
    _choose_algorithms(machine.deterministic)
    return Compute(chosen, bfloat16, compiled)


def _choose_algorithms(deterministic: bool) -> None:
    """Have CUDA take the fastest algorithms by trial, or those that repeat bit for bit.

    On a CPU this changes nothing but refuses what cannot be repeated.
    """
    if deterministic:
        # cuBLAS reads it when it is first used.
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic


def keep_freed_memory() -> bool:
    """Let glibc keep the memory that a training step frees for the next step.

    By default it gives large blocks back to the system at once, and every step then
    pays a page fault for each of their pages, which is dear on virtual machines.

    Returns:
        Whether the C library took the settings; others than glibc do not know them.
    """
    # From malloc.h: top pad, mmap threshold (32 MB is its upper limit), trim threshold.
    settings = {-2: 64 * 2**20, -3: 32 * 2**20, -1: 2**31 - 1}
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = [mallopt(name, value) for name, value in settings.items()]
    return all(taken)
