"""gpuconv kernels: the list of kernels, the options of the report, and the report on prepared results."""

from __future__ import annotations

import dataclasses

import pytest

from gpuconv.backends.cuda.analysis import predict_conv, resources
from gpuconv.backends.cuda.analysis.variants import Variant
from gpuconv.backends.cuda.runtime.nvrtc import CompileError, Resources
from gpuconv.cli import kernels, main
from gpuconv.cli.main import Parser


def test_the_kernel_report_receives_the_options(monkeypatch, capsys):
    from gpuconv.backends.cuda.analysis import resources, variants
    from gpuconv.backends.cuda.runtime import nvrtc

    received = []
    monkeypatch.setattr(resources, "jobs", lambda *arguments: received.append(arguments) or [])
    monkeypatch.setattr(resources, "report", lambda listed, workers: received.append(workers) or iter([]))
    every_arch = list(nvrtc.ARCHITECTURES)
    of_metrics = [variant for variant in variants.variants() if variant.file == "metrics.cu"]
    for arguments, archs, everything in (
        ((), every_arch, False),
        (("--all",), every_arch, True),
        (("--arch", "SM_80", "--arch", "sm_90a"), ["sm_80", "sm_90a"], True),
        (("--arch", "sm_80", "--arch", "SM_80", "--file", "metrics.cu"), ["sm_80"], True),
    ):
        assert main(["kernels", "--report", "--workers", "3", "--file", "metrics.cu", *arguments]) == 0
        assert received == [(of_metrics, archs, everything), 3]
        received.clear()
    assert capsys.readouterr().out.splitlines()[-1] == "0 kernels of 0 variants (): no spill, no local memory"
    assert main(["kernels"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].isalpha()]
    assert listed[-len(variants.MACROS) :] == list(variants.MACROS)


def test_by_default_there_are_as_many_workers_as_cores(monkeypatch):
    monkeypatch.setattr(kernels, "available_cores", lambda: 7)
    parser = Parser()
    kernels.configure(parser)
    assert parser.parse_args([]).workers == 7


def test_kernels_lists_the_kernels_of_a_file(capsys):
    assert main(["kernels", "--file", "metrics.cu"]) == 0
    parameters = "double* totals, Real* loss, float64* scores, int64* labels, int32 n, int32 classes, int64 ignored, "
    parameters += "Real* weight, int32 sums"
    assert capsys.readouterr().out.splitlines() == [
        "metrics.cu  (8 variants)",
        "    DTYPE       float64, float32, float16, bfloat16",
        "    LABEL       int64, float32 (float64: float64)",
        f"    metrics_add({parameters})",
    ]
    assert main(["kernels", "--file", "metrics.cu", "--file", "linear"]) == 2
    assert "unknown kernel file 'linear'" in capsys.readouterr().err


# --- --report, on prepared results ---------------------------------------------------------------

FEW_REGISTERS, MANY_REGISTERS = (
    Variant("a.cu", (("DTYPE", "0"),), smem_bytes=16),
    Variant("a.cu", (("DTYPE", "1"),), smem_bytes=1024),
)
LINES = [
    resources.Line(FEW_REGISTERS, "sm_80", "first", 256, Resources(32, 0, 0, 0, 512), 1.0),
    resources.Line(MANY_REGISTERS, "sm_80", "first", 128, Resources(64, 0, 0, 0, 512), 0.5),
    resources.Line(FEW_REGISTERS, "sm_80", "first", 256, Resources(40, 0, 0, 0, 512), 1.0),
    resources.Line(FEW_REGISTERS, "sm_90a", "second", 64, Resources(24, 0, 0, 0, 0), 0.75),
]
SPILLS = resources.Line(FEW_REGISTERS, "sm_80", "first", 256, Resources(16, 8, 4, 12, 512), 0.25)
HEAD = "kernel                             arch     registers  shared  stack  spills  threads  occupancy  predicted"
PREDICTED = (
    f"predicted: the time of a convolution {predict_conv.REFERENCE} on an {predict_conv.REFERENCE_GPU.name}, "
    "a prediction, not a measurement"
)


@pytest.fixture
def run_report(monkeypatch, capsys):
    """Runs `gpuconv kernels --report` on prepared lines of two variants for sm_80 and one for sm_90a.

    Returns the status, whether all variants were requested, and the lines of the output."""

    def run(lines, *arguments):
        all_requested = []
        listed = [(FEW_REGISTERS, "sm_80"), (MANY_REGISTERS, "sm_80"), (FEW_REGISTERS, "sm_90a")]
        monkeypatch.setattr(
            resources, "jobs", lambda chosen, archs, everything: all_requested.append(everything) or listed
        )
        monkeypatch.setattr(resources, "report", lambda listed, workers: iter([lines[:1], lines[1:]]))
        monkeypatch.setattr(predict_conv, "of_line", lambda line: 12.34e-6 if line.kernel == "second" else None)
        status = main(["kernels", "--report", *arguments])
        captured = capsys.readouterr()
        assert captured.err == ""  # no progress without a terminal
        return status, all_requested[0], captured.out.splitlines()

    return run


def test_the_report_shows_the_variant_with_the_most_registers(run_report):
    status, all_requested, lines = run_report(LINES)
    assert (status, all_requested) == (0, False)
    assert lines == [
        HEAD,
        "first                              sm_80           64    1536      0       0      128        50%          -",
        "second                             sm_90a          24      16      0       0       64        75%    12.3 us",
        "",
        PREDICTED,
        "",
        "4 kernels of 3 variants (2 for sm_80, 1 for sm_90a): no spill, no local memory",
    ]


def test_the_report_names_the_variant_that_spills(run_report):
    status, _, lines = run_report([*LINES, SPILLS])
    assert status == 1
    assert lines[1] == (
        "first                              sm_80           16     528      8      16      256        25%          -  "
        "a.cu DTYPE=0"
    )
    assert lines[-1].endswith(": 1 with spills or local memory, 0 not compiled")


def test_the_report_shows_every_variant_on_request(run_report):
    status, all_requested, lines = run_report(LINES, "--all")
    assert (status, all_requested) == (0, True)
    assert [line.split()[2] for line in lines[1:5]] == ["32", "64", "40", "24"]
    assert lines[2].endswith("50%          -  a.cu DTYPE=1")
    assert run_report(LINES, "--arch", "sm_80")[1] is True


def test_the_report_names_kernels_that_do_not_compile(run_report):
    status, _, lines = run_report([LINES[3], CompileError("a.cu does not compile for sm_80")])
    assert status == 1
    assert lines[2:] == [
        "",
        PREDICTED,
        "",
        "a.cu does not compile for sm_80",
        "",
        "1 kernels of 3 variants (2 for sm_80, 1 for sm_90a): 0 with spills or local memory, 1 not compiled",
    ]
    status, _, lines = run_report([CompileError("one"), CompileError("other"), LINES[3]])
    assert (status, lines[2:9]) == (1, ["", PREDICTED, "", "one", "", "other", ""])
    assert lines[-1].endswith(": 0 with spills or local memory, 2 not compiled")


def test_an_unknown_occupancy_and_a_missing_prediction_are_reported(run_report, monkeypatch):
    def fail(line):
        raise CompileError("no NVRTC")

    unknown = dataclasses.replace(LINES[3], occupancy=None)
    _, _, lines = run_report([unknown])
    assert lines[1].endswith("       64    unknown    12.3 us")
    monkeypatch.setattr(predict_conv, "of_line", fail)
    messages, reason = kernels._predicted([unknown])
    assert (messages, reason) == ({}, "no times are predicted: no NVRTC")
