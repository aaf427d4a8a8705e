"""stdout and stderr that are full, closed, without a reader, or of another encoding."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
import time

import pytest

from gpuconv import checkpoint
from gpuconv.cli import main, streams
from gpuconv.cli.check import report
from gpuconv.cli.errors import user_errors
from gpuconv.cli.output_lines import print_line
from gpuconv.system.console import say
from tests import toy_run
from tests.cli.processes import ending_of
from tests.cli.small_run import SMALL_BATCHES


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

    def print_and_tolerate_the_loss():
        streams.tolerate_lost_stdout()
        print("x", flush=True)
        print("y")

    assert ending_of(print_and_tolerate_the_loss, 0, full) == (2, lost)

    def keep_no_handle():
        streams.tolerate_lost_stdout()
        before = os.listdir("/proc/self/fd")
        print("x", flush=True)
        assert os.listdir("/proc/self/fd") == before

    assert ending_of(keep_no_handle, 0, full) == (2, lost)

    def without_a_reader():
        read, write = os.pipe()
        os.dup2(write, 1)
        os.close(write)
        os.close(read)

    assert ending_of(print_and_tolerate_the_loss, 0, without_a_reader) == (0, "")
    assert ending_of(lambda: print("x"), 1, without_a_reader) == (1, "")
    kept.touch()
    assert ending_of(lambda: print("x"), 3, redirected(1, kept)) == (3, "")
    assert kept.read_text() == "x\n"


def test_a_closed_pipe_is_not_reported_as_an_error_of_the_users_files(monkeypatch):
    monkeypatch.setattr("sys.stdout", BrokenPipe())
    with pytest.raises(BrokenPipeError), user_errors():
        print("x", flush=True)


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


def test_a_failing_stderr_does_not_end_a_command():
    def print_errors():
        print("x", file=sys.stderr)
        print("y", file=sys.stderr)

    assert ending_of(print_errors, 4, redirected(2, "/dev/full")) == (4, "")


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


@pytest.mark.slow
def test_a_run_is_complete_with_closed_and_full_streams_and_without_a_reader(tmp_path):
    """Only a full standard output changes the exit status, and there is never a traceback."""
    command = f"{sys.executable} -m gpuconv"
    train = f"{command} train {' '.join(SMALL_BATCHES)} --epochs 2 --run-dir"
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


class RecordsFlushes(io.StringIO):
    """At each flush, records all the text written so far."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def flush(self):
        self.shown.append(self.getvalue())


def test_output_into_a_pipe_is_flushed_line_by_line(monkeypatch):
    """Each line is seen at once, because the next one may take minutes."""
    for write, text in (
        (lambda: print_line("run", "x"), "run        x\n"),
        (lambda: say("x", "stdout"), "x\n"),
        (lambda: report(True, "one", "2", ""), "PASS  one: 2\n"),
    ):
        stream = RecordsFlushes()
        monkeypatch.setattr(sys, "stdout", stream)
        write()
        monkeypatch.undo()
        assert stream.shown == [text]
