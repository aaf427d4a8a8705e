"""Messages between ranks over TCP. In most tests the ranks are threads, and a fixture takes the place
of torchrun's variables."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path

import pytest

from gpuconv import parallel
from gpuconv.cli import main
from gpuconv.parallel import ParallelError, tcp
from gpuconv.parallel.tcp import TCP
from tests.sources import ROOT


def environment():
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


@pytest.fixture
def rank_of_thread(monkeypatch):
    """Its attributes `rank` and `size` take the place of torchrun's variables; each thread has its own values."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    local = threading.local()
    monkeypatch.setattr(tcp, "_rank_and_address", lambda: (local.rank, local.size, ("127.0.0.1", port)))
    return local


def on_ranks(rank_of_thread, size, work, time_limit=20.0):
    """For each rank, the result of work(ranks) or the message of its error."""

    def run(rank):
        rank_of_thread.rank, rank_of_thread.size = rank, size
        try:
            ranks = TCP(time_limit)
            with ranks.reporting_errors():
                return work(ranks)
        except (ParallelError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(size) as pool:
        return [*pool.map(run, range(size))]


def test_ranks_gather_and_share_in_their_order(rank_of_thread):
    def work(ranks):
        return [ranks.gather(ranks.rank**2), ranks.broadcast(f"of {ranks.rank}"), ranks.on_rank_0(lambda: ranks.rank)]

    for size in (1, 2, 4):
        assert on_ranks(rank_of_thread, size, work) == [[[rank**2 for rank in range(size)], "of 0", 0]] * size


def test_a_rank_that_fails_is_named_on_all_others(rank_of_thread):
    for failing in (0, 1, 2):

        def work(ranks, failing=failing):
            if ranks.rank == failing:
                raise OSError("the disk is on fire")
            return ranks.gather(None)

        answers = on_ranks(rank_of_thread, 3, work)
        assert answers.pop(failing) == "the disk is on fire"
        for answer in answers:
            assert answer.startswith(f"rank {failing} (process ")
            assert answer.endswith(") failed: OSError: the disk is on fire")


def test_a_rank_that_hangs_or_is_gone_is_named_on_all_others(rank_of_thread):
    done = threading.Event()

    def hang(ranks):
        return done.wait(10) if ranks.rank == 1 else gather_and_end(ranks, done)

    def vanish(ranks):
        if ranks.rank != 1:
            return ranks.gather(None)
        for other in ranks._others.values():
            other.close()

    for work, ending in ((hang, "did not answer within 0.5 s"), (vanish, "has ended")):
        answers = on_ranks(rank_of_thread, 3, work, time_limit=0.5)
        for answer in (answers[0], answers[2]):
            assert answer.startswith("rank 1 (process ")
            assert answer.endswith(ending)


def gather_and_end(ranks, done):
    """Gathers; rank 2 then ends the wait of rank 1."""
    try:
        return ranks.gather(None)
    finally:
        if ranks.rank == 2:
            done.set()


def test_ranks_that_do_not_connect_are_named(rank_of_thread):
    rank_of_thread.rank, rank_of_thread.size = 0, 3
    with pytest.raises(ParallelError, match=r"^rank 1 and rank 2 did not connect within 0\.1 s$"):
        TCP(0.1)
    rank_of_thread.rank = 1
    start = time.monotonic()
    with pytest.raises(ParallelError, match=r"^rank 1 cannot reach rank 0 at 127\.0\.0\.1 port \d+ within 0\.1 s: "):
        TCP(0.1)
    assert time.monotonic() - start < 5


@pytest.mark.slow
def test_ranks_that_torchrun_starts_gather_their_values():
    """The store of torchrun listens on MASTER_PORT at the same time."""
    pytest.importorskip("torch")
    program = Path(__file__).with_name("gather_values.py")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "0 [0, 10]", "1 [0, 10]"]


VARIABLES = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
WRONG = {  # changes to VARIABLES, and the message
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
        for name, value in (VARIABLES | change).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=message):
            TCP()


