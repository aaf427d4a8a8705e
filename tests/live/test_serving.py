"""The server as a process or a thread, with clients that watch, read nothing, or disconnect."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("starlette")
import uvicorn

from gpuconv import checkpoint
from gpuconv.cli.main import main
from gpuconv.layers import BatchNorm, Conv2D, Flatten, Linear, ReLU
from gpuconv.live import setting_changes
from gpuconv.live.app import application
from gpuconv.live.server import listening_socket
from tests.live.sessions import do

pytestmark = pytest.mark.slow
NET = [Conv2D(32, 3, padding=1), BatchNorm(), ReLU(), Conv2D(32, 3, padding=1), ReLU(), Flatten(), Linear(10)]


@contextlib.contextmanager
def served(session):
    """The port of a server for the session."""
    with listening_socket("127.0.0.1", 0) as listening:
        config = uvicorn.Config(application(session), log_level="warning", lifespan="off", ws="none")
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


@contextlib.contextmanager
def connected(port):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as browsers do
        yield connection


def fetch(connection, method, path, body=None, kind="application/json"):
    connection.request(method, path, body, {"content-type": kind})
    with connection.getresponse() as answer:
        return answer.status, answer.read()


def post(port, body):
    with connected(port) as connection:
        return fetch(connection, "POST", "/command", body)


def count_events(port, seconds):
    """The number of events of each kind that a browser receives while it fetches the pictures."""
    counts: dict[str, int] = {}
    with connected(port) as events, connected(port) as other:
        events.request("GET", "/events")
        with events.getresponse() as answer:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                line = answer.readline().decode()
                if line.startswith("event: "):
                    counts[line[7:-1]] = counts.get(line[7:-1], 0) + 1
                if line.startswith("event: picture"):
                    assert fetch(other, "GET", "/frame/picture")[1]
    return counts


def test_snapshots_take_at_most_a_twentieth_of_the_time(open_session):
    session = open_session(NET)
    with served(session) as port:
        count_events(port, 1)
        spent, worked, steps = session.spent, session.worked, session.trainer.steps
        used = time.process_time()
        counts = count_events(port, 6)
        core_share = min(1.0, (time.process_time() - used) / 6)  # the share of a core that this process got
        session_share = (session.spent - spent) / (session.worked - worked)
        print(f"{100 * session_share:.2f} % of the time of {session.trainer.steps - steps} steps, events {counts}")
        assert session_share <= 0.05
        # An idle machine gives 60 states; `test_budget.py` counts them by a simulated clock.
        assert counts["state"] >= 30 * core_share
        assert counts["picture"] >= 3 * core_share


def test_training_continues_when_a_browser_reads_nothing_or_disconnects(open_session):
    session = open_session(NET)
    with served(session) as port:
        stuck = socket.create_connection(("127.0.0.1", port))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        count_events(port, 1)
        for _ in range(3):
            steps = session.trainer.steps
            time.sleep(1)
            assert session.trainer.steps > steps + 5
        stuck.close()
        end = time.monotonic() + 20
        while session.hub.clients and time.monotonic() < end:
            time.sleep(0.1)
        assert session.hub.clients == 0
        steps = session.trainer.steps
        time.sleep(1)
        assert session.trainer.steps > steps + 5


def test_a_paused_session_shows_thirty_frames_a_second(open_session):
    session = open_session(NET)
    with served(session) as port:
        do(session, "pause")
        # Processor time, of server and client together, is measured because other work may share the machine.
        seen, begun = set(), time.process_time()
        with connected(port) as connection:
            for number in range(90):
                fetch(connection, "POST", "/drawing", bytes([number] * 64), "application/octet-stream")
                seen.add(fetch(connection, "GET", "/frame/picture")[1])
        took = time.process_time() - begun
        print(f"{len(seen) / took:.0f} frames a second")
        assert len(seen) == 90
        assert 90 / took >= 30


def test_a_killed_run_is_resumed_and_can_be_repeated(tmp_path):
    command = [sys.executable, "-m", "gpuconv", "live", "--port", "0", "--device", "numpy"]

    def begin(*more):
        server = subprocess.Popen([*command, *more], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        lines = {}
        for line in server.stdout:
            name, _, value = line.strip().partition(" ")
            lines[name] = value.strip()
            if name == "page":
                return server, int(value.strip().rpartition(":")[2].strip("/"))
        raise AssertionError(lines)

    run = tmp_path / "runs/live-digits-digits-net-1"
    server, port = begin("--epochs", "4")
    end = time.monotonic() + 60
    while not (run / "best.safetensors").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert post(port, '{"do": "change", "settings": {"lr": 0.02}}')[0] == 200
    while not changes(run) and time.monotonic() < end:
        time.sleep(0.05)
    server.kill()
    server.wait()
    server.stdout.close()
    (change,) = changes(run)
    assert change[1] == {"lr": 0.02}

    server, port = begin(str(run))
    assert post(port, '{"do": "go"}')[0] == 200
    finish(server, run)
    server, port = begin("--repeat", str(run))
    again = tmp_path / "runs/live-digits-digits-net-1-1"
    finish(server, again)
    one, other = (checkpoint.load(folder / "last.safetensors").tensors for folder in (run, again))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def changes(run: Path):
    file = run / "last.safetensors"
    return setting_changes.changes_of(checkpoint.load(file).state["records"]) if file.exists() else []


def finish(server, run):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        file = run / "last.safetensors"
        if file.exists() and checkpoint.load(file).state["epoch"] == 4:
            break
        time.sleep(0.2)
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 130
    server.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_saves_the_current_step(tmp_path, number):
    """The step is saved even if the reader of the standard output is gone."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "gpuconv", "live", "--port", "0", "--device", "numpy", "--epochs", "1000"]
    with open(tmp_path / "stderr", "wb") as stderr:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=writing, stderr=stderr)
    os.close(writing)
    os.close(reading)
    run = tmp_path / "runs/live-digits-digits-net-1"
    end = time.monotonic() + 60
    while not (run / "best.safetensors").exists() and time.monotonic() < end:
        time.sleep(0.05)
    server.send_signal(number)
    assert server.wait(60) == 128 + number
    output = (tmp_path / "stderr").read_text()
    assert f"{number.name}: finishing the step" in output
    step = int(output.partition("saved after step ")[2].partition(";")[0])
    assert checkpoint.load(run / "last.safetensors").tensors["optimizer.steps"] == step


