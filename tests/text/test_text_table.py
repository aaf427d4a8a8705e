"""Tables on terminals, where some letters are two columns wide."""

from __future__ import annotations

import numpy as np

from gpuconv.cli import evaluate, predict, profile
from gpuconv.inspect.profile import Profile, Row
from gpuconv.layers import Conv2D, Input, Sequential
from gpuconv.profiling.work import Work
from gpuconv.summary import summary
from gpuconv.text.plain_text import display_width
from gpuconv.text.text_table import align_columns

CAT, DOG = "\u732b", "\uff24og"  # a wide letter; a full-width one and two narrow ones


def test_wide_letters_keep_the_columns_of_tables():
    names = [CAT, DOG, "bird", f"{CAT}{CAT}{CAT}{CAT}"]
    table = evaluate.table(np.eye(4, dtype=int), names).splitlines()
    assert [display_width(line) for line in table[1:]] == [34] * 4
    assert table[1].startswith(f"{CAT}             1 ")
    percentages = predict.top(np.full(4, 0.25), names)
    assert [display_width(line[: line.index("%")]) for line in percentages] == [19] * 4
    net = Sequential([Input((4, 4, 1)), Conv2D(2, 1, name=CAT * 5), Conv2D(2, 1, name="narrow")])
    head, rule, *rows = summary(net).splitlines()
    assert {display_width(row) for row in rows[:3]} == {display_width(head), len(rule)}
    steps = [Row(name, "forward", Work(3e6, 1e6), 0.003) for name in (CAT, "narrow")]
    rows = profile.text(Profile("numpy", "float32", 2, steps, []), None).splitlines()
    assert display_width(rows[2]) == display_width(rows[3]) == 92


def test_columns_of_a_table_are_as_wide_as_their_widest_cell_on_a_terminal():
    rows = [("name", "n"), (CAT, "10"), ("e\u0301", "")]
    assert align_columns(rows).split("\n") == ["name  n", f"{CAT}    10", "e\u0301"]
    assert align_columns(rows, "><").split("\n") == ["name  n", f"  {CAT}  10", "   e\u0301"]
