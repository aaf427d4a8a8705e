"""Resumable download of an archive with a known size and checksum; files get their final name only when complete."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gpuconv.system import files, locks
from gpuconv.system.console import progress_bar

if TYPE_CHECKING:
    from requests import RequestException

_BLOCK = 1 << 14  # bytes; an incomplete block is lost if the connection breaks
_PATIENCE = 30  # seconds without a byte


def fetch_archive(url: str, directory: Path, *, sha256: str, size: int, progress: bool = True) -> None:
    """Download the tar file at `url` into `directory`, check its size and SHA-256, unpack it there and remove the tar
    file.

    An interrupted download continues where it stopped. Each file gets its name only when it is complete. size: in
    bytes; a file that the server announces with another size is not downloaded, and no more than `size` bytes are
    stored. progress: show a bar.

    Raises:
        ImportError: The package requests is missing.
        OSError: `directory` cannot be written to, or another process is downloading the file.
        ConnectionError: The download stopped, or the server refuses it; the message says why.
        ValueError: The file is not the expected one; nothing is unpacked.
    """
    try:
        import requests
    except ImportError as error:
        raise ImportError('downloading needs requests: pip install "gpuconv[download]"') from error
    _make_writable(directory)
    part = directory / (url.rpartition("/")[2] + ".part")
    try:
        _fetch(url, part, size, progress)
    except requests.RequestException as error:
        received = _bytes_so_far(part, size)
        raise ConnectionError(f"the download of {url} stopped after {received} bytes: {_cause(error)}") from error
    with open(part, "rb") as file:  # the open file stays readable even if another process removes it
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == sha256:
            file.seek(0)
            _unpack(file, directory)
    part.unlink(missing_ok=True)
    if found != sha256:
        raise ValueError(f"{url} gave another file (its SHA-256 hash is {found}, expected {sha256}); it was removed")


def _unpack(archive: BinaryIO, directory: Path) -> None:
    with files.scratch(directory) as scratch:
        with tarfile.open(fileobj=archive) as tar:
            # Python before 3.11.4 has no data_filter. It is not essential, because the checksum was right.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(scratch)
        for path in sorted(scratch.rglob("*")):
            if path.is_file():
                target = directory / path.relative_to(scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise OSError(error.errno, f"cannot download into this directory: {error.strerror}", str(directory)) from error


def _bytes_so_far(part: Path, size: int) -> int:
    """The number of bytes downloaded so far. Anything that cannot be a partial download, such as a link, is removed."""
    try:
        found = os.lstat(part)
    except FileNotFoundError:
        return 0
    if stat.S_ISREG(found.st_mode) and found.st_size <= size:
        return found.st_size
    part.unlink()
    return 0


def _fetch(url: str, part: Path, size: int, progress: bool) -> None:
    """Append the bytes that `part` lacks. Raises RequestException, OSError if another process is doing this,
    and ValueError for a file of another size."""
    import requests

    _bytes_so_far(part, size)  # removes what cannot be a partial download
    with open(part, "ab", opener=files.open_to_append) as file:
        if locks.lock(file.fileno()) is False:  # None: this file system has no locks
            raise OSError(None, "another process is downloading it", str(part))
        if not locks.is_at(file.fileno(), part):
            raise OSError(None, "another process has just removed it, at the end of its download", str(part))
        received = os.fstat(file.fileno()).st_size  # not before the lock, because its last holder appended to the file
        if received == size:
            return
        headers = {"Range": f"bytes={received}-", "Accept-Encoding": "identity"}
        with requests.get(url, headers=headers, stream=True, timeout=_PATIENCE) as response:
            response.raise_for_status()
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                received = 0  # this server sends the whole file
            offered = response.headers.get("Content-Length", "")
            if offered.isdecimal() and received + int(offered) != size:
                raise ValueError(
                    f"{url} is a file of {received + int(offered)} bytes, expected {size}; it was not fetched"
                )
            file.truncate(received)
            with progress_bar(total=size, initial=received, unit="B", unit_scale=True, disable=not progress) as bar:
                for block in response.iter_content(_BLOCK):
                    received += len(block)
                    if received > size:
                        file.truncate(0)
                        raise ValueError(f"{url} gave more than the expected {size} bytes; they were removed")
                    bar.update(file.write(block))
        if received < size:
            raise requests.exceptions.ChunkedEncodingError("the server ended it early")


def _cause(error: RequestException) -> str:
    """The cause of an error, in words for a user."""
    import requests

    if error.response is not None and error.response.status_code >= HTTPStatus.BAD_REQUEST:
        status = error.response.status_code
        failed = "server error; try again later" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "it refuses"
        return f"the server answers {status} {error.response.reason or ''}: {_STATUS.get(status, failed)}"
    for kind, text in (
        (
            requests.exceptions.SSLError,
            "no secure connection; check whether this machine trusts the certificate and has the right time",
        ),
        (requests.exceptions.ProxyError, "the proxy cannot be reached; the variable https_proxy names it"),
        (requests.TooManyRedirects, "the server redirects in a circle; try again later"),
        (requests.Timeout, f"no answer for {_PATIENCE} s; try again to continue from there"),
        (requests.exceptions.ChunkedEncodingError, "the connection broke; try again to continue from there"),
        (requests.ConnectionError, "no connection, is there a network? try again to continue from there"),
    ):
        if isinstance(error, kind):
            return text
    return str(error)


_STATUS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "it requires a password",
    HTTPStatus.FORBIDDEN: "it refuses access to the file; get it elsewhere and unpack it in the target folder",
    HTTPStatus.NOT_FOUND: "the file was moved or removed; get it elsewhere and unpack it in the target folder",
    HTTPStatus.GONE: "the file was removed; get it elsewhere and unpack it in the target folder",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "the proxy requires a password",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "its file is smaller than what was downloaded so far",
    HTTPStatus.TOO_MANY_REQUESTS: "too many requests; try again later",
}
