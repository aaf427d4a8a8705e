"""Concurrent runs, and how a run ends: by signals, without a reader, without a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import traceback

import pytest

from gpuconv.cli import main, process
from gpuconv.console import SIGNALS
from gpuconv.locks import LockFile
from gpuconv.notices import Notice
from gpuconv.training import Callback, CheckpointError, callbacks, checkpoint
from gpuconv.training.interrupts import Interrupts
from tests.cli.small_run import TINY_RUN, train
from tests.training import toy_run

DATA = "synthetic:n=64,size=6x6x1,classes=3"
TINY = ["--data", DATA, "--model", "seed-net", "--batch-size", "4", "--device", "numpy"]
LONG = ["--epochs", "4000"]  # ended by a signal


def gpuconv(*arguments, **options):
    """A process of the command line with its output on pipes, unless `options` say otherwise."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-m", "gpuconv", *map(str, arguments)], text=True, **pipes)


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists(), f"no {path} after {seconds} s"


# --- several runs ------------------------------------------------------------------------------


def test_a_folder_in_use_by_another_process_is_refused_by_name(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    lock = LockFile(run / "run.lock")
    assert main(["train", *TINY, "--epochs", "1", "--run-dir", str(run)]) == 2
    output = capsys.readouterr().err
    assert re.fullmatch(
        rf"gpuconv: error: {run} is being written by process {os.getpid()} on \S+ since [^\n]+\n", output
    )
    assert [path.name for path in run.iterdir()] == ["run.lock"]
    lock.release()
    assert main(["train", *TINY, "--epochs", "1", "--run-dir", str(run)]) == 0
    assert not (run / "run.lock").exists()
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    lock = LockFile(run / "run.lock")
    assert main(["train", "--resume", str(run)]) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert main(["evaluate", str(run)]) == 0  # readers are not blocked
    lock.release()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_fit_holds_its_folder_until_it_returns_or_fails(tmp_path):
    class SecondWriter(Callback):
        """Tries to start and to resume the run that it watches."""

        def on_epoch(self, trainer, record):
            for resume in (False, True):
                with pytest.raises(CheckpointError, match=f"is being written by process {os.getpid()}"):
                    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", resume=resume)
            if trainer.epoch == 2:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[SecondWriter()])
    assert not (tmp_path / "run" / "run.lock").exists()
    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", resume=True)


def test_a_file_system_without_locks_gives_a_warning_and_is_used(tmp_path, monkeypatch):
    from gpuconv import locks

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.warns(Notice, match="this file system has no locks"):
        toy_run.fit(toy_run.trainer(), epochs=1, run_dir=tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "last.safetensors").state["epoch"] == 1


def test_a_run_skips_numbers_in_use_and_a_refused_run_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bad = ["train", "--data", "synthetic:n=66,size=4x4x3", "--model", "resnet20", "--batch-size", "5"]
    assert main(bad) == 2
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs" / "synthetic-seed-net-1").mkdir(parents=True)
    (tmp_path / "runs" / "synthetic-seed-net-2").write_text("a file")
    (tmp_path / "runs" / "synthetic-seed-net-3").symlink_to("nowhere")
    assert main(["train", *TINY, "--epochs", "1"]) == 0
    assert (tmp_path / "runs" / "synthetic-seed-net-4" / "last.safetensors").exists()
    assert os.listdir(tmp_path / "runs" / "synthetic-seed-net-1") == []


