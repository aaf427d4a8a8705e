"""gpuconv predict: the classes, the picture, and images that cannot be read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv import plots
from gpuconv.cli import main, pictures, predict, runs
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
    assert lines[4].split()[:4] == ["class", str(best[0]), f"{100 * scores[best[0]]:.2f}", "%"]
    assert lines[8:10] == ["", files[2]]
    assert lines[14:] == ["", f"picture    {tmp_path / 'inside.png'}"]
    ((function, file, (_, image, _, classes), options),) = drawn
    assert (function, file, classes) == ("draw_activations", "inside.png", [f"class {label}" for label in range(4)])
    assert options == {"title": "seed-net looks at a.png"}
    np.testing.assert_array_equal(image, test.images[0])
    # A single image that cannot be read is an error. Among several images, the others are still tried. If none can be
    # read, nothing is drawn.
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


def images(folder, *sizes, mode="RGB"):
    Image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(3)
    for number, (height, width) in enumerate(sizes):
        pixels = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")
        yield str(folder / f"{number}.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P"])
def test_predict_prints_the_four_classes_of_each_image_in_the_order_of_their_scores(drawn_run, tmp_path, capsys, mode):
    files = list(images(tmp_path, (9, 7), (30, 41), mode=mode))
    assert main(["predict", *files, "--run-dir", str(drawn_run)]) == 0
    output = capsys.readouterr().out
    converted = "" if mode == "RGB" else f"converted from {mode} to RGB"
    assert f"{files[0]}{converted and f' ({converted})'}\n" in output
    assert f"{files[1]} (resized from 30x41 to 9x7{converted and f', {converted}'})\n" in output
    scores = [float(score) for score in re.findall(r"^  class \d +([\d.]+) %", output, re.M)]
    assert len(scores) == 2 * 4
    for start in (0, 4):
        assert scores[start : start + 4] == sorted(scores[start : start + 4], reverse=True)
        assert sum(scores[start : start + 4]) == pytest.approx(100, abs=0.03)


def test_predict_says_when_colors_are_lost(tmp_path, capsys):
    run = str(tmp_path / "run")
    gray = ["--data", "synthetic:n=20,size=8x8x1", "--model", "seed-net"]
    assert main(["train", *gray, "--epochs", "1", "--run-dir", run]) == 0
    (color,) = images(tmp_path, (8, 8))
    assert main(["predict", color, "--run-dir", run]) == 0
    assert f"{color} (converted from RGB to L, colors converted to gray)" in capsys.readouterr().out


def test_predict_continues_after_an_unreadable_image(drawn_run, tmp_path, capsys):
    (good,) = images(tmp_path, (9, 7))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert main(["predict", str(tmp_path / "bad.png"), good, "--run-dir", str(drawn_run)]) == 1
    captured = capsys.readouterr()
    assert "bad.png as an image" in captured.err
    assert good in captured.out


@pytest.mark.usefixtures("pictures")
def test_predict_draws_the_activations_of_an_image(drawn_run, tmp_path):
    pytest.importorskip("matplotlib")
    (image,) = images(tmp_path, (9, 7))
    assert main(["predict", image, "--run-dir", str(drawn_run), "--picture", str(tmp_path / "inside.png")]) == 0
    assert (tmp_path / "inside.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "inside.png").stat().st_size > 10_000


def test_predict_refuses_a_picture_that_is_not_png_before_any_work(tmp_path, capsys):
    assert main(["predict", "a.png", "--run-dir", "nowhere", "--picture", str(tmp_path / "p.jpg")]) == 2
    captured = capsys.readouterr()
    assert f"must end in .png, received {tmp_path / 'p.jpg'}" in captured.err
    assert not captured.out
    assert main(["predict", "a.png", "--run-dir", "nowhere", "--picture", str(tmp_path / "none" / "p.png")]) == 2
    assert f"{tmp_path / 'none' / 'p.png'}: the folder to put it in does not exist" in capsys.readouterr().err


def test_a_picture_does_not_replace_an_image_that_is_read(drawn_run, tmp_path, capsys):
    files = list(images(tmp_path, (9, 7), (9, 7)))
    before = [(tmp_path / name).read_bytes() for name in ("0.png", "1.png")]
    alias = str(tmp_path / "." / "1.png")
    explain = ["explain", str(drawn_run), files[1], "--map", "saliency"]
    for arguments in (["predict", *files, "--run-dir", str(drawn_run)], explain):
        assert main([*arguments, "--picture", alias]) == 2
        assert "1.png would replace an image that is read; give the picture another name" in capsys.readouterr().err
    assert [(tmp_path / name).read_bytes() for name in ("0.png", "1.png")] == before


def test_predict_prints_question_marks_for_bars_that_the_terminal_cannot_encode(drawn_run, tmp_path):
    (image,) = images(tmp_path, (9, 7))
    command = [sys.executable, "-m", "gpuconv", "predict", image, "--run-dir", str(drawn_run)]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, encoding="cp1252", env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"class \d +[\d.]+ %  \?+$", done.stdout, re.M)


def test_predict_draws_a_bar_for_each_of_the_five_best_scores_and_keeps_equal_ones_in_order():
    scores = np.array([0.04, 0.05, 0.5, 0.25, 0.125, 0.035])
    assert predict.top(scores, ["a", "b", "cat", "dog", "e", "f"]) == [
        "  cat   50.00 %  " + "█" * 15,
        "  dog   25.00 %  " + "█" * 8,
        "  e     12.50 %  " + "█" * 4,
        "  b      5.00 %  ██",
        "  a      4.00 %  █",
    ]
    assert predict.top(np.array([0.5, 0.5, 0.0]), ["x", "y", "z"])[0].startswith("  x ")
    assert predict.top(np.array([1.0, 0.0]), ["x", "y"])[1] == "  y    0.00 %"
    many = predict.top(np.tile([0.25, 0.125], 500), list(map(str, range(1000))))
    assert [line.split()[0] for line in many] == ["0", "2", "4", "6", "8"]


def test_a_conversion_is_shown_after_the_name(tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    gray, color = np.arange(30, dtype=np.uint8).reshape(6, 5), np.arange(90, dtype=np.uint8).reshape(6, 5, 3)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(color).save(tmp_path / "color.png")

    def line(name, *shape):
        image = predict.read(str(tmp_path / name), SimpleNamespace(input_shape=shape))
        assert (image.shape, image.dtype) == (shape, np.uint8)
        return capsys.readouterr().out.replace(str(tmp_path), "").strip()

    assert line("gray.png", 6, 5, 1) == "/gray.png"
    assert line("color.png", 6, 5, 3) == "/color.png"
    assert line("gray.png", 6, 5, 3) == "/gray.png (converted from L to RGB)"
    assert line("color.png", 6, 5, 1) == "/color.png (converted from RGB to L, colors converted to gray)"
    assert line("gray.png", 3, 5, 1) == "/gray.png (resized from 6x5 to 3x5)"
    assert line("gray.png", 6, 4, 1) == "/gray.png (resized from 6x5 to 6x4)"
