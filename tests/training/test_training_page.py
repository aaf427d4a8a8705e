"""The first example of docs/training.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_first_example_of_the_training_page_runs():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], names)
    assert names["trainer"].tested["test_accuracy"] > 0.9
    assert names["history"][-1]["validation_margin"] > 0
