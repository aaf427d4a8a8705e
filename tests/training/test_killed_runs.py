"""A run that is killed at any point and then resumed ends with the files of an uninterrupted run."""

import random
import signal
import subprocess
import sys

import pytest

from tests import toy_run
from tests.sources import ROOT

STEPS = 4 * toy_run.STEPS_PER_EPOCH


def run(directory, kill_at=("never", 0), resume=False):
    """The exit status of a process of `run_to_kill`, which trains in the directory.

    kill_at: where the process kills itself: ("step", n) after step n, ("sync", n) in call n of fsync on a file, with
    half of the file written. resume: continue the run in the directory."""
    what, number = kill_at
    command = [sys.executable, "-m", "tests.training.run_to_kill", str(directory), what, str(number)]
    command += ["resume"] if resume else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The files of a run that was never stopped."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert run(directory) == 0
    return toy_run.contents(directory)


@pytest.mark.slow
def test_a_run_killed_at_random_steps_resumes_with_the_same_bits(tmp_path, uninterrupted):
    draw = random.Random(7)
    steps = sorted(draw.sample(range(1, STEPS), 4))
    for number, step in enumerate(steps):
        assert run(tmp_path / "run", kill_at=("step", step), resume=number > 0) == -signal.SIGKILL
    assert run(tmp_path / "run", resume=True) == 0
    assert toy_run.contents(tmp_path / "run") == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("syncs", [(2, 3), (7, 4), (9, 6)], ids="sync {0[0]}, then {0[1]}".format)
def test_a_run_killed_while_writing_resumes_with_the_same_bits(tmp_path, uninterrupted, syncs):
    """syncs: the numbers of the fsync calls in which the two processes are killed. The second one resumes the run.

    The first process writes, in this order: 1 run.json, 2 config.toml, 3 last.safetensors, 4 metrics.jsonl,
    5 metrics.csv, 6 last.safetensors at step 3, 7 best.safetensors and 8 last.safetensors at step 5, 9
    last.safetensors at step 6.
    """
    for number, sync in enumerate(syncs):
        assert run(tmp_path / "run", kill_at=("sync", sync), resume=number > 0) == -signal.SIGKILL
    assert run(tmp_path / "run", resume=True) == 0
    assert toy_run.contents(tmp_path / "run") == uninterrupted
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
def test_a_run_killed_after_the_last_step_of_an_epoch_resumes_with_the_same_bits(tmp_path, uninterrupted):
    """Step 15 ends an epoch and is also a multiple of checkpoint_every. Its checkpoint is written after the
    validation, and the process is killed before that."""
    assert run(tmp_path / "run", kill_at=("step", 3 * toy_run.STEPS_PER_EPOCH)) == -signal.SIGKILL
    assert run(tmp_path / "run", resume=True) == 0
    assert toy_run.contents(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_a_run_killed_before_its_first_file_is_complete_can_be_started_again(tmp_path, uninterrupted):
    assert run(tmp_path / "run", kill_at=("sync", 1)) == -signal.SIGKILL
    assert run(tmp_path / "run") == 0
    assert toy_run.contents(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_a_partially_written_log_line_is_dropped(tmp_path, uninterrupted):
    assert run(tmp_path / "run", kill_at=("step", 13)) == -signal.SIGKILL
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(b'{"event": "st')
    assert run(tmp_path / "run", resume=True) == 0
    assert toy_run.contents(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(tmp_path, uninterrupted):
    assert run(tmp_path / "run") == 0
    assert run(tmp_path / "run", resume=True) == 0
    assert toy_run.contents(tmp_path / "run") == uninterrupted
