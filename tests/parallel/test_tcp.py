"""Messages between ranks that variables like torchrun's describe: threads here, over the loopback device."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpuconv import parallel
from gpuconv.cli import main
from gpuconv.parallel import ParallelError, tcp
from gpuconv.parallel.tcp import TCP

ROOT = Path(__file__).resolve().parents[2]


def environment():
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


@pytest.fixture
def place(monkeypatch):
    """Gives each rank its variables, which are those of this thread's rank here."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = threading.local()
    monkeypatch.setattr(tcp, "_rank_and_address", lambda: (given.rank, given.size, ("127.0.0.1", port)))
    return given


def on_ranks(place, size, work, time_limit=20.0):
    """What work(ranks) gives on each rank: a result, or the message of its error."""

    def run(rank):
        place.rank, place.size = rank, size
        try:
            ranks = TCP(time_limit)
            with ranks.reporting_errors():
                return work(ranks)
        except (ParallelError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(size) as pool:
        return [*pool.map(run, range(size))]


def test_ranks_gather_and_share_in_their_order(place):
    def work(ranks):
        return [ranks.gather(ranks.rank**2), ranks.share(f"of {ranks.rank}"), ranks.first(lambda: ranks.rank)]

    for size in (1, 2, 4):
        assert on_ranks(place, size, work) == [[[rank**2 for rank in range(size)], "of 0", 0]] * size


def test_a_rank_that_fails_is_named_on_all(place):
    for failing in (0, 1, 2):

        def work(ranks, failing=failing):
            if ranks.rank == failing:
                raise OSError("the disk is on fire")
            return ranks.gather(None)

        answers = on_ranks(place, 3, work)
        assert answers.pop(failing) == "the disk is on fire"
        for each in answers:
            assert each.startswith(f"rank {failing} (process ")
            assert each.endswith(") failed: OSError: the disk is on fire")


def test_a_rank_that_hangs_or_is_gone_is_named_on_all(place):
    done = threading.Event()

    def hang(ranks):
        return done.wait(10) if ranks.rank == 1 else _last(ranks, done)

    def vanish(ranks):
        for other in ranks._others.values() if ranks.rank == 1 else ():
            other.close()
        return ranks.rank == 1 or ranks.gather(None)

    for work, ending in ((hang, "did not answer within 0.5 s"), (vanish, "has ended")):
        answers = on_ranks(place, 3, work, time_limit=0.5)
        for each in (answers[0], answers[2]):
            assert each.startswith("rank 1 (process ")
            assert each.endswith(ending)


def _last(ranks, done):
    try:
        return ranks.gather(None)
    finally:
        if ranks.rank == 2:
            done.set()


def test_ranks_that_do_not_come_are_named(place):
    place.rank, place.size = 0, 3
    with pytest.raises(ParallelError, match=r"^rank 1 and rank 2 did not connect within 0\.1 s$"):
        TCP(0.1)
    place.rank = 1
    start = time.monotonic()
    with pytest.raises(ParallelError, match=r"^rank 1 cannot reach rank 0 at 127\.0\.0\.1 port \d+ within 0\.1 s: "):
        TCP(0.1)
    assert time.monotonic() - start < 5


@pytest.mark.slow
def test_torchrun_starts_ranks():
    """torchrun's own store listens on MASTER_PORT at the same time."""
    pytest.importorskip("torch")
    program = Path(__file__).with_name("meeting.py")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "0 [0, 10]", "1 [0, 10]"]


GIVEN = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
WRONG = {
    "no address": (
        {"MASTER_ADDR": ""},
        "need the variables RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; MASTER_ADDR is not",
    ),
    "no rank": ({"RANK": ""}, "RANK is not set"),
    "rank": ({"RANK": "2"}, "RANK must be below WORLD_SIZE, received RANK=2 and WORLD_SIZE=2"),
    "port": ({"MASTER_PORT": "65535"}, "MASTER_PORT must be between 1 and 65534, received 65535"),
    "word": ({"RANK": "first"}, "RANK must be a whole number, received 'first'"),
}


def test_wrong_variables_are_refused(monkeypatch):
    for change, message in WRONG.values():
        for name, value in (GIVEN | change).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=message):
            TCP()


def test_ranks_on_the_cpu_are_for_mpiexec(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    assert parallel.launched()
    assert main(["train", "--device", "numpy"]) == 2
    assert (
        "which starts ranks on GPUs, but the device is numpy; mpiexec -n 2 starts two ranks on the CPU"
        in capsys.readouterr().err
    )
    assert not [*tmp_path.iterdir()]


def test_strangers_are_not_let_in(place, monkeypatch):
    keys = threading.local()
    monkeypatch.setattr(tcp, "_key", lambda: keys.own)

    def run(rank):
        place.rank, place.size, keys.own = rank, 2, b"ours" if rank == 0 else b"theirs"
        try:
            TCP(0.5)
        except ParallelError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(run, range(2))]
    assert answers == [
        "rank 1 did not connect within 0.5 s",
        "rank 0 and rank 1 have different keys (GPUCONV_RANKS_KEY)",
    ]
