"""A training step: forward, loss, backward, update and metrics. All of it is device work that can be captured, except
the exchange of ranks over MPI and the step of an optimizer on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from gpuconv import backends, losses, profiling
from gpuconv.devices import Device
from gpuconv.dtypes import as_precision, converted
from gpuconv.layers import Sequential
from gpuconv.layers.batch_parts import in_parts, run_net
from gpuconv.parallel import Ranks
from gpuconv.training.clip import Clip
from gpuconv.training.ema import Ema
from gpuconv.training.loss_scale import LossScale
from gpuconv.training.optimizer_shards import OptimizerShards
from gpuconv.training.optimizers import Optimizer
from gpuconv.training.protocols import LossLike
from gpuconv.training.running_metrics import Totals
from gpuconv.training.sharding import Accumulation, Sharding
from gpuconv.types import Array

NamedRange = Callable[[str], contextlib.AbstractContextManager[None]]  # a context by name: `profiling.part`


class TrainingStep:
    """A net, its loss and its optimizer, and one training step with them. Arguments as in `Trainer`."""

    def __init__(
        self,
        net: Any,  # noqa: ANN401 - a Sequential or another layer
        optimizer: Optimizer,
        loss: LossLike,
        *,
        precision: str | None = None,
        loss_scale: LossScale | None = None,
        clip: Clip | None = None,
        ema: float | None = None,
        fuse: bool | None = None,
        shards: int | None = None,
        accumulate: int = 1,
        ranks: Ranks | None = None,
        sync_batch_norm: bool = False,
        shard_optimizer: bool = False,
    ) -> None:
        dtype, _ = as_precision(precision=precision or net.precision)
        if loss_scale is not None and not isinstance(loss_scale, LossScale):
            raise TypeError(f"loss_scale is a gpuconv.training.LossScale, received {type(loss_scale).__name__}")
        if loss_scale is not None and dtype != np.float16:
            raise ValueError(f"a loss scale is for float16, the precision is {precision or net.precision}")
        if fuse and not isinstance(net, Sequential):
            raise TypeError(f"fuse=True fuses the layers of a Sequential, received {type(net).__name__}; leave it out")
        self.optimizer = optimizer
        self.loss = losses.get(loss)
        total_shards = shards or (ranks.size if ranks and ranks.size > 1 else None)
        losses.expect_net(self.loss, net.output_shape)
        masters = {
            name: converted(name, backends.to_numpy(value), np.dtype(np.float32))
            for name, value in net.params().items()
        }
        self.net = net.to(precision=precision) if precision else net
        self._made_for = net.device, net.dtype
        self.sync_batch_norm = sync_batch_norm
        if fuse is None:
            fuse = Device.named(net.device).runs_kernels and not sync_batch_norm and isinstance(net, Sequential)
        self.trained = net.fuse() if fuse else net
        self.optimizer_shards = OptimizerShards(net, ranks or Ranks()) if shard_optimizer else None
        self.optimizer.keeps = self.optimizer_shards.keeps if self.optimizer_shards else None
        self.optimizer.axes = {name: len(value.shape) for name, value in net.named_parameters()}
        self.optimizer.build(net.params(), masters)
        self.loss_scale = (loss_scale or LossScale()) if dtype == np.float16 else None
        if self.loss_scale:
            self.loss_scale.build(net.device)
        self.clip, self._clipped = clip, backends.zeros((4,), np.float64, net.device)
        self.ema = None if ema is None else Ema(net, ema)
        self.totals = Totals(net.device, self.loss)
        self.ranks, self.shards = ranks or Ranks(), shards
        self.sharding = (
            Sharding(total_shards, net, self.ranks, loss=self.loss, fixed=bool(shards), sync_batch_norm=sync_batch_norm)
            if total_shards
            else None
        )
        self.accumulate = accumulate
        self.accumulation = Accumulation(net, accumulate, self.loss) if accumulate > 1 else None

    def expect_net_as_made(self) -> None:
        """Raise RuntimeError if the net was moved or converted since the optimizer's state was made for it."""
        device, dtype = self._made_for
        if Device.named(self.net.device) != Device.named(device) or self.net.dtype != dtype:
            raise RuntimeError(
                f"the net is {self.net.dtype.name} on {self.net.device} now, and its trainer was made for {dtype.name} "
                f"on {device}; make a new trainer"
            )

    def step_on(
        self,
        batches: Sequence[tuple[Array, Array]],
        part: NamedRange = profiling.part,
        *,
        batch: int | None = None,
        rate: float | None = None,
    ) -> None:
        """Forward, loss, backward, update, and the sums of the metrics, with at most `accumulate` batches (x, y): one
        update with the gradients of the mean loss over all their samples.

        Unless ranks exchange over MPI or the optimizer steps on the host, all of this is device work if `rate` is None:
        it uses no host value that changes from step to step and reads nothing back. So the launches of one call can be
        captured and replayed. The learning rate and step number are on the device, written by `optimizer.advance` or,
        in `fit`, by a step counter. part: a function that returns a context for the whole "step" and for each part of
        it: "loss", "metrics", and the optimizer by its name. batch: the size of the whole batch, if x and y are only
        this rank's part. rate: the learning rate with which `optimizer.advance` is called before the update; None if
        the caller has called it.
        """
        for _, y in batches:
            losses.expect_targets(self.loss, y, self.net.output_shape)
        with part("step"), self.same_bits():
            work = partial(self._backpropagate, part=part)
            if self.sharding:
                work = partial(self.sharding.backpropagate, work=work, batch=batch)
            if self.accumulation:
                self.accumulation.backpropagate(batches, self.totals, work)
            else:
                ((x, y),) = batches
                work(x, y, self.totals)
            if rate is not None:
                self.optimizer.match(self.net.params())  # layers may have been frozen since the last step
                self.optimizer.advance(rate)
            with part(self.optimizer.name):
                self._update(self.net.params(), self.net.grads())
                self.optimizer.advanced = False

    def _backpropagate(self, x: Array, y: Array, totals: Totals, part: NamedRange) -> None:
        self.net.zero_grad()
        scores = run_net(self.trained, "forward", x, training=True)
        with part("loss"):
            loss_and_gradient = in_parts(self._loss, scores, y)
        with part("metrics"):  # before backward, because the gradients may need the sum of the labels' weights
            in_parts(self._measure, loss_and_gradient, scores, y, totals)
        run_net(self.trained, "backward", in_parts(itemgetter(1), loss_and_gradient), input_grad=False)

    def _loss(self, scores: Array, y: Array) -> tuple[Array, Array]:
        scale = [self.loss_scale.factor] if self.loss_scale else []
        return losses.apply(self.loss, scores, y, *scale)

    def _measure(self, loss_and_gradient: tuple[Array, Array], scores: Array, y: Array, totals: Totals) -> None:
        totals.add(loss_and_gradient[0], scores, y, self.loss)

    def _update(self, params: dict[str, Array], grads: dict[str, Array]) -> None:
        scaling = None
        if self.loss_scale:
            self.loss_scale.update(grads)
            scaling = self.loss_scale.array
        if self.clip:
            scaling = self.clip.apply(grads, scaling, self._clipped)
        if self.ema is None:
            self.optimizer.update(params, grads, scaling)
        elif self.optimizer.averages:
            self.optimizer.update(params, grads, scaling, self.ema.averages, self.ema.decay)
            self.ema.update(updated=params)
        else:
            self.optimizer.update(params, grads, scaling)
            self.ema.update()
        if self.optimizer_shards and self.sharding:
            self.optimizer_shards.exchange(params, self.sharding.sums, self.sharding.gradient_views())

    def gather_averages(self) -> None:
        """With a sharded optimizer, fetch the moving averages that other ranks keep. Every rank has to call this."""
        if self.ema and self.optimizer_shards:
            self.ema.take(self.optimizer_shards.gathered(self.optimizer.kept(self.ema.values())))

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the net has the moving averages as its parameters, if averages are kept."""
        return self.ema.applied() if self.ema else contextlib.nullcontext()

    def same_bits(self) -> contextlib.AbstractContextManager[None]:
        """A context in which ops give the same bits on any number of cores, if `shards` are given."""
        return backends.same_bits(self.net.device) if self.shards else contextlib.nullcontext()

    @property
    def steps(self) -> int:
        """The total number of steps done."""
        return self.optimizer.steps

    def inputs(self) -> list[object]:
        """The values and arrays that a captured step contains; its graph stays valid while they are unchanged."""
        arrays = [
            *self.net.state_dict().values(),
            *(g for layer in self.net.walk() for g in layer.gradients.values()),
            *(a for optimizer in self.optimizer.walk() for a in optimizer.arrays()),
            self.totals.array,
            self._clipped,
            *(self.ema.arrays() if self.ema else []),
            *(self.sharding.arrays() if self.sharding else []),
            *(self.accumulation.arrays() if self.accumulation else []),
            *([self.loss_scale.array] if self.loss_scale else []),
        ]
        settings = [optimizer.config() | {"lr": None} for optimizer in self.optimizer.walk()]
        settings += [layer.hyperparameters() for layer in self.net.walk()]
        settings += [self.loss_scale.config()] if self.loss_scale else []
        of_loss = {name: _comparable(value) for name, value in getattr(self.loss, "__dict__", {}).items()}
        return [settings, self.loss, of_loss, self.clip, self.ema and self.ema.decay, [*map(_Itself, arrays)]]


def _comparable(value: object) -> object:
    """A number or text itself; any other value, such as an array, as an object that equals only itself."""
    return value if isinstance(value, (int, float, str)) else _Itself(value)


class _Itself:
    """An object that equals only itself. It keeps the object alive, so that no other one gets its memory meanwhile."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self._value is other._value
