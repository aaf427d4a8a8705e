"""The call of a convolution or memory-bound operation of the suite: its arrays, and its expected results in float64.

Only a part of a large result is compared, because float64 is slow: the first, middle and last images, filters or
channels, or 1000 elements of a parameter. The result itself comes from a call of full size, like the timed calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from bench.suite import Entry
from gpuconv import backends, ops
from gpuconv.dtypes import accumulation_dtype, as_dtype
from gpuconv.problems import Conv2dProblem, Pool2dProblem
from gpuconv.types import Array, Options
from gpuconv.verify.compare import Expected
from gpuconv.verify.oracle import expected_results

Arrays = list[np.ndarray]
Compared = Iterator[tuple[Expected, np.ndarray]]  # expected and actual values of a part of a result


@dataclass(frozen=True)
class Call:
    """An entry's arrays and our call. make(rng): host arrays. run(*arrays): our call, which returns a tuple of results;
    None if gpuconv has no such op. compare(arrays, results): the parts to compare, from the host arrays before the call
    and the host results."""

    entry: Entry
    make: Callable[[np.random.Generator], Arrays]
    run: Callable[..., tuple[Array, ...]] | None
    compare: Callable[[Arrays, list[np.ndarray]], Compared]


def call(entry: Entry) -> Call:
    """The call of an entry. Raises KeyError for one that is neither a convolution nor a memory-bound operation."""
    return _convolution(entry) if entry.kind == "convolution" else _MEMORY[entry.op](entry)


def _normal(rng: np.random.Generator, shape, dtype: str) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32).astype(as_dtype(dtype), copy=False)


def _first_middle_last(count: int) -> list[int]:
    """The first, middle and last index."""
    return sorted({0, count // 2, count - 1})


# --- convolutions ------------------------------------------------------------------------------


def _convolution(entry: Entry) -> Call:
    problem: Conv2dProblem = entry.workload
    window, images = problem.window, _first_middle_last(problem.n)
    filters, channels = _first_middle_last(problem.k), _first_middle_last(problem.c)

    def make(*names: str) -> Callable[[np.random.Generator], Arrays]:
        shapes = dict(x=problem.x_shape, w=problem.w_shape, bias=problem.k, dy=problem.y_shape, db=problem.k)
        return lambda rng: [_normal(rng, shapes[name], entry.dtype) for name in names]

    def fprop(*arrays, activation: str | None = None):
        return (ops.conv2d(*arrays, activation=activation, **window),)

    def pooled(*arrays):
        return (ops.conv2d_relu(*arrays, pool=2, **window)[0],)

    def dgrad(dy, w):
        return (ops.conv2d_dgrad(dy, w, input_shape=problem.x_shape, **window),)

    def wgrad(dy, x):
        return (ops.conv2d_wgrad(dy, x, kernel_size=problem.kernel_size, **window),)

    def backward(dy, x, w, db):
        return (*ops.conv2d_backward(dy, x, w, db=db, **window), db)

    def check_fprop(arrays: Arrays, results: list[np.ndarray], activation: str | None = None) -> Compared:
        x, w, bias = arrays
        (expected,) = expected_results("conv2d", [x[images], w, bias], window | {"activation": activation})
        yield expected, results[0][images]

    def check_pooled(arrays: Arrays, results: list[np.ndarray]) -> Compared:
        x, w, bias = arrays
        (expected,) = expected_results("conv2d", [x[images], w, bias], window | {"activation": "relu"})
        # The maximum of four values has at most the error of the worst of them.
        with backends.oracle():
            value, bound = (ops.max_pool2d(a, kernel_size=2)[0] for a in (expected.value, expected.bound))
        yield Expected("pooled", value, bound), results[0][images]

    def check_dgrad(arrays: Arrays, results: list[np.ndarray]) -> Compared:
        dy, w = arrays
        shape = (len(images), *problem.x_shape[1:])
        (expected,) = expected_results("conv2d_dgrad", [dy[images], w], window | {"input_shape": shape})
        yield expected, results[0][images]

    def check_wgrad(arrays: Arrays, results: list[np.ndarray]) -> Compared:
        dy, x = arrays
        part = [np.ascontiguousarray(dy[..., filters]), np.ascontiguousarray(x[..., channels])]
        (expected,) = expected_results("conv2d_wgrad", part, window | {"kernel_size": problem.kernel_size})
        yield expected, results[0][filters][..., channels]

    def check_backward(arrays: Arrays, results: list[np.ndarray]) -> Compared:
        dy, x, w, _ = arrays
        yield from check_dgrad([dy, w], results[:1])
        yield from check_wgrad([dy, x], results[1:2])
        yield from _check_bias_grad([dy], results[2:])

    def relu(*arrays):
        return fprop(*arrays, activation="relu")

    def check_relu(arrays: Arrays, results: list[np.ndarray]) -> Compared:
        return check_fprop(arrays, results, "relu")

    names, run, compare = {
        "fprop": (("x", "w", "bias"), fprop, check_fprop),
        "fprop_relu": (("x", "w", "bias"), relu, check_relu),
        "fprop_relu_pool": (("x", "w", "bias"), pooled, check_pooled),
        "dgrad": (("dy", "w"), dgrad, check_dgrad),
        "wgrad": (("dy", "x"), wgrad, check_wgrad),
        "backward": (("dy", "x", "w", "db"), backward, check_backward),
    }[entry.op]
    return Call(entry, make(*names), run, compare)


def _check_bias_grad(arrays: Arrays, results: list[np.ndarray]) -> Compared:
    (dy,) = arrays
    channels = _first_middle_last(dy.shape[-1])
    (expected,) = expected_results("bias_grad", [np.ascontiguousarray(dy[..., channels])], {})
    yield expected, results[0][channels]


# --- memory-bound operations -------------------------------------------------------------------


def _by_images(op: str, array_count: int, **options) -> Callable[[Entry], Call]:
    """A function that makes an entry's call, for an op on `array_count` volumes that computes each image
    independently."""

    def build(entry: Entry) -> Call:
        def compare(arrays: Arrays, results: list[np.ndarray]) -> Compared:
            images = _first_middle_last(len(arrays[0]))
            (expected, *_) = expected_results(op, [a[images] for a in arrays], options)
            yield expected, results[0][images]

        def run(*arrays):
            results = getattr(ops, op)(*arrays, **options)
            return results if isinstance(results, tuple) else (results,)

        return Call(
            entry, lambda rng: [_normal(rng, entry.workload, entry.dtype) for _ in range(array_count)], run, compare
        )

    return build


def _bias_relu(entry: Entry) -> Call:
    """gpuconv has no separate op for this: bias and ReLU are part of the preceding convolution."""

    def make(rng: np.random.Generator) -> Arrays:
        return [_normal(rng, entry.workload, entry.dtype), _normal(rng, entry.workload[-1], entry.dtype)]

    def compare(arrays: Arrays, results: list[np.ndarray]) -> Compared:
        images = _first_middle_last(entry.workload[0])
        x, bias = arrays[0][images].astype(np.float64), arrays[1].astype(np.float64)
        (expected,) = expected_results("add", [x, np.broadcast_to(bias, x.shape)], {})
        yield Expected("y", np.maximum(expected.value, 0), expected.bound), results[0][images]

    return Call(entry, make, None, compare)


def _max_pool_backward(entry: Entry) -> Call:
    n, h, w, c = shape = entry.workload
    options: Options = dict(kernel_size=2)

    def make(rng: np.random.Generator) -> Arrays:
        pooled = Pool2dProblem.of(shape, 2).y_shape
        return [_normal(rng, pooled, entry.dtype), rng.integers(0, 4, pooled, np.uint8)]

    def run(dy, argmax):
        return (ops.max_pool2d_backward(dy, argmax, input_shape=shape, **options),)

    def compare(arrays: Arrays, results: list[np.ndarray]) -> Compared:
        images = _first_middle_last(n)
        part = options | {"input_shape": (len(images), h, w, c)}
        (expected,) = expected_results("max_pool2d_backward", [a[images] for a in arrays], part)
        yield expected, results[0][images]

    return Call(entry, make, run, compare)


def _bias_grad(entry: Entry) -> Call:
    return Call(
        entry,
        lambda rng: [_normal(rng, entry.workload, entry.dtype)],
        lambda dy: (ops.bias_grad(dy),),
        _check_bias_grad,
    )


def _channel_values(rng: np.random.Generator, entry: Entry) -> np.ndarray:
    """A random number near 1 for each channel."""
    dtype = accumulation_dtype(as_dtype(entry.dtype))
    return (1 + 0.1 * rng.standard_normal(entry.workload[-1])).astype(dtype)


def _channels_of(arrays: Arrays) -> tuple[list[int], Arrays]:
    channels = _first_middle_last(arrays[0].shape[-1])
    return channels, [np.ascontiguousarray(a[..., channels]) for a in arrays]


def _batch_norm(entry: Entry) -> Call:
    def make(rng: np.random.Generator) -> Arrays:
        return [_normal(rng, entry.workload, entry.dtype), *(_channel_values(rng, entry) for _ in range(4))]

    def run(*arrays):
        return ops.batch_norm(*arrays, training=True)

    def compare(arrays: Arrays, results: list[np.ndarray]) -> Compared:
        channels, part = _channels_of(arrays)
        for expected, result in zip(expected_results("batch_norm", part, dict(training=True))[:1], results):
            yield expected, result[..., channels]

    return Call(entry, make, run, compare)


def _batch_norm_backward(entry: Entry) -> Call:
    def make(rng: np.random.Generator) -> Arrays:
        dy, x = (_normal(rng, entry.workload, entry.dtype) for _ in range(2))
        gamma = _channel_values(rng, entry)
        pixels = x.reshape(-1, x.shape[-1])
        mean = pixels.mean(0, dtype=np.float64)
        square = np.array([np.square(pixels[:, c], dtype=np.float64).mean() for c in range(x.shape[-1])])
        inv_std = 1 / np.sqrt(square - mean**2 + 1e-5)
        return [dy, x, gamma, mean.astype(gamma.dtype), inv_std.astype(gamma.dtype)]

    def compare(arrays: Arrays, results: list[np.ndarray]) -> Compared:
        channels, part = _channels_of(arrays)
        for expected, result in zip(expected_results("batch_norm_backward", part, dict(training=True)), results):
            yield expected, result[..., channels]

    return Call(entry, make, lambda *arrays: ops.batch_norm_backward(*arrays), compare)


SGD: Options = dict(lr=0.01, momentum=0.9)


def _sgd(entry: Entry) -> Call:
    """The arrays of sgd_step are a parameter, its gradient and its velocity. sgd_master updates a bfloat16 net and also
    has the float32 master."""
    size, with_master = math.prod(entry.workload), entry.op == "sgd_master"

    def make(rng: np.random.Generator) -> Arrays:
        dtypes = [entry.dtype, entry.dtype, "float32"] + ["float32"] * with_master
        return [_normal(rng, size, dtype) for dtype in dtypes]

    def run(param, grad, velocity, *masters):
        ops.sgd_step([param], [grad], [velocity], list(masters) or None, **SGD)
        return param, velocity, *masters

    def compare(arrays: Arrays, results: list[np.ndarray]) -> Compared:
        indices = np.linspace(0, size - 1, 1000).astype(int)
        lists = [[a[indices]] for a in arrays] + [None] * (6 - len(arrays))
        for expected, result in zip(expected_results("sgd_step", lists, SGD), results):
            yield expected, result[indices]

    return Call(entry, make, run, compare)


_MEMORY: dict[str, Callable[[Entry], Call]] = {
    "relu": _by_images("relu", 1),
    "relu_backward": _by_images("relu_backward", 2),
    "max_pool2d": _by_images("max_pool2d", 1, kernel_size=2),
    "max_pool2d_backward": _max_pool_backward,
    "bias_relu": _bias_relu,
    "bias_grad": _bias_grad,
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "sgd_step": _sgd,
    "sgd_master": _sgd,
}
