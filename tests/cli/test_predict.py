"""gpuconv predict: the classes, the picture, and images that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import plots
from gpuconv.cli import main, pictures, runs
from gpuconv.data import Normalization, load
from gpuconv.training.image_activations import activations_of
from tests.cli.small_run import DATA


def test_predict_passes_its_options_on_and_prints_the_classes(drawn, trained, tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    train, test = load(DATA)
    for name, image in zip("ab", test.images):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / name) for name in ("gone.png", "a.png", "b.png")]
    arguments = ["predict", *files, "--run-dir", str(trained), "--device", "numpy"]
    assert main([*arguments, "--picture", str(tmp_path / "inside.png")]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"gpuconv: error: {files[0]}: No such file or directory\n"
    run = runs.open_run(trained, "numpy")
    scores = activations_of(run.net, Normalization.from_dataset(train)(test.images[:1]))[1]
    best = np.argsort(-scores)
    lines = captured.out.splitlines()
    assert lines[:4] == [f"run        {trained}", "device     numpy (as you asked)", "", files[1]]
    assert lines[4].split() == ["class", str(best[0]), f"{100 * scores[best[0]]:.2f}", "%", *lines[4].split()[4:]]
    assert lines[8:10] == ["", files[2]]
    assert lines[14:] == ["", f"picture    {tmp_path / 'inside.png'}"]
    ((function, file, (_, image, _, classes), options),) = drawn
    assert (function, file, classes) == ("draw_activations", "inside.png", [f"class {label}" for label in range(4)])
    assert options == {"title": "seed-net looks at a.png"}
    np.testing.assert_array_equal(image, test.images[0])
    # One unreadable image alone is an error; among several the others are still tried; if none can be read, nothing is
    # drawn.
    assert main(["predict", files[0], "--run-dir", str(trained)]) == 2
    assert main(["predict", files[0], files[0], "--run-dir", str(trained), "--picture", str(tmp_path / "x.png")]) == 1
    assert len(drawn) == 1
    assert main(["predict", *files[1:], "--run-dir", str(trained)]) == 0
    assert len(drawn) == 1
    assert "picture" not in capsys.readouterr().out


def test_predict_fails_if_its_picture_cannot_be_drawn(monkeypatch, trained, tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    Image.fromarray(load(DATA)[1].images[0]).save(tmp_path / "a.png")

    def fail(*_, **__):
        raise plots.PlotError("no fonts")

    monkeypatch.setattr(pictures, "draw_activations", fail)
    arguments = ["predict", str(tmp_path / "a.png"), "--run-dir", str(trained), "--picture", str(tmp_path / "b.png")]
    assert main(arguments) == 2
    assert capsys.readouterr().err == "gpuconv: error: no fonts\n"
