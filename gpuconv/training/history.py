"""The records of a run's epochs, shown in a notebook as curves and a table."""

from __future__ import annotations

from gpuconv.types import Record

MAX_ROWS = 12  # a table of more epochs shows only the first and the last ones


class History(list[Record]):
    """A record for each epoch. tested: the result of the test at the end of the run, or None."""

    tested: Record | None = None

    def _repr_html_(self) -> str:
        if not self:
            return "<p>no epoch yet</p>"
        from gpuconv.text.html import chart, table

        names = [
            name
            for name in self[-1]
            if name not in ("step", "epoch") and any(isinstance(record.get(name), (int, float)) for record in self)
        ]
        places = range(len(self))
        left_out = len(self) > MAX_ROWS
        chosen = [*places[: MAX_ROWS // 2], *places[-MAX_ROWS // 2 :]] if left_out else [*places]
        rows: list[list[object]] = [[self[at]["epoch"], *(self[at].get(name) for name in names)] for at in chosen]
        if left_out:
            rows.insert(MAX_ROWS // 2, ["…", *("" for _ in names)])
        caption = ", ".join(
            f"{name.replace('_', ' ')} {value:.4f}"
            for name, value in (self.tested or {}).items()
            if isinstance(value, float)
        )
        drawn = {what: self._lines(what) for what in ("loss", "accuracy")}
        charts = "".join(chart(lines, what) for what, lines in drawn.items() if any(lines.values()))
        return f"<div>{charts}{table(['epoch', *(name.replace('_', ' ') for name in names)], rows, caption)}</div>"

    def _lines(self, what: str) -> dict[str, list[tuple[float, float]]]:
        parts = [part for part in ("train", "validation", "test") if f"{part}_{what}" in self[-1]]
        names = {part: f"{part}_{what}" for part in parts}
        return {part: [(r["epoch"], r[name]) for r in self if r.get(name) is not None] for part, name in names.items()}
