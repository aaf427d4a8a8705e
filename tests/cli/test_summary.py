"""gpuconv summary: the list of nets, the table of a net, and the options passed to the library."""

from __future__ import annotations

import argparse
import re

import pytest

from gpuconv.cli import main, summary
from gpuconv.models import MODELS


def test_summary_lists_the_nets(capsys):
    assert main(["summary"]) == 0
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == "nets (gpuconv summary --model NAME shows one):"
    assert [row[:18].strip() for row in rows] == list(MODELS)
    assert rows[-1] == "  digits-net      A small VGG with batch norm for the 8x8 digits."


def test_the_options_of_summary_reach_the_library(monkeypatch, capsys):
    """The algorithms depend on the device and the batch size."""

    def summary(net, **options):
        return f"{net.input_shape} {net.precision} {options}"

    monkeypatch.setattr("gpuconv.summary.summary", summary)
    assert main(["summary", "--model", "digits-net"]) == 0
    assert capsys.readouterr().out == "(8, 8, 1) float32 {'batch_size': 128, 'device': 'numpy'}\n"
    options = ["--device", "emulated", "--batch-size", "7", "--precision", "tf32", "--input", "16x12x2"]
    assert main(["summary", "--model", "digits-net", *options]) == 0
    assert capsys.readouterr().out == "(16, 12, 2) tf32 {'batch_size': 7, 'device': 'emulated'}\n"


def test_summary_of_vgg16_has_the_published_number_of_weights(capsys):
    assert main(["summary", "--model", "vgg16"]) == 0
    output = capsys.readouterr().out
    assert "138,344,128" in output
    assert "224x224x64" in output


def test_summary_in_a_precision_shows_its_algorithms(capsys):
    outputs = {}
    for precision in ("float32", "tf32", "bfloat16"):
        assert main(["summary", "--model", "tiny-vgg", "--device", "emulated", "--precision", precision]) == 0
        outputs[precision] = capsys.readouterr().out
        assert f"memory in {precision}" in outputs[precision]
    assert "simt-" in outputs["float32"]
    assert "mma-" not in outputs["float32"]
    assert "mma-" in outputs["tf32"]
    assert "mma-" in outputs["bfloat16"]


def test_summary_takes_an_input_size_and_a_number_of_classes(capsys):
    assert main(["summary", "--model", "seed-net", "--input", "20x12x5", "--classes", "3"]) == 0
    output = capsys.readouterr().out
    assert "20x12x12" in output
    assert "10x6x12" in output
    assert re.search(r"^fc1 +Linear +3 ", output, re.M)


def test_summary_shows_the_net_of_a_run(monkeypatch, trained, capsys):
    monkeypatch.setattr("gpuconv.summary.summary", lambda net, **options: f"{net.input_shape} {net.device} {options}")
    assert main(["summary", "--run-dir", str(trained), "--device", "emulated", "--batch-size", "7"]) == 0
    assert capsys.readouterr().out == "(9, 7, 3) numpy {'batch_size': 7, 'device': 'emulated'}\n"


def test_a_volume_has_three_sizes():
    assert summary.volume("32X24x3") == (32, 24, 3)
    for text in ("32x24", "32x24x3x1", "32x0x3", "axbxc", "32x-1x3", "1.5x2x3", "32x24x"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a size written 32x32x3"):
            summary.volume(text)