@pytest.mark.parametrize("device", ["auto", "Auto", "cuda", "CUDA:1"])
def test_ranks_of_torchrun_use_nccl_where_the_device_is_a_gpu(monkeypatch, device):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("gpuconv.backends.resolve", lambda device: "cuda:0")
    monkeypatch.setattr(parallel, "NCCL", lambda time_limit: f"NCCL within {time_limit} s")
    assert parallel.launched_ranks(device, 3.0) == "NCCL within 3.0 s"


def test_ranks_of_torchrun_on_the_cpu_are_refused_with_the_advice_to_use_mpiexec(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert parallel.is_launched()
    assert main(["train", "--device", "numpy"]) == 2
    assert (
        "which starts ranks on GPUs, but the device is numpy; mpiexec -n 2 starts two ranks on the CPU"
        in capsys.readouterr().err
    )
    assert not [*tmp_path.iterdir()]


def connection_to(address):
    """A connection to a server that is about to listen."""
    for _ in range(200):
        try:
            return socket.create_connection(address)
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nobody listens")


def two_ranks(rank_of_thread):
    """A function that gathers the numbers of two ranks as one of them, and the address of rank 0."""

    def run(rank):
        rank_of_thread.rank, rank_of_thread.size = rank, 2
        return TCP(20.0).gather(rank)

    rank_of_thread.rank, rank_of_thread.size = 1, 2
    return run, tcp._rank_and_address()[2]


def test_a_process_that_connects_and_says_nothing_does_not_keep_ranks_out(rank_of_thread, monkeypatch):
    monkeypatch.setattr(tcp, "HANDSHAKE", 1.0)
    run, address = two_ranks(rank_of_thread)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, 0)
        with connection_to(address):
            second = pool.submit(run, 1)
            assert first.result(10) == second.result(10) == [0, 1]


def test_a_server_that_says_nothing_is_not_rank_0(rank_of_thread):
    rank_of_thread.rank, rank_of_thread.size = 1, 2
    with socket.create_server(tcp._rank_and_address()[2]) as server:
        closing = threading.Timer(5, server.close)
        closing.start()
        with pytest.raises(ParallelError, match=r"^rank 1 cannot reach rank 0 at .* within 0\.2 s: no answer$"):
            TCP(0.2)
        closing.cancel()


def test_a_process_with_another_world_size_and_a_second_process_of_one_rank_are_refused(rank_of_thread):
    for others, message in (
        ([(2, 3)], "a process has RANK=2, and WORLD_SIZE is 2 on rank 0"),
        ([(1, 3), (1, 3)], "two processes have RANK=1"),
    ):

        def run(rank, size):
            rank_of_thread.rank, rank_of_thread.size = rank, size
            try:
                return TCP(10.0).gather(rank)
            except ParallelError as error:
                return str(error)

        with ThreadPoolExecutor(3) as pool:
            first, *rest = [pool.submit(run, *each) for each in [(0, 1 + len(others)), *others]]
            assert first.result(30) == message
            assert all("rank 0" in each.result(30) for each in rest)


def test_a_rank_with_another_key_is_refused(rank_of_thread, monkeypatch):
    keys = threading.local()
    monkeypatch.setattr(tcp, "_key", lambda: keys.own)

    def run(rank):
        rank_of_thread.rank, rank_of_thread.size, keys.own = rank, 2, b"ours" if rank == 0 else b"theirs"
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


@pytest.mark.parametrize("ends", [False, True], ids=["silent", "closed"])
def test_a_process_that_has_the_key_and_no_rank_does_not_keep_ranks_out(rank_of_thread, monkeypatch, ends):
    monkeypatch.setattr(tcp, "HANDSHAKE", 1.0)
    run, address = two_ranks(rank_of_thread)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, 0)
        with contextlib.closing(Connection(connection_to(address).detach())) as other:
            answer_challenge(other, tcp._key())
            deliver_challenge(other, tcp._key())
            if ends:
                other.close()
            second = pool.submit(run, 1)
            assert first.result(10) == second.result(10) == [0, 1]
