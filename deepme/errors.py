"""The errors a user can meet, each with the exit code of its kind.

DeepmeError
├── UsageError        2  an option or setting outside its range
├── InputError        2  a file, image or class list that cannot be used
├── ArtifactError     2  an artifact that is missing, stale or corrupt
├── EnvironmentFault  3  disk, memory, permissions, a lock held by someone else
├── TrainingError     4  a run that cannot go on (non-finite loss, worker lost)
│   └── RankLost      4  another process of the same training has ended or hangs
└── Interrupted     130  Ctrl-C, or 143 after SIGTERM

Anything else that escapes is a bug of deepme and ends with exit code 1.
"""

from __future__ import annotations

import errno

MACHINE = {
    *(errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE),
}
"""What the system may answer to any call: nothing that a program can have wrong."""


class DeepmeError(Exception):
    """Say what was found and what was expected; `hint` says what to do.

    Attributes:
        exit_code: the code the process ends with.
        hint: one sentence with the remedy, or empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep the message and the hint apart, so that callers can print either."""
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        """Join message and hint into the one line that people read."""
        message = str(self.args[0])
        return f"{message}; {self.hint}" if self.hint else message


class UsageError(DeepmeError):
    """An option or setting is outside its range."""

    exit_code = 2


class InputError(DeepmeError):
    """A file, image or class list cannot be used as it is."""

    exit_code = 2


class ArtifactError(DeepmeError):
    """An artifact is missing, stale or corrupt."""

    exit_code = 2


class EnvironmentFault(DeepmeError):
    """The machine refused: disk, memory, permissions or a lock."""

    exit_code = 3


class TrainingError(DeepmeError):
    """A training run cannot go on."""

    exit_code = 4


class RankLost(TrainingError):
    """Another process of the same training has ended or hangs."""


class Interrupted(DeepmeError):
    """The user or the system asked to stop; what was done is kept."""

    def __init__(self, signal_number: int, message: str = "interrupted") -> None:
        """Exit with 128 + the signal's number, as shells expect."""
        super().__init__(message)
        self.exit_code = 128 + signal_number
