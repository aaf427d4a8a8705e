"""Tables and line charts for notebooks, readable on light and dark backgrounds: text has the page's color, lines
and their names have colors of medium lightness."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence

COLORS = ("#3b82f6", "#d97706", "#16a34a", "#a855f7")  # blue, orange, green, violet
WIDTH, HEIGHT, LEFT, BELOW = 360, 180, 48, 24  # pixels: a chart, and its margins to the left of and below the axes
_NUMBER = re.compile(r"[+-]?(\d[\d,]*(\.\d+)?(e[+-]?\d+)?|nan|inf)%?")


def table(heading: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> str:
    """Text and numbers as a table; columns of numbers are right-aligned."""
    shown = [[_shown(value) for value in row] for row in rows]
    sides = ["right" if _are_numbers(column) else "left" for column in zip(*shown)] or ["left"] * len(heading)

    def line(tag: str, cells: Sequence[str]) -> str:
        written = (f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>' for side, cell in zip(sides, cells))
        return f"<tr>{''.join(written)}</tr>"

    head, body = line("th", heading), "".join(line("td", cells) for cells in shown)
    caption_tag = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{caption_tag}<thead>{head}</thead><tbody>{body}</tbody></table>"


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _are_numbers(cells: Sequence[str]) -> bool:
    """Whether there are cells other than "" and "…", and all of these are numbers."""
    shown = [cell for cell in cells if cell not in ("", "…")]
    return bool(shown) and all(_NUMBER.fullmatch(cell) for cell in shown)


def chart(lines: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """At most four named lines through points (x, y), as SVG. Points that are not finite are left out; "" if no point
    is left."""
    points = {name: [p for p in line if all(map(math.isfinite, p))] for name, line in lines.items()}
    every = [point for line in points.values() for point in line]
    if not every:
        return ""
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*every))

    def place(x: float, y: float) -> str:
        across = (x - left) / (right - left) if right > left else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return f"{LEFT + across * (WIDTH - LEFT - 8):.1f},{HEIGHT - BELOW - up * (HEIGHT - BELOW - 28):.1f}"

    drawn = [_text(LEFT, 12, title)]
    drawn += [_text(2, HEIGHT - BELOW, f"{low:.3g}"), _text(2, 32, f"{high:.3g}")]
    drawn += [_text(LEFT, HEIGHT - 6, f"{left:g}"), _text(WIDTH - 28, HEIGHT - 6, f"{right:g}")]
    name_x = LEFT + 8 * len(title)
    for color, (name, line) in zip(COLORS, points.items()):
        path = " ".join(place(*point) for point in line)
        if len(line) > 1:
            drawn.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{path}"/>')
        elif line:
            x, _, y = path.partition(",")
            drawn.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>')
        drawn.append(_text(name_x, 12, name, color))
        name_x += 10 + 7 * len(name)
    axis = f"M{LEFT} 24V{HEIGHT - BELOW}H{WIDTH}"
    drawn.append(f'<path d="{axis}" fill="none" stroke="currentColor" stroke-opacity="0.3"/>')
    return f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(drawn)}</svg>'


def _text(x: float, y: float, words: str, color: str = "currentColor") -> str:
    return f'<text x="{x}" y="{y}" font-size="11" font-family="sans-serif" fill="{color}">{html.escape(words)}</text>'
