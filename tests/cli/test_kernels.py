"""gpuconv kernels: the options of its report."""

from __future__ import annotations

import os

from gpuconv.cli import main
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
    ):
        assert main(["kernels", "--report", "--workers", "3", "--file", "metrics.cu", *arguments]) == 0
        assert received == [(of_metrics, archs, everything), 3]
        received.clear()
    assert capsys.readouterr().out.splitlines()[-1] == "0 kernels of 0 variants (): no spill, no local memory"
    assert main(["kernels", "--report", "--file", "metrics.cu"]) == 0
    assert received[-1] == (os.cpu_count() or 1)
    assert main(["kernels"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].isalpha()]
    assert listed[-len(variants.MACROS) :] == list(variants.MACROS)


def test_kernels_are_compiled_on_all_available_cores(monkeypatch):
    from gpuconv.cli import kernels

    for cores, expected in ((7, 7), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        parser = Parser()
        kernels.configure(parser)
        assert parser.parse_args([]).workers == expected
