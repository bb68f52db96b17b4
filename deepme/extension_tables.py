"""What people read of an extension."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepme.tables import print_results, print_table
from deepme.text import counted, listing

if TYPE_CHECKING:
    from deepme.extending import Extension


def print_extension(found: Extension) -> None:
    """Print where new classes went, what is trained for them, and the results."""
    print_table(
        ("group", "name", "classes", "images", "new classes"),
        [
            (
                str(joined.group),
                joined.name,
                f"{joined.classes:,}",
                f"{joined.images:,}",
                listing(list(joined.added), 6),
            )
            for joined in found.joined
        ],
        "rlrrl",
    )
    print(
        f"{counted(len(found.classes), 'new class')}; {len(found.joined)} of "
        f"{counted(len(found.joined) + len(found.kept), 'expert')} go on learning: "
        f"{found.training_tflop:,.2f} TFLOP, {100 * found.share:.0f} % of training "
        "all anew"
    )
    if found.results:
        print_results(found.results)
