"""Logs of a run for TensorBoard, in addition to metrics.jsonl and metrics.csv."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from gpuconv import backends
from gpuconv.arguments import class_number
from gpuconv.training import data_checks
from gpuconv.training.callback_base import Callback
from gpuconv.training.image_activations import picture
from gpuconv.training.run_state import RunState
from gpuconv.types import Array, Record

log = logging.getLogger(__name__)


def library() -> ModuleType:
    """The tensorboardX package. Raises ImportError that names the extra if it is not installed."""
    try:
        import tensorboardX
    except ImportError as error:
        raise ImportError("TensorBoard logs need tensorboardX: python -m pip install 'gpuconv[tensorboard]'") from error
    return tensorboardX


class TensorBoard(Callback):
    """Log a run for TensorBoard: ``fit(..., run_dir="runs/one", callbacks=[TensorBoard()])``.

    It logs the run's settings as hyperparameters. Its scalars are the loss, accuracy and learning rate at each reading,
    and every number of the records of epochs and of the test. After each epoch it logs histograms of the weights and of
    their change in the epoch's last step (`update/...`), and with `image` a picture of that image's activations.

    path: a folder, by default "tensorboard" in the run directory. Event files are added to it; when a run is resumed,
    TensorBoard drops the steps after the checkpoint. image: uint8 (H, W, C) of the net's size. truth: the image's
    class, an integer or an array of one element. Raises ImportError without tensorboardX, TypeError for an image or a
    truth of another kind, and ValueError for a truth below 0; a truth that is not a class of the net is refused when
    the run begins.
    """

    only_on_rank_0 = True

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        image: np.ndarray | None = None,
        truth: int | Array | None = None,
    ) -> None:
        if image is not None and not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3):
            is_array = isinstance(image, np.ndarray)
            received = f"{image.dtype.name} of shape {image.shape}" if is_array else type(image).__name__
            raise TypeError(f"image must be a uint8 array (H, W, C), received {received}")
        self.path, self.image = path, image
        self.truth = None if truth is None else class_number("truth", truth)
        self._library = library()
        self._last_error = ""

    def on_start(self, trainer: RunState) -> None:
        """Open the event file. Raises ValueError if neither a path nor a run directory is given, if the net does not
        take the image, and if the truth is not one of its classes."""
        path = self.path or (trainer.run and trainer.run.tensorboard)
        if not path:
            raise ValueError("TensorBoard() writes into the run directory, and the run has none: give it a path")
        if self.image is not None:
            data_checks.expect_shape("image", self.image.shape, trainer.net)
            if self.truth is not None:
                class_number("truth", self.truth, trainer.net.output_shape[-1] - 1)
        self._events = _Events(os.fspath(path), trainer.steps)
        # hparams declares the metric by its name and ignores the value.
        for summary in self._library.summary.hparams(_flat(trainer.fit_settings), {"epoch/train_loss": 0.0}):
            self._events.add(summary)
        self._remember_weights(trainer)

    def next_step(self, trainer: RunState) -> int | None:
        """The number of steps until only the last step of the epoch is left. The weights are kept then, to measure the
        last update."""
        return (trainer.batches - 1 - trainer.batch) or trainer.batches

    def on_step(self, trainer: RunState, record: Record | None) -> None:
        if record is not None:
            self._scalars("step", record, trainer.steps)
        if trainer.batch == trainer.batches - 1:
            self._remember_weights(trainer)

    def on_epoch(self, trainer: RunState, record: Record) -> None:
        self._scalars("epoch", record, trainer.steps)
        for name, value in backends.host_copies(trainer.net.params(), np.float32).items():
            self._histogram(f"weight/{name}", value, trainer.steps)
            if name in self._before:
                self._histogram(f"update/{name}", value - self._before[name], trainer.steps)
        self._draw(trainer)
        self._remember_weights(trainer)
        self._events.flush()

    def on_test(self, trainer: RunState, record: Record) -> None:
        self._scalars("test", record, trainer.steps)

    def on_stop(self, trainer: RunState, reason: str) -> None:
        self._events.close()

    def _remember_weights(self, trainer: RunState) -> None:
        """Keep the weights if only the last step of the epoch is left; drop them at the start of an epoch."""
        if trainer.batch == trainer.batches - 1:
            self._before = backends.host_copies(trainer.net.params(), np.float32)
        elif trainer.batch == 0:
            self._before = {}

    def _scalars(self, part: str, record: Record, step: int) -> None:
        for name, value in record.items():
            if isinstance(value, (int, float)) and name not in ("step", "epoch"):
                self._events.add(self._library.summary.scalar(f"{part}/{name}", value), step)

    def _histogram(self, name: str, values: np.ndarray, step: int) -> None:
        self._events.add(self._library.summary.histogram(name, values.reshape(-1), _BINS), step)

    def _draw(self, trainer: RunState) -> None:
        """Log the activation picture. If drawing fails, the reason is printed, unless the previous failure
        had the same reason."""
        from gpuconv import plots
        from gpuconv.plots.canvas import cause

        net = trainer.net
        if self.image is None:
            return
        try:
            if net.normalization is None:
                raise plots.PlotError("it needs a net that was trained on uint8 images")
            classes = net.classes or [str(number) for number in range(net.output_shape[-1])]
            figure = picture(net, self.image, net.normalization, classes, truth=self.truth)
            drawn = self._library.summary.image("activations", plots.pixels(figure), dataformats="HWC")
            self._events.add(drawn, trainer.steps)
        except Exception as error:  # of matplotlib, of a font, or of the net's forward pass
            reason = str(error) if isinstance(error, plots.PlotError) else cause(error)
            if reason != self._last_error:
                log.warning("no activation picture: %s", reason)
            self._last_error = reason


_EDGES = np.geomspace(1e-12, 1e20, 775)  # TensorFlow's: each bin is a tenth wider than the one before
_BINS = np.concatenate([-_EDGES[::-1], [0.0], _EDGES])


class _Events:
    """An event file. It is written in the calling thread, because tensorboardX's own thread ends when the disk is full,
    and its queue then blocks every later call. If writing fails, one message is printed and the run continues without
    the log."""

    def __init__(self, folder: str, steps: int) -> None:
        """steps: the number of steps that a resumed run has done; TensorBoard drops later steps in the older files."""
        import socket

        from tensorboardX import proto, record_writer

        self._event = proto.event_pb2.Event
        os.makedirs(folder, exist_ok=True)
        # The name contains the number of steps, or else it could overwrite a file created in the same second.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{steps}"
        self._file: Any = record_writer.RecordWriter(os.path.join(folder, name))
        self._write(self._event(file_version="brain.Event:2"))
        if steps:
            begun = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
            self._write(self._event(step=steps + 1, session_log=begun))

    def add(self, summary: object, step: int = 0) -> None:
        self._write(self._event(step=step, summary=summary))

    def flush(self) -> None:
        self._try_to_write(lambda file: file.flush())

    def close(self) -> None:
        self._try_to_write(lambda file: file.close())

    def _write(self, event: Any) -> None:  # noqa: ANN401 - an Event of tensorboardX, which has no annotations
        event.wall_time = time.time()
        self._try_to_write(lambda file: file.write(event.SerializeToString()))

    def _try_to_write(self, do: Callable[[Any], object]) -> None:
        if self._file is None:
            return
        try:
            do(self._file)
        except OSError as error:
            log.warning("the TensorBoard files of this run end here: %s", error.strerror or error)
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def _flat(settings: Record) -> Record:
    """The settings flattened to names and plain values, without the net and the options."""
    flat: Record = {}
    for name, value in settings.items():
        if name in ("net", "options"):
            continue
        inside = value if isinstance(value, dict) else {"": value}
        flat |= {
            f"{name}.{key}".rstrip("."): each
            for key, each in inside.items()
            if isinstance(each, (bool, int, float, str))
        }
    return flat
