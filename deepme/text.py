"""The one place where text from data is made safe to show.

Class names, file names and error texts come from data. On their way to a terminal,
a log, a figure or a table they pass through `clean`, so that no escape sequence,
line break or direction mark of theirs acts on the reader's screen.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


def clean(text: str) -> str:
    r"""Replace every character that is not printable by its escape.

    Args:
        text: any string, lone surrogates included.

    Returns:
        The same text with control, format, separator and surrogate characters
        written as ``\x1b`` or ``\u202e``; always encodable and on one line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def shorten(text: str, width: int) -> str:
    """Cut a cleaned text to at most `width` characters, ending in an ellipsis."""
    text = clean(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 class``, ``2,000 classes``."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def listing(items: list[str], limit: int = 5) -> str:
    """Name the first few items and count the rest: ``a, b, c and 4 more``."""
    shown = ", ".join(clean(item) for item in items[:limit])
    rest = len(items) - limit
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def suggestion(word: str, known: Iterable[str]) -> str:
    """Ask whether the nearest of some words was meant: ``did you mean 'gate'? ``.

    Args:
        word: what was written.
        known: what would have been right.

    Returns:
        The question and a blank, cleaned; empty if nothing is near.
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{clean(near[0])}'? " if near else ""


def composed(name: str) -> str:
    """Write a class name in Unicode's composed form (NFC).

    macOS names files in the decomposed form: its ``é`` is two characters, and differs
    from the one that people type.
    """
    return unicodedata.normalize("NFC", name)
