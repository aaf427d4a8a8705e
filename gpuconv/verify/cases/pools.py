"""Pools."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv.problems import Pool2dProblem
from gpuconv.text.plain_text import size_text
from gpuconv.types import Options, Shape
from gpuconv.verify.cases.case import Arguments, Case, Make, normal, text_of

# Keywords of `Pool2dProblem.of`; all but x_shape are also keywords of the ops.
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


def pool_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    tiers = POOLS | {"random": [_random_pool(rng) for _ in range(count)]}
    for tier, pools in tiers.items():
        for index, sizes in enumerate(pools):
            shape = sizes["x_shape"]
            options = {name: sizes[name] for name in sizes if name != "x_shape"}
            name = f"{size_text(shape)} {text_of(options)}"
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
