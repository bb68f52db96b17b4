"""An exponential moving average of a network's weights, which often does better."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """Follows a network's weights and running statistics, step by step.

    After each step, average ← decay · average + (1 − decay) · weights; the first step's
    weights are the first average.

    Args:
        network: that is trained.
        decay: share of the average that stays, in (0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Copy the network."""
        self._network = network
        mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._averaged = AveragedModel(network, multi_avg_fn=mean, use_buffers=True)

    def update(self) -> None:
        """Take in the weights of one more step."""
        self._averaged.update_parameters(self._network)

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the average into the network, and keep its weights in its place."""
        for average, own in zip(
            chain(self._averaged.module.parameters(), self._averaged.module.buffers()),
            chain(self._network.parameters(), self._network.buffers()),
            strict=True,
        ):
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network have the average for a while."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return self._averaged.state_dict()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned."""
        self._averaged.load_state_dict(state)
