"""Class and file names with terminal control characters, as commands print them and as pictures show them."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.cli import main
from tests.control_characters import ODD

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def work(work):
    for name in (f"photos{ODD}/cat{ODD}", f"photos{ODD}/dog{ODD}"):
        (work / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(work / name / f"{number}{ODD}.png")
        (work / name / f"notes.{ODD}").touch()
    return work


@pytest.mark.usefixtures("pictures")
def test_commands_and_pictures_show_no_terminal_control_characters(work, capsys, monkeypatch):
    drawn = []

    def record_texts(figure, path):
        texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
        drawn.extend(text.get_text() for text in texts)

    monkeypatch.setattr("gpuconv.plots.saving.save", record_texts)
    photo = next(work.glob("photos*/cat*/*.png"))
    (work / f"broken{ODD}.png").write_bytes(b"no image")
    data, run = f"folder:photos{ODD}", f"run{ODD}"
    for status, *arguments in (
        (0, "train", "--data", data, "--model", "seed-net", "--device", "numpy", "--epochs", "1", "--run-dir", run),
        (0, "evaluate", run),
        (0, "evaluate", run, "--test", data),
        (0, "predict", str(photo), "--run-dir", run, "--picture", "inside.png"),
        (1, "predict", str(photo), f"broken{ODD}.png", "--run-dir", run),
        (2, "predict", f"gone{ODD}.png", "--run-dir", run),
        (2, "evaluate", run, "--test", f"folder:gone{ODD}"),
        (2, "evaluate", f"gone{ODD}"),
        (2, "train", "--data", f"photos{ODD}"),
    ):
        assert main(arguments) == status, capsys.readouterr().err
        out, err = capsys.readouterr()
        printed = f"{out}\n{err}"
        if arguments[0] == "train":
            printed = printed.replace("\r", "\n")  # the progress bar returns to the start of its line
        for line in printed.split("\n"):
            assert line.isprintable(), (arguments, line)
        assert r"\x1b[31m" in out + err
    assert drawn
    assert all(text.isprintable() for text in drawn)


def test_a_printed_line_has_no_terminal_control_characters(capsys):
    from gpuconv.cli.output_lines import print_line

    print_line("run", "\x1b[31mred\nblue\n")
    assert capsys.readouterr().out == "run        \\x1b[31mred\\nblue\n\n"
