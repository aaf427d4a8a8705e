"""Files of pictures: written completely or not at all, and errors of one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gpuconv import plots
from tests.plots.figures import HISTORY

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures")


def test_save_writes_a_complete_png_or_nothing(tmp_path, monkeypatch):
    figure = plots.curves(HISTORY)
    path = plots.save(figure, tmp_path / "curves.png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data.endswith(b"IEND\xaeB`\x82")
    monkeypatch.setattr(figure, "savefig", lambda file, **_: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        plots.save(figure, path)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_save_writes_png_files_only(tmp_path):
    figure = plots.curves(HISTORY)
    for name in ("curves.jpg", "curves"):
        with pytest.raises(plots.PlotError, match=rf"must end in \.png, received .*{name}$"):
            plots.save(figure, tmp_path / name)
    with pytest.raises(OSError, match=r"folder .* does not exist: .*none/curves\.png"):
        plots.save(figure, tmp_path / "none" / "curves.png")
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"not a regular file: .*pipe\.png"):
        plots.save(figure, pipe)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_the_error_of_a_failed_save_names_the_path(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"

    def full(temporary):
        raise OSError(28, "No space left on device", str(temporary))

    monkeypatch.setattr("gpuconv.system.files._make_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        plots.save(plots.curves(HISTORY), path)
    assert caught.value.filename == str(path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("Key backend:\n  no such"), "ValueError: Key backend: no such"),
        (RuntimeError("latex is\nmissing"), "RuntimeError: latex is missing"),
        (UserWarning("Glyph 9 missing"), "UserWarning: Glyph 9 missing"),
        (OSError(28, "No space left on device", "x.png"), "x.png: No space left on device"),
        (MemoryError(), "MemoryError: "),
    ],
)
def test_any_error_while_drawing_is_one_line(error, message, tmp_path):
    def make():
        raise error

    with pytest.raises(plots.PlotError) as raised:
        plots.draw(tmp_path / "x.png", make)
    assert str(raised.value) == message
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_drawing_is_not_reported_as_a_failed_picture(tmp_path):
    def make():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plots.draw(tmp_path / "x.png", make)


def test_a_folder_in_place_of_a_picture_is_reported_before_drawing(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(plots.PlotError, match=r"x\.png: exists and is not a regular file"):
        plots.draw(tmp_path / "x.png", lambda: pytest.fail("the picture must not be drawn"))


def test_without_matplotlib_the_error_says_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None; from gpuconv import plots; plots.curves([{'epoch': 1}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "MatplotlibError: pictures need matplotlib: python -m pip install 'gpuconv[plot]'" in done.stderr
