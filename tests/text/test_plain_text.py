"""Text on terminals: its width in columns, and control characters."""

from __future__ import annotations

from gpuconv.text.plain_text import display_width, padded, printable
from tests.control_characters import ODD

CAT, DOG = "\u732b", "\uff24og"  # a wide letter; a full-width one and two narrow ones


def test_the_width_of_text_counts_wide_letters_twice():
    for text, width in (
        ("", 0),
        ("cat", 3),
        (CAT, 2),
        (DOG, 4),
        ("\U0001f431!", 3),
        ("e\u0301", 1),
        ("\xfc", 1),
        ("\u200d", 0),
    ):
        assert display_width(text) == width, text
    assert (padded(CAT, 4), padded(CAT, 4, ">"), padded("cat", 2)) == (f"{CAT}  ", f"  {CAT}", "cat")


SHOWN = r"\x1b[31m\r\n\t\x07\x9b2J\u202egnp\u2028"


def test_control_characters_are_escaped():
    assert printable(ODD) == SHOWN
    assert printable("Gr\u00fc\u00dfe \U0001f431 a b") == "Gr\u00fc\u00dfe \U0001f431 a b"
    assert printable("\udcff") == r"\udcff"  # a byte that is not valid UTF-8
