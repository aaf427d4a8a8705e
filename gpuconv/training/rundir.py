"""The directory of a run.

    run.json           the format, gpuconv's version and the run's settings
    last.safetensors   the complete state after the last saved step (`checkpoint.py`)
    best.safetensors   the same after the best epoch
    saved-N.safetensors    states that were saved on the live page
    config.toml        the settings for `gpuconv train --config` (`config_file.py`)
    metrics.jsonl      one JSON object per line: "step" and "epoch" events; a "test" event if a run tests at its end,
                       and "change" events for settings changed on the live page
    metrics.csv        the epochs as a table
    digests.jsonl      a line for each step (`tensor_digests.py`), with `--digests`
    curves.png         loss and accuracy by epoch
    tensorboard/       event files for TensorBoard, with `--log tensorboard`
    shadow.png         the worst errors that the shadow oracle found, with `--shadow`
    shadow-*.safetensors   calls of ops whose results were beyond their bounds
    activations.png, filters.png   drawn by the command line
    run.lock           names the process that is writing here

Only one process writes at a time. Others may read meanwhile: logs are appended to, and every other file except run.lock
is replaced atomically, as is metrics.csv when an epoch adds a column. metrics.jsonl and metrics.csv contain no times,
so the same run writes the same bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from gpuconv.checkpoint import CheckpointError, dump, parse, short_json, write_atomically
from gpuconv.notices import notice
from gpuconv.system import files
from gpuconv.system.locks import LockedError, LockFile
from gpuconv.system.shell import command
from gpuconv.training import config_file, run_schemas
from gpuconv.types import Record
from gpuconv.version import __version__

FORMAT = 1


class RunDirectory:
    """The paths of a run's files. `held` makes one for writing, `open` one for reading.

    Args:
        path: The folder.

    Raises:
        ValueError: The path is empty.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path):  # Path("") is the current folder
            raise ValueError("a run directory needs a path, received ''")
        self.path = Path(path)
        self.settings_file = self.path / "run.json"
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.metrics_jsonl = self.path / "metrics.jsonl"
        self.metrics_csv = self.path / "metrics.csv"
        self.digests = self.path / "digests.jsonl"
        self.curves = self.path / "curves.png"
        self.shadow = self.path / "shadow.png"
        self.activations = self.path / "activations.png"
        self.tensorboard = self.path / "tensorboard"
        self.filters = self.path / "filters.png"
        self.config = self.path / "config.toml"
        self.lock_file = self.path / "run.lock"

    def __str__(self) -> str:
        return str(self.path)

    def has_own(self, path: str | os.PathLike[str]) -> bool:
        """Whether `path` is that of one of the run's own files, which nothing else may replace."""
        own = (each.resolve() for each in vars(self).values() if isinstance(each, Path) and each != self.path)
        found = Path(path).resolve()
        numbered = any(map(found.match, ("saved-*.safetensors", "shadow-*.safetensors")))
        return found in own or (numbered and found.parent == self.path.resolve())

    def expect_digests(self, path: str | os.PathLike[str], option: str) -> None:
        """Raise ValueError if `path`, where digests go, is another file of the run. option: what the user calls it."""
        if self.has_own(path) and Path(path).resolve() != self.digests.resolve():
            raise ValueError(f"{option} {path} is another file of the run; give the digests another name")

    @classmethod
    def start(cls, path: str | os.PathLike[str], settings: Record) -> RunDirectory:
        """Create the directory of a new run and write its settings.

        Args:
            path: The folder.
            settings: JSON-serializable.

        Raises:
            FileExistsError: It already holds a run.
            CheckpointError: It cannot be created or written to, or `settings` could not be read back.
        """
        run = cls(path)
        if any(map(os.path.lexists, (run.settings_file, run.last, run.best, run.metrics_jsonl, run.metrics_csv))):
            raise FileExistsError(
                f"{path} already holds a run; continue it with `{command('gpuconv', 'train', '--resume', run.path)}` "
                "(fit(..., resume=True) in Python) or choose another directory"
            )
        content = {"format": FORMAT, "gpuconv": __version__, "settings": settings}
        try:
            run_schemas.expect(content, run_schemas.RUN)
            text = dump(content, indent=2)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"cannot write {run.settings_file}: {error}") from error
        run._make_folder(exist_ok=True)
        write_atomically(run.settings_file, f"{text}\n".encode())
        return run

    @classmethod
    @contextlib.contextmanager
    def held(cls, path: str | os.PathLike[str], settings: Record, resume: bool = False) -> Iterator[RunDirectory]:
        """Start a run, or continue it, under a lock that keeps other processes out.

        Args:
            path: The folder.
            settings: JSON-serializable. A new run stores these settings. A resumed run keeps its stored settings, and
                the caller compares both.
            resume: Whether to continue a run.

        Raises as `start` and `open` do. Also raises CheckpointError if another process holds the lock; the message
        names that process.
        """
        run = cls.open(path) if resume else cls(path)
        run._make_folder(exist_ok=True)
        with run.locked():
            files.clear(run.path)
            if not resume:
                cls.start(path, settings)
            if not run.config.exists():
                write_atomically(run.config, config_file.text(settings).encode("utf-8", "surrogateescape"))
            yield run

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A context with a lock that keeps other processes from writing here. Raises CheckpointError, naming the
        holder, if another process holds it."""
        lock = self._lock()
        try:
            yield
        finally:
            lock.release()

    @classmethod
    def claim(cls, home: Path, stem: str) -> Path:
        """Create the directory `home`/`stem`-N with the first free N; no other process gets the same one.
        Raises CheckpointError if it cannot be created."""
        for number in itertools.count(1):
            run = cls(home / f"{stem}-{number}")
            with contextlib.suppress(FileExistsError):
                run._make_folder(exist_ok=False)
                return run.path
        raise AssertionError

    def _make_folder(self, exist_ok: bool) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=exist_ok)
        except OSError as error:
            if not exist_ok and isinstance(error, FileExistsError) and os.path.lexists(self.path):
                raise  # the path itself exists; otherwise a parent is not a directory, which the error below reports
            raise CheckpointError(f"cannot create the run directory {self.path}: {error.strerror}") from error

    def _lock(self) -> LockFile:
        try:
            lock = LockFile(self.lock_file)
        except LockedError as error:
            raise CheckpointError(
                f"{self.path} is being written by {error}; wait until it ends, or train in another directory"
            ) from error
        except OSError as error:
            raise CheckpointError(f"cannot lock {self.lock_file}: {error.strerror}") from error
        if not lock.supported:
            notice(f"{self.path}: this file system has no locks, so a second process could write there too")
        return lock

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """The directory of an existing run at `path`. Raises FileNotFoundError if there is none."""
        run = cls(path)
        if not run.settings_file.exists():
            inside = sorted(file.parent.name for file in Path(path).glob(f"*/{run.settings_file.name}"))
            known = f"the runs in it are {', '.join(inside)}" if inside else f"{run.settings_file} does not exist"
            raise FileNotFoundError(f"{path} holds no run; {known}")
        return run

    def settings(self) -> Record:
        """The settings with which the run was started. Raises CheckpointError that names what is wrong in run.json."""
        try:
            with files.open_regular(self.settings_file) as file:
                content = parse(file.read())
            if content["format"] == FORMAT:
                run_schemas.expect(content, run_schemas.RUN)
                return content["settings"]
        except OSError as error:
            raise CheckpointError(f"{self.settings_file} cannot be read: {error.strerror}") from error
        except KeyError as error:
            raise CheckpointError(f"{self.settings_file}: {error.args[0]} is missing") from None
        except ValueError as error:
            raise CheckpointError(f"{self.settings_file}: {error}") from None
        found = short_json(content["format"])
        raise CheckpointError(f"{self.settings_file} has format {found}, this version of gpuconv reads {FORMAT}")

    def begun(self) -> list[str]:
        """The names of the files that exist and that a run writes only after its first checkpoint."""
        later = [self.best, self.metrics_jsonl, self.metrics_csv, self.curves, self.activations, self.filters]
        return [file.name for file in later if os.path.lexists(file)]
