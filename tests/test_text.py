from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepme.text import clean, composed, counted, listing, shorten, suggestion


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_what_is_cleaned_can_be_printed_anywhere(text: str) -> None:
    assert clean(text).isprintable()
    clean(text).encode()


def test_control_and_direction_marks_are_written_out() -> None:
    assert clean("a\x1b[31mb\r\n\u202ec\x9b\ud800") == (
        r"a\x1b[31mb\r\n\u202ec\x9b\ud800"
    )


def test_ordinary_text_stays() -> None:
    assert clean("Θ ≥ δ, 犬 🐕") == "Θ ≥ δ, 犬 🐕"


def test_shorten_ends_in_an_ellipsis() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"


def test_listing_counts_the_rest() -> None:
    assert listing(["a", "b"]) == "a, b"
    assert listing(list("abcdefg"), 3) == "a, b, c and 4 more"


def test_a_number_takes_its_noun_along() -> None:
    assert counted(1, "class") == "1 class"
    assert counted(0, "image") == "0 images"
    assert counted(12_345, "class") == "12,345 classes"


def test_the_nearest_word_is_suggested_and_a_far_one_not() -> None:
    assert suggestion("gait", ["gate", "flat"]) == "did you mean 'gate'? "
    assert suggestion("xyz", ["gate", "flat"]) == ""
    assert suggestion("gat", ["gat\x1b"]) == "did you mean 'gat\\x1b'? "


def test_an_accent_is_part_of_its_letter() -> None:
    assert composed("e\u0301") == "\u00e9" == composed("\u00e9")
