"""Downloads from a local server, which a test can tell to misbehave."""

import contextlib
import hashlib
import http.server
import io
import os
import re
import socket
import sys
import tarfile
import threading

import numpy as np
import pytest

from gpuconv.data import cifar10, download
from gpuconv.system import console, files, locks

requests = pytest.importorskip("requests")

FOLDER = "cifar-10-batches-bin"
COUNT = 40


class Server(http.server.ThreadingHTTPServer):
    """Serves one file.

    stop_after: the bytes after which each answer breaks off. ranges: whether a part can be requested. status: the HTTP
    status of the answers, an error or, with `location`, a redirect. location: where to redirect. length: the
    Content-Length header; "true" stands for the actual length, None leaves the header out. requested_ranges: the Range
    headers of all requests.
    """

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.stop_after = None
        self.ranges = True
        self.status = self.location = None
        self.length = "true"
        self.requested_ranges = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/cifar.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requested_ranges.append(self.headers["Range"])
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]) if server.ranges else 0
        if start and start >= len(server.content):
            server.status = 416
        if server.status and not server.location:
            self.send_error(server.status)
            return
        self.send_response(server.status or (206 if server.ranges else 200))
        if server.location:
            self.send_header("Location", server.location)
        body = server.content[start:]
        if server.length:
            self.send_header("Content-Length", str(len(body)) if server.length == "true" else server.length)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client closes the connection early
            self.wfile.write(body[: server.stop_after])

    def log_message(self, *_):
        pass


def archive():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for number, name in enumerate([*cifar10.TRAIN_FILES, *cifar10.TEST_FILES]):
            records = np.random.default_rng(number).integers(0, 10, COUNT * 3073, np.uint8)
            info = tarfile.TarInfo(f"{FOLDER}/{name}.bin")
            info.size = records.size
            tar.addfile(info, io.BytesIO(records.tobytes()))
    return packed.getvalue()


CONTENT = archive()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", COUNT)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(CONTENT) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(directory, server, sha256=SHA256, progress=False):
    return cifar10._download(directory, server.url, sha256, len(CONTENT), progress)


def assert_only_the_files_are_left(directory):
    """Only the batch files are left, and they are complete."""
    assert [path.name for path in directory.iterdir()] == [FOLDER]
    train, test = cifar10.load(directory)
    assert (len(train), len(test)) == (5 * COUNT, COUNT)


def test_an_archive_is_downloaded_and_unpacked(server, tmp_path):
    directory = tmp_path / "new" / "folder"
    assert fetch(directory, server) == directory / FOLDER
    assert_only_the_files_are_left(directory)


def test_existing_files_are_not_downloaded_again(server, tmp_path):
    fetch(tmp_path, server)
    fetch(tmp_path, server)
    assert len(server.requested_ranges) == 1
    (tmp_path / FOLDER / "test_batch.bin").unlink()
    fetch(tmp_path, server)
    assert_only_the_files_are_left(tmp_path)


@pytest.mark.parametrize("size", [0, COUNT * 3073 - 1, COUNT * 3073 + 1])
def test_a_file_of_the_wrong_size_is_downloaded_again(server, tmp_path, size):
    fetch(tmp_path, server)
    os.truncate(tmp_path / FOLDER / "data_batch_2.bin", size)
    fetch(tmp_path, server)
    assert_only_the_files_are_left(tmp_path)


def test_an_interrupted_download_resumes_where_it_stopped(server, tmp_path):
    server.stop_after = 50_000
    with pytest.raises(ConnectionError, match=r"stopped after \d+ bytes: the connection broke; try again") as raised:
        fetch(tmp_path, server)
    assert not (tmp_path / FOLDER).exists()
    received = int(re.search(r"after (\d+) bytes", str(raised.value))[1])
    assert 0 < received <= 50_000
    server.stop_after = None
    fetch(tmp_path, server)
    assert server.requested_ranges == ["bytes=0-", f"bytes={received}-"]
    assert_only_the_files_are_left(tmp_path)


