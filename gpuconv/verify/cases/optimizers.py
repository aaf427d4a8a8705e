"""Optimizer steps, gradient clipping and the loss scale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.dtypes import accumulation_dtype
from gpuconv.text.plain_text import size_text
from gpuconv.types import Options, Shape
from gpuconv.verify.cases.case import Arguments, Case, Make, normal, text_of

_PARAMETERS: dict[str, list[Shape]] = {
    "tiny": [(1,)],
    "odd": [(3, 5, 7), (11,), (0,), (1031,)],
    "real": [(64, 3, 3, 64), (64,), (10, 640), (10,)],
}


# A single parameter, two of the same shape, wide and tall ones, an empty one, and one with more than 8192 numbers, so
# that several blocks share it.
_MATRICES_OF_MUON: dict[str, list[Shape]] = {
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


def optimizer_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    for tier, shapes in _PARAMETERS.items():
        for op, states, options in _STEPS:
            name = f"{len(shapes)} params, {text_of(options)}"
            yield Case(op, tier, name, _parameters(op, shapes, states, options))
            with_masters = _parameters(op, shapes, states, options, masters=True)
            yield Case(op, tier, f"{name}, masters", with_masters, ("float16", "bfloat16"))
            scaled = _parameters(op, shapes, states, options, masters=True, unscale=2.0**-3)
            yield Case(op, tier, f"{name}, masters, scaled", scaled, ("float16",))
            averaged = _parameters(op, shapes, states, options, ema=0.9)
            yield Case(op, tier, f"{name}, averages", averaged, ("float32", "float64"))
            averaged = _parameters(op, shapes, states, options, masters=True, ema=0.9)
            yield Case(op, tier, f"{name}, masters, averages", averaged, ("float16", "bfloat16"))
        for what, number in (("finite", 65504.0), ("-inf", -np.inf), ("nan", np.nan)):  # 65504: float16's largest
            name = f"{len(shapes)} gradients, the last number {what}"
            yield Case("update_loss_scale", tier, name, _gradients(shapes, number, dict(interval=9)))
        for max_norm in (0.5, 1e6):
            clipping = _clipping(shapes, dict(max_norm=max_norm), fills=True)
            yield Case("clip_norm", tier, f"{len(shapes)} gradients, max_norm={max_norm}", clipping)
        yield Case(
            "clip_norm", tier, f"{len(shapes)} gradients, inf", _clipping(shapes, dict(max_norm=1.0), True, np.inf)
        )
        for which in ("plain", "scaled"):
            limiting = _clipping(shapes, dict(clip_value=0.375), scaled=which == "scaled")
            yield Case("clip_values", tier, f"{len(shapes)} gradients, {which}", limiting)
        growing = _gradients(shapes, 0.0, dict(growth=4.0, interval=8))
        yield Case("update_loss_scale", tier, f"{len(shapes)} gradients, scale grows", growing)
    for tier, shapes in _MATRICES_OF_MUON.items():
        for options in (dict(lr=0.1, momentum=0.5), dict(lr=0.24, momentum=0.6, nesterov=True)):
            name = f"{'; '.join(map(size_text, shapes))}, {text_of(options)}"
            yield Case("muon_step", tier, name, _parameters("muon_step", shapes, 1, options))
            for precision in ("tf32", "bfloat16"):  # one step only: after five, the bound would exceed every value
                once = _parameters("muon_step", shapes, 1, options | {"precision": precision, "steps": 1})
                yield Case("muon_step", tier, f"{name}, {precision}, one step", once, ("float32",))
            averaged = _parameters("muon_step", shapes, 1, options, masters=True, unscale=2.0**-3, ema=0.9)
            yield Case("muon_step", tier, f"{name}, masters, scaled, averages", averaged, ("float16", "bfloat16"))
            given = options | {"precision": "bfloat16", "steps": 1}
            averaged = _parameters("muon_step", shapes, 1, given, masters=True, unscale=2.0**-3, ema=0.9)
            name = f"{name}, bfloat16, one step, masters, scaled, averages"
            yield Case("muon_step", tier, name, averaged, ("float16", "bfloat16"))


def _parameters(
    op: str,
    shapes: list[Shape],
    states: int,
    options: Options,
    masters: bool = False,
    unscale: float | None = None,
    ema: float | None = None,
) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        def lists(count: int, dtype: DTypeLike) -> list[list[np.ndarray]]:
            return [[normal(rng, shape, dtype) for shape in shapes] for _ in range(count)]

        wide = accumulation_dtype(dtype) if masters else dtype
        params, grads = lists(2, dtype)
        state: list[list[np.ndarray] | None] = [[np.abs(array) for array in arrays] for arrays in lists(states, wide)]
        if op == "sgd_step" and not states:
            state = [None]  # no velocities
        scaling = None if unscale is None else np.array([1 / unscale, unscale, 5.0, 2.0])
        averages = None if ema is None else lists(1, wide)[0]
        given = options if averages is None else options | dict(ema=ema)
        return [params, grads, *state, lists(1, wide)[0] if masters else None, scaling, averages], given

    return make


def _normal_gradients(rng: np.random.Generator, shapes: list[Shape], dtype: np.dtype) -> list[np.ndarray]:
    """Gradients in the dtype, the first in float32."""
    return [normal(rng, shape, dtype if index else np.float32) for index, shape in enumerate(shapes)]


def _gradients(shapes: list[Shape], last: float, options: Options) -> Make:
    """The state of a loss scale after seven steps without overflow, and gradients. last: the last number of the last
    gradient."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        grads = _normal_gradients(rng, shapes, dtype)
        grads.append(np.append(normal(rng, 12, dtype), np.array(last, dtype)))
        return [np.array([1024.0, 0.0, 7.0, 3.0]), grads], options

    return make


def _clipping(
    shapes: list[Shape], options: Options, fills: bool = False, last: float = np.nan, scaled: bool = True
) -> Make:
    """The arguments of clip_norm or clip_values: gradients and a scaling. fills: whether the arguments begin with an
    array to fill, as clip_norm's do. last: the only number of one more gradient. The default, NaN, is for clip_values;
    clip_norm gets this gradient only in its own case of infinity, because NaN would leave nothing to compare."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        grads = _normal_gradients(rng, shapes, dtype)
        grads.append(normal(rng, 12, dtype))
        if not fills or np.isinf(last):
            grads.append(np.array([last], dtype))
        scaling = np.array([8.0, 0.125, 7.0, 3.0]) if scaled else None
        return [*([np.zeros(4)] if fills else []), grads, scaling], options

    return make
