"""Describes the values in which a result is wrong."""

from __future__ import annotations

import numpy as np

SHOWN = 12  # at most this many wrong values are listed, and this many ranges of rows or columns


def ranges(numbers) -> str:
    """Numbers as ranges in text: "0-3, 8" for 0, 1, 2, 3 and 8."""
    runs: list[list[int]] = []
    for number in sorted(map(int, numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [f"{first}-{last}" if last > first else str(first) for first, last in runs]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")


def differences(expected: np.ndarray, found: np.ndarray) -> list[str]:
    """Wrong values as lines of text: their number, their rows and columns, and the first of them. Leading axes are
    rows."""
    wide, given = (each.reshape(-1, each.shape[-1]).astype(np.float64) for each in (expected, found))
    wrong = (wide != given) & ~(np.isnan(wide) & np.isnan(given))
    rows, columns = np.nonzero(wrong)
    lines = [
        f"    {rows.size} of {wrong.size} values are wrong, {int(np.isnan(given).sum())} are NaN",
        f"    rows {ranges(set(rows))}",
        f"    columns {ranges(set(columns))}",
    ]
    first = list(zip(rows, columns))[:SHOWN]
    return lines + [f"    [{r}, {c}] is {given[r, c]:g}, expected {wide[r, c]:g}" for r, c in first]
