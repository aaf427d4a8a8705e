"""The case tiers: the problems on which tests and ``gpuconv verify`` check each op.

tiny: one pixel, one channel, empty batches. odd: prime sizes, non-square filters, uneven padding, strides larger than
filters, dilation, groups. real: the nets' shapes with small batches. random: drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuconv import problems
from gpuconv.dtypes import accumulation_dtype, as_dtype
from gpuconv.problems import Conv2dProblem, Pool2dProblem
from gpuconv.types import Options, Shape
from gpuconv.verify.convolutions import ODD, REAL, TINY, conv

FEW_CHANNELS = "few_channels-256x64"  # serves few channels in every arithmetic but float64
TIERS = ("tiny", "odd", "real", "random")
DTYPES = ("float64", "float32", "float16", "bfloat16")

Arguments = tuple[list[Any], Options]
Make = Callable[[np.random.Generator, np.dtype], Arguments]


@dataclass(frozen=True)
class Case:
    """One problem of one op.

    Args:
        op: Its name.
        tier: "tiny", "odd", "real" or "random".
        name: Of the problem, unique for the op.
        make: make(rng, dtype) gives host arrays, in the op's order, and its options.
        dtypes: Those in which it runs.
    """

    op: str
    tier: str
    name: str
    make: Make = field(repr=False, compare=False)
    dtypes: tuple[str, ...] = DTYPES

    def arguments(self, dtype: str, seed: int = 0) -> Arguments:
        """The arrays, of `dtype`, and the options; the same `seed` gives the same numbers."""
        return self.make(np.random.default_rng([seed, *self.name.encode()]), as_dtype(dtype))


def cases(tiers: tuple[str, ...] = TIERS, random_cases: int = 6, seed: int = 0) -> list[Case]:
    """Every case of the tiers, smallest tier first.

    Args:
        tiers: Their names.
        random_cases: The number of problems of the random tier for each op.
        seed: From which they follow.
    """
    makers = (
        _convolution_cases,
        _pool_cases,
        _matrix_cases,
        _group_norm_cases,
        _elementwise_cases,
        _batch_cases,
        _optimizer_cases,
    )
    found = [case for maker in makers for case in maker(random_cases, np.random.default_rng(seed))]
    return sorted((case for case in found if case.tier in tiers), key=lambda case: TIERS.index(case.tier))


def normal(rng: np.random.Generator, shape: int | Shape, dtype: DTypeLike) -> np.ndarray:
    """Signed numbers around zero."""
    return np.asarray(rng.standard_normal(shape), dtype)


# --- convolutions ------------------------------------------------------------------------------


def _random_convolution(rng: np.random.Generator) -> Conv2dProblem:
    def pair(low: int, high: int) -> tuple[int, int]:
        return int(rng.integers(low, high)), int(rng.integers(low, high))

    groups, kernel, dilation = int(rng.choice([1, 1, 1, 2, 3])), pair(1, 5), pair(1, 4)
    h, w = (d * (k - 1) + 1 + int(rng.integers(0, 8)) for d, k in zip(dilation, kernel))
    n, c, k = (int(rng.integers(1, high)) for high in (4, 9, 9))
    stride, padding = pair(1, 4), (pair(0, 3), pair(0, 3))
    return conv(
        n,
        h,
        w,
        groups * c,
        groups * k,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        fit=str(rng.choice(["floor", "cover"])),
    )


def _convolution_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    tiers = {"tiny": TINY, "odd": ODD, "real": REAL, "random": [_random_convolution(rng) for _ in range(count)]}
    activations = [None, *problems.ACTIVATIONS]
    for tier, listed in tiers.items():
        for index, problem in enumerate(listed):
            bias, activation = index % 2 == 0, activations[index % len(activations)]
            yield Case("conv2d", tier, str(problem), _fprop(problem, bias, activation))
            yield Case("conv2d_dgrad", tier, str(problem), _dgrad(problem))
            yield Case("conv2d_wgrad", tier, str(problem), _wgrad(problem))
            if problem.n * problem.p * problem.q > 1:
                name = f"{problem} norm {activation}"
                yield Case("conv2d_batch_norm", tier, name, _conv_norm(problem, bias, activation))
            pools = min(problem.p, problem.q) > 1
            if pools and problem.n * (problem.p // 2) * (problem.q // 2) > 1:
                name = f"{problem} pool norm {activation}"
                yield Case("conv2d_batch_norm", tier, name, _conv_norm(problem, bias, activation, pool=2))
            if pools and index % 3 == 1:
                yield Case("conv2d_relu", tier, f"{problem} pool", _relu(problem, bias, 2, None))
                name = f"before the pool of {problem} {activation}"
                yield Case("batch_norm_backward", tier, name, _unpooled(problem, index % 2 == 0, activation))
            pool = 2 if pools and index % 3 else 1
            name = f"{problem} relu{' pool' if pool == 2 else ''}"
            yield Case("conv2d_relu", tier, name, _relu(problem, bias, pool))
            yield Case("conv2d_dgrad", tier, name, _under_mask(problem, pool, _dgrad(problem)))
            yield Case("conv2d_wgrad", tier, name, _under_mask(problem, pool, _wgrad(problem)))
            if index % 2:
                yield Case("conv2d_backward", tier, name, _under_mask(problem, pool, _backward(problem)))
            else:
                yield Case("conv2d_backward", tier, str(problem), _backward(problem))
            if index % 4 == 2:
                name = f"{problem} tf32"
                yield Case("conv2d", tier, name, _fprop(problem, bias, activation, tf32=True), ("float32",))
                yield Case("conv2d_dgrad", tier, name, _dgrad(problem, tf32=True), ("float32",))
                yield Case("conv2d_wgrad", tier, name, _wgrad(problem, tf32=True), ("float32",))
                yield Case("conv2d_backward", tier, name, _backward(problem, tf32=True), ("float32",))
            yield from _few_channels_cases(tier, index, problem, bias, activation)


def _few_channels_cases(
    tier: str, index: int, problem: Conv2dProblem, bias: bool, activation: str | None
) -> Iterator[Case]:
    """The algorithm for few channels, where it applies; "auto" takes it only for large problems."""
    if not problem.few_channels:
        return
    pool = 2 if min(problem.p, problem.q) > 1 and index % 2 else 1
    made = {
        "conv2d": _fprop(problem, bias, activation, algo=FEW_CHANNELS),
        "conv2d_relu": _relu(problem, bias, pool, algo=FEW_CHANNELS),
    }
    if index % 3 == 0 and problem.n * problem.pooled_shape(pool)[1] * problem.pooled_shape(pool)[2] > 1:
        made["conv2d_batch_norm"] = _conv_norm(problem, bias, activation, pool=pool, algo=FEW_CHANNELS)
    for op, make in made.items():
        yield Case(op, tier, f"{problem} few channels", make, ("float32", "float16", "bfloat16"))
    tf32 = _fprop(problem, bias, activation, algo=FEW_CHANNELS, tf32=True)
    yield Case("conv2d", tier, f"{problem} few channels tf32", tf32, ("float32",))


def _fprop(problem: Conv2dProblem, bias: bool, activation: str | None, **more: Any) -> Make:
    options = problem.window | {"activation": activation} | more

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        x, w = normal(rng, problem.x_shape, dtype), normal(rng, problem.w_shape, dtype)
        return [x, w, normal(rng, problem.k, dtype) if bias else None], options

    return make


def _dgrad(problem: Conv2dProblem, **more: Any) -> Make:
    options = problem.window | {"input_shape": problem.x_shape} | more
    return lambda rng, dtype: ([normal(rng, problem.y_shape, dtype), normal(rng, problem.w_shape, dtype)], options)


def _wgrad(problem: Conv2dProblem, **more: Any) -> Make:
    options = problem.window | {"kernel_size": problem.kernel_size} | more
    return lambda rng, dtype: ([normal(rng, problem.y_shape, dtype), normal(rng, problem.x_shape, dtype)], options)


def _backward(problem: Conv2dProblem, **more: Any) -> Make:
    shapes_of_all = (problem.y_shape, problem.x_shape, problem.w_shape)
    options = problem.window | more
    return lambda rng, dtype: ([normal(rng, shape, dtype) for shape in shapes_of_all], options)


def _relu(problem: Conv2dProblem, bias: bool, pool: int, activation: str | None = "relu", **more: Any) -> Make:
    return _fprop(problem, bias, activation, pool=pool, **more)


def _conv_norm(problem: Conv2dProblem, bias: bool, activation: str | None, **more: Any) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        arrays, options = _fprop(problem, bias, activation, **more)(rng, dtype)
        (_, *vectors), _ = _norm(1, problem.k, True)(rng, dtype)
        return [*arrays, *vectors], options

    return make


def _unpooled(problem: Conv2dProblem, training: bool, activation: str | None) -> Make:
    """batch_norm_backward with any mask of conv2d_batch_norm's shape."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        (dy, x, *vectors), options = _norm_backward(1, problem.k, training, activation)(rng, dtype)
        dy, x = (normal(rng, problem.pooled_shape(2), dtype) for _ in (dy, x))
        mask = rng.integers(0, 256, problem.mask_shape(2), np.uint8)
        return [dy, x, *vectors], options | dict(mask=mask, input_shape=problem.y_shape, groups=problem.groups)

    return make


