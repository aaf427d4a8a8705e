"""Repeats a recorded run up to a step and keeps one tensor of that step, which `gpuconv bisect RUN_A RUN_B` compares
with the same tensor of another run."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpuconv import backends
from gpuconv.checkpoint import load
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.system.console import quiet
from gpuconv.system.files import describe_error
from gpuconv.training import RunDirectory, run_schemas
from gpuconv.training.run_state import RunState
from gpuconv.training.tensor_digests import Digests, Key, Step, machine, read, with_unique_keys
from gpuconv.training.tensor_sums import CRC32
from gpuconv.types import Array, Record

_OTHER_HASHES = "{} has hashes of an older version, which cannot be compared with a repeated run's"


class Repetition:
    """A run that can be repeated on this machine up to a recorded step. Raises UserError if the run cannot be repeated,
    and OSError or CheckpointError for a file that is missing or damaged.

    steps: the number of steps to repeat, from the last checkpoint before that step, or from the start.
    steps_per_epoch: the number of steps in an epoch.
    """

    def __init__(self, directory: str | os.PathLike[str], step: int) -> None:
        self.directory, self.step = directory, step
        self.run = RunDirectory.open(directory)
        self.recorded = {each.step: each for each in read(self.run.digests) if each.step <= step}
        self.device = self.recorded[step].device
        with user_errors():
            if (current := machine(backends.resolve(self.device))) != self.recorded[step].on:
                raise UserError(f"{directory} was recorded on {self.recorded[step].on}, and this is {current}")
        if any(digest.kind == CRC32 for each in self.recorded.values() for digest in each.tensors):
            raise UserError(_OTHER_HASHES.format(directory))
        settings = self.run.settings()
        self.steps_per_epoch = _steps_per_epoch(settings)
        steps_at = {path: self._steps_at(path) for path in (self.run.last, self.run.best) if path.exists()}
        self.checkpoint = max(
            (path for path in steps_at if steps_at[path] < step), key=lambda path: steps_at[path], default=None
        )
        self.steps = step - (steps_at[self.checkpoint] if self.checkpoint else 0)

    def _steps_at(self, path: Path) -> int:
        """The number of steps that the run had done at a checkpoint."""
        state = run_schemas.state(load(path).state, path)
        return state["epoch"] * self.steps_per_epoch + state["batch"]

    def values(self, key: Key) -> np.ndarray:
        """The values of a tensor. Raises UserError if the run cannot be repeated or ends before the step, or if the
        repeated digests are not those recorded."""
        from gpuconv.cli import train
        from gpuconv.cli.main import parsers

        with tempfile.TemporaryDirectory(prefix="gpuconv-") as folder:
            copy = RunDirectory(Path(folder) / "run")
            copy.path.mkdir()
            shutil.copy(self.run.settings_file, copy.settings_file)
            if self.checkpoint:
                shutil.copy(self.checkpoint, copy.last)
            keeper = _TensorKeeper(Path(folder) / "digests.jsonl", self.step, key)
            words = ["--resume", str(copy.path), "--device", self.device]
            options = parsers("train")[1]["train"].parse_args(words)
            with _silent():
                try:
                    status = train.run(options, more_callbacks=[keeper])
                    if status > 128:  # a signal stopped the repetition; the exception removes the temporary folder
                        raise SystemExit(status)
                except _StepRepeated:
                    pass
                except UserError as error:
                    raise UserError(f"{self.directory} cannot be repeated: {error}") from error
                except OSError as error:
                    raise UserError(f"{self.directory} cannot be repeated: {describe_error(error)}") from error
            if keeper.values is None:
                raise UserError(f"{self.directory} ended before step {self.step} when it was repeated")
            self._expect_recorded(read(keeper.path or ""))
        return keeper.values

    def _expect_recorded(self, repeated: list[Step]) -> None:
        """Raise UserError unless the repeated digests are those that the run recorded."""
        for step in repeated:
            repeated_digests = dict(with_unique_keys(step))
            for key, digest in with_unique_keys(self.recorded[step.step]) if step.step in self.recorded else ():
                alike = key in repeated_digests and digest.alike(repeated_digests[key])
                if alike is None:
                    raise UserError(_OTHER_HASHES.format(self.directory))
                if not alike:
                    raise UserError(
                        f"from step {step.step} on, {self.directory} has other bits when repeated, first in "
                        f"{digest.direction} of {digest.name}; the run was recorded with other code or other ranks"
                    )


def _steps_per_epoch(settings: Record) -> int:
    data = settings["train"]
    if "batch_size" not in data:
        raise UserError("only runs on images can be repeated, not those on batches of a loader made in Python")
    images, size = data["images"], data["batch_size"]
    batches = images // size if data.get("drop_last") else math.ceil(images / size)
    return max(1, math.ceil(batches / settings.get("accumulate", 1)))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    log = logging.getLogger("gpuconv")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), quiet():
            yield
    finally:
        log.setLevel(level)


class _StepRepeated(Exception):
    """The step was repeated."""


class _TensorKeeper(Digests):
    """Keeps the values of a tensor of a step, and ends the run there."""

    def __init__(self, path: Path, step: int, key: Key) -> None:
        super().__init__(path)
        self.step, self.key = step, key
        self.values: np.ndarray | None = None
        self.earlier = 0  # the number of tensors of this direction and name seen so far in that step

    def seen(self, direction: str, name: str, tensor: Array, scale: float) -> None:
        if self.at == self.step and (direction, name) == self.key[:2]:
            if self.earlier == self.key[2]:
                self.values = np.array(backends.to_numpy(tensor), np.float64) / scale
            self.earlier += 1

    @contextlib.contextmanager
    def around_step(self, trainer: RunState) -> Iterator[None]:
        self.at = trainer.steps + 1
        with super().around_step(trainer):
            yield

    def on_step(self, trainer: RunState, record: Record | None) -> None:
        if trainer.steps >= self.step:
            raise _StepRepeated
