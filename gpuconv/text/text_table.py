"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from gpuconv.text.plain_text import display_width, padded


def align_columns(rows: Sequence[Sequence[str]], sides: str = "") -> str:
    """A line for each row of cells, each column as wide as its widest cell on a terminal. sides: "<" or ">" for each
    column, by default "<" for all."""
    widths = [max(map(display_width, column)) for column in zip(*rows)]
    sides = sides or "<" * len(widths)
    return "\n".join("  ".join(map(padded, row, widths, sides)).rstrip() for row in rows)
