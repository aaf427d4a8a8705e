"""The pictures of a run: what they show, and runs whose pictures cannot be drawn."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from gpuconv import models, plots
from gpuconv.cli import pictures
from gpuconv.layers import BatchNorm, Conv2D, Flatten, GlobalAvgPool2D, Input, Linear, MaxPool2D, Sequential
from gpuconv.training.image_activations import activations_of
from tests.cli.small_run import TINY_RUN, train


def test_without_matplotlib_training_says_so_once_and_continues(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; from gpuconv.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", *TINY_RUN, "--epochs", "1", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pictures need matplotlib") == 1
    assert "test accuracy" in done.stdout.splitlines()[-1]


@pytest.mark.usefixtures("pictures")
def test_pictures_that_cannot_be_drawn_are_reported_and_affect_nothing_else(tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("latex\nis missing")

    monkeypatch.setattr(plots, "filters", broken)
    monkeypatch.setattr(plots, "curves", broken)
    assert train("--epochs", 1, "--run-dir", tmp_path / "run") == 0
    captured = capsys.readouterr()
    for name in ("curves", "filters"):
        assert captured.err.count(f"no {name}.png: RuntimeError: latex is missing\n") == 1
    assert "activations.png" in captured.out
    assert "test accuracy" in captured.out.splitlines()[-1]


@pytest.mark.parametrize("model", ["three-layer", "tiny-vgg", "resnet20"])
def test_pictures_show_the_volumes_and_first_filters_of_any_net(model):
    """Input, flatten and dropout, which change no values in inference, have no column. An FC layer at the start has
    filters too."""
    net = models.build(model, (8, 12, 3), 4)
    x = np.random.default_rng(1).normal(size=(1, 8, 12, 3)).astype(np.float32)
    volumes, scores = activations_of(net, x)
    assert [name for name, _ in volumes] == [
        name for name, _ in net.children() if not name.startswith(("input", "flatten", "dropout"))
    ]
    assert scores.sum() == pytest.approx(1)
    name, weight = pictures.first_filters(net)
    if model == "three-layer":
        assert (name, weight.shape) == ("fc1", (100, 8, 12, 3))
        np.testing.assert_array_equal(weight.reshape(100, -1), net.params()["fc1.weight"])
    else:
        np.testing.assert_array_equal(weight, net.params()["conv1.weight"])


def test_the_first_filters_may_follow_a_normalization_layer():
    net = Sequential([Input((4, 4, 3)), BatchNorm(), Conv2D(5, 3)])
    name, weight = pictures.first_filters(net)
    assert name == "conv1"
    np.testing.assert_array_equal(weight, net.params()["conv1.weight"])


def test_the_first_filters_may_be_frozen():
    net = Sequential([Input((4, 4, 3)), Conv2D(5, 3), Conv2D(6, 1)])
    net[1].frozen = "weight"
    name, weight = pictures.first_filters(net)
    assert name == "conv1"
    np.testing.assert_array_equal(weight, net[1]["weight"])


def test_a_net_without_filters_gets_no_filter_picture(tmp_path):
    for layers_after_input in (
        [MaxPool2D(2)],
        [MaxPool2D(2), Flatten(), Linear(2)],
        [MaxPool2D(2), Flatten(), Linear(48), Linear(2)],  # the last layer reads as many values as the image has
        [GlobalAvgPool2D(), Flatten(), Linear(2)],
    ):
        net = Sequential([Input((4, 4, 3)), *layers_after_input])
        assert pictures.first_filters(net) is None
        pictures.draw_filters(tmp_path / "filters.png", net)
    assert list(tmp_path.iterdir()) == []
