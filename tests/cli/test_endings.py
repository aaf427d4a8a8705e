"""How commands end on a signal and after a failing callback, and their exit status."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpuconv import checkpoint
from gpuconv.cli import main, streams
from gpuconv.system.console import SIGNALS
from gpuconv.training import callbacks
from tests.cli.processes import ending_of, gpuconv, wait_for
from tests.cli.small_run import SMALL_BATCHES

# A test ends these runs with a signal: many short epochs, or epochs that take longer than the test.
LONG = [*SMALL_BATCHES, "--epochs", "4000"]
LONG_EPOCH = [*LONG, "--data", "synthetic:n=400000,size=6x6x1,classes=3"]


def expect_saved_within_an_epoch(run):
    """The checkpoint at the start has batch 0, and a later one is saved after an epoch, or because of a signal."""
    state = checkpoint.load(run / "last.safetensors").state
    recorded = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert state["epoch"] == 0
    assert state["batch"] >= recorded[-1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_run_whose_output_has_no_reader_saves_its_step_on_a_signal(tmp_path, number):
    read, write = os.pipe()
    run = gpuconv("train", *LONG_EPOCH, "--run-dir", tmp_path / "run", stdout=write, stderr=write)
    os.close(write)
    wait_for(tmp_path / "run" / "metrics.jsonl")
    os.close(read)
    time.sleep(0.3)
    run.send_signal(number)
    assert run.wait(60) == 128 + number
    expect_saved_within_an_epoch(tmp_path / "run")
    assert not (tmp_path / "run" / "run.lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_several_signals_end_a_run_and_leave_a_checkpoint_that_can_be_loaded(tmp_path, number):
    run = gpuconv("train", *LONG, "--run-dir", tmp_path / "run")
    wait_for(tmp_path / "run" / "metrics.csv")
    run.send_signal(number)
    for _ in range(3):
        run.send_signal(number)
        time.sleep(0.002)
    _, output = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert "Traceback" not in output
    checkpoint.load(tmp_path / "run" / "last.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_before_or_after_the_training_loop_ends_the_command_with_128_plus_its_number(tmp_path, number):
    """The first run gets the signal while it generates its images. The second run gets the signal after its last epoch,
    usually while it draws its pictures."""
    run = gpuconv("train", "--data", "synthetic:n=60000,size=32x32x3", "--model", "seed-net", cwd=tmp_path)
    time.sleep(1.5)
    run.send_signal(number)
    _, output = run.communicate(timeout=60)
    assert (run.returncode, output) == (128 + number, f"\ngpuconv: stopped by {number.name}\n")

    run = gpuconv("train", *SMALL_BATCHES, "--epochs", "2", "--run-dir", tmp_path / "run")
    for line in run.stdout:
        if line.startswith("epoch 2/2"):
            break
    time.sleep(0.15)
    run.send_signal(number)
    _, output = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert output.splitlines()[-1] == f"gpuconv: stopped by {number.name}" or "interrupted after step 32" in output
    assert checkpoint.load(tmp_path / "run" / "last.safetensors").state["epoch"] == 2


@pytest.mark.slow
def test_a_run_whose_terminal_is_lost_is_saved(tmp_path):
    """Closing the terminal sends SIGHUP, and every write to it fails from then on."""
    ours, theirs = pty.openpty()

    def read_until_closed():
        with contextlib.suppress(OSError):
            while os.read(ours, 1000):
                pass

    threading.Thread(target=read_until_closed, daemon=True).start()
    run = gpuconv(
        "train",
        *LONG_EPOCH,
        "--run-dir",
        tmp_path / "run",
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    wait_for(tmp_path / "run" / "metrics.jsonl")
    run.send_signal(signal.SIGHUP)
    os.close(ours)
    assert run.wait(60) == 129
    expect_saved_within_an_epoch(tmp_path / "run")


@pytest.mark.parametrize("broken", ["Curves", "Progress", "JSONLog"])
def test_the_test_accuracy_is_printed_although_a_callback_fails_at_the_end(tmp_path, monkeypatch, capsys, broken):
    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(getattr(callbacks, broken), "on_stop", fail)
    assert main(["train", *SMALL_BATCHES, "--epochs", "1", "--run-dir", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^test accuracy [\d.]+%$", captured.out, re.M)
    assert f"{broken} failed at the end of the run: RuntimeError: broken" in captured.err


def test_main_returns_the_status_given_to_sys_exit_and_prints_a_text_given_to_it(monkeypatch, capsys):
    monkeypatch.setattr(streams, "begin", lambda: None)
    for code, status in ((None, 0), (0, 0), (3, 3), ("it needs another library", 1)):
        monkeypatch.setattr(sys.modules["gpuconv.cli.main"], "_main", lambda _, code=code: sys.exit(code))
        assert main() == status
    assert capsys.readouterr().err == "it needs another library\n"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_command_is_ended_at_once_by_a_signal(number):
    assert ending_of(lambda: signal.raise_signal(number)) == (128 + number, f"\ngpuconv: stopped by {number.name}\n")


def test_a_command_within_another_program_keeps_its_status():
    assert [streams.end(status) for status in (0, 3)] == [0, 3]


def test_ctrl_c_while_numpy_is_imported_ends_a_command_quietly(tmp_path):
    """NumPy reports a KeyboardInterrupt during its import as an ImportError."""
    (tmp_path / "numpy.py").write_text(
        "import signal\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('numpy is broken') from None\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    done = subprocess.run([sys.executable, "-m", "gpuconv", "info"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
