"""What commands print, as a whole: a table whose columns or sums are wrong looks as good as one that is right."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.backends.cuda import report
from gpuconv.backends.cuda.compiler import CompileError, Resources
from gpuconv.backends.cuda.variants import Variant
from gpuconv.cli import main, predict, settings
from gpuconv.cli.check import report as verdict
from gpuconv.models import MODELS


def test_a_recipe_in_a_line():
    """What is left at none is not told."""
    assert str(settings.complete({})) == (
        "30 epochs, batches of 64, sgd:momentum=0.9,nesterov=true,weight_decay=5e-4 lr 0.05, one-cycle, augment "
        "shift:1, loss softmax:label_smoothing=0.1, float32, seed 0"
    )
    told = str(settings.complete({"data": "cifar10:x", "model": "airbench94", "lr": 0.5}, "airbench94"))
    assert told.startswith("8 epochs, batches of 2000, filters -> muon:lr=0.24")
    assert told.endswith("float32, seed 0, first filters whiten 5,000 images, tta mirror+shift")
    assert " lr 0.5, linear, augment alternating-flip,shift:2,reflect, " in told


def test_the_list_of_nets(capsys):
    assert main(["summary"]) == 0
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == "nets (gpuconv summary --model NAME shows one):"
    assert [row[:18].strip() for row in rows] == list(MODELS)
    assert rows[-1] == "  digits-net      A small VGG with batch norm for the 8x8 digits."


def test_the_list_of_kernels(capsys):
    assert main(["kernels", "--file", "metrics.cu"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "metrics.cu  (4 variants)",
        "    DTYPE       float64, float32, float16, bfloat16",
        "    metrics_add(double* totals, Real* loss, float64* scores, int64* labels, int32 n, int32 classes)",
    ]
    assert main(["kernels", "--file", "metrics.cu", "--file", "linear"]) == 2
    assert "unknown kernel file 'linear'" in capsys.readouterr().err


# --- kernels --report, of kernels that were compiled elsewhere ----------------------------------

FEW, MOST = Variant("a.cu", (("DTYPE", "0"),), shared=16), Variant("a.cu", (("DTYPE", "1"),), shared=1024)
LINES = [
    report.Line(FEW, "sm_80", "first", 256, Resources(32, 0, 0, 0, 512), 1.0),
    report.Line(MOST, "sm_80", "first", 128, Resources(64, 0, 0, 0, 512), 0.5),
    report.Line(FEW, "sm_80", "first", 256, Resources(40, 0, 0, 0, 512), 1.0),
    report.Line(FEW, "sm_90a", "second", 64, Resources(24, 0, 0, 0, 0), 0.75),
]
SPILLS = report.Line(FEW, "sm_80", "first", 256, Resources(16, 8, 4, 12, 512), 0.25)
HEAD = "kernel                             arch     registers  shared  stack  spills  threads  occupancy"


@pytest.fixture
def reported(monkeypatch, capsys):
    """Returns (status, lines) of the report on these kernels, two variants for sm_80 and one for sm_90a."""

    def run(lines, *arguments):
        asked = []
        listed = [(FEW, "sm_80"), (MOST, "sm_80"), (FEW, "sm_90a")]
        monkeypatch.setattr(report, "jobs", lambda chosen, archs, everything: asked.append(everything) or listed)
        monkeypatch.setattr(report, "report", lambda listed, workers: iter([lines[:1], lines[1:]]))
        status = main(["kernels", "--report", *arguments])
        return status, asked[0], capsys.readouterr().out.splitlines()

    return run


def test_the_report_shows_the_variant_that_takes_most(reported):
    status, everything, lines = reported(LINES)
    assert (status, everything) == (0, False)
    assert lines == [
        HEAD,
        "first                              sm_80           64    1536      0       0      128        50%",
        "second                             sm_90a          24      16      0       0       64        75%",
        "",
        "4 kernels of 3 variants (2 for sm_80, 1 for sm_90a): no spill, no local memory",
    ]


def test_the_report_names_the_variant_that_spills(reported):
    status, _, lines = reported([*LINES, SPILLS])
    assert status == 1
    assert lines[1] == (
        "first                              sm_80           16     528      8      16      256        25%  a.cu DTYPE=0"
    )
    assert lines[-1].endswith(": 1 spill, 0 do not compile")


def test_the_report_of_every_variant(reported):
    status, everything, lines = reported(LINES, "--all")
    assert (status, everything) == (0, True)
    assert [line.split()[2] for line in lines[1:5]] == ["32", "64", "40", "24"]
    assert lines[2].endswith("50%  a.cu DTYPE=1")
    assert reported(LINES, "--arch", "sm_80")[1] is True


def test_the_report_tells_what_does_not_compile(reported):
    status, _, lines = reported([LINES[3], CompileError("a.cu does not compile for sm_80")])
    assert status == 1
    assert lines[2:] == [
        "",
        "a.cu does not compile for sm_80",
        "",
        "1 kernels of 3 variants (2 for sm_80, 1 for sm_90a): 0 spill, 1 do not compile",
    ]


# --- parts of other commands --------------------------------------------------------------------


def test_the_five_best_scores_with_bars():
    """Of equals the first comes first."""
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


def test_a_check_is_a_line_and_its_details(capsys):
    assert verdict(True, "first loss", "2.3, expected 2.3", "")
    assert not verdict(False, "first loss", "9, expected 2.3", "why")
    said = capsys.readouterr().out.splitlines()
    assert said == ["PASS  first loss: 2.3, expected 2.3", "FAIL  first loss: 9, expected 2.3", "      why"]