def test_from_a_server_without_ranges_the_download_starts_over(server, tmp_path):
    server.stop_after = 50_000
    with pytest.raises(ConnectionError):
        fetch(tmp_path, server)
    server.stop_after, server.ranges = None, False
    fetch(tmp_path, server)
    assert_only_the_files_are_left(tmp_path)


def test_a_partial_file_that_is_complete_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "cifar.tar.gz.part").write_bytes(CONTENT)
    fetch(tmp_path, server)
    assert server.requested_ranges == []
    assert_only_the_files_are_left(tmp_path)


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(ValueError, match="hash"):
        fetch(tmp_path, server, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_another_file_is_removed(server, tmp_path):
    (tmp_path / "cifar.tar.gz.part").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="hash"):
        fetch(tmp_path, server)
    fetch(tmp_path, server)
    assert_only_the_files_are_left(tmp_path)


def test_an_unreachable_server_is_an_error(server, tmp_path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match="stopped after 0 bytes: no connection, is there a network"):
        cifar10._download(tmp_path, url, SHA256, len(CONTENT), False)


def test_a_progress_bar_is_shown_only_on_request(server, tmp_path, capsys):
    fetch(tmp_path / "without", server, progress=False)
    assert capsys.readouterr().err == ""
    fetch(tmp_path / "with", server, progress=True)
    assert "100%" in capsys.readouterr().err


def test_a_file_in_place_of_the_directory_is_an_error(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot download into this directory"):
        fetch(tmp_path / "file", server)
    assert server.requested_ranges == []


def test_a_folder_without_write_permission_is_an_error(server, tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):  # root may write anywhere: simulate the refusal

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with contextlib.ExitStack() as stack:
        stack.callback(tmp_path.chmod, 0o700)
        with pytest.raises(PermissionError, match=f"cannot download.*Permission denied.*{tmp_path.name}"):
            fetch(tmp_path, server)
    assert server.requested_ranges == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "it requires a password"),
        (403, "it refuses access to the file; get it elsewhere"),
        (404, "the file was moved or removed; get it elsewhere and unpack it in the target folder"),
        (410, "the file was removed"),
        (418, "it refuses"),
        (429, "too many requests; try again later"),
        (500, "server error; try again later"),
        (503, "server error; try again later"),
    ],
)
def test_the_error_explains_an_http_status(server, tmp_path, status, words):
    server.status = status
    with pytest.raises(ConnectionError, match=rf"stopped after 0 bytes: the server answers {status} .*: {words}"):
        fetch(tmp_path, server)
    server.status = None
    fetch(tmp_path, server)
    assert_only_the_files_are_left(tmp_path)


def test_bad_redirects_are_refused(server, tmp_path):
    """A redirect loop, and a redirect to another scheme than HTTP."""
    for location, words in (("/cifar.tar.gz", "redirects in a circle"), ("file:///etc/passwd", "No connection adapt")):
        server.status, server.location = 302, location
        with pytest.raises(ConnectionError, match=words):
            fetch(tmp_path, server)


def test_a_server_that_never_answers_is_an_error(server, tmp_path, monkeypatch):
    monkeypatch.setattr("gpuconv.data.download._PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/cifar.tar.gz"
        with pytest.raises(ConnectionError, match=r"no answer for 0\.05 s; try again"):
            cifar10._download(tmp_path, url, SHA256, len(CONTENT), False)


def test_a_server_that_does_not_speak_tls_is_an_error(server, tmp_path):
    with pytest.raises(ConnectionError, match="no secure connection"):
        cifar10._download(tmp_path, server.url.replace("http:", "https:"), SHA256, len(CONTENT), False)


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "not-stated"])
@pytest.mark.parametrize("excess", [-1, 1, 10**6], ids=["shorter", "longer", "far-longer"])
def test_a_download_of_the_wrong_size_is_refused(server, tmp_path, excess, stated):
    """If the server states the size, the download is refused at once; otherwise it is refused when the file becomes too
    long or ends too early."""
    server.content = (CONTENT + bytes(10**6))[: len(CONTENT) + excess]
    server.length = "true" if stated else None
    error = ConnectionError if excess < 0 and not stated else ValueError
    words = (
        rf"is a file of {len(CONTENT) + excess} bytes, expected {len(CONTENT)}"
        if stated
        else "gave more|connection broke"
    )
    with pytest.raises(error, match=words):
        fetch(tmp_path, server)
    kept = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert kept == (len(CONTENT) - 1 if error is ConnectionError else 0)


