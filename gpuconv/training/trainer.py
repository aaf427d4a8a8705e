"""Training a net: `Trainer` and `Trainer.fit`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from gpuconv import losses
from gpuconv import parallel as parallelism
from gpuconv.arguments import flag, integer, seed_value
from gpuconv.checkpoint import Checkpoint, as_json
from gpuconv.data import Loader, Normalization
from gpuconv.devices import Device
from gpuconv.layers import Layer
from gpuconv.layers.base import expect_built
from gpuconv.layers.saving import NOTES, notes
from gpuconv.layers.state import restored_on_error
from gpuconv.metrics import named
from gpuconv.names import canonical
from gpuconv.parallel import Ranks, report_errors
from gpuconv.training import compare_settings, data_checks, feeding, fit_loaders, rank_digests, schedules
from gpuconv.training.callback_base import checked_callbacks
from gpuconv.training.callbacks import Checkpoints, Progress, run_dir_callbacks
from gpuconv.training.clip import Clip
from gpuconv.training.ema import decay_value
from gpuconv.training.fit import INTERRUPTED, Fit
from gpuconv.training.history import History
from gpuconv.training.interrupts import Interrupts
from gpuconv.training.loss_scale import LossScale
from gpuconv.training.optimizer_shards import expect_shardable
from gpuconv.training.optimizers import adapted
from gpuconv.training.plateau import Plateau
from gpuconv.training.run_state import RunState
from gpuconv.training.rundir import RunDirectory
from gpuconv.training.shadow import VIOLATIONS, Shadow, expect_share
from gpuconv.training.sharding import expect_synchronizable, shard_count
from gpuconv.training.validation import HeldOut
from gpuconv.types import Record

if TYPE_CHECKING:
    from gpuconv.training.fit_loaders import DataSets, Loaders
    from gpuconv.training.protocols import (
        CallbackLike,
        DataLike,
        Epochs,
        LossLike,
        MetricLike,
        OptimizerLike,
        OptimizerSettings,
        ScheduleLike,
    )


class Trainer(RunState):
    """A net, its optimizer, loss and schedule, and the training state.

    `trained` is the net that a step runs: `net`, or `net.fuse()`, which shares its layers. The state: `steps` (the
    number of steps done), `epoch` (the number of epochs completed), `batch` (the number of steps done in the current
    epoch), `records` (the records of metrics.jsonl, without the test at the end), `tested` (the result of this test).

    Args:
        net: Built, on the device where it is to be trained.
        optimizer: A name with `lr` and further settings (`gpuconv.training.optimizers`), an optimizer, or any object
            with step(params, grads) (`adapted.Adapted`).
        loss: A name, a short form, such as "softmax:label_smoothing=0.1", or a function (`gpuconv.losses`).
        schedule: A short form, such as "cosine,warmup:5", a schedule, or any function of the step (`schedules.Called`).
        plateau: Lowers the rate further when the validation loss no longer improves: a patience in epochs, a short
            form, such as "5,factor=0.5", or a `Plateau`.
        clip: The largest norm of all gradients together, or a short form, such as "value:0.5", or a `Clip`.
        ema: The decay of a moving average of the weights, such as 0.999. Validation, tests and checkpoints use the
            average; `averaged()` puts it into the net.
        accumulate: The number of batches per update. An update uses the gradients of the mean loss over all images of
            these batches. A step is an update, in the schedule too.
        seed: The seed for shuffling data that `fit` itself splits into batches, for splitting validation data off the
            training data, and for the draws of the shadow oracle.
        precision: "float32", "tf32", "float16", "bfloat16" or "float64", to which the net is converted
            (`gpuconv.layers.Layer.to`); by default the net's. The optimizer keeps float32 masters of 16-bit parameters,
            which start from the parameters given here. Weights loaded before the first step or between two calls of
            `fit` reach them; between two calls of `step`, call `optimizer.take_weights(net.params())`.
        loss_scale: Only for float16, by default `LossScale()`.
        graph: Whether `fit` captures the step, from the loading of a batch to the metrics, as a CUDA graph and replays
            it, up to eight steps per launch; by default on CUDA devices. On "emulated" the launches are recorded and
            run again. A run gives the same bits either way. If a capture fails, an `UncapturedWarning` gives the
            reason, and the run continues uncaptured.
        fuse: Whether to train through `net.fuse()`, which has the same arrays and needs fewer launches; by default on
            all devices but NumPy, if the net is a Sequential and sync_batch_norm is not set.
        metrics: What is measured on validation and test data in addition to loss and accuracy, such as ["top-5"], or a
            mapping that names the results, {"best five": "top-5"} (`gpuconv.metrics`).
        shadow: The share of the run's time, above 0 and at most 1, that the shadow oracle may spend on checking calls
            of ops (docs/shadow.md); None for no checks.
        violation: What happens if the shadow oracle finds a result beyond its bound: "stop" raises ShadowError, "warn"
            continues.
        shards: The number of parts, a power of two, into which each batch is cut, even the last batch of an epoch.
            Unless sync_batch_norm is set, the parts are computed one by one, and batch norm takes the statistics of
            each. Augmentation and dropout draw the same random numbers as for the whole batch.
        parallel: How the processes started by mpiexec or torchrun train one net: "mpi" or `gpuconv.parallel.MPI(...)`
            on numpy and emulated, "nccl" or `gpuconv.parallel.NCCL(...)` on a GPU for each process. Each
            process runs this program; `ranks.rank` is its number (docs/parallel.md).
        sync_batch_norm: Whether batch norm takes statistics over the whole batch, on all ranks, instead of each part;
            the net is not fused then.
        shard_optimizer: Whether each rank keeps the optimizer's state and the moving averages of only a part of the
            parameters, and updates only these. It changes no result.
        optimizer_settings: Settings of an optimizer given by name, such as `lr` and `momentum`.

    Raises:
        TypeError, ValueError: A setting has another type, is out of its range, or cannot be combined with another one.
            The net is as it was.
        RuntimeError: The net is not built or has no weights.
        ImportError: The library that `parallel` needs is missing.
        ParallelError: Another rank failed or does not answer.
    """

    def __init__(
        self,
        net: Layer,
        optimizer: OptimizerLike = "sgd",
        *,
        loss: LossLike = "softmax",
        schedule: ScheduleLike | None = None,
        plateau: str | int | Plateau | None = None,
        clip: str | float | Clip | None = None,
        ema: float | None = None,
        accumulate: int = 1,
        seed: int = 0,
        precision: str | None = None,
        loss_scale: LossScale | None = None,
        graph: bool | None = None,
        fuse: bool | None = None,
        metrics: Sequence[MetricLike] | Mapping[str, MetricLike] = (),
        shadow: float | None = None,
        violation: str = "stop",
        shards: int | None = None,
        parallel: str | Ranks | None = None,
        sync_batch_norm: bool = False,
        shard_optimizer: bool = False,
        **optimizer_settings: Unpack[OptimizerSettings],
    ) -> None:
        expect_built(net)
        graph = None if graph is None else flag("graph", graph)
        fuse = None if fuse is None else flag("fuse", fuse)
        ranks = parallelism.ranks(parallel)
        with ranks.reporting_errors():
            ranks.begin(net.device)
            if graph and not ranks.capturable:
                raise ValueError(
                    "graph=True captures a step, and the exchange between ranks runs on the host; leave graph out"
                )
        if graph and not Device.named(net.device).runs_kernels:
            raise ValueError(
                "graph=True captures the launches of a CUDA or the emulated device, and the net is on numpy; "
                "move the net, or leave graph at None or False"
            )
        self.graph = graph
        self.shadow = None if shadow is None else expect_share(shadow)
        self.shadowed: Shadow | None = None
        self._fitting = False
        self.violation = canonical("violation", violation, VIOLATIONS)
        self.metrics = named(metrics)
        own, factor = adapted.adapt(optimizer, **optimizer_settings), schedules.get(schedule)
        watched = Plateau.of(plateau)
        adapted.expect_rate(own, factor, watched)
        limit = Clip.of(clip)
        adapted.expect_clip(own, limit)
        adapted.expect_precision(own, precision or net.precision)
        adapted.expect_update(own, ema)
        with restored_on_error(net):
            super().__init__(
                net,
                own,
                loss,
                schedule=factor,
                plateau=watched,
                seed=seed_value("seed", seed),
                precision=precision,
                loss_scale=loss_scale,
                clip=limit,
                accumulate=integer("accumulate", accumulate, 1),
                ema=None if ema is None else decay_value(ema),
                fuse=fuse,
                shards=None if shards is None else shard_count(shards),
                ranks=ranks,
                sync_batch_norm=expect_synchronizable(sync_batch_norm, fuse, net),
                shard_optimizer=expect_shardable(shard_optimizer, own),
            )

    @report_errors
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
        """Train until a total of `epochs` epochs is done, and return a record for each.

        After the first Ctrl-C, SIGTERM or SIGHUP it finishes the step, saves and returns with `stop_reason`
        "interrupted" and the signal as `interrupted_by`; a second one aborts. If a callback fails in `on_stop`, a
        warning gives its error.

        Args:
            train: (images, labels), a Dataset or any object with __len__ and __getitem__, which is shuffled and split
                into batches; or batches: a Loader, a PyTorch DataLoader, a generator, or a function that makes one
                (docs/data.md). Floats are taken as they are.
            epochs: The total number of epochs, including those that a resumed run has already done.
            validation: Evaluated after each epoch; it decides which epoch is "best" (without it, the training loss
                does). A number between 0 and 1 splits that fraction of each class off the training data, drawn by the
                trainer's seed; 0 means none.
            test: Evaluated after each epoch; its results are recorded and decide nothing.
            test_at_end: Whether `test` is evaluated once at the end instead (the default if validation is a fraction),
                with the result in `tested`.
            callbacks: Objects with event methods (`Callback`).
            run_dir: A folder for checkpoints, logs and curves (`RunDirectory`).
            resume: Whether to continue from the last checkpoint in run_dir, with the same settings. The results have
                the same bits as those of a run without a stop. On the CPU this needs the same BLAS with the same number
                of threads, which determine the order of the sums.
            metrics_every: The number of steps between readings of the running loss, which detect NaN.
            checkpoint_every: Steps between checkpoints, in addition to one after each epoch.
            batch_size: Images of a batch, for data without batches.
            steps_per_epoch: The number of batches in an epoch, for batches from a generator or another iterable.
            normalization: How uint8 images are normalized; the net keeps it. By default the net's own; if it has none,
                the statistics of the training images are used.
            settings: Further JSON-serializable settings, stored in run_dir and compared when a run is resumed. The
                names classes, mean, std and input_shape are reserved: the run sets them itself.
            progress: Whether to show a bar and print a line for each epoch.

        Raises:
            DataError: The images, labels or the last batch do not fit the net or the loss; nothing was created.
            DivergedError: A loss, or a parameter that is to be saved, is not finite; nothing more was saved.
            ShadowError: The shadow oracle found a result beyond its bound, and `violation` is "stop".
            CheckpointError: A run directory or checkpoint that cannot be used, or that another process is writing.
            SettingsError: A resume with other settings.
            FileExistsError: run_dir already holds a run.
            FileNotFoundError: resume=True, and run_dir holds no run.
            ParallelError: Another rank failed, does not answer, or has other code, settings, data or weights.
            RuntimeError: A callback, or another function that `fit` calls, called it again; or the net was moved or
                converted by `net.to` since the trainer was made.
            TypeError: Data of an unknown kind, uint8 images whose normalization is unknown, an object in callbacks that
                is not a callback, or an argument of a wrong type.
            ValueError: Another argument is out of its range, or resume=True without run_dir.
        """
        if self._fitting:
            raise RuntimeError(
                "fit of this trainer is running, and a callback cannot call it again; trainer.stop(reason) ends the "
                "run, and a callback may use another Trainer"
            )
        self.expect_net_as_made()
        integer("metrics_every", metrics_every, 1)
        epochs = integer("epochs", epochs, 0)
        resume, progress = flag("resume", resume), flag("progress", progress)
        if checkpoint_every is not None:
            integer("checkpoint_every", checkpoint_every, 1)
        if resume and run_dir is None:
            raise ValueError("resume=True needs run_dir, the directory of the run to continue")
        checked = checked_callbacks(callbacks)
        if fit_loaders.is_fraction(validation) and validation == 0:
            validation = None
        if self.plateau:
            self.plateau.expect_watched(validation is not None, self.loss)
        if settings is not None and not isinstance(settings, dict):
            raise TypeError(f"settings are a dictionary of JSON values by name, received {type(settings).__name__}")
        taken = [name for name in settings or () if name in NOTES]
        if taken and run_dir is not None and not resume:
            raise ValueError(
                f"a run stores {', '.join(NOTES)} itself, from net.classes, the normalization and the images; give "
                f"settings other names, received {', '.join(taken)}"
            )
        splits_off = fit_loaders.is_fraction(validation)
        test_at_end = splits_off if test_at_end is None else flag("test_at_end", test_at_end)
        for name, part in {"validation": validation, "test": None if test_at_end else test}.items():
            if epochs > 1:
                data_checks.expect_repeatable(name, part)
        known = normalization or getattr(self.net, "normalization", None)
        data = {"train": train, "validation": validation, "test": test}
        loaders = self._loaders(data, batch_size, steps_per_epoch, known)
        loader = loaders["train"]
        sets = {name: loaders[name] for name in ("validation", "test")}
        held_out = HeldOut(self.metrics, sets, ("test",) if test_at_end else ())
        batches = math.ceil(data_checks.expect_length(loader) / self.accumulate)
        if self.batch > batches and not resume:
            raise ValueError(
                f"the previous fit ended after {self.batch} steps of an epoch, and an epoch of train now has {batches}"
                "; give the same data and batch_size as before"
            )
        self.epochs, self.batches = epochs, batches
        with self._image_notes(loader, known):
            self.optimizer.match(self.net.params())  # layers may have been frozen since it was built
            self.optimizer.begin(self.total_steps, self.batches)
            self.fit_settings = as_json(
                self.settings()
                | {name: fit_loaders.describe(each, name in held_out.at_end) for name, each in loaders.items()}
                | {"metrics_every": metrics_every, "options": self._options(settings)}
            )
            self._expect_alike()
            self._run(loader, held_out, checked, run_dir, resume, metrics_every, checkpoint_every, progress)
        return self.history

    def _loaders(
        self, data: DataSets, batch_size: int, steps_per_epoch: int | None, known: Normalization | None
    ) -> Loaders:
        """A loader for each data set; each fits the net and the loss. known: the normalization of uint8 images. The
        other arguments are those of `fit`."""
        loaders = fit_loaders.loaders(
            data,
            net=self.net,
            batch_size=integer("batch_size", batch_size, 1),
            seed=self.seed,
            steps_per_epoch=steps_per_epoch,
            normalization=known,
            ignored=losses.ignored_label(self.loss),
        )
        for name, loader in loaders.items():
            shards = self.sharding.count if self.sharding and name == "train" else 1
            parts = "shards" if self.shards else "ranks"
            data_checks.expect(name, loader, self.net, self.loss, shards, parts, self.sync_batch_norm)
        return loaders

    @contextlib.contextmanager
    def _image_notes(self, loader: Epochs, known: Normalization | None) -> Iterator[None]:
        """A context in which the net has the normalization and the classes of the training data. The net keeps them
        afterwards, unless an error ends the context before the first step."""
        before, steps = {name: getattr(self.net, name, None) for name in ("normalization", "classes")}, self.steps
        fit_loaders.set_image_notes(self.net, loader, known)
        try:
            yield
        except BaseException:
            if self.steps == steps:
                for name, value in before.items():
                    setattr(self.net, name, value)
            raise

    def _run(
        self,
        loader: Loader | Epochs,
        held_out: HeldOut,
        callbacks: list[CallbackLike],
        run_dir: str | Path | None,
        resume: bool,
        metrics_every: int,
        checkpoint_every: int | None,
        progress: bool,
    ) -> None:
        """Hold the run directory, restore the last checkpoint, and train. loader: training batches. held_out: the
        validation and test data. The other arguments are those of `fit`."""
        self.run, self.stop_reason, self.interrupted_by, self.tested = None, None, None, None
        self.may_continue = False
        interrupts = Interrupts("finishing the step, then stopping; a second signal aborts at once")
        with interrupts, contextlib.ExitStack() as contexts:
            self._fitting = True
            contexts.callback(setattr, self, "_fitting", False)
            contexts.callback(adapted.write_base_rate, self.optimizer)
            if run_dir is not None and self.ranks.rank == 0:
                self.run = contexts.enter_context(RunDirectory.held(run_dir, self.fit_settings, resume))
                callbacks = [*run_dir_callbacks(self.run, checkpoint_every), *callbacks]
            elif run_dir is not None:
                callbacks = [Checkpoints(None, checkpoint_every), *callbacks]
            if self.ranks.rank:
                callbacks = [each for each in callbacks if not getattr(each, "only_on_rank_0", False)]
            if self.steps:  # without a step, `Fit` does this
                self.take_weights()
            if resume and (last := self.ranks.on_rank_0(self._last_checkpoint)):
                self.restore(last, f"the checkpoint of {run_dir}" if self.run is None else self.run.last)
            if progress and self.ranks.rank == 0:
                callbacks.append(Progress())
            if self.shadow:
                folder = None if run_dir is None else Path(run_dir)
                self.shadowed = Shadow(self.shadow, self.violation, folder, seed=self.seed, rank=self.ranks.rank)
                contexts.enter_context(contextlib.closing(self.shadowed))
            range_of_rank = self.sharding.range_of_rank if self.ranks.size > 1 and self.sharding else None
            Fit(
                self,
                feeding.feed(loader, range_of_rank, batches_per_step=self.accumulate),
                held_out,
                callbacks,
                metrics_every=metrics_every,
                graph=Device.named(self.net.device).on_gpu if self.graph is None else self.graph,
                interrupts=interrupts,
                shadow=self.shadowed if self.shadow else None,
            )()
            if self.stop_reason == INTERRUPTED:
                interrupts.mark_fulfilled()

    def _last_checkpoint(self) -> Checkpoint | None:
        return self.last_of(self.run) if self.run else None

    def _expect_alike(self) -> None:
        """Raise ParallelError that names a rank with other code, settings, data or weights than rank 0."""
        if self.ranks.size > 1:
            settings = compare_settings.compared_settings(self.fit_settings)
            self.ranks.expect_same({"code": rank_digests.code(), "settings": settings}, compare_settings.differences)
            self.expect_same_weights()

    def _options(self, settings: Record | None) -> Record:
        """The given settings, with the metadata of the net's images, which `gpuconv.load` needs."""
        return notes(self.net) | (settings or {})