def _under_mask(problem: Conv2dProblem, pool: int, gradient: Make) -> Make:
    """A gradient's case with the dy and mask of conv2d_relu."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        from gpuconv import ops

        arrays, relu = _relu(problem, False, pool)(rng, np.dtype(np.float32))
        y, mask = ops.conv2d_relu(*arrays, **relu)
        (_, *others), options = gradient(rng, dtype)
        return [normal(rng, y.shape, dtype), *others], options | {"mask": mask, "pool": pool}

    return make


# --- pools -------------------------------------------------------------------------------------

# The keywords of `Pool2dProblem.of`; all but x_shape are those of the ops, too.
POOLS: dict[str, list[Options]] = {
    "tiny": [
        dict(x_shape=(1, 1, 1, 1), kernel_size=1),
        dict(x_shape=(0, 4, 4, 3), kernel_size=2),
        dict(x_shape=(1, 2, 2, 1), kernel_size=2),
    ],
    "odd": [
        dict(x_shape=(3, 7, 11, 5), kernel_size=2),
        dict(x_shape=(2, 9, 7, 3), kernel_size=3, stride=2),
        dict(x_shape=(2, 11, 13, 4), kernel_size=(1, 2), stride=(3, 5)),
        dict(x_shape=(2, 6, 5, 7), kernel_size=(3, 2), stride=(2, 1), padding=((1, 2), (0, 1))),
        dict(x_shape=(2, 7, 9, 8), kernel_size=(3, 2), stride=2, padding=((1, 1), (0, 1)), fit="cover"),
    ],
    "real": [
        dict(x_shape=(2, 32, 32, 12), kernel_size=2),
        dict(x_shape=(2, 15, 15, 64), kernel_size=2),
        dict(x_shape=(2, 8, 8, 16), kernel_size=3, stride=2, padding=1),
    ],
}


def _random_pool(rng: np.random.Generator) -> Options:
    r, s = (int(v) for v in rng.integers(1, 4, 2))
    shape = (
        int(rng.integers(1, 3)),
        r + int(rng.integers(0, 8)),
        s + int(rng.integers(0, 8)),
        int(rng.integers(1, 18)),
    )
    padding = tuple(tuple(int(v) for v in rng.integers(0, k, 2)) for k in (r, s))
    stride = tuple(int(v) for v in rng.integers(1, 4, 2))
    return dict(
        x_shape=shape, kernel_size=(r, s), stride=stride, padding=padding, fit=str(rng.choice(["floor", "cover"]))
    )


def _pool_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    tiers = POOLS | {"random": [_random_pool(rng) for _ in range(count)]}
    for tier, listed in tiers.items():
        for index, sizes in enumerate(listed):
            shape, options = sizes["x_shape"], {name: sizes[name] for name in sizes if name != "x_shape"}
            name = f"{_join(shape)} {_text(options)}"
            average = options | {"count_include_pad": index % 2 == 0}
            yield Case("max_pool2d", tier, name, _on_volume(shape, options))
            yield Case("max_pool2d", tier, f"{name}, ties and specials", _with_ties(shape, options))
            yield Case("max_pool2d_backward", tier, name, _unpool(shape, options))
            yield Case("avg_pool2d", tier, name, _on_volume(shape, average))
            backward = _on_volume(Pool2dProblem.of(**sizes).y_shape, average | {"input_shape": shape})
            yield Case("avg_pool2d_backward", tier, name, backward)
            if shape[0]:
                yield Case("global_avg_pool2d", tier, name, _on_volume(shape, {}))
                backward = _on_volume((shape[0], 1, 1, shape[3]), {"input_shape": shape})
                yield Case("global_avg_pool2d_backward", tier, name, backward)


def _on_volume(shape: Shape, options: Options) -> Make:
    return lambda rng, dtype: ([normal(rng, shape, dtype)], options)


def _with_ties(shape: Shape, options: Options) -> Make:
    values = np.array([-np.inf, -1.0, -0.0, 0.0, 1.0, 1.0, np.nan])
    return lambda rng, dtype: ([rng.choice(values, shape).astype(dtype)], options)


def _unpool(shape: Shape, options: Options) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        from gpuconv import ops

        _, argmax = ops.max_pool2d(normal(rng, shape, np.float32), **options)
        return [normal(rng, argmax.shape, dtype), argmax], options | {"input_shape": shape}

    return make


# --- matrices: linear, bias, norm, losses ------------------------------------------------------

# rows, columns in, columns out
MATRICES: dict[str, list[tuple[int, ...]]] = {
    "tiny": [(1, 1, 1), (2, 3, 1), (2, 1, 4)],
    "odd": [(5, 7, 3), (17, 33, 65), (129, 3, 11)],
    "real": [(8, 3072, 10), (16, 512, 10), (32, 100, 1000)],
}


def _matrix_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    drawn = [tuple(int(v) for v in rng.integers(2, 70, 3)) for _ in range(count)]
    for tier, listed in (MATRICES | {"random": drawn}).items():
        for index, (n, c, k) in enumerate(listed):
            name, smoothing = f"{n}x{c} to {k}", 0.1 * (index % 2)
            yield Case("linear", tier, name, _several((n, c), (k, c), (k,) if index % 2 else None))
            yield Case("linear_dgrad", tier, name, _several((n, k), (k, c)))
            yield Case("linear_wgrad", tier, name, _several((n, k), (n, c)))
            if index == 1:
                in_tf32 = f"{name} tf32"
                yield Case("linear", tier, in_tf32, _several((n, c), (k, c), (k,), tf32=True), ("float32",))
                yield Case("linear_dgrad", tier, in_tf32, _several((n, k), (k, c), tf32=True), ("float32",))
                yield Case("linear_wgrad", tier, in_tf32, _several((n, k), (n, c), tf32=True), ("float32",))
            yield Case("bias_grad", tier, name, _several((n, 1, 1, k)))
            for activation in problems.ACTIVATIONS if index == 1 else ["gelu"]:
                behind = _several((n, k), (n, k), activation=activation)
                yield Case("bias_grad", tier, f"{name} {activation}", behind)
            yield Case("softmax", tier, name, _several((n, k)))
            yield Case("softmax_cross_entropy", tier, name, _scores(n, k, {"label_smoothing": smoothing}))
            soft = _soft(_scores(n, k, {"label_smoothing": 0.1 - smoothing}))
            yield Case("softmax_cross_entropy", tier, f"{name} soft", soft)
            weighted = _weighted(_scores(n, k, {"label_smoothing": smoothing, "ignore_index": -1 + index % 2}))
            yield Case("softmax_cross_entropy", tier, f"{name} weights, ignored rows", weighted)
            yield Case("softmax_cross_entropy", tier, f"{name} soft weights", _weighted(soft))
            yield Case("svm_hinge", tier, name, _scores(n, k, {"delta": 1.0}))
            if index == 1:
                scaled = {"grad_scale": np.array([1024.0])}
                yield Case("softmax_cross_entropy", tier, f"{name} scaled", _scores(n, k, scaled))
                yield Case("svm_hinge", tier, f"{name} scaled", _scores(n, k, scaled))
            for op, options in _ELEMENTWISE.items():
                more = {"grad_scale": np.array([1024.0])} if index == 1 else {}
                yield Case(op, tier, name, _targets((n, k), options | more))
                yield Case(op, tier, f"{n}x2x1x{k}", _targets((n, 2, 1, k), options))
            yield Case("binary_cross_entropy", tier, f"{name} weights", _targets((n, k), {}, weights=True))
            yield Case("add_metrics", tier, name, _metrics(n, k))
            yield Case("add_metrics", tier, f"{name} soft", _soft(_metrics(n, k)))
            yield Case("add_metrics", tier, f"{name} ignored rows", _metrics(n, k, ignore_index=0))
            yield Case("add_metrics", tier, f"{name} without labels", _unlabelled(_metrics(n, k)))
            if index == 1:
                yield Case("add_metrics", tier, f"{name}, an infinite loss", _metrics(n, k, np.inf))
            if n > 1:
                yield Case("batch_norm", tier, name, _norm(n, c, training=index % 3 != 2))
                yield Case("batch_norm_backward", tier, name, _norm_backward(n, c, training=index % 3 != 2))
                activation = list(problems.ACTIVATIONS)[(index + n) % len(problems.ACTIVATIONS)]
                active, training = f"{name} {activation}", index % 3 != 1
                yield Case("batch_norm", tier, active, _norm(n, c, training, activation))
                yield Case("batch_norm_backward", tier, active, _norm_backward(n, c, training, activation))


def _several(*shaped: Any, **options: Any) -> Make:
    return lambda rng, dtype: ([None if shape is None else normal(rng, shape, dtype) for shape in shaped], options)


def _scores(n: int, classes: int, options: Options) -> Make:
    return lambda rng, dtype: ([3 * normal(rng, (n, classes), dtype), rng.integers(0, classes, n)], options)


_ELEMENTWISE: dict[str, Options] = {"mean_squared_error": {}, "huber_loss": {"delta": 0.75}, "binary_cross_entropy": {}}


def _targets(shape: Shape, options: Options, weights: bool = False) -> Make:
    """Targets in [0, 1], in the accumulation dtype. weights: of the positive class."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        wide = accumulation_dtype(dtype)
        arrays = [3 * normal(rng, shape, dtype), rng.random(shape).astype(wide)]
        return arrays + [rng.uniform(0, 3, shape[-1]).astype(wide)] * weights, options

    return make


