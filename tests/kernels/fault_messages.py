"""The notation in which tests write the messages about planted faults.

# stands for a number, @ for a place in the source, ~ for the index of one of at most four blocks, | for "or". A word in
capitals, such as END, stands for the line of a .cu that ends in this word as a comment ("// end").
"""

from __future__ import annotations

import re
from pathlib import Path


def pattern(text: str, file: Path | None = None) -> str:
    """The regular expression of a message in this notation. file: the .cu in which the words in capitals mark
    lines. Without a file, these words stand for themselves."""
    regex = re.sub(r"(\\ )?\\\|(\\ )?", "|", re.escape(text))
    regex = regex.replace(r"\#", r"\d+").replace("@", r"\w+\.cuh?:\d+").replace(r"\~", r"\([0123], 0, 0\)")
    return regex if file is None else re.sub(r"\b[A-Z]{3,}\b", lambda word: _place(file, word[0].lower()), regex)


def _place(file: Path, comment: str) -> str:
    lines = file.read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.endswith(f"// {comment}"))
    return re.escape(f"{file.name}:{number}")
