"""Training a net: what is to be trained, and on what."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from gpuconv.arguments import integer, seed_value
from gpuconv.data import Normalization
from gpuconv.devices import Device
from gpuconv.layers import Layer
from gpuconv.layers.saving import notes
from gpuconv.metrics import named
from gpuconv.training import adapt, feeding, schedules, stored
from gpuconv.training.callbacks import Progress, checked, keepers
from gpuconv.training.fit import INTERRUPTED, Fit
from gpuconv.training.held_out import HeldOut
from gpuconv.training.history import History
from gpuconv.training.interrupts import Interrupts
from gpuconv.training.loss_scale import LossScale
from gpuconv.training.rundir import RunDirectory
from gpuconv.training.state import Record, RunState

if TYPE_CHECKING:
    from gpuconv.training.protocols import (
        CallbackLike,
        DataLike,
        LossLike,
        MetricLike,
        OptimizerLike,
        OptimizerSettings,
        ScheduleLike,
    )


class Trainer(RunState):
    """A net with what trains it.

    net: built, on the device it shall train on. optimizer: a name with `lr` and further settings (see
    `gpuconv.training.optimizers`), an optimizer, or any object with step(params, grads) (`adapt.Adapted`). loss: a
    name, or a function (`gpuconv.losses`). schedule: its short form, "cosine,warmup:5", a schedule, or any function of
    the step (`schedules.Called`). metrics: what is measured on validation and test data beside loss and accuracy
    (`gpuconv.metrics`).
    seed: of the shuffles and augmentations that `fit` sets up for a bare Dataset. fuse: train through `net.fuse()`, the
    same arrays in fewer launches; by default where kernels run, which is everywhere but on NumPy.

    precision: what the net is turned to compute in ("float32", "tf32", "float16", "bfloat16"; see
    `gpuconv.layers.Layer.to`), by default its own. The optimizer keeps float32 masters of 16-bit parameters, which
    start from the parameters as they were given; other weights loaded into the net later do not reach them. loss_scale:
    for float16 alone, by default `LossScale()`.

    graph: whether `fit` captures the step, from the loading of a batch to the metrics, and replays it, up to eight
    steps a launch; by default on CUDA devices. On "emulated" its launches are noted down and run again. Captured or
    not, a run gives the same bits. Where a capture fails, an `UncapturedWarning` says why and the run goes on without.

    `trained` is what a step runs: the net, or its fused twin.

    The state: `steps` done, `epoch` (epochs completed), `batch` (batches done of the next one), `records` (what
    metrics.jsonl holds). `tested`: what a test at the end found.
    """

    def __init__(
        self,
        net: Layer,
        optimizer: OptimizerLike = "sgd",
        *,
        loss: LossLike = "softmax",
        schedule: ScheduleLike | None = None,
        seed: int = 0,
        precision: str | None = None,
        loss_scale: LossScale | None = None,
        graph: bool | None = None,
        fuse: bool | None = None,
        metrics: Sequence[MetricLike] = (),
        **optimizer_settings: Unpack[OptimizerSettings],
    ) -> None:
        if graph and not Device.named(net.device).runs_kernels:
            raise ValueError(
                "graph=True captures the launches of a CUDA or the emulated device, and the net is on numpy; "
                "move it, or leave graph at None or False"
            )
        self.graph = graph
        self.metrics = named(metrics)
        own, factor = adapt.optimizer(optimizer, **optimizer_settings), schedules.get(schedule)
        adapt.expect_rate(own, factor)
        super().__init__(
            net,
            own,
            loss,
            schedule=factor,
            seed=seed_value("seed", seed),
            precision=precision,
            loss_scale=loss_scale,
            fuse=fuse,
        )

    def fit(
        self,
        train: DataLike,
        *,
        epochs: int,
        validation: DataLike | float | None = None,
        test: DataLike | None = None,
        test_at_end: bool | None = None,
        callbacks: Sequence[CallbackLike] = (),
        run_dir: str | Path | None = None,
        resume: bool = False,
        metrics_every: int = 50,
        checkpoint_every: int | None = None,
        batch_size: int = 64,
        steps_per_epoch: int | None = None,
        normalization: Normalization | None = None,
        settings: Record | None = None,
        progress: bool = True,
    ) -> History:
        """Train until `epochs` epochs are done in all, and return a record for each.

        train: (images, labels), a Dataset, any object with __len__ and __getitem__, of which batches of `batch_size`
        are made and shuffled; or batches: a Loader, a PyTorch DataLoader, a generator, or a function that makes one
        (docs/data.md). uint8 images are normalised by `normalization`, by default the net's own, which a net that was
        trained before has, else the statistics of the training images, which the net then keeps; floats are taken as
        they are. steps_per_epoch: the batches of an epoch, for a generator. validation:
        evaluated after each epoch, and what "best" is judged by (without it the training loss is); a number between 0
        and 1 is that part of each class of the training data, drawn by the trainer's seed, and 0 is none. test:
        evaluated too, for the record alone: after each epoch, or, by default where validation is a part of the training
        data, once at the end (test_at_end), which `tested` then holds.

        run_dir: a folder for checkpoints, logs and curves (see `rundir`). resume: go on from its last checkpoint,
        which gives the same bits as a run that never stopped (on the CPU: with the same BLAS and number of its
        threads, which order its sums); it must have been made with the same settings. settings: further JSON-able
        settings to store there and compare. metrics_every: the steps between readings of the running loss, which is
        when NaN is seen. checkpoint_every: steps between checkpoints, besides one after each epoch.

        The first Ctrl-C, SIGTERM or SIGHUP finishes the step, saves and returns with `stop_reason` "interrupted" and
        the signal as `interrupted_by`; the second aborts. A callback that fails in `on_stop` is told of on stderr.

        Raises DataError where the images, labels or the last batch do not fit the net, before anything is made;
        DivergedError, and saves nothing more, when the loss is not finite; CheckpointError for a run directory or
        checkpoint that cannot be used, or that another process is writing; SettingsError for a resume with other
        settings; FileExistsError when run_dir already holds a run.
        """
        integer("metrics_every", metrics_every, 1)
        epochs = integer("epochs", epochs, 0)
        if checkpoint_every is not None:
            integer("checkpoint_every", checkpoint_every, 1)
        if resume and run_dir is None:
            raise ValueError("resume=True needs run_dir, the directory of the run to continue")
        told = checked(callbacks)
        if feeding.is_fraction(validation) and validation == 0:
            validation = None
        if test_at_end is None:
            test_at_end = feeding.is_fraction(validation)
        for name, part in {"validation": validation, "test": None if test_at_end else test}.items():
            if epochs > 1:
                feeding.expect_again(name, part)
        known = normalization or getattr(self.net, "normalization", None)
        loaders = feeding.loaders(
            {"train": train, "validation": validation, "test": test},
            net=self.net,
            batch_size=integer("batch_size", batch_size, 1),
            seed=self.seed,
            steps_per_epoch=steps_per_epoch,
            normalization=known,
        )
        for name, loader in loaders.items():
            feeding.expect(name, loader, self.net, self.loss)
        loader = loaders["train"]
        sets = {name: loaders[name] for name in ("validation", "test")}
        held_out = HeldOut(self.metrics, sets, ("test",) if test_at_end else ())
        self.epochs, self.batches = epochs, feeding.expect_length(loader)
        feeding.note(self.net, loader, known)
        self.optimizer.match(self.net.params())  # layers may have been frozen since
        self.optimizer.begin(self.total_steps, self.batches)
        self.fit_settings = stored.as_json(
            self.settings()
            | {name: feeding.describe(each, name in held_out.at_end) for name, each in loaders.items()}
            | {"metrics_every": metrics_every, "options": self._options(settings)}
        )
        self.run, self.stop_reason, self.interrupted_by, self.tested = None, None, None, None
        interrupts = Interrupts("finishing the step, then stopping; once more aborts at once")
        with interrupts, contextlib.ExitStack() as held:
            if run_dir is not None:
                self.run = held.enter_context(RunDirectory.held(run_dir, self.fit_settings, resume))
                if resume:
                    self.go_on(self.run)
                told = [*keepers(self.run, checkpoint_every), *told]
            if progress:
                told.append(Progress())
            graph = Device.named(self.net.device).on_gpu if self.graph is None else self.graph
            Fit(
                self,
                feeding.feed(loader),
                held_out,
                told,
                metrics_every=metrics_every,
                graph=graph,
                interrupts=interrupts,
            )()
            if self.stop_reason == INTERRUPTED:
                self.interrupted_by = interrupts.requested
                interrupts.serve()
        return self.history

    def _options(self, settings: Any) -> Any:
        """The given settings, beside what the net's images are, so that `gpuconv.load` knows them."""
        return settings if settings and not isinstance(settings, dict) else notes(self.net) | (settings or {})
