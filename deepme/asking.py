"""Ask trained networks about images: several in one pass, which decodes each once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deepme.artifacts.expert import Expert
from deepme.artifacts.outputs import Answer, Batch
from deepme.artifacts.split import ImageIndex
from deepme.config import MachineSettings
from deepme.devices import Compute
from deepme.images.loading import ImageDataset, evaluation_batches
from deepme.images.unreadable import UnreadableImages
from deepme.networks import AttentionNetwork, Network
from deepme.progress import note

BATCH_SIZE = 256
WEIGHTS_BYTES = 4 * 2**30
"""The most that the weights of networks asked together take: those of 7 VGG16."""


def passes(networks: Sequence[Expert]) -> list[list[Expert]]:
    """Divide trained networks into those that are asked together.

    They see images of one size, and their weights fit into `WEIGHTS_BYTES`. A run that
    is interrupted begins its pass anew, so passes of one size are about equally long.
    """
    divided = []
    for _, same in groupby(networks, lambda network: network.training.image_size):
        some = list(same)
        largest = max(_num_bytes(network.weights) for network in some)
        parts = np.array_split(np.arange(len(some)), num_passes(len(some), largest))
        divided += [[some[index] for index in part] for part in parts]
    return divided


def num_passes(num_networks: int, num_bytes: int) -> int:
    """Over the images, for networks whose weights take so many bytes each at most."""
    together = max(1, WEIGHTS_BYTES // max(1, num_bytes))
    return -(-num_networks // together)


def _num_bytes(weights: Path) -> int:
    """The size of a file; whoever loads it tells that there is none."""
    with suppress(OSError):
        return weights.stat().st_size
    return 0


def answers(
    networks: Sequence[Network | AttentionNetwork],
    images: ImageIndex,
    rows: NDArray[np.int64],
    *,
    image_size: int,
    compute: Compute,
    machine: MachineSettings,
) -> Iterator[Batch]:
    """Ask networks about the centre views of some images, in order.

    Args:
        networks: on the device, in evaluation mode.
        images: the index.
        rows: (R,) of the images.
        image_size: pixels a side of what they see.
        compute: the device.
        machine: workers, and the policy for unreadable images.

    Yields:
        (positions, of each network logits (B, C_t) and features (B, d), readable
        (B,)); the answers about what cannot be read are zero.

    Raises:
        InputError: an unreadable image, by the policy.
    """
    dataset = ImageDataset(images, size=image_size, augment=False, seed=0)
    skip = machine.on_bad == "skip"
    unreadable = UnreadableImages(images, len(rows), skip, machine.max_bad)
    start = 0
    for batch in evaluation_batches(dataset, rows, BATCH_SIZE, machine.workers):
        unreadable.record(batch.unreadable)
        stop = start + len(batch.rows) + len(batch.unreadable)
        with torch.inference_mode(), compute.autocast():
            inputs = batch.inputs.to(compute.device, non_blocking=True)
            # All are asked before the first answer is waited for.
            found = [network(inputs) for network in networks]
        readable = np.isin(rows[start:stop], batch.rows.numpy())
        yield slice(start, stop), [_spread(one, readable) for one in found], readable
        start = stop
    if unreadable.reasons:
        note(f"{len(unreadable.reasons):,} unreadable images left out")


def _spread(
    answer: tuple[torch.Tensor, torch.Tensor], readable: NDArray[np.bool_]
) -> Answer:
    """Lay the rows of readable images apart; the others are zero."""

    def at(values: torch.Tensor) -> NDArray[np.float32]:
        spread = np.zeros((len(readable), values.shape[1]), dtype=np.float32)
        spread[readable] = values.float().cpu().numpy()
        return spread

    logits, features = answer
    return at(logits), at(features)
