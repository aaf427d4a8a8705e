"""TensorBoard logs of a run, in addition to metrics.jsonl and metrics.csv."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np

from gpuconv import backends
from gpuconv.training.callbacks import Callback
from gpuconv.training.look import picture
from gpuconv.types import Record

log = logging.getLogger(__name__)


def library() -> Any:
    """The tensorboardX package. Raises ImportError that names the extra if it is not installed."""
    try:
        import tensorboardX
    except ImportError as error:
        raise ImportError("TensorBoard logs need tensorboardX: python -m pip install 'gpuconv[tensorboard]'") from error
    return tensorboardX


class TensorBoard(Callback):
    """Log a run for TensorBoard: ``fit(..., run_dir="runs/one", callbacks=[TensorBoard()])``.

    Logs scalars (loss, accuracy and learning rate at each reading, and every number of an epoch's record) and the run's
    settings as hyperparameters; after each epoch histograms of the weights and of their change in the epoch's last step
    (`update/...`), and with `image` a picture of its activations.

    path: a folder, by default "tensorboard" in the run directory. Event files are added to it; when a run is resumed,
    TensorBoard drops the steps after the checkpoint. image: uint8 (H, W, C) of the net's size; truth: its class. Raises
    ImportError without tensorboardX.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, image: Any = None, truth: int | None = None
    ) -> None:
        self.path, self.image, self.truth = path, image, truth
        self._library = library()
        self._said = ""

    def on_start(self, trainer: Any) -> None:
        path = self.path or (trainer.run and trainer.run.tensorboard)
        if not path:
            raise ValueError("TensorBoard() writes into the run directory, and the run has none: give it a path")
        self._writer = self._library.SummaryWriter(
            os.fspath(path),
            purge_step=trainer.steps + 1 if trainer.steps else None,
            filename_suffix=f".{trainer.steps}",  # else a writer created in the same second overwrites the file
        )
        for summary in self._library.summary.hparams(_flat(trainer.fit_settings), {"epoch/train_loss": 0.0}):
            self._writer.file_writer.add_summary(summary)
        self._remember(trainer)

    def next_step(self, trainer: Any) -> int | None:
        """The step before the last of an epoch: the update is measured from its weights."""
        return (trainer.batches - 1 - trainer.batch) or trainer.batches

    def on_step(self, trainer: Any, record: Record | None) -> None:
        if record is not None:
            self._scalars("step", record, trainer.steps)
        if trainer.batch == trainer.batches - 1:
            self._remember(trainer)

    def on_epoch(self, trainer: Any, record: Record) -> None:
        self._scalars("epoch", record, trainer.steps)
        for name, value in _weights(trainer).items():
            self._writer.add_histogram(f"weight/{name}", value, trainer.steps)
            if name in self._before:
                self._writer.add_histogram(f"update/{name}", value - self._before[name], trainer.steps)
        self._draw(trainer)
        self._remember(trainer)
        self._writer.flush()

    def on_test(self, trainer: Any, record: Record) -> None:
        self._scalars("test", record, trainer.steps)

    def on_stop(self, trainer: Any, reason: str) -> None:
        self._writer.close()

    def _remember(self, trainer: Any) -> None:
        if trainer.batch == trainer.batches - 1:
            self._before = _weights(trainer)
        elif trainer.batch == 0:
            self._before = {}

    def _scalars(self, part: str, record: Record, step: int) -> None:
        for name, value in record.items():
            if isinstance(value, (int, float)) and name not in ("step", "epoch"):
                self._writer.add_scalar(f"{part}/{name}", value, step)

    def _draw(self, trainer: Any) -> None:
        """The activation picture. If drawing fails, each reason is printed once."""
        from gpuconv import plots

        net = trainer.net
        if self.image is None:
            return
        try:
            if net.normalization is None:
                raise plots.PlotError("the net was not trained on uint8 images, as the picture needs")
            classes = net.classes or [str(number) for number in range(net.output_shape[-1])]
            figure = picture(net, self.image, net.normalization, classes, truth=self.truth)
            self._writer.add_image("activations", plots.pixels(figure), trainer.steps, dataformats="HWC")
        except plots.PlotError as error:
            if str(error) != self._said:
                log.warning("no activation picture: %s", error)
            self._said = str(error)


def _weights(trainer: Any) -> dict[str, np.ndarray]:
    return {name: np.array(backends.to_numpy(value), np.float32) for name, value in trainer.net.params().items()}


def _flat(settings: Record) -> dict[str, Any]:
    """The settings flattened to names and plain values, without the net's layers."""
    flat: dict[str, Any] = {}
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
