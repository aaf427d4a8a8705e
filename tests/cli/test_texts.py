"""The output of commands, line by line: a table with wrong columns or sums looks as good as a right one."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv.backends.cuda.analysis import predict_conv, resources
from gpuconv.backends.cuda.analysis.variants import Variant
from gpuconv.backends.cuda.gemm import verdicts
from gpuconv.backends.cuda.gemm.verdicts import Verdict
from gpuconv.backends.cuda.ops import conv
from gpuconv.backends.cuda.runtime.nvrtc import CompileError, Resources
from gpuconv.cli import evaluate, info, kernels, main, predict, profile, prove, run_settings
from gpuconv.cli.check import report
from gpuconv.inspect import profile as profile_module
from gpuconv.inspect.profile import Profile, Row
from gpuconv.models import MODELS
from gpuconv.problems import Conv2dProblem, Epilogue
from gpuconv.profiling import peaks
from gpuconv.profiling.work import Ceilings, Work


def test_a_recipe_is_written_in_one_line_without_the_settings_that_are_none():
    assert str(run_settings.with_recipe({})) == (
        "30 epochs, batches of 64, sgd:momentum=0.9,nesterov=true,weight_decay=5e-4 lr 0.05, one-cycle, augment "
        "shift:1, loss softmax:label_smoothing=0.1, float32, seed 0"
    )
    line = str(run_settings.with_recipe({"data": "cifar10:x", "model": "airbench94", "lr": 0.5}, "airbench94"))
    assert line.startswith("8 epochs, batches of 2000, filters -> muon:lr=0.24")
    assert line.endswith("float32, seed 0, whitening filters from 5,000 images, tta mirror+shift")
    assert " lr 0.5, linear, augment alternating-flip,shift:2,reflect, " in line


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


# --- kernels --report, on prepared results -----------------------------------------------------

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
    assert lines[-1].endswith(": 1 spill, 0 do not compile")


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
        "1 kernels of 3 variants (2 for sm_80, 1 for sm_90a): 0 spill, 1 do not compile",
    ]
    status, _, lines = run_report([CompileError("one"), CompileError("other"), LINES[3]])
    assert (status, lines[2:9]) == (1, ["", PREDICTED, "", "one", "", "other", ""])
    assert lines[-1].endswith(": 0 spill, 2 do not compile")


def test_an_unknown_occupancy_and_a_missing_prediction_are_reported(run_report, monkeypatch):
    def fail(line):
        raise CompileError("no NVRTC")

    unknown = dataclasses.replace(LINES[3], occupancy=None)
    _, _, lines = run_report([unknown])
    assert lines[1].endswith("       64    unknown    12.3 us")
    monkeypatch.setattr(predict_conv, "of_line", fail)
    messages, reason = kernels._predicted([unknown])
    assert (messages, reason) == ({}, "no times are predicted: no NVRTC")


# --- parts of other commands --------------------------------------------------------------------


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


def test_a_failed_check_is_a_line_with_its_reason_below(capsys):
    assert report(True, "first loss", "2.3, expected 2.3", "")
    assert not report(False, "first loss", "9, expected 2.3", "why")
    output = capsys.readouterr().out.splitlines()
    assert output == ["PASS  first loss: 2.3, expected 2.3", "FAIL  first loss: 9, expected 2.3", "      why"]


def test_evaluate_prints_a_table_of_classes():
    """A class without images has no accuracy; a class without mistakes names no other class."""
    confusion = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    assert evaluate.table(confusion, ["cat", "a\tdog", "none"]).splitlines() == [
        "class   images   right  accuracy  most often mistaken for",
        "cat          4       3   75.00 %  a\\tdog (1)",
        "a\\tdog       2       2  100.00 %",
        "none         0       0         -",
    ]
    assert confusion[0, 0] == 3
    assert evaluate.table(np.eye(2, dtype=int), ["a", "b"]).splitlines()[1] == "a           1       1  100.00 %"


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


# --- prove, on prepared verdicts ------------------------------------------------------------------

PRODUCT = conv.product_of(
    "fprop",
    Conv2dProblem.of((2, 8, 8, 16), (24, 3, 3, 16)),
    Epilogue.of("relu", 2, True),
    np.dtype(np.float32),
    False,
    4,
    4,
)
PROVED = Verdict(True, "3 runs with the same bits", 0.125, True, "2026-11-29")
REFUTED = Verdict(False, "y has other bits in run 2 than in the first", 1.5, True, "2026-11-29")


@pytest.fixture
def run_prove(monkeypatch, capsys):
    """Runs `gpuconv prove` with prepared verdicts of its algorithms.

    Returns the status and the lines below the heading."""

    def run(prepared, *arguments):
        monkeypatch.setattr(prove, "_products", lambda *settings: [PRODUCT])
        monkeypatch.setattr(verdicts, "prove", lambda product, plan, place: prepared[plan.algorithm.name])
        status = main(["prove", "--device", "emulated", *arguments])
        device, step, *lines = capsys.readouterr().out.splitlines()
        assert device == "device     emulated (as you asked)"
        assert step == "step       tiny-vgg, 128 images, float32: 1 products"
        return status, lines

    return run


def test_prove_prints_each_verdict_and_fails_if_one_is_not_proved(run_prove):
    head = "algorithm            product                                                    seconds  verdict"
    first = (
        "simt-64x64           fprop 2x8x8x16-24x3x3 float32 relu pool mask                  0.12  proved: 3 runs with"
    )
    status, lines = run_prove({"simt-64x64": PROVED}, "--algo", "simt-64x64")
    assert status == 0
    assert lines == ["", head, f"{first} the same bits", "", "all 1 proved on emulated"]
    prepared = {"simt-64x64": PROVED, "simt-32x32": REFUTED}
    status, lines = run_prove(prepared, "--algo", "simt-32x32", "--algo", "simt-64x64")
    assert status == 1
    (refuted,) = [line for line in lines if line.startswith("simt-32x32")]
    assert refuted.endswith("1.50  NOT PROVED: y has other bits in run 2 than in the first")
    assert lines[-1] == "1 of 2 not proved"


def test_prove_says_when_there_is_nothing_to_prove(run_prove):
    assert run_prove({}) == (0, ["all algorithms that serve them are proved"])
    assert run_prove({}, "--algo", "mma-64x64") == (1, ["mma-64x64 serves none of them"])
    status, lines = run_prove({"simt-64x64": PROVED}, "--algo", "simt-64x64", "--algo", "mma-64x64")
    assert (status, lines[0], lines[-1]) == (1, "mma-64x64 serves none of them", "all 1 proved on emulated")


def test_prove_refuses_the_device_numpy(capsys):
    assert main(["prove", "--device", "numpy"]) == 2
    assert capsys.readouterr().err == (
        "gpuconv: error: numpy has no algorithms to prove; --device takes emulated, cuda or cuda:1\n"
    )


# --- profile, of prepared timings ----------------------------------------------------------------

STEP = [Row("conv1", "forward", Work(3e6, 1e6), 0.003), Row("sgd", "", Work(0.0, 2e6), 0.001)]
KERNEL = {"kernel": "conv2d_fprop_mma", "algorithm": "mma-64x32", "launches": 1, "blocks": 12, "threads": 128}
LAUNCHED_TWICE = {"kernel": "sgd_step", "algorithm": None, "launches": 2, "blocks": 3, "threads": 256}
ROOF = Ceilings(2e9, {"float32": 1.5e9})
COLUMNS = "layer                              time  share     MFLOP       MB   GFLOP/s    GB/s  of roof"


def test_the_profile_of_a_device_with_times_shows_rates_and_shares():
    """3 MFLOP in 3 ms are 1 GFLOP/s; at the roof they would take 2 ms, and their 1 MB 0.5 ms."""
    measured = Profile("numpy", "float32", 2, STEP, [])
    assert profile.text(measured, ROOF).splitlines() == [
        COLUMNS,
        "-" * 92,
        "conv1 forward                   3.000ms  75.0%         3        1         1   0.333    66.7%",
        "sgd                             1.000ms  25.0%         -        2         -       2   100.0%",
        "-" * 92,
        "step                            4.000ms 100.0%         3        3      0.75    0.75    50.0%",
        "",
        "roof: copies 2 GB/s, float32 products 1.5 GFLOP/s; on numpy",
        "of roof: the least time at these rates / the time taken; above 100 % where a cache holds the volumes",
    ]
    rows = profile.text(measured, None).splitlines()
    assert rows[2] == "conv1 forward                   3.000ms  75.0%         3        1         1   0.333        -"
    assert rows[-1].startswith("step ")
    unmeasured = profile.text(Profile("numpy", "float64", 2, STEP, []), ROOF).splitlines()
    assert unmeasured[2].endswith(" 16.7%")
    assert unmeasured[-2] == "roof: copies 2 GB/s, float64 products not measured; on numpy"


def test_the_profile_of_the_emulated_device_shows_its_launches():
    proof = "proved 2026-11-29 in 0.12 s: 3 runs"
    kernels = [KERNEL | {"registers": 80, "occupancy": 0.25, "proof": proof}], [LAUNCHED_TWICE]
    rows = [dataclasses.replace(row, seconds=None, launches=launches) for row, launches in zip(STEP, kernels)]
    assert profile.text(Profile("emulated", "float32", 2, rows, [], "sm_80"), None).splitlines() == [
        COLUMNS,
        "-" * 92,
        "conv1 forward                         -      -         3        1         -       -        -",
        "    conv2d_fprop_mma mma-64x32       12 x 128 threads, 80 registers, 25% occupancy",
        f"        {proof}",
        "sgd                                   -      -         -        2         -       -        -",
        "    sgd_step                         2 times 3 x 256 threads",
        "-" * 92,
        "step                                  -      -         3        3         -       -        -",
        "",
        "no times: the emulated device checks kernels and says nothing about their speed",
        "3 launches a step; compiled for sm_80",
    ]
    unknown = profile.text(Profile("emulated", "float32", 2, rows, [], None, "no  NVRTC\nhere"), None)
    assert unknown.splitlines()[-2:] == ["3 launches a step", "registers and occupancy are unknown: no NVRTC here"]


def test_the_options_of_profile_reach_the_library(monkeypatch, capsys):
    received = []

    def prepared_profile(net, batch_size, **options):
        received.append((net.device, net.precision, batch_size, options))
        return Profile(net.device, net.precision, batch_size, STEP, [])

    monkeypatch.setattr(profile_module, "profile", prepared_profile)
    monkeypatch.setattr(peaks, "measure", lambda device, seconds: pytest.fail("not asked for"))

    def run(*arguments):
        assert main(["profile", "--model", "seed-net", "--no-peaks", *arguments]) == 0
        return received.pop(), capsys.readouterr().out

    defaults = {"steps": 10, "fuse": False, "arch": "sm_90a"}
    arguments, output = run("--device", "numpy")
    assert arguments == ("numpy", "float32", 128, defaults)
    assert "seed-net, 128 images, float32" in output
    arguments, output = run("--device", "emulated", "--arch", "SM_80", "--steps", "3", "--precision", "tf32")
    assert arguments == ("emulated", "tf32", 128, {"steps": 3, "fuse": True, "arch": "sm_80"})
    assert "seed-net fused, 128 images, tf32" in output
    assert run("--device", "emulated", "--no-fuse")[0][-1] == defaults
    assert run("--device", "numpy", "--fuse", "--batch-size", "7")[0][2:] == (7, defaults | {"fuse": True})


def test_info_lists_devices_the_cache_and_optional_packages(monkeypatch, capsys, tmp_path):
    from gpuconv import backends
    from gpuconv.backends.cuda import cache

    def version(package):
        if package in ("numpy", "matplotlib"):
            return "1.2.3"
        raise info.metadata.PackageNotFoundError(package)

    def describe(name):
        if name == "numpy":
            return "a  cpu\nof two cores"
        raise backends.DeviceError("none here")

    for entry in ("a", "b"):
        (tmp_path / entry).mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(info.metadata, "version", version)
    monkeypatch.setattr(backends, "describe", describe)
    monkeypatch.setattr(backends, "choose", lambda: ("numpy", "no GPU"))
    monkeypatch.setattr(cache, "directory", lambda: tmp_path)
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("devices") :][:5] == [
        "devices",
        "  numpy         ready: a cpu of two cores",
        "  emulated      not available: none here",
        "  cuda          not available: none here",
        "  auto takes    numpy: no GPU",
    ]
    assert f"  cache         {tmp_path} (compiled files: 2)" in lines
    assert lines[lines.index("optional packages") :] == [
        "optional packages",
        "  matplotlib    1.2.3 (pictures)",
        "  mpi4py        not installed (several processes): python -m pip install 'gpuconv[mpi]'",
        "  pillow        not installed (image files): python -m pip install 'gpuconv[image]'",
        "  requests      not installed (downloads): python -m pip install 'gpuconv[download]'",
        "  cupy-cuda12x  not installed (GPU arrays, CUDA 12): python -m pip install 'gpuconv[cuda12]'",
        "  cupy-cuda13x  not installed (GPU arrays, CUDA 13): python -m pip install 'gpuconv[cuda13]'",
        "  cuda-core     not installed (kernel compiler): python -m pip install 'gpuconv[cuda12]'",
        "  torch         not installed (a peer to compare with): python -m pip install torch",
    ]
    monkeypatch.setattr(cache, "directory", lambda: tmp_path / "none")
    assert main(["info"]) == 0
    assert f"  cache         {tmp_path / 'none'} (compiled files: 0)" in capsys.readouterr().out.splitlines()


def test_only_cores_that_this_process_may_use_are_counted(monkeypatch):
    monkeypatch.setattr(info.os, "sched_getaffinity", {0: {1, 4, 5}}.get, raising=False)
    monkeypatch.setattr(info.os, "cpu_count", lambda: 8)
    assert info._cores() == 3
    monkeypatch.delattr(info.os, "sched_getaffinity")
    assert info._cores() == 8
    monkeypatch.setattr(info.os, "cpu_count", lambda: None)
    assert info._cores() == 1


def test_a_download_prints_its_folder_and_the_next_command(monkeypatch, capsys):
    monkeypatch.setattr("gpuconv.data.cifar10.download", lambda folder: f"{folder}/cifar-10-batches-bin")
    assert main(["data", "cifar10", "--to", "my data"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "CIFAR-10 is in my data/cifar-10-batches-bin",
        "try next:  gpuconv train --data 'cifar10:my data'",
    ]
