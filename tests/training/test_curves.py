"""The picture curves.png: when it is drawn, and what happens when it cannot be."""

from types import SimpleNamespace

import pytest

from gpuconv import plots
from gpuconv.training import Callback, callbacks
from gpuconv.training.callbacks import Curves
from tests import toy_run


@pytest.mark.usefixtures("pictures")
def test_curves_are_drawn_if_matplotlib_is_installed(tmp_path):
    pytest.importorskip("matplotlib")
    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("pictures")
def test_missing_matplotlib_is_logged_once(tmp_path, monkeypatch, caplog):
    def missing(*_):
        raise plots.PlotError("pictures need matplotlib")

    monkeypatch.setattr(plots, "curves", missing)
    toy_run.fit(toy_run.trainer(), callbacks=[Curves(tmp_path / "curves.png", seconds=0)])
    assert caplog.messages == ["no curves.png: pictures need matplotlib"]


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    "error", [ValueError("backend"), KeyError("font"), DeprecationWarning("old"), OSError(28, "full"), MemoryError()]
)
def test_curves_that_cannot_be_drawn_are_logged_once_and_do_not_end_the_run(error, tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise error

    monkeypatch.setattr(plots, "curves", broken)
    trainer = toy_run.trainer()
    toy_run.fit(trainer, callbacks=[Curves(tmp_path / "curves.png", seconds=0)])
    assert trainer.stop_reason == "finished"
    assert caplog.text.count("no curves.png: ") == 1


@pytest.mark.usefixtures("pictures")
def test_curves_are_drawn_again_once_they_can_be(tmp_path, caplog):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    picture.mkdir()

    class Clear(Callback):
        def on_stop(self, trainer, reason):
            picture.rmdir()

    toy_run.fit(toy_run.trainer(), callbacks=[Clear(), Curves(picture, seconds=0)])
    assert "no curves.png" in caplog.text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_curves_are_drawn_periodically_and_at_the_end(monkeypatch, tmp_path, caplog):
    now, drawn, failing = [100.0], [], [None]

    def draw(path, make):
        drawn.append((path, now[0]))
        if failing[0]:
            raise plots.PlotError(failing[0])

    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(plots, "draw", draw)
    curves, trainer = Curves(tmp_path / "curves.png", seconds=30), SimpleNamespace(history=[])
    curves.on_start(trainer)
    curves.on_stop(trainer, "finished")
    assert drawn == []  # without epochs there is nothing to draw
    trainer.history.append({})
    for seconds in (129.9, 130.0, 150.0, 159.9, 160.0):
        now[0] = seconds
        curves.on_epoch(trainer, {})
    assert [at for _, at in drawn] == [130.0, 160.0]
    curves.on_stop(trainer, "finished")
    assert drawn[-1] == (tmp_path / "curves.png", 160.0)
    assert len(drawn) == 3
    for reason in ("no fonts", "no fonts", "no disk"):
        failing[0] = reason
        curves.on_stop(trainer, "finished")
    assert caplog.messages == ["no curves.png: no fonts", "no curves.png: no disk"]
    failing[0] = "no more"
    curves.on_stop(trainer, "failed")  # after a failure, only the error itself is worth a message
    assert len(caplog.messages) == 2
