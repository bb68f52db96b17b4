"""Where tensors are computed, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from deepme.config import MachineSettings
from deepme.errors import UsageError
from deepme.text import clean


@dataclass(frozen=True)
class Compute:
    """A device and its arithmetic.

    Attributes:
        device: where the network is.
        bfloat16: whether matrix products run in it; losses stay in float32.
    """

    device: torch.device
    bfloat16: bool

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
        A device that exists; bfloat16 by default on CUDA only.

    Raises:
        UsageError: no such device here.
    """
    if machine.threads:
        torch.set_num_threads(machine.threads)
    gpus = torch.cuda.device_count()
    device = machine.device
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    allowed = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{n}" for n in range(gpus))]
    if device not in allowed:
        raise UsageError(
            f"--device is {clean(device)}, expected auto or one of {', '.join(allowed)}"
        )
    chosen = torch.device(device)
    bfloat16 = precision == "bfloat16" or (
        precision == "auto" and chosen.type == "cuda"
    )
    return Compute(chosen, bfloat16)
