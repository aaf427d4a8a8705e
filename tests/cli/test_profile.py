"""gpuconv profile: the table, the trace file, and what it refuses before it starts."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from gpuconv.cli import main, profile
from gpuconv.inspect import profile as profile_module
from gpuconv.inspect.profile import Profile, Row
from gpuconv.profiling import peaks
from gpuconv.profiling.work import Ceilings, Work


@pytest.fixture
def ceilings(monkeypatch):
    monkeypatch.setattr(peaks, "measure", lambda device, seconds: (Ceilings(1e10, {"float32": 1e11}), []))


def profile_output(capsys, *arguments):
    assert main(["profile", "--batch-size", "2", "--steps", "2", *arguments]) == 0
    return capsys.readouterr().out


def test_the_profile_has_times_rates_and_shares_of_the_roof_and_writes_a_trace(capsys, ceilings, tmp_path):
    trace = tmp_path / "step.json"
    output = profile_output(capsys, "--device", "numpy", "--trace", str(trace))
    (row,) = [line for line in output.splitlines() if line.startswith("conv1 forward ")]
    time, percentage, mflop, megabytes, *rates, roof = row.split()[2:]
    assert (time[-2:], percentage[-1], mflop, megabytes, len(rates), roof[-1]) == ("ms", "%", "1.106", "0.108", 2, "%")
    assert 1e-3 * float(mflop) / (1e-3 * float(time[:-2])) == pytest.approx(float(rates[0]), rel=0.05)
    assert "roof: copies 10 GB/s, float32 products 100 GFLOP/s; on numpy" in output
    assert max(map(len, output.replace(str(trace), "").splitlines())) <= 100
    assert json.loads(trace.read_text())["traceEvents"]
    assert [path.name for path in tmp_path.iterdir()] == ["step.json"]


@pytest.mark.kernels
def test_fusion_can_be_switched_on_and_off(capsys):
    assert "relu2 backward" in profile_output(capsys, "--device", "emulated", "--no-fuse")
    assert "conv2+relu2+pool1 backward" in profile_output(capsys, "--device", "numpy", "--fuse", "--no-peaks")


def test_without_measured_peaks_the_table_has_no_roofline(capsys, monkeypatch):
    monkeypatch.setattr(peaks, "measure", lambda *_, **__: pytest.fail("the peaks must not be measured"))
    assert "roof:" not in profile_output(capsys, "--device", "numpy", "--no-peaks")


@pytest.mark.kernels
def test_the_emulated_device_shows_kernels_but_no_times(capsys):
    output = profile_output(capsys, "--device", "emulated", "--precision", "tf32")
    assert "tiny-vgg fused, 2 images, tf32" in output
    assert "conv2+relu2+pool1 backward" in output
    assert "no times: the emulated device checks kernels" in output
    assert re.search(r"^    conv2d_fprop_mma +mma-\d+x\d+ +\d+ x \d+ threads", output, re.M)
    assert re.search(r"^    sgd_step +\d+ x 256 threads", output, re.M)
    assert "launches a step" in output
    assert max(map(len, output.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "tiny-vg"], "did you mean 'tiny-vgg'"),
        (["--precision", "float31"], "did you mean 'float32'"),
        (["--arch", "sm_99", "--device", "emulated"], "unknown architecture 'sm_99'"),
        (["--arch", "sm_80", "--device", "numpy"], "--arch is for the emulated device"),
        (["--trace", "nowhere/step.json"], "--trace nowhere/step.json: the folder to put it in does not exist"),
        (["--trace", "."], "--trace . must be a file, and is a folder"),
        (["--trace", "step.json", "--device", "emulated"], "has no times to trace"),
        (["--batch-size", "0"], "of at least 1, received '0'"),
        (["--device", "cuda:99"], "cuda"),
    ],
)
def test_a_wrong_argument_gives_an_error_of_one_line_and_writes_nothing(
    capsys, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["profile", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpuconv: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused_before_a_device_is_chosen(capsys):
    for wrong in (
        ["--model", "tiny-vg"],
        ["--precision", "float8"],
        ["--arch", "sm_1"],
        ["--trace", "nowhere/x"],
        ["--trace", "/"],
    ):
        assert main(["profile", *wrong]) == 2
        assert capsys.readouterr().out == ""


def test_profile_prints_its_settings_and_files_around_the_table(monkeypatch, capsys, tmp_path):
    measured = []

    def measure(device, seconds):
        measured.append((device, seconds))
        return Ceilings(2e9, {"float32": 1.5e9}), ["more"]

    def prepared_profile(net, batch_size, **options):
        timeline = [] if net.device == "emulated" else [("conv1", 0.0, 1.0)]
        rows = [Row("conv1", "forward", Work(3e6, 1e6), 0.003)]
        monkeypatch.setattr(Profile, "trace", lambda self: b"a trace")
        return Profile(net.device, net.precision, batch_size, rows, timeline)

    monkeypatch.setattr(profile_module, "profile", prepared_profile)
    monkeypatch.setattr(peaks, "measure", measure)
    monkeypatch.chdir(tmp_path)
    assert main(["profile", "--device", "numpy", "--trace", "step.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["device     numpy (as you asked)", "step       tiny-vgg, 128 images, float32", ""]
    assert "roof: copies 2 GB/s, float32 products 1.5 GFLOP/s; on numpy" in lines
    assert lines[-2:] == ["", "trace      step.json (open it in ui.perfetto.dev or chrome://tracing)"]
    assert (tmp_path / "step.json").read_bytes() == b"a trace"
    assert measured == [("numpy", 0.1)]
    assert main(["profile", "--device", "emulated"]) == 0  # this device has no times, so no peak is measured
    assert measured == [("numpy", 0.1)]


# --- the table, of prepared timings --------------------------------------------------------------

STEP = [Row("conv1", "forward", Work(3e6, 1e6), 0.003), Row("sgd", "", Work(0.0, 2e6), 0.001)]
KERNEL = {"kernel": "conv2d_fprop_mma", "algorithm": "mma-64x32", "launches": 1, "blocks": 12, "threads": 128}
LAUNCHED_TWICE = {"kernel": "sgd_step", "algorithm": None, "launches": 2, "blocks": 3, "threads": 256}
ROOF = Ceilings(2e9, {"float32": 1.5e9})
COLUMNS = "layer                              time  share     MFLOP       MB   GFLOP/s    GB/s  of roof"


def test_the_profile_of_a_device_with_times_shows_rates_and_shares():
    """3 MFLOP in 3 ms are 1 GFLOP/s. At the rates of the roof, 3 MFLOP take 2 ms, and moving 1 MB takes 0.5 ms."""
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
    monkeypatch.setattr(peaks, "measure", lambda device, seconds: pytest.fail("the peaks must not be measured"))

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
