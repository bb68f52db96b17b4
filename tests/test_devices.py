"""The device, and what a process is told about its memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from deepme.config import MachineSettings
from deepme.devices import choose_compute, keep_freed_memory

FAULTS = """
import ctypes, resource, torch
from deepme.devices import keep_freed_memory
# A threshold that is set stays: left alone it grows, by chance of the heap's layout.
assert ctypes.CDLL(None).mallopt(-3, 128 * 1024)
{before}
for _ in range(20):
    [torch.ones(1_000_000) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(before: str) -> int:
    """Page faults of a process that allocates 16 MB twenty times."""
    code = FAULTS.format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_freed_memory_is_used_again():
    # 16 MB are 4,096 pages.
    assert faults("assert keep_freed_memory()") < faults("") - 50_000


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory() is False


def test_networks_are_compiled_on_a_cpu_if_asked():
    assert not choose_compute(MachineSettings(device="cpu"), "auto").compiled
    asked = MachineSettings(device="cpu", compile=True)
    assert choose_compute(asked, "auto").compiled


def test_what_cannot_be_repeated_is_refused_if_asked():
    try:
        choose_compute(MachineSettings(device="cpu", deterministic=True), "auto")
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
    finally:
        choose_compute(MachineSettings(device="cpu"), "auto")
    assert not torch.are_deterministic_algorithms_enabled()
