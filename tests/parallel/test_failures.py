"""A rank that fails, hangs, is suspended or dies: all ranks end, an error names it, and the run can be resumed."""

import os
import re
import signal
import subprocess

import pytest

from gpuconv import checkpoint
from tests.parallel import mpiexec
from tests.parallel.runs import PROGRAM, TINY, files, run_program

pytestmark = pytest.mark.slow

RANK_1 = r"ParallelError: rank 1 \(process \d+ on [^)]+\)"
MESSAGES = {  # the fault of rank 1 and what is printed
    "fails": f"{RANK_1} failed: OSError: the disk is on fire",
    "hangs": f"{RANK_1} did not answer within 3 s",
    "is suspended": f"{RANK_1} did not answer within 3 s",
    "dies": r"PID \d+ RUNNING AT",  # mpiexec ends the others
}


@pytest.mark.parametrize("how", MESSAGES)
def test_all_ranks_end_and_the_run_can_be_resumed(tmp_path, how):
    folder, uninterrupted = tmp_path / "run", tmp_path / "uninterrupted"
    done = mpiexec.run(2, PROGRAM, how, folder, 4, timeout=30)
    assert done.returncode
    assert re.search(MESSAGES[how], done.stderr + done.stdout)
    checkpoint.load(folder / "last.safetensors")  # the checkpoint is complete
    assert "steps 9 finished" in run_program(1, "resumed", folder, shards=4)
    run_program(1, "numpy", uninterrupted, shards=4)
    assert files(folder) == files(uninterrupted)


def test_the_error_at_the_end_of_an_epoch_names_a_rank_whose_weights_drift(tmp_path):
    done = mpiexec.run(2, PROGRAM, "drifts", tmp_path / "run", 4, timeout=30)
    assert done.returncode
    assert re.search(rf'{RANK_1} has other weights than rank 0: fc1.bias is "\w+" on rank 1', done.stderr)


def test_an_error_of_rank_0_is_printed_without_traceback(tmp_path):
    """Rank 0 finds that the run folder exists; the other ranks do not check it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    done = mpiexec.train(2, *TINY, "--run-dir", tmp_path / "run")
    assert done.returncode
    assert "gpuconv: error: rank 0 (process" in done.stderr
    assert "already holds a run" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_saves_and_says_how_to_continue(tmp_path):
    folder = tmp_path / "run"
    line = mpiexec.command(2, "-m", "gpuconv", "train", "--device", "numpy", *TINY, "--epochs", "5000")
    options = dict(env=mpiexec.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with subprocess.Popen([*line, "--run-dir", str(folder)], **options) as process:
        messages = []
        for text in process.stdout:
            messages.append(text)
            if re.search("epoch +3/", text):
                os.kill(process.pid, signal.SIGINT)
    assert process.returncode == 130
    assert "saved to" in "".join(messages)
    assert checkpoint.load(folder / "last.safetensors").state["epoch"] >= 3
