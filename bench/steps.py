"""Our side of a training step: forward, loss, backward and update through the Trainer."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.entry_calls import Compared
from bench.our_side import ROTATED_BYTES
from bench.sides import OURS, Prepared, Side, WrongResultError
from bench.suite import Entry
from gpuconv import backends, losses, models
from gpuconv.devices import Device
from gpuconv.dtypes import as_dtype
from gpuconv.training import Trainer, optimizers
from gpuconv.types import Array, Options
from gpuconv.verify.compare import Expected

SGD: Options = dict(lr=0.001, momentum=0.9)

# The largest allowed ||g - float64|| / ||float64|| for the gradients g of a whole net. It is large because rounding
# flips some ReLUs and pool winners.
GRADIENT_TOLERANCE = {"float32": 1e-2, "float16": 0.1, "bfloat16": 0.3}
_CHECKED_IMAGES = 8
_MOST_BATCHES = 8  # few are enough: the activations and gradients of a step are several times as large as its batch
MOST_GRAPHS = 4  # captured steps of a side, one for each batch; the memory of a captured step stays allocated


@dataclass(frozen=True)
class Step:
    """A net's training step on random images; every side starts from the same weights and gets the same batches."""

    entry: Entry

    @property
    def size(self) -> int:
        return self.entry.workload[1]

    def net(self, device: str = "numpy", dtype: str = "float32"):
        return models.build(self.entry.workload[0], seed=1, device=device, dtype=dtype)

    def batches(self, device: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Host batches, float32 images and int64 labels: one on the CPU; on a GPU enough to exceed its cache, but at
        least two and at most _MOST_BATCHES."""
        bytes_each = 4 * self.size * math.prod(self.net().input_shape)
        count = max(2, min(_MOST_BATCHES, math.ceil(ROTATED_BYTES / bytes_each))) if Device.named(device).on_gpu else 1
        return [self.batch(seed) for seed in range(count)]

    def batch(self, seed: int = 0, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        rng, size = np.random.default_rng(seed), size or self.size
        images = rng.standard_normal((size, *self.net().input_shape), dtype=np.float32)
        return images, rng.integers(0, 10, size)

    @functools.cached_property
    def loss(self) -> float:
        """The float64 loss of the first batch, before any update."""
        images, labels = self.batch()
        net = self.net(dtype="float64")
        with backends.oracle():
            return float(losses.get("softmax")(net.forward(images.astype(np.float64), training=True), labels)[0])

    def compare(self, results: list[np.ndarray]) -> Compared:
        """For `sides.check`: the loss of the first batch before any update, about log(classes). We have no bound for a
        whole net, so the runner checks only the relative error, and the 0 here is not used."""
        yield Expected("loss", np.array(self.loss), 0.0), np.asarray(results[0], np.float64)


def sides(step: Step, device: str) -> list[Side]:
    """gpuconv's sides. The first launches each kernel from Python. On a GPU the second replays the whole step as a CUDA
    graph. Where norms lie below convolutions, a third side does the same with a net that computes all of the norms'
    backward sums in dgrad's epilogue."""

    def eager() -> Prepared:
        trainer, sets, results = _prepared(step, device)
        return Prepared(lambda number: _once(trainer, *sets[number % len(sets)]), lambda: results)

    def graph(norm_sums: bool | None = None) -> Prepared:
        trainer, sets, results = _prepared(step, device, norm_sums)
        recorder = backends.recorder(device)
        for batch in sets[:MOST_GRAPHS]:
            recorder.prepare(functools.partial(_once, trainer, *batch))
        replays = [recorder.capture(functools.partial(trainer.step_on, [batch])) for batch in sets[:MOST_GRAPHS]]

        def replay(number: int) -> None:
            trainer.optimizer.advance()
            replays[number % len(replays)]()

        return Prepared(replay, lambda: (recorder, results)[1])  # keeps the recorder, whose memory the replays use

    found = [Side(OURS, "gpuconv", eager)]
    if Device.named(device).on_gpu:
        found.append(Side(OURS, "gpuconv graph", graph))
        if has_norms_below_convolutions(step.net()):
            found.append(Side(OURS, "gpuconv graph, norm sums in dgrad", functools.partial(graph, True)))
    return found


def has_norms_below_convolutions(net) -> bool:
    """Whether `net.fuse(norm_sums=True)` runs other layers than `net.fuse()`."""
    forced, plain = (net.fuse(norm_sums=norm_sums) for norm_sums in (True, None))
    return [type(layer) for layer in forced.walk()] != [type(layer) for layer in plain.walk()]


def _prepared(
    step: Step, device: str, norm_sums: bool | None = None
) -> tuple[Trainer, list[tuple[Array, Array]], list[np.ndarray]]:
    """The trainer, the batches on the device, and the loss of the first batch before any update, computed by another
    net of the same weights that is not fused. Raises WrongResultError for wrong gradients."""
    dtype = step.entry.dtype
    _check_gradients(step, device)
    net = step.net(device, dtype)
    if norm_sums is None:
        trainer = Trainer(net, optimizers.get("sgd", **SGD))
    else:
        trainer = Trainer(net.fuse(norm_sums=norm_sums), optimizers.get("sgd", **SGD), fuse=False)
    sets = [
        (backends.asarray(images.astype(as_dtype(dtype)), device), backends.asarray(labels, device))
        for images, labels in step.batches(device)
    ]
    scores = step.net(device, dtype).forward(sets[0][0], training=True)
    loss = backends.to_numpy(trainer.loss(scores, sets[0][1])[0])
    return trainer, sets, [loss]


def _once(trainer: Trainer, x, y) -> None:
    trainer.optimizer.advance()
    trainer.step(x, y)


def _check_gradients(step: Step, device: str) -> None:
    """Compares every gradient of a few images with float64. Raises WrongResultError."""
    with backends.oracle():
        expected = dict(_gradients(step, "numpy", "float64"))
    given = dict(_gradients(step, device, step.entry.dtype))
    norm = math.sqrt(sum(float(np.square(g).sum()) for g in expected.values()))
    error = math.sqrt(sum(float(np.square(given[name] - g).sum()) for name, g in expected.items())) / norm
    if not error <= GRADIENT_TOLERANCE[step.entry.dtype]:
        raise WrongResultError(f"the gradients are off by {error:.2g} of their size")


def _gradients(step: Step, device: str, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    net = step.net(device, dtype)
    images, labels = step.batch(size=min(step.size, _CHECKED_IMAGES))
    x, y = backends.asarray(images.astype(as_dtype(dtype)), device), backends.asarray(labels, device)
    net.backward(losses.get("softmax")(net.forward(x, training=True), y)[1], input_grad=False)
    for name, gradient in net.grads().items():
        yield name, backends.to_numpy(gradient).astype(np.float64)