def test_a_link_in_place_of_the_partial_file_is_replaced_and_not_written_through(server, tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar.tar.gz.part").symlink_to("../other")
    fetch(tmp_path / "data", server)
    assert_only_the_files_are_left(tmp_path / "data")
    assert (tmp_path / "other").read_text() == "precious"


def test_a_second_download_at_the_same_time_is_refused(server, tmp_path):
    with open(tmp_path / "cifar.tar.gz.part", "ab") as other:
        assert locks.lock(other.fileno())
        with pytest.raises(OSError, match="another process is downloading it"):
            fetch(tmp_path, server)
    fetch(tmp_path, server)


def test_another_process_may_finish_unpacking_first(server, tmp_path, monkeypatch):
    def scratch(folder):
        (tmp_path / "cifar.tar.gz.part").unlink()
        return make(folder)

    make = files.scratch
    monkeypatch.setattr(files, "scratch", scratch)
    fetch(tmp_path, server)
    assert_only_the_files_are_left(tmp_path)


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cifar10, "_download", lambda directory, *_: directory)
    assert cifar10.download("~/data") == tmp_path / "data"


def test_the_bar_of_a_resumed_download_starts_at_the_bytes_that_were_downloaded_before(monkeypatch, tmp_path):
    calls = []

    class Response:
        status_code = 206
        headers = {"Content-Length": "6"}  # noqa: RUF012

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def raise_for_status(self):
            pass

        def iter_content(self, size):
            calls.append(size)
            return iter([b"cdef", b"gh"])

    class Bar(console._NoBar):
        def update(self, count=1):
            calls.append(count)

    monkeypatch.setattr(requests, "get", lambda *arguments, **options: calls.append((arguments, options)) or Response())
    monkeypatch.setattr(download, "progress_bar", lambda **options: calls.append(options) or Bar())
    for progress in (True, False):
        calls.clear()
        (tmp_path / "x.part").write_bytes(b"ab")
        download._fetch("url/x", tmp_path / "x.part", 8, progress)
        assert (tmp_path / "x.part").read_bytes() == b"abcdefgh"
        assert calls == [
            (
                ("url/x",),
                {"headers": {"Range": "bytes=2-", "Accept-Encoding": "identity"}, "stream": True, "timeout": 30},
            ),
            {"total": 8, "initial": 2, "unit": "B", "unit_scale": True, "disable": not progress},
            1 << 14,
            4,
            2,
        ]


def test_without_requests_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(ImportError, match="needs requests: pip install"):
        download.fetch_archive("u/x", tmp_path, sha256="", size=1)
    assert not list(tmp_path.iterdir())


def test_bytes_that_another_process_appends_before_it_gives_up_the_lock_are_kept(server, tmp_path, monkeypatch):
    def lock(handle, **options):
        if not part.stat().st_size:
            part.write_bytes(CONTENT[:1000])
        return take(handle, **options)

    part, take = tmp_path / "cifar.tar.gz.part", locks.lock
    monkeypatch.setattr(locks, "lock", lock)
    fetch(tmp_path, server)
    assert server.requested_ranges == ["bytes=1000-"]
    assert_only_the_files_are_left(tmp_path)


def test_a_partial_file_that_another_process_removes_before_the_lock_is_not_written(server, tmp_path, monkeypatch):
    def lock(handle, **options):
        (tmp_path / "cifar.tar.gz.part").unlink()
        return True

    monkeypatch.setattr(locks, "lock", lock)
    with pytest.raises(OSError, match="another process has just removed it"):
        fetch(tmp_path, server)