def test_the_error_for_a_port_in_use_or_another_host_says_what_to_do(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with listening_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert main(["live", "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}: Address already in use; choose another port" in capsys.readouterr().err
    assert main(["live", "--host", "192.0.2.1"]) == 2  # an address for documentation, which no machine has
    assert "192.0.2.1:8600: Cannot assign requested address; choose another host" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_error_on_a_machine_without_ipv6_names_the_address(monkeypatch):
    def refused(*_):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", refused)
    with pytest.raises(OSError, match="choose another host: '::1:8600'"), listening_socket("::1", 8600):
        pass


def test_an_invalid_host_is_refused_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for host in ("a..b", "a" * 64, "\udcff", "no such host"):
        assert main(["live", "--host", host]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("session", "port", "error", "message"),
    [
        (5, 0, TypeError, "session must be a Session, or a function that makes one, received int"),
        (list, 99999, ValueError, r"port must be below 2\*\*16, received 99999"),
        (list, "8600", TypeError, "port must be an integer, received '8600'"),
    ],
    ids=["session", "port above 65535", "port as text"],
)
def test_a_wrong_argument_of_serve_is_refused(session, port, error, message):
    from gpuconv import live

    with pytest.raises(error, match=message):
        live.serve(session, port=port)


@pytest.mark.parametrize("host", [None, 2130706433, b"127.0.0.1"])
def test_a_host_that_is_no_text_is_refused_before_a_session_is_made(host):
    from gpuconv import live

    with pytest.raises(TypeError, match=f"host must be text, such as '127.0.0.1', received {host}"):
        live.serve(list, host=host, port=0)


def test_the_address_for_other_machines_has_this_hosts_name_and_the_token(open_session, monkeypatch):
    from gpuconv import live
    from gpuconv.live import server

    monkeypatch.setattr(server, "run", lambda *_, **options: found.append(options["token"]))
    for host, name in (("0.0.0.0", socket.gethostname()), ("127.0.0.1", "127.0.0.1")):
        found: list = []
        live.serve(open_session(start=False), host=host, port=0, ready=found.append)
        address, token = found
        assert address.startswith(f"http://{name}:")
        assert address.endswith("/" if token is None else f"/?token={token}")
        assert (token is None) == (host == "127.0.0.1")
