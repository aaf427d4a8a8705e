"""gpuconv profile: the table, the trace file, and what it refuses before it starts."""

from __future__ import annotations

import json
import re

import pytest

from gpuconv.cli import main
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
    monkeypatch.setattr(peaks, "measure", lambda *_, **__: pytest.fail("not asked for"))
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
        (["--trace", "nowhere/step.json"], "nowhere: no such folder"),
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
    for wrong in (["--model", "tiny-vg"], ["--precision", "float8"], ["--arch", "sm_1"], ["--trace", "nowhere/x"]):
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
    assert main(["profile", "--device", "emulated"]) == 0  # it has no times, so nothing is measured
    assert measured == [("numpy", 0.1)]