@pytest.mark.slow
def test_runs_started_at_once_get_separate_folders_and_only_one_gets_a_named_folder(tmp_path):
    runs = [gpuconv("train", *TINY, "--epochs", "2", "--seed", seed, cwd=tmp_path) for seed in range(5)]
    assert [run.communicate(timeout=120)[1] for run in runs] == [""] * 5
    assert [run.returncode for run in runs] == [0] * 5
    folders = sorted((tmp_path / "runs").iterdir())
    assert [folder.name for folder in folders] == [f"synthetic-seed-net-{number}" for number in range(1, 6)]
    seeds = [checkpoint.load(folder / "last.safetensors").state["settings"]["seed"] for folder in folders]
    assert sorted(seeds) == list(range(5))
    for arguments in (["--run-dir", "one", *TINY, "--epochs", "300"], ["--resume", "one"]):
        pair = [gpuconv("train", *arguments, cwd=tmp_path) for _ in range(2)]
        endings = sorted((run.wait(120), run.communicate()[1]) for run in pair)
        assert endings[0] == (0, "")
        assert endings[1][0] == 2 or arguments[0] == "--resume"  # the second may resume after the first has ended
        message = r"gpuconv: error: one (is being written by process \d+ on|already holds a run).*\n"
        assert endings[1][0] == 0 or re.fullmatch(message, endings[1][1])
        assert not (tmp_path / "one" / "run.lock").exists()


# --- signals -----------------------------------------------------------------------------------