def _soft(labelled: Make) -> Make:
    """The same with a probability for each class, in the accumulation dtype, in the place of a label."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        (*others, scores, labels), options = labelled(rng, dtype)
        probabilities = rng.dirichlet(np.ones(scores.shape[1]), len(labels))
        return [*others, scores, probabilities.astype(accumulation_dtype(dtype))], options

    return make


def _weighted(labelled: Make) -> Make:
    """The same with a weight for each class, in the accumulation dtype, and some rows with the ignored label."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        (scores, labels), options = labelled(rng, dtype)
        if "ignore_index" in options:
            labels = np.where(rng.random(len(labels)) < 0.3, options["ignore_index"], labels)
        return [scores, labels, rng.uniform(0, 2, scores.shape[1]).astype(accumulation_dtype(dtype))], options

    return make


def _unlabelled(labelled: Make) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        (*others, _), options = labelled(rng, dtype)
        return [*others, None], options

    return make


def _metrics(n: int, classes: int, loss: float | None = None, **options: Any) -> Make:
    """Integer scores, so that ties occur, and labels of add_metrics' dtype. loss: None draws one."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        wide = accumulation_dtype(dtype)
        scores = rng.integers(-3, 4, (n, classes)).astype(dtype)
        drawn = normal(rng, (), wide) if loss is None else np.array(loss, wide)
        return [normal(rng, 4, np.float64), drawn, scores, rng.integers(0, classes, n)], options

    return make


def _norm(n: int, c: int, training: bool, activation: str | None = None) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        wide = accumulation_dtype(dtype)
        vectors = [
            normal(rng, c, wide),
            normal(rng, c, wide),
            normal(rng, c, wide),
            rng.uniform(0.5, 2, c).astype(wide),
        ]
        x = (normal(rng, (n, 2, 1, c), np.float64) * 1.5 + 0.5).astype(dtype)
        return [x, *vectors], {"training": training, "momentum": 0.2, "activation": activation}

    return make


# The shape of x, and groups.
GROUPED: dict[str, list[tuple[tuple[int, ...], int]]] = {
    "tiny": [((1, 1), 1), ((0, 2, 2, 3), 3), ((2, 1, 1, 4), 2)],
    "odd": [((3, 5, 7, 6), 3), ((5, 33), 1), ((2, 3, 3, 35), 5), ((7, 2, 1, 24), 1)],
    "real": [((2, 16, 16, 64), 32), ((65, 96), 1), ((2, 1, 1500, 16), 4)],
}


def _group_norm_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    drawn = []
    for _ in range(count):
        n, h, w, groups, each = (int(v) for v in rng.integers(1, 9, 5))
        drawn.append(((n, h, w, groups * each), groups))
    for tier, listed in (GROUPED | {"random": drawn}).items():
        for shape, groups in listed:
            name = f"{_join(shape)} in {groups} group{'s' * (groups > 1)}"
            yield Case("group_norm", tier, name, _group_norm(shape, groups))
            yield Case("group_norm_backward", tier, name, _group_norm_backward(shape, groups))


def _group_norm(shape: tuple[int, ...], groups: int) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        wide = accumulation_dtype(dtype)
        x = (normal(rng, shape, np.float64) * 1.5 + 0.5).astype(dtype)
        return [x, normal(rng, shape[-1], wide), normal(rng, shape[-1], wide)], {"groups": groups, "eps": 1e-3}

    return make


def _group_norm_backward(shape: tuple[int, ...], groups: int) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        wide = accumulation_dtype(dtype)
        statistics = [0.1 * normal(rng, (shape[0], groups), wide), rng.uniform(0.5, 2, (shape[0], groups)).astype(wide)]
        return [normal(rng, shape, dtype), normal(rng, shape, dtype), normal(rng, shape[-1], wide), *statistics], {}

    return make


def _norm_backward(n: int, c: int, training: bool, activation: str | None = None) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        wide = accumulation_dtype(dtype)
        dy, x = normal(rng, (n, 1, 2, c), dtype), normal(rng, (n, 1, 2, c), dtype)
        vectors = [normal(rng, c, wide), 0.1 * normal(rng, c, wide), rng.uniform(0.5, 2, c).astype(wide)]
        options = {"training": training, "activation": activation}
        return [dy, x, *vectors], options | ({"beta": normal(rng, c, wide)} if activation else {})

    return make


# --- elementwise -------------------------------------------------------------------------------

_SHAPES: dict[str, list[tuple[int, ...]]] = {
    "tiny": [(1,), (0, 3)],
    "odd": [(3, 7), (2, 3, 4), (2, 5, 5, 3), (1031,)],
    "real": [(2, 16, 16, 16)],
}


def _elementwise_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    drawn = [tuple(int(v) for v in rng.integers(1, 12, int(rng.integers(1, 5)))) for _ in range(count)]
    for tier, listed in (_SHAPES | {"random": drawn}).items():
        for shape in listed:
            for op in problems.ACTIVATIONS:
                forms: list[Options] = [{}]
                forms = [{"approximate": "none"}, {"approximate": "tanh"}] if op == "gelu" else forms
                for options in forms:
                    name = f"{_join(shape)} {_text(options)}".strip()
                    yield Case(op, tier, name, _numbers(shape, options))
                    yield Case(f"{op}_backward", tier, name, _gradient(op, shape, options))
            yield Case("add", tier, _join(shape), _several(shape, shape))
            if len(shape) > 1:
                yield Case("add", tier, f"{_join(shape)} and a vector", _several(shape, shape[-1:]))
            yield Case("copy", tier, _join(shape), _several(shape))
            if len(shape) > 1:
                yield Case("copy", tier, f"{_join(shape)} of {shape[-1] + 3} channels", _slice(shape))
            yield Case("scale", tier, _join(shape), _numbers(shape, {"factor": 1 / 9}))
            place = dict(p=0.3, seed=2**40 + 3, substream=5, offset=2**32 - 1)
            yield Case("dropout", tier, _join(shape), _numbers(shape, place))
            yield Case("dropout_backward", tier, _join(shape), _numbers(shape, place))
            part = place | dict(first=11)
            yield Case("dropout", tier, f"{_join(shape)} first=11", _numbers(shape, part))
            drawn_at = dict(seed=77, stream=0, substream=2, offset=2**32 - 1)
            yield Case("random_uniform", tier, _join(shape), _numbers(shape, drawn_at | dict(low=-1.0, high=2.0)))
            yield Case("random_normal", tier, _join(shape), _numbers(shape, drawn_at | dict(mean=0.5, std=0.1)))


def _numbers(shape: Shape, options: Options) -> Make:
    return lambda rng, dtype: ([3 * normal(rng, shape, dtype)], options)


def _slice(shape: tuple[int, ...]) -> Make:
    """Some of the channels of a volume."""
    return lambda rng, dtype: ([normal(rng, (*shape[:-1], shape[-1] + 3), dtype)[..., 2:-1]], {})


def _gradient(op: str, shape: Shape, options: Options) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        from gpuconv import ops

        x = np.asarray(3 * rng.standard_normal(shape), dtype)
        x.reshape(-1)[1::5] = 0  # the point where relu's slope changes
        return [
            normal(rng, shape, dtype),
            x if problems.ACTIVATIONS[op].saves_input else getattr(ops, op)(x, **options),
        ], options

    return make


# --- batches and orders ------------------------------------------------------------------------


def _batch_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    problems = {"tiny": [(1, 1, 1, 1)], "odd": [(5, 7, 11, 3)], "real": [(16, 32, 32, 3), (32, 8, 8, 1)]}
    for tier, listed in problems.items():
        for n, h, w, c in listed:
            drawn = dict(flip=True, shift=min(h, w) // 4, cutout=h // 3, seed=3, offset=100)
            altered = drawn | dict(resized_crop=0.2, brightness=0.4, contrast=0.4, saturation=0.4, offset=2**32 - 3)
            for options in ({}, drawn, drawn | dict(flip="alternating", border="reflect", offset=7), altered):
                name = f"{n} of {h}x{w}x{c} {_text(options)}".strip()
                yield Case("load_batch", tier, name, _batch(n, (h, w, c), options))
                yield Case("load_batch", tier, f"{name} from 2 on", _batch(n, (h, w, c), options, before=2))
            for cut in (False, True):
                options = dict(cut=cut, classes=10, seed=3, offset=2**32 + n)
                yield Case("mix_batch", tier, f"{n} of {h}x{w}x{c} {_text(options)}", _mix(n, (h, w, c), options))
    for tier, done, number in (("tiny", 0, 1), ("odd", 6, 5), ("real", 3, 1000)):
        yield Case("advance_clock", tier, f"step {done} of 7", _clock(done, number), ("float64", "float32"))
        yield Case("advance_counter", tier, f"by {number}", _counter(number), ("float32",))
    yield Case("advance_clock", "odd", "35 rates", _clock(5, 3, 35), ("float64", "float32"))
    yield Case("advance_clock", "odd", "past the end", _clock(7, 3), ("float64", "float32"))
    for tier, n in (("tiny", 1), ("odd", 17), ("real", 1437)):
        yield Case("random_permutation", tier, str(n), _order(n), ("float32",))


def _batch(n: int, shape: tuple[int, ...], options: Options, before: int = 0) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        images, labels = rng.integers(0, 256, (9, *shape), np.uint8), rng.integers(0, 10, 9)
        statistics = dict(
            mean=rng.uniform(0, 255, shape[-1]).astype(np.float32),
            std=rng.uniform(20, 80, shape[-1]).astype(np.float32),
        )
        place = dict(start=np.array([before]), count=n) if before else {}
        return [images, labels, rng.integers(0, 9, n + before)], options | statistics | place | {"dtype": dtype.name}

    return make


def _mix(n: int, shape: tuple[int, ...], options: Options) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        return [normal(rng, (n, *shape), dtype), rng.integers(0, 10, n), rng.random(8).astype(np.float32)], options

    return make


def _clock(done: int, batch_size: int, width: int = 1) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        clock = np.array([done, 2**40 + done, 11, 2**40])
        return [clock, normal(rng, (width,), dtype), normal(rng, (7, width), dtype)], dict(batch_size=batch_size)

    return make


def _counter(by: int) -> Make:
    return lambda rng, dtype: ([np.array([2**40])], dict(by=by))


def _order(n: int) -> Make:
    return lambda rng, dtype: ([np.zeros(n, np.int64)], dict(seed=9, epoch=2))


# --- optimizer steps ---------------------------------------------------------------------------

_PARAMETERS: dict[str, list[tuple[int, ...]]] = {
    "tiny": [(1,)],
    "odd": [(3, 5, 7), (11,), (0,), (1031,)],
    "real": [(64, 3, 3, 64), (64,), (10, 640), (10,)],
}
# One, several of a shape, wide and tall, zeros of an empty one, more than a block's 8192 numbers.
_MATRICES_OF_MUON: dict[str, list[tuple[int, ...]]] = {
    "tiny": [(1, 1)],
    "odd": [(3, 2, 3, 5), (33, 17), (3, 2, 3, 5), (0, 4), (7, 1)],
    "real": [(64, 3, 3, 24), (64, 3, 3, 24), (10, 256)],
}
_STEPS: list[tuple[str, int, Options]] = [
    ("sgd_step", 0, dict(lr=0.1, weight_decay=0.01)),
    ("sgd_step", 1, dict(lr=0.1, momentum=0.9, nesterov=True)),
    ("sgd_step", 1, dict(lr=0.1, momentum=0.9, weight_decay=0.001)),
    ("adagrad_step", 1, dict(lr=0.01, weight_decay=0.01)),
    ("rmsprop_step", 1, dict(lr=0.01)),
    ("adam_step", 2, dict(lr=0.001, step=3)),
    ("adam_step", 2, dict(lr=0.001, step=1000, weight_decay=0.1, decoupled=True)),
    ("lion_step", 1, dict(lr=0.001, weight_decay=0.1)),
]


def _optimizer_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    for tier, listed in _PARAMETERS.items():
        for op, states, options in _STEPS:
            name = f"{len(listed)} params, {_text(options)}"
            yield Case(op, tier, name, _parameters(op, listed, states, options))
            with_masters = _parameters(op, listed, states, options, masters=True)
            yield Case(op, tier, f"{name}, masters", with_masters, ("float16", "bfloat16"))
            scaled = _parameters(op, listed, states, options, masters=True, unscale=2.0**-3)
            yield Case(op, tier, f"{name}, masters, scaled", scaled, ("float16",))
        for what, number in (("finite", 65504.0), ("inf", -np.inf), ("nan", np.nan)):
            name = f"{len(listed)} gradients, the last number {what}"
            yield Case("update_loss_scale", tier, name, _gradients(listed, number, dict(interval=9)))
        for max_norm in (0.5, 1e6):
            clipping = _clipping(listed, dict(max_norm=max_norm), own=True)
            yield Case("clip_norm", tier, f"{len(listed)} gradients, max_norm={max_norm}", clipping)
        yield Case(
            "clip_norm", tier, f"{len(listed)} gradients, inf", _clipping(listed, dict(max_norm=1.0), True, np.inf)
        )
        for which in ("plain", "scaled"):
            limiting = _clipping(listed, dict(clip_value=0.375), scaled=which == "scaled")
            yield Case("clip_values", tier, f"{len(listed)} gradients, {which}", limiting)
        growing = _gradients(listed, 0.0, dict(growth=4.0, interval=8))
        yield Case("update_loss_scale", tier, f"{len(listed)} gradients, scale grows", growing)
    for tier, listed in _MATRICES_OF_MUON.items():
        for options in (dict(lr=0.1, momentum=0.5), dict(lr=0.24, momentum=0.6, nesterov=True)):
            name = f"{'; '.join(map(_join, listed))}, {_text(options)}"
            yield Case("muon_step", tier, name, _parameters("muon_step", listed, 1, options))
            in_tf32 = _parameters("muon_step", listed, 1, options | {"tf32": True})
            yield Case("muon_step", tier, f"{name}, tf32", in_tf32, ("float32",))
            scaled = _parameters("muon_step", listed, 1, options, masters=True, unscale=2.0**-3)
            yield Case("muon_step", tier, f"{name}, masters, scaled", scaled, ("float16", "bfloat16"))


def _parameters(
    op: str,
    listed: list[tuple[int, ...]],
    states: int,
    options: Options,
    masters: bool = False,
    unscale: float | None = None,
) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        def lists(count: int, dtype: DTypeLike) -> list[list[np.ndarray]]:
            return [[normal(rng, shape, dtype) for shape in listed] for _ in range(count)]

        wide = accumulation_dtype(dtype) if masters else dtype
        params, grads = lists(2, dtype)
        state = [[np.abs(array) for array in arrays] for arrays in lists(states, wide)] or [None][: op == "sgd_step"]
        scaling = None if unscale is None else np.array([1 / unscale, unscale, 5.0, 2.0])
        return [params, grads, *state, lists(1, wide)[0] if masters else None, scaling], options

    return make


def _gradients(listed: list[tuple[int, ...]], last: float, options: Options) -> Make:
    """Gradients of the dtype, the first in float32, after seven good steps. last: the last number of the last one."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        grads = [normal(rng, shape, dtype if index else np.float32) for index, shape in enumerate(listed)]
        grads.append(np.append(normal(rng, 12, dtype), np.array(last, dtype)))
        return [np.array([1024.0, 0.0, 7.0, 3.0]), grads], options

    return make


def _clipping(
    listed: list[tuple[int, ...]], options: Options, own: bool = False, last: float = np.nan, scaled: bool = True
) -> Make:
    """Gradients of the dtype, the first in float32. own: with an array of the op's own. last: the last number."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        grads = [normal(rng, shape, dtype if index else np.float32) for index, shape in enumerate(listed)]
        grads.append(normal(rng, 12, dtype))
        if not own or np.isinf(last):
            grads.append(np.array([last], dtype))
        scaling = np.array([8.0, 0.125, 7.0, 3.0]) if scaled else None
        return [*([np.zeros(4)] if own else []), grads, scaling], options

    return make


def _join(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def _text(options: Options) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())
