"""What happens to a run when an image cannot be read: stop, or skip and list."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepme.artifacts.split import ImageIndex
from deepme.errors import InputError
from deepme.progress import warn


@dataclass
class UnreadableImages:
    """The unreadable images met so far, under the user's policy.

    Attributes:
        images: the index, for the paths.
        num_images: images of the run, against which `max_bad` counts.
        skip: go on without them; else the first one stops the run.
        max_bad: largest share of them, in [0, 1].
        reasons: row -> reason.
    """

    images: ImageIndex
    num_images: int
    skip: bool
    max_bad: float
    reasons: dict[int, str] = field(default_factory=dict)

    def record(self, unreadable: dict[int, str]) -> None:
        """Take note of a batch's unreadable images; one met again counts once.

        Raises:
            InputError: the policy is to stop, or the share is above `max_bad`.
        """
        for row, reason in unreadable.items():
            path = self.images.display_path(row)
            if not self.skip:
                raise InputError(
                    f"cannot read image {path}: {reason}",
                    "repair or remove it and rerun `deepme split`, or go on without "
                    "such images with --on-bad skip",
                )
            if row not in self.reasons:
                warn(f"skipped {path}: {reason}")
                self.reasons[row] = reason
        if len(self.reasons) > self.max_bad * self.num_images:
            raise InputError(
                f"{len(self.reasons):,} of {self.num_images:,} images cannot be read, "
                f"expected at most --max-bad {self.max_bad:g} of them",
                "list them all with `deepme split --scan`",
            )

    def listed(self) -> tuple[tuple[str, str], ...]:
        """Path and reason of each, ordered by path."""
        rows = sorted(self.reasons)
        return tuple((self.images.paths[row], self.reasons[row]) for row in rows)