def test_further_signals_go_to_the_previous_handler_even_during_the_first(monkeypatch):
    """The second may come while the first is being handled, or while the handlers are being set."""
    from gpuconv.training import interrupts as module

    aborted = []
    before = {number: signal.signal(number, lambda received, frame: aborted.append(received)) for number in SIGNALS}
    try:
        monkeypatch.setattr(module, "say_in_handler", lambda text: signal.raise_signal(signal.SIGTERM))
        with Interrupts("never") as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert aborted == [signal.SIGTERM]
            signal.raise_signal(signal.SIGINT)
            assert aborted == [signal.SIGTERM, signal.SIGINT]
            assert interrupts.requested == signal.SIGINT
            interrupts.serve()
        assert aborted == [signal.SIGTERM, signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_ignored_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts("never") as interrupts:
            signal.raise_signal(signal.SIGHUP)
        assert interrupts.requested is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_after_the_last_step_is_not_lost(tmp_path):
    class SignalAtTheEnd(Callback):
        def on_stop(self, trainer, reason):
            signal.raise_signal(signal.SIGINT)

    trainer = toy_run.trainer()
    with pytest.raises(KeyboardInterrupt):
        toy_run.fit(trainer, run_dir=tmp_path / "run", callbacks=[SignalAtTheEnd()])
    assert trainer.stop_reason == "finished"
    assert checkpoint.load(tmp_path / "run" / "last.safetensors").state["epoch"] == 3
    assert not (tmp_path / "run" / "run.lock").exists()


def test_writing_into_a_full_closed_or_missing_stderr_neither_blocks_nor_raises(monkeypatch):
    from gpuconv.console import say, say_in_handler

    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(1000):
            os.write(write, b"x" * 65536)  # until the pipe is full
    os.set_blocking(write, True)
    with open(write, "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        say_in_handler("nobody")
        os.close(read)
        say_in_handler("nobody")
        say("nobody")
        monkeypatch.setattr(sys, "stderr", None)
        say_in_handler("nobody")
        say("nobody")
        monkeypatch.undo()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), write)  # takes the data that `full` still holds


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_run_without_a_reader_saves_its_step_on_a_signal(tmp_path, number):
    read, write = os.pipe()
    run = gpuconv("train", *TINY, *LONG, "--run-dir", tmp_path / "run", stdout=write, stderr=write)
    os.close(write)
    wait_for(tmp_path / "run" / "metrics.csv")
    os.close(read)
    time.sleep(0.3)
    run.send_signal(number)
    assert run.wait(60) == 128 + number
    state = checkpoint.load(tmp_path / "run" / "last.safetensors").state
    assert state["epoch"] * 16 + state["batch"] > 0
    assert not (tmp_path / "run" / "run.lock").exists()
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == state["epoch"] + 1


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_and_gives_the_same_bytes(tmp_path):
    run = tmp_path / "my run"
    process = gpuconv("train", *TINY_RUN, "--epochs", 60, "--run-dir", run)
    wait_for(run / "metrics.jsonl")
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"gpuconv train --resume '{run}'" in output
    assert "Traceback" not in output
    assert main(["train", "--resume", str(run), "--device", "numpy"]) == 0
    assert train("--epochs", 60, "--run-dir", tmp_path / "uninterrupted") == 0
    resumed, uninterrupted = (folder / "last.safetensors" for folder in (run, tmp_path / "uninterrupted"))
    assert resumed.read_bytes() == uninterrupted.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_second_signal_ends_the_run_at_once_and_leaves_the_last_checkpoint(tmp_path, number):
    run = gpuconv("train", *TINY, *LONG, "--run-dir", tmp_path / "run")
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
def test_a_signal_before_or_after_the_training_loop_prints_one_line(tmp_path, number):
    """Before: while nine million pixels are generated. After: while the pictures are drawn."""
    run = gpuconv("train", "--data", "synthetic:n=60000,size=32x32x3", "--model", "seed-net", cwd=tmp_path)
    time.sleep(1.5)
    run.send_signal(number)
    _, output = run.communicate(timeout=60)
    assert (run.returncode, output) == (128 + number, f"\ngpuconv: stopped by {number.name}\n")

    run = gpuconv("train", *TINY, "--epochs", "2", "--run-dir", tmp_path / "run")
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
def test_a_lost_terminal_saves_the_run(tmp_path):
    """Closing the terminal sends SIGHUP, and every write to it fails from then on."""
    ours, theirs = pty.openpty()
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: _read(ours), b"")], daemon=True)
    reader.start()
    run = gpuconv(
        "train",
        *TINY,
        *LONG,
        "--run-dir",
        tmp_path / "run",
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    wait_for(tmp_path / "run" / "metrics.csv")
    run.send_signal(signal.SIGHUP)
    os.close(ours)
    assert run.wait(60) == 129
    checkpoint.load(tmp_path / "run" / "last.safetensors")


def _read(handle):
    try:
        return os.read(handle, 1000)
    except OSError:
        return b""


# --- failing output, and the work after training -----------------------------------------------


class BrokenPipe(io.StringIO):
    """A stream whose reader is gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_run_is_complete_although_its_output_fails(tmp_path, monkeypatch):
    for number, stream in enumerate([BrokenPipe(), None]):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        try:
            trainer = toy_run.trainer()
            toy_run.fit(trainer, run_dir=tmp_path / f"{number}", progress=True)
        finally:
            monkeypatch.undo()
        assert (trainer.stop_reason, trainer.epoch) == ("finished", 3)


def test_a_command_whose_reader_is_gone_ends_quietly(tmp_path, monkeypatch, capsys):
    with open(tmp_path / "out", "w") as file:
        stream = BrokenPipe()
        stream.fileno = file.fileno
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["kernels", "--file", "metrics.cu"]) == 0
        assert os.path.samestat(os.fstat(file.fileno()), os.stat(os.devnull))  # further output is dropped
    assert capsys.readouterr().err == ""


def test_a_callback_that_fails_at_the_end_does_not_stop_the_others(tmp_path):
    reasons = []

    class FailingCallback(Callback):
        def on_stop(self, trainer, reason):
            raise RuntimeError("broken")

    class NextCallback(Callback):
        def on_stop(self, trainer, reason):
            reasons.append(reason)

    with pytest.warns(Notice, match="FailingCallback failed at the end of the run: RuntimeError: broken"):
        assert (
            len(toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[FailingCallback(), NextCallback()]))
            == 3
        )
    assert reasons == ["finished"]


def test_a_run_that_cannot_be_saved_at_its_end_raises_after_all_callbacks_ran(tmp_path, monkeypatch):
    reasons = []

    class StopWhenSavingFails(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 2:
                monkeypatch.setattr(callbacks, "save", refuse)
                trainer.stop("for now")

        def on_stop(self, trainer, reason):
            reasons.append(reason)

    def refuse(*_):
        raise CheckpointError("cannot write last.safetensors: No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[StopWhenSavingFails()])
    assert reasons == ["for now"]


@pytest.mark.parametrize("broken", ["Curves", "Progress", "JSONLog"])
def test_the_test_accuracy_is_printed_although_a_callback_fails_at_the_end(tmp_path, monkeypatch, capsys, broken):
    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(getattr(callbacks, broken), "on_stop", fail)
    assert main(["train", *TINY, "--epochs", "1", "--run-dir", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^test accuracy [\d.]+%$", captured.out, re.M)
    assert f"{broken} failed at the end of the run: RuntimeError: broken" in captured.err


def ending_of(work, status=0, prepare=lambda: None):
    """The exit status and stderr of a process that starts, works and ends as a command does."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(write, 2)
            prepare()
            process.begin()
            work()
            os._exit(process.end(status))
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(99)
    os.close(write)
    with open(read) as pipe:
        output = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output


def redirected(number, path):
    """A function that opens the file for writing as the file descriptor of this number."""
    return lambda: os.dup2(os.open(path, os.O_WRONLY), number)


def test_lost_output_changes_the_exit_status(tmp_path):
    lost = "gpuconv: error: standard output: No space left on device\n"
    full, kept = redirected(1, "/dev/full"), tmp_path / "kept"
    assert ending_of(lambda: print("x"), 0, full) == (2, lost)
    assert ending_of(lambda: print("x"), 1, full) == (1, "")
    assert ending_of(lambda: None, 0, full) == (0, "")
    code, output = ending_of(lambda: print("x", flush=True), 0, full)
    assert (code, "OSError: [Errno 28] No space left on device: 'standard output'" in output) == (99, True)
    assert ending_of(lambda: (process.tolerate_lost_stdout(), print("x", flush=True), print("y")), 0, full) == (2, lost)

    def keep_no_handle():
        process.tolerate_lost_stdout()
        before = os.listdir("/proc/self/fd")
        print("x", flush=True)
        assert os.listdir("/proc/self/fd") == before

    assert ending_of(keep_no_handle, 0, full) == (2, lost)

    def without_a_reader():
        read, write = os.pipe()
        os.dup2(write, 1)
        os.close(write)
        os.close(read)

    assert ending_of(
        lambda: (process.tolerate_lost_stdout(), print("x", flush=True), print("y")), 0, without_a_reader
    ) == (0, "")
    assert ending_of(lambda: print("x"), 1, without_a_reader) == (1, "")
    kept.touch()
    assert ending_of(lambda: print("x"), 3, redirected(1, kept)) == (3, "")
    assert kept.read_text() == "x\n"


def test_writing_waits_for_a_full_nonblocking_pipe():
    """Another process that shares the pipe may have made it non-blocking."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    received = []

    def collect():
        time.sleep(0.05)
        with open(read, "rb") as pipe:
            received.append(pipe.read())

    reader = threading.Thread(target=collect)
    reader.start()
    text = "x" * 300_000
    assert ending_of(lambda: print(text), 0, lambda: os.dup2(write, 1)) == (0, "")
    os.close(write)
    reader.join(20)
    assert received == [text.encode() + b"\n"]


def test_stderr_is_buffered_by_lines_and_stdout_only_on_a_terminal(tmp_path):
    """Closing sys.stdout does not free its file descriptor."""

    def work(line_buffered):
        assert (sys.stdout.line_buffering, sys.stderr.line_buffering) == (line_buffered, True)
        sys.stdout.close()
        os.fstat(1)
        sys.stdout = io.StringIO()

    (tmp_path / "out").touch()
    assert ending_of(lambda: work(False), 0, redirected(1, tmp_path / "out")) == (0, "")
    ours, theirs = pty.openpty()
    assert ending_of(lambda: work(True), 0, lambda: os.dup2(theirs, 1)) == (0, "")
    os.close(ours), os.close(theirs)


def test_files_do_not_get_the_descriptors_of_closed_streams(tmp_path):
    def close():
        os.close(0), os.close(1)

    def work():
        print("lost")
        with open(tmp_path / "file", "w") as file:
            assert file.fileno() > 2
            file.write("kept")

    assert ending_of(work, 0, close) == (0, "")
    assert (tmp_path / "file").read_text() == "kept"

    def without_objects():  # Python sets sys.stdin and sys.stdout to None if their files were closed before it started
        close()
        sys.stdin = sys.stdout = None

    def inherited():
        print("lost")
        assert os.get_inheritable(0)
        assert os.get_inheritable(1)
        assert subprocess.run(["cat"], timeout=10).returncode == 0

    assert ending_of(inherited, 0, without_objects) == (0, "")


def test_a_failing_stderr_does_not_end_a_run(tmp_path):
    assert ending_of(
        lambda: (print("x", file=sys.stderr), print("y", file=sys.stderr)), 4, redirected(2, "/dev/full")
    ) == (4, "")


def test_characters_that_a_stream_cannot_encode_are_replaced_or_escaped(tmp_path):
    def prepare():
        redirected(1, tmp_path / "out")()
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "wb", closefd=False), "ascii")
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "wb", closefd=False), "ascii")

    (tmp_path / "out").touch()
    assert ending_of(lambda: (print("\u2588"), print("\u2588", file=sys.stderr)), 0, prepare) == (0, "\\u2588\n")
    assert (tmp_path / "out").read_text() == "?\n"

    def with_an_error_handler_of_the_user():
        redirected(1, tmp_path / "out")()
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "wb", closefd=False), "ascii", "xmlcharrefreplace")

    assert ending_of(lambda: print("\u2588"), 0, with_an_error_handler_of_the_user) == (0, "")
    assert (tmp_path / "out").read_text() == "&#9608;\n"


def test_main_returns_the_status_given_to_sys_exit(monkeypatch):
    monkeypatch.setattr(process, "begin", lambda: None)
    for code, status in ((None, 0), (0, 0), (3, 3)):
        monkeypatch.setattr(sys.modules["gpuconv.cli.main"], "_main", lambda _, code=code: sys.exit(code))
        assert main() == status


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_command_is_ended_at_once_by_a_signal(number):
    assert ending_of(lambda: signal.raise_signal(number)) == (128 + number, f"\ngpuconv: stopped by {number.name}\n")


@pytest.mark.slow
def test_a_run_is_complete_with_closed_and_full_streams_and_without_a_reader(tmp_path):
    """The exit status shows whether output was lost, and there is no traceback."""
    command = f"{sys.executable} -m gpuconv"
    train = f"{command} train {' '.join(TINY)} --epochs 2 --run-dir"
    endings = {
        f"{train} 0 > /dev/full": (2, "gpuconv: error: standard output: No space left on device\n"),
        f"{train} 1 2> /dev/full": (0, ""),
        f"{train} 2 2>&-": (0, ""),
        f"{train} 3 >&- 2>&-": (0, ""),
        f"{train} 4 <&- >&- 2>&-": (0, ""),
        f"{train} 5 | true": (0, ""),
        f"{train} 6 2>&1 | head -n 1 > /dev/null": (0, ""),
        f"{command} evaluate 0 > /dev/full": (2, "gpuconv: error: standard output: No space left on device\n"),
        f"{command} evaluate 0 | true": (0, ""),
        f"{command} train --help > /dev/full": (2, "gpuconv: error: standard output: No space left on device\n"),
        f"{command} --help | true": (0, ""),
    }
    for line, (status, error) in endings.items():
        shell = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
        done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (status, error), line
    for number in range(7):
        assert checkpoint.load(tmp_path / f"{number}" / "last.safetensors").state["epoch"] == 2
        assert (tmp_path / f"{number}" / "activations.png").exists()
        assert (tmp_path / f"{number}" / "run.json").read_bytes().startswith(b"{")


def test_a_command_within_another_program_keeps_its_status(capsys):
    assert [process.end(status) for status in (0, 3)] == [0, 3]


def test_a_second_signal_kills_a_process_that_had_no_handler_for_it():

    def raise_repeatedly(handler):
        signal.signal(signal.SIGTERM, handler)
        with Interrupts("never") as interrupts:
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            interrupts.serve()

    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        raise_repeatedly(signal.SIG_DFL)
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
