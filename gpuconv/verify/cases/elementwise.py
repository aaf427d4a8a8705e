"""Elementwise ops, dropout, random numbers and digests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv.activations import ACTIVATIONS
from gpuconv.text.plain_text import size_text
from gpuconv.types import Options, Shape
from gpuconv.verify.cases.case import Arguments, Case, Make, normal, normal_arrays, text_of

_OPTIONS: dict[str, list[Options]] = {"gelu": [{"approximate": "none"}, {"approximate": "tanh"}]}
_SHAPES: dict[str, list[Shape]] = {
    "tiny": [(1,), (0, 3)],
    "odd": [(3, 7), (2, 3, 4), (2, 5, 5, 3), (1031,)],
    "real": [(2, 16, 16, 16)],
}


def elementwise_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    drawn = [tuple(int(v) for v in rng.integers(1, 12, int(rng.integers(1, 5)))) for _ in range(count)]
    for tier, shapes in (_SHAPES | {"random": drawn}).items():
        for shape in shapes:
            for op in ACTIVATIONS:
                for options in _OPTIONS.get(op, [{}]):
                    name = f"{size_text(shape)} {text_of(options)}".strip()
                    yield Case(op, tier, name, _numbers(shape, options))
                    yield Case(f"{op}_backward", tier, name, _gradient(op, shape, options))
            yield Case("add", tier, size_text(shape), normal_arrays(shape, shape))
            if len(shape) > 1:
                yield Case("add", tier, f"{size_text(shape)} and a vector", normal_arrays(shape, shape[-1:]))
            yield Case("copy", tier, size_text(shape), normal_arrays(shape))
            if len(shape) > 1:
                yield Case("digest", tier, f"{size_text(shape)} of {shape[-1] + 3} channels", _slice(shape))
                yield Case("copy", tier, f"{size_text(shape)} of {shape[-1] + 3} channels", _slice(shape))
            yield Case("digest", tier, size_text(shape), normal_arrays(shape))
            yield Case("digest", tier, f"{size_text(shape)} and before", normal_arrays(shape, shape))
            yield Case("scale", tier, size_text(shape), _numbers(shape, {"factor": 1 / 9}))
            quotient = {"factor": np.array([-3.0]), "divisor": np.array([7.0])}
            yield Case("scale", tier, f"{size_text(shape)} by a quotient", _numbers(shape, quotient))
            dropout_options = dict(p=0.3, seed=2**40 + 3, substream=5, offset=2**32 - 1)
            yield Case("dropout", tier, size_text(shape), _numbers(shape, dropout_options))
            yield Case("dropout_backward", tier, size_text(shape), _numbers(shape, dropout_options))
            later_part = dropout_options | dict(first=11)
            yield Case("dropout", tier, f"{size_text(shape)} first=11", _numbers(shape, later_part))
            random_options = dict(seed=77, stream=0, substream=2, offset=2**32 - 1)
            uniform_options = random_options | dict(low=-1.0, high=2.0)
            yield Case("random_uniform", tier, size_text(shape), _numbers(shape, uniform_options))
            yield Case(
                "random_normal", tier, size_text(shape), _numbers(shape, random_options | dict(mean=0.5, std=0.1))
            )


def _numbers(shape: Shape, options: Options) -> Make:
    return lambda rng, dtype: ([3 * normal(rng, shape, dtype)], options)


def _slice(shape: Shape) -> Make:
    """A volume that is a slice of another's channels, and so not contiguous, also on a device (`run.to_device`)."""
    return lambda rng, dtype: ([normal(rng, (*shape[:-1], shape[-1] + 3), dtype)[..., 2:-1]], {})


def _gradient(op: str, shape: Shape, options: Options) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        from gpuconv import ops

        x = np.asarray(3 * rng.standard_normal(shape), dtype)
        x.reshape(-1)[1::5] = 0  # the point where relu's slope changes
        return [
            normal(rng, shape, dtype),
            x if ACTIVATIONS[op].saves_input else getattr(ops, op)(x, **options),
        ], options

    return make
