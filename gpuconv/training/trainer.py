"""Training a net: the step, the loop around it, and going on where a run stopped."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv import backends, losses, profiling
from gpuconv import checkpoint as checkpoints
from gpuconv.arguments import integer, seed_value
from gpuconv.checkpoint import Checkpoint, CheckpointError
from gpuconv.console import say
from gpuconv.data import Normalization
from gpuconv.dtypes import as_precision
from gpuconv.layers.saving import notes
from gpuconv.metrics import named
from gpuconv.training import adapt, feeding, schedules, stored
from gpuconv.training import callbacks as watching
from gpuconv.training.clock import AHEAD, Clock
from gpuconv.training.held_out import HeldOut
from gpuconv.training.history import History
from gpuconv.training.interrupts import Interrupts
from gpuconv.training.loss_scale import LossScale
from gpuconv.training.metrics import NOTHING, Reading, Totals
from gpuconv.training.replay import Replay
from gpuconv.training.rundir import RunDirectory

Array = Any
Record = dict[str, Any]

FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"


class DivergedError(FloatingPointError):
    """A loss or a parameter is no longer finite; the message names the step."""


class SettingsError(ValueError):
    """A run was to be continued with other settings; the message names them."""


class Trainer:
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
        net: Any,
        optimizer: Any = "sgd",
        *,
        loss: Any = "softmax",
        schedule: Any = None,
        seed: int = 0,
        precision: str | None = None,
        loss_scale: LossScale | None = None,
        graph: bool | None = None,
        fuse: bool | None = None,
        metrics: Sequence[Any] = (),
        **optimizer_settings: Any,
    ) -> None:
        dtype, _ = as_precision(precision=precision or net.precision)
        if loss_scale is not None and dtype != np.float16:
            raise ValueError(f"a loss scale is for float16, the precision is {precision or net.precision}")
        if graph and net.device == "numpy":
            raise ValueError(
                "graph=True captures the launches of a CUDA or the emulated device, and the net is on numpy; "
                "move it, or leave graph at None or False"
            )
        self.graph = graph
        self.optimizer = adapt.optimizer(optimizer, **optimizer_settings)
        self.loss = losses.get(loss)
        self.schedule = schedules.get(schedule)
        adapt.expect_rate(self.optimizer, self.schedule)
        self.metrics = named(metrics)
        self.seed = seed_value("seed", seed)
        masters = {name: np.array(backends.to_numpy(value), np.float32) for name, value in net.params().items()}
        self.net = net.to(precision=precision) if precision else net
        self.trained = net.fuse() if (net.device != "numpy" if fuse is None else fuse) else net
        self.optimizer.build(net.params(), masters)
        self.loss_scale = loss_scale or LossScale() if dtype == np.float16 else None
        if self.loss_scale:
            self.loss_scale.build(net.device)
        self.epoch = self.batch = 0
        self.epochs = self.batches = 0
        self.records: list[Record] = []
        self.stop_reason: str | None = None
        self.interrupted_by: signal.Signals | None = None
        self.run: RunDirectory | None = None
        self.tested: Record | None = None
        self._settings: Record = {}
        self._totals = Totals(net.device)
        self._read = NOTHING

    # --- a step --------------------------------------------------------------------------------

    def step(
        self, x: Array, y: Array, part: Callable[[str], contextlib.AbstractContextManager[None]] = profiling.part
    ) -> None:
        """Forward, loss, backward, update, and the sums of the metrics: device work alone.

        No host value that changes from step to step enters here, and nothing is read back, so the launches of one call
        can be captured and replayed. The learning rate and step number are on the device: `optimizer.advance` writes
        them, in `fit` a clock does. part: what "step", "loss", the optimizer's name and "metrics" run inside.
        """
        with part("step"):
            self.net.zero_grad()
            scores = self.trained.forward(x, training=True)
            with part("loss"):
                scale = [self.loss_scale.factor] if self.loss_scale else []
                loss, dscores = losses.apply(self.loss, scores, y, *scale)
            self.trained.backward(dscores, input_grad=False)
            with part(self.optimizer.name):
                self._update(self.net.params(), self.net.grads())
            with part("metrics"):
                self._totals.add(loss, scores, y)

    def _update(self, params: dict[str, Array], grads: dict[str, Array]) -> None:
        if self.loss_scale:
            self.loss_scale.update(grads)
            self.optimizer.update(params, grads, self.loss_scale.array)
        else:
            self.optimizer.update(params, grads)

    @property
    def steps(self) -> int:
        """The number of steps done in all."""
        return self.optimizer.steps

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._lr_after(0)

    def _lr_after(self, further: int) -> float:
        return self.optimizer.lr * self.schedule(self.steps + further, self.total_steps, self.batches)

    @property
    def total_steps(self) -> int:
        return self.epochs * self.batches

    @property
    def history(self) -> History:
        """A record for each epoch."""
        found = History(record for record in self.records if record["event"] == "epoch")
        found.tested = self.tested
        return found

    # --- the loop ------------------------------------------------------------------------------

    def fit(
        self,
        train: Any,
        *,
        epochs: int,
        validation: Any = None,
        test: Any = None,
        test_at_end: bool | None = None,
        callbacks: Sequence[watching.Callback] = (),
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
        self.epochs = integer("epochs", epochs, 0)
        if checkpoint_every is not None:
            integer("checkpoint_every", checkpoint_every, 1)
        if resume and run_dir is None:
            raise ValueError("resume=True needs run_dir, the directory of the run to continue")
        watchers = watching.checked(callbacks)
        if feeding.is_fraction(validation) and validation == 0:
            validation = None
        loaders = feeding.loaders(
            {"train": train, "validation": validation, "test": test},
            net=self.net,
            batch_size=integer("batch_size", batch_size, 1),
            seed=self.seed,
            steps_per_epoch=steps_per_epoch,
            normalization=normalization or getattr(self.net, "normalization", None),
        )
        for name, loader in loaders.items():
            feeding.expect(name, loader, self.net, self.loss)
        loader = loaders["train"]
        if test_at_end is None:
            test_at_end = feeding.is_fraction(validation)
        sets = {name: loaders[name] for name in ("validation", "test")}
        held_out = HeldOut(self.metrics, sets, ("test",) if test_at_end else ())
        self.batches = feeding.expect_length(loader)
        feeding.note(self.net, loader)
        self.optimizer.match(self.net.params())  # layers may have been frozen since
        self.optimizer.begin(self.total_steps, self.batches)
        self._settings = stored.as_json(
            self.settings()
            | {name: feeding.describe(each, name in held_out.at_end) for name, each in loaders.items()}
            | {"metrics_every": metrics_every, "options": self._options(settings)}
        )
        self.run, self.stop_reason, self.interrupted_by, self.tested = None, None, None, None
        interrupts = Interrupts("finishing the step, then stopping; once more aborts at once")
        with interrupts, contextlib.ExitStack() as held:
            if run_dir is not None:
                self.run = held.enter_context(RunDirectory.held(run_dir, self._settings, resume))
                if resume:
                    self._go_on(self.run)
                watchers = [*watching.keepers(self.run, checkpoint_every), *watchers]
            if progress:
                watchers.append(watching.Progress())
            self._watched(feeding.feed(loader), held_out, watchers, metrics_every, interrupts)
            if self.stop_reason == INTERRUPTED:
                self.interrupted_by = interrupts.requested
                interrupts.serve()
        return self.history

    def _options(self, settings: Any) -> Any:
        """The given settings, beside what the net's images are, so that `gpuconv.load` knows them."""
        return settings if settings and not isinstance(settings, dict) else notes(self.net) | (settings or {})

    def stop(self, reason: str) -> None:
        """Ask the loop to end after the current step; the first reason given counts."""
        self.stop_reason = self.stop_reason or reason

    def _watched(
        self,
        feed: feeding.Feed,
        held_out: HeldOut,
        watchers: list[watching.Callback],
        metrics_every: int,
        interrupts: Interrupts,
    ) -> None:
        """The loop, between the watchers' `on_start` and `on_stop`."""
        # Overflow is judged by the readings, which name the step, not by a warning from some line inside an op.
        replay = Replay(self.net.device, self.net.device.startswith("cuda") if self.graph is None else self.graph)
        with np.errstate(over="ignore", invalid="ignore"), profiling.ranges(), contextlib.closing(replay):
            started: list[watching.Callback] = []
            try:
                for watcher in watchers:
                    self._notify([watcher], "on_start")
                    started.append(watcher)
                self._run(feed, replay, held_out, watchers, metrics_every, interrupts)
                self.stop(FINISHED)
                self._judge(held_out, watchers)
            except BaseException as error:
                self.stop_reason = FAILED
                for watcher in started:  # what they cannot do now must not hide why the run failed
                    try:
                        self._notify([watcher], "on_stop", FAILED)
                    except Exception as more:
                        error.add_note(f"{type(watcher).__name__} could not end: {more}")
                raise
            self._end(watchers)

    def _end(self, watchers: list[watching.Callback]) -> None:
        """Tell every watcher that the run is over. Raises only where the run could not be saved: what it gave is not
        lost because something that watched it fails."""
        unsaved: Exception | None = None
        for watcher in watchers:
            try:
                self._notify([watcher], "on_stop", self.stop_reason)
            except Exception as error:
                if isinstance(watcher, watching.Checkpoints):
                    unsaved = error
                else:
                    say(f"{type(watcher).__name__} failed at the end of the run: {type(error).__name__}: {error}")
        if unsaved:
            raise unsaved

    def _run(
        self,
        feed: feeding.Feed,
        replay: Replay,
        held_out: HeldOut,
        watchers: list[watching.Callback],
        metrics_every: int,
        interrupts: Interrupts,
    ) -> None:
        if not self.batches:
            raise ValueError("the loader has no batch: its length is 0")
        if replay.together > 1 and not feed.on_device:
            replay.give_up(f"the batches come from a {type(feed.loader).__name__}, not from a gpuconv.data.Loader")
        if replay.together > 1 and not self.optimizer.capturable:
            replay.give_up(f"the optimizer {self.optimizer.config()['optimizer']} steps on the host")
        clock = Clock(self.optimizer, self.net.device)
        self.net.grads()  # made now: a graph must find them where it left them
        while self.epoch < self.epochs and not self.stop_reason:
            with contextlib.closing(feed):
                feed.enter(self.epoch, self.batch)
                clock.planned.clear()
                epoch = self.epoch
                while self.epoch == epoch and not self.stop_reason:
                    if self.optimizer.match(self.net.params()):  # a callback froze or unfroze a layer
                        clock = Clock(self.optimizer, self.net.device)
                        self.net.grads()
                    self._plan(clock, feed)
                    count = self._together(clock, feed, replay, watchers, metrics_every)
                    self._advance(clock, feed, replay, count)
                    for _ in range(count):
                        self._account(clock, held_out, watchers, metrics_every)
                    if interrupts.requested:
                        self.stop(INTERRUPTED)

    def _plan(self, clock: Clock, feed: feeding.Feed) -> None:
        """Tell the device the learning rates of the steps ahead, unless it knows them and they still hold."""
        if clock.planned and clock.planned[0] == self.optimizer.rates(self.lr):
            return
        ahead = range(min(AHEAD, self.batches - self.batch))
        rates = [self.optimizer.rates(self._lr_after(step), step) for step in ahead]
        clock.write(self.steps, *feed.place(self.epoch, self.batch), rates)

    def _together(
        self, clock: Clock, feed: feeding.Feed, replay: Replay, watchers: list[watching.Callback], metrics_every: int
    ) -> int:
        """How many steps may pass before the host must do something between two of them."""
        if not feed.on_device:
            return 1
        limits = [watching.next_step(watcher, self) for watcher in watchers]
        limits += [replay.together, len(clock.planned), metrics_every - self.steps % metrics_every]
        count = min(limit for limit in limits if limit is not None)
        size = feed.size(self.batch)
        return next((n for n in range(1, count) if feed.size(self.batch + n) != size), count)

    def _advance(self, clock: Clock, feed: feeding.Feed, replay: Replay, count: int) -> None:
        """Do steps: load a batch, move the clock on, train on it. All of it is the device's work."""
        size = feed.size(self.batch)

        def work() -> None:
            x, y = feed.next(clock, size)
            clock.advance(size)
            self.step(x, y)

        replay.run(work, count, size, self._taken() if replay.together > 1 else None)

    def _taken(self) -> list[Any]:
        """What a step takes from Python, by value or by address; a graph of it holds while these are equal."""
        arrays = [
            *self.net.state_dict().values(),
            *(g for layer in self.net.walk() for g in layer.gradients.values()),
            *(a for optimizer in self.optimizer.walk() for a in optimizer.arrays()),
            self._totals.array,
            *([self.loss_scale.array] if self.loss_scale else []),
        ]
        settings = [optimizer.config() | {"lr": None} for optimizer in self.optimizer.walk()]
        settings += [layer.hyperparameters() for layer in self.net.walk()]
        settings += [self.loss_scale.config()] if self.loss_scale else []
        return [settings, self.loss, [backends.address(array) for array in arrays]]

    def _account(self, clock: Clock, held_out: HeldOut, watchers: list[watching.Callback], metrics_every: int) -> None:
        """The host's part of a step that the device has done or will do."""
        lr = self.lr
        clock.planned.popleft()
        self.optimizer.count()
        self.batch += 1
        due = self.steps % metrics_every == 0
        self._notify(watchers, "on_step", self._record_step(lr) if due else None)
        if self.batch == self.batches:
            self._notify(watchers, "on_epoch", self._record_epoch(lr, held_out))

    def _notify(self, watchers: list[watching.Callback], event: str, *arguments: Any) -> None:
        for watcher in watchers:
            if (told := getattr(watcher, event, None)) is not None:
                told(self, *arguments)

    def _record_step(self, lr: float) -> Record:
        """Read the sums and record what the steps since the last reading made."""
        sums = self._read_totals()
        recent, self._read = sums.since(self._read), sums
        record = {"event": "step", "step": self.steps, "epoch": self.epoch + 1}
        self.records.append(record | {"loss": recent.loss, "accuracy": recent.accuracy, "lr": lr})
        return self.records[-1]

    def _judge(self, held_out: HeldOut, watchers: list[watching.Callback]) -> None:
        """Look once at what is kept for the end, unless the run is to go on."""
        if self.stop_reason != INTERRUPTED and (found := self._measured(held_out, end=True)):
            self.tested = {"event": "test", "step": self.steps, "epoch": self.epoch} | found
            self._notify(watchers, "on_test", self.tested)

    def _measured(self, held_out: HeldOut, end: bool = False) -> Record:
        found = held_out.measure(self.net, self.loss, end)
        for name, value in found.items():
            if name.endswith("_loss") and not math.isfinite(value):
                what = f"the {name.removesuffix('_loss')} loss is {value} after step {self.steps}"
                raise DivergedError(self._diverged(what))
        return found

    def _record_epoch(self, lr: float, held_out: HeldOut) -> Record:
        """Close the epoch: its training metrics, those of the held-out sets, and on to the next."""
        sums = self._read_totals()
        record: Record = {"event": "epoch", "step": self.steps, "epoch": self.epoch + 1, "lr": lr}
        record |= {"train_loss": sums.loss, "train_accuracy": sums.accuracy}
        record |= self._measured(held_out)
        self.epoch, self.batch = self.epoch + 1, 0
        self._totals.clear()
        self._read = NOTHING
        self.records.append(record)
        return record

    def _read_totals(self) -> Reading:
        sums = self._totals.read()
        if not math.isfinite(sums.loss_sum):
            first = self.epoch * self.batches + int(sums.finite_steps) + 1
            raise DivergedError(self._diverged(f"the loss is not finite at step {first} (epoch {self.epoch + 1})"))
        return sums

    def _diverged(self, what: str) -> str:
        kept = f"; {self.run.last} is from before that" if self.run else ""
        return f"{what}, so training stopped{kept}. A lower learning rate is the usual cure"

    # --- stopping and going on -----------------------------------------------------------------

    def settings(self) -> Record:
        """What a run must share with the one it continues. JSON-able."""
        return {
            "net": {name: value for name, value in self.net.config().items() if name != "precision"},
            "precision": self.net.precision,
            "loss_scale": self.loss_scale and self.loss_scale.config(),
            "optimizer": self.optimizer.config(),
            "loss": losses.describe(self.loss),
            "schedule": str(self.schedule),
            "seed": self.seed,
            "epochs": self.epochs,
        }

    def snapshot(self) -> Checkpoint:
        """Everything that the rest of the run depends on. Raises DivergedError when a number in it is not finite."""
        sums = self._read_totals()
        net = {name: np.array(backends.to_numpy(array)) for name, array in self.net.state_dict().items()}
        for name in self.net.params():
            if not np.isfinite(net[name].astype(np.float64)).all():
                raise DivergedError(self._diverged(f"{name} is not finite after step {self.steps}"))
        tensors = {f"net.{name}": array for name, array in net.items()}
        tensors |= {f"optimizer.{name}": array for name, array in self.optimizer.state_dict().items()}
        state = {
            "net": self.net.config(),
            "settings": self._settings,
            "epoch": self.epoch,
            "batch": self.batch,
            "totals": sums,
            "read": self._read,
            "records": self.records,
            "loss_scale": self.loss_scale and self.loss_scale.read(),
        }
        return Checkpoint(tensors, stored.as_json(state))

    def _go_on(self, run: RunDirectory) -> None:
        """Take over a run's last state. A run that was killed before its first checkpoint begins anew, and says so."""
        settings = run.settings()
        if run.last.exists():
            self.restore(checkpoints.load(run.last), run.last)
        elif begun := run.begun():
            best = f", or copy {run.best.name} there to go on after the best epoch" if run.best.exists() else ""
            raise CheckpointError(
                f"{run.last} is gone, but the run had begun: {', '.join(begun)} are there. Put it back{best}"
            )
        else:
            self._expect_settings(settings, run)
            say(f"{run} has no checkpoint yet; the run begins with its first step")

    def restore(self, checkpoint: Checkpoint, path: Any = "the checkpoint") -> None:
        """Take over a snapshot that was made with the settings of this `fit`; nothing changes when this raises."""
        state = stored.state(checkpoint.state, path)
        makes_the_net = ("precision", "train", "validation", "test")  # told first: another one makes another net
        self._expect_settings(state["settings"], path, only=makes_the_net)
        stored.check_net(path, checkpoint, self.net)
        self._expect_settings(state["settings"], path)
        try:
            self.optimizer.check_state_dict(checkpoint.part("optimizer"))
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        if state["batch"] >= max(self.batches, 1):
            raise CheckpointError(f"{path}: batch is {state['batch']}, and an epoch has {self.batches} batches")
        if bool(self.loss_scale) != bool(state["loss_scale"]):
            raise CheckpointError(f"{path}: loss_scale is {checkpoints.shown(state['loss_scale'])}")
        self.net.load_state_dict(checkpoint.part("net"))
        self.optimizer.load_state_dict(checkpoint.part("optimizer"))
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.records, self._read = state["records"], Reading(*state["read"])
        self._totals.write(Reading(*state["totals"]))
        if self.loss_scale:
            self.loss_scale.write(state["loss_scale"])

    def _expect_settings(self, there: Record, path: Any, only: tuple[str, ...] | None = None) -> None:
        """Raise SettingsError where the stored settings, or `only` some of them, are not this fit's."""
        others = stored.unlike(there, self._settings, only)
        if others:
            raise SettingsError(f"{path} cannot be continued with other settings: {'; '.join(others)}")
