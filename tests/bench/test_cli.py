"""The benchmark's command line: its records, Ctrl-C, and a user's mistakes, which give one line and status 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from bench import cli, fit_model, report, runner
from gpuconv.backends.cpu import blas, parallel
from gpuconv.profiling import peaks
from tests.bench.fake_sides import CEILINGS, record, side, timed

SMALL = ["ops", "--device", "numpy", "--shape", "64x8x8x10-10x3x3-p1.1.1.1", "--op", "fprop", "--rounds", "2"]


@pytest.fixture
def quick_peaks(monkeypatch):
    monkeypatch.setattr(peaks, "measure", lambda device: (CEILINGS, [{"what": "copy", "rate": 1e10}]))


def test_ops_writes_a_record(tmp_path, capsys, quick_peaks):
    assert cli.main([*SMALL, "--results", str(tmp_path), "--commit", "abc"]) == 0
    (path,) = tmp_path.glob("*/*.json")
    data = json.loads(path.read_text())
    assert data["commit"] == "abc"
    assert data["peaks"]["copy"] == 1e10
    assert data["blas"] == blas.kernels()
    assert [entry["op"] for entry in data["entries"]] == ["fprop"]
    assert "fprop 64x8x8x10-10x3x3-p1.1.1.1 float32" in capsys.readouterr().out


def test_the_option_threads_limits_the_threads_of_numpy(tmp_path, quick_peaks, monkeypatch):
    if not blas.libraries():
        pytest.skip("nothing tells the number of BLAS's threads")
    before, seen = parallel.threads(), []
    monkeypatch.setattr(cli, "_run", lambda *arguments: seen.append(parallel.threads()) or [])
    assert cli.main([*SMALL, "--threads", str(before + 1), "--results", str(tmp_path), "--commit", "abc"]) == 0
    assert seen == [before + 1]
    assert parallel.threads() == before


def test_on_request_only_entries_that_the_record_lacks_are_timed(tmp_path, capsys, quick_peaks):
    record_options = ["--results", str(tmp_path), "--commit", "abc"]
    assert cli.main([*SMALL, *record_options]) == 0
    (path,) = tmp_path.glob("*/*.json")
    first = json.loads(path.read_text())["entries"]
    assert cli.main([*SMALL, "--op", "fprop_relu", "--missing", *record_options]) == 0
    assert "entries missing in the record: 1\n" in capsys.readouterr().out
    entries = json.loads(path.read_text())["entries"]
    assert [entry["op"] for entry in entries] == ["fprop", "fprop_relu"]
    assert entries[0] == first[0]
    assert cli.main([*SMALL, "--missing", *record_options]) == 0
    assert "entries missing in the record: 0\n" in capsys.readouterr().out


def test_ctrl_c_leaves_a_valid_file_and_status_130(tmp_path, capsys, quick_peaks, monkeypatch):
    timed_before = []

    def interrupted(*arguments, **options):
        if timed_before:
            raise KeyboardInterrupt
        timed_before.append(1)
        return time_entry(*arguments, **options)

    time_entry = runner.time_entry
    monkeypatch.setattr(runner, "time_entry", interrupted)
    assert cli.main([*SMALL, "--op", "dgrad", "--results", str(tmp_path), "--commit", "abc"]) == 130
    (path,) = tmp_path.glob("*/*.json")
    data = json.loads(path.read_text())
    assert [entry["op"] for entry in data["entries"]] == ["fprop"]
    assert data["not reached"] == ["dgrad 64x8x8x10-10x3x3-p1.1.1.1 float32"]
    assert capsys.readouterr().err == "\nstopped; what was timed is in the record\n"


def test_ctrl_c_in_a_command_without_a_record_does_not_speak_of_one(capsys, monkeypatch):
    def interrupted(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write", interrupted)
    assert cli.main(["report"]) == 130
    assert capsys.readouterr().err == "\nstopped\n"


@pytest.mark.parametrize(("device", "threads"), [("numpy", 2), ("cuda", 48), ("CUDA:1", 48), ("cpu", 2)])
def test_the_default_threads_are_all_available_cores_for_a_gpu_and_two_for_numpy(device, threads, monkeypatch):
    monkeypatch.setattr(cli, "available_cores", lambda: 48)
    assert cli.default_threads(device) == threads


def test_a_wrong_result_of_gpuconv_gives_status_1(tmp_path, capsys, quick_peaks, monkeypatch):
    from bench import our_side

    correct_sides = our_side.sides

    def sides(call, arrays, device):
        return correct_sides(call, [2 * a for a in arrays], device)

    monkeypatch.setattr(our_side, "sides", sides)
    assert cli.main([*SMALL, "--results", str(tmp_path), "--commit", "abc"]) == 1
    assert "wrong and not timed: fprop 64x8x8x10" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ops", "--device", "cuda:99"], "cuda|CUDA|CuPy|NVIDIA"),
        (["ops", "--device", "emulated"], "says nothing about their speed"),
        (["ops", "--device", "nump"], "did you mean 'numpy'"),
        (["ops", "--device", "numpy", "--op", "fprob"], "did you mean 'fprop'"),
        (["steps", "--device", "numpy", "--shape", "tiny-vgg-n63"], "did you mean 'tiny-vgg-n64'"),
        (["ops", "--device", "numpy", "--rounds", "1"], "--rounds must be at least 2"),
        (["ops", "--device", "numpy", "--threads", "0"], "--threads must be at least 1"),
        (["ops", "--device", "numpy", "--minutes", "nan"], "--minutes must be above 0, received nan"),
        (["steps", "--device", "numpy", "--minutes", "-1"], "--minutes must be above 0, received -1"),
        (["ops", "--device", "numpy", "--dtype", "float16"], "no entry of the suite passes these filters"),
        (["compare", "nowhere.json", "nowhere.json"], "nowhere.json: No such file"),
    ],
)
def test_bad_input_gives_an_error_of_one_line(tmp_path, capsys, arguments, message):
    options = [] if arguments[0] == "compare" else ["--results", str(tmp_path), "--commit", "abc"]
    assert cli.main([*arguments, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench: error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not list(tmp_path.iterdir())


def test_a_record_of_another_version_gives_an_error_of_one_line(tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text('{"schema": 0}')
    assert cli.main(["compare", str(path), str(path)]) == 2
    error = capsys.readouterr().err
    assert "has schema 0, but this version reads 1" in error
    assert error.count("\n") == 1


def test_compare_counts_entries_that_got_slower(tmp_path, capsys):
    a, b = record(tmp_path / "a"), record(tmp_path / "b")
    timed(a, side(seconds=3e-4), rounds=8)
    timed(b, side(seconds=3e-3), rounds=8)
    assert cli.main(["compare", str(a.path), str(b.path)]) == 0
    assert "0 faster, 1 slower, 0 within the noise" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["report", "fit"])
def test_a_folder_of_records_that_does_not_exist_is_refused_before_a_file_is_rewritten(command, capsys, monkeypatch):
    for module, name in ((report, "write"), (fit_model, "refit")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a file is rewritten"))
    assert cli.main([command, "--results", "nowhere"]) == 2
    assert capsys.readouterr().err == "bench: error: nowhere is not a folder of records\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--results", "nowhere"], "nowhere is not a folder of records"),
        (["--nvrtc", "."], "holds no libnvrtc-builtins"),
        (["--gpu", "h300"], "unknown GPU 'h300'; did you mean 'h"),
        (["--shape", "vg"], "did you mean 'vgg'"),
    ],
    ids=["results", "nvrtc", "gpu", "shape"],
)
def test_predict_refuses_bad_options_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["predict", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_closed_pipe_ends_the_command_quietly():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "bench", "predict", "--shape", "vgg", "--op", "fprop"]
    with open(write, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
