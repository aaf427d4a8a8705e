"""Fetching an archive: checked, resumable, and nothing half-written under its final name."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from gpuconv import files

_BLOCK = 1 << 14  # bytes; what came of a block that breaks off is lost


def fetch_archive(url: str, directory: Path, *, sha256: str, progress: bool = True) -> None:
    """Download the tar file at `url` into `directory`, check its SHA-256, unpack it there and remove it.

    A download that was cut off goes on where it stopped. Each file appears under its name only when it is whole.
    progress: show a bar.

    Raises OSError (PermissionError, ...) if `directory` cannot be written to, ConnectionError if the download stops,
    and ValueError if what came is not what was expected; then nothing is unpacked.
    """
    try:
        import pooch
    except ImportError as error:
        raise ImportError('downloading needs pooch: pip install "gpuconv[download]"') from error
    _make_writable(directory)
    part = directory / (url.rpartition("/")[2] + ".part")
    archive = pooch.retrieve(
        url, known_hash=f"sha256:{sha256}", path=directory, fname=part.stem, downloader=_Resuming(part, progress)
    )
    with files.scratch(directory) as scratch:
        with tarfile.open(archive) as tar:
            # Before 3.11.4 Python has no filter; the checksum vouches for what the archive holds.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(scratch)
        for path in sorted(scratch.rglob("*")):
            if path.is_file():
                target = directory / path.relative_to(scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    os.remove(archive)


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise OSError(error.errno, f"cannot download into this directory: {error.strerror}", str(directory)) from error


class _Resuming:
    """A downloader for pooch that keeps what has come in `part`, and asks only for the rest when it is there.

    pooch hands it the name of a temporary file, checks what it finds there, and gives it its name only if it is right.
    """

    def __init__(self, part: Path, progress: bool) -> None:
        self.part = part
        self.progress = progress

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        import requests

        try:
            self._fetch(url)
        except requests.RequestException as error:
            have = self.part.stat().st_size if self.part.exists() else 0
            raise ConnectionError(
                f"the download of {url} stopped after {have} bytes; run it again to go on from there ({error})"
            ) from error
        os.replace(self.part, output_file)

    def _fetch(self, url: str) -> None:
        import requests
        from tqdm import tqdm

        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
        with requests.get(url, headers=headers, stream=True, timeout=30) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # all of it is here
            response.raise_for_status()
            if response.status_code != requests.codes.partial_content:
                have = 0  # this server sends the whole file
            total = have + int(response.headers.get("Content-Length", 0))
            with (
                open(self.part, "r+b" if have else "wb") as file,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=not self.progress) as bar,
            ):
                file.seek(have)
                for block in response.iter_content(_BLOCK):
                    bar.update(file.write(block))
