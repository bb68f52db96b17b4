"""Several processes of one training, forked as torchrun would start them."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from injection import Child, ChildEnd


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(*works: Callable[[], object]) -> list[Child]:
    """Do each work in a process of its own that finds torchrun's environment."""
    port = free_port()

    def joining(number: int) -> Callable[[], object]:
        def work() -> object:
            os.environ |= {
                "RANK": str(number),
                "LOCAL_RANK": str(number),
                "WORLD_SIZE": str(len(works)),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            # As in a new process; in this one tests have set other handlers.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return works[number]()

        return work

    return [Child(joining(number)) for number in range(len(works))]


def together(*works: Callable[[], object]) -> list[ChildEnd]:
    """Start and wait for all of them."""
    return [child.wait() for child in start(*works)]
