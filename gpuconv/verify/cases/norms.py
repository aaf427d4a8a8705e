"""Batch and group normalization."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv.activations import ACTIVATIONS
from gpuconv.dtypes import accumulation_dtype
from gpuconv.text.plain_text import size_text
from gpuconv.types import Options
from gpuconv.verify.cases.case import Arguments, Case, Make, normal
from gpuconv.verify.cases.matrices import matrix_sizes


def norm(n: int, c: int, training: bool, activation: str | None = None, addend: bool = False) -> Make:
    """The arguments of batch_norm for x (n, 2, 1, c)."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        wide = accumulation_dtype(dtype)
        vectors = [
            normal(rng, c, wide),
            normal(rng, c, wide),
            normal(rng, c, wide),
            rng.uniform(0.5, 2, c).astype(wide),
        ]
        x = (normal(rng, (n, 2, 1, c), np.float64) * 1.5 + 0.5).astype(dtype)
        options: Options = {"training": training, "momentum": 0.2, "activation": activation}
        return [x, *vectors], options | ({"addend": normal(rng, x.shape, dtype)} if addend else {})

    return make


def batch_norm_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    for tier, index, n, c, _ in matrix_sizes(count, rng):
        if n == 1:
            continue
        forward, backward = size_text((n, 2, 1, c)), size_text((n, 1, 2, c))
        yield Case("batch_norm", tier, forward, norm(n, c, training=index % 3 != 2))
        yield Case("batch_norm_backward", tier, backward, norm_backward(n, c, training=index % 3 != 2))
        activation = list(ACTIVATIONS)[(index + n) % len(ACTIVATIONS)]
        training = index % 3 != 1
        yield Case("batch_norm", tier, f"{forward} {activation}", norm(n, c, training, activation))
        yield Case("batch_norm_backward", tier, f"{backward} {activation}", norm_backward(n, c, training, activation))
        added = activation if index % 2 else None
        yield Case("batch_norm", tier, f"{forward} {added}, addend", norm(n, c, training, added, addend=True))
        saved = norm_backward(n, c, training, activation, saved=True)
        yield Case("batch_norm_backward", tier, f"{backward} {activation}, addend", saved)


# (shape of x, number of groups)
GROUPED: dict[str, list[tuple[tuple[int, ...], int]]] = {
    "tiny": [((1, 1), 1), ((0, 2, 2, 3), 3), ((2, 1, 1, 4), 2)],
    "odd": [((3, 5, 7, 6), 3), ((5, 33), 1), ((2, 3, 3, 35), 5), ((7, 2, 1, 24), 1)],
    "real": [((2, 16, 16, 64), 32), ((65, 96), 1), ((2, 1, 1500, 16), 4)],
}


def group_norm_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    drawn = []
    for _ in range(count):
        n, h, w, groups, each = (int(v) for v in rng.integers(1, 9, 5))
        drawn.append(((n, h, w, groups * each), groups))
    for tier, shapes_and_groups in (GROUPED | {"random": drawn}).items():
        for shape, groups in shapes_and_groups:
            name = f"{size_text(shape)} in {groups} group{'s' * (groups > 1)}"
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


def _backward_input(activation: str | None, z: np.ndarray) -> np.ndarray:
    """What the activation's backward takes. z: the activation's input."""
    from gpuconv import ops

    found = ACTIVATIONS[activation or "relu"]
    return z if found.saves_input else found.apply(ops, z)


def norm_backward(n: int, c: int, training: bool, activation: str | None = None, saved: bool = False) -> Make:
    """The arguments of batch_norm_backward for x (n, 1, 2, c), of a norm followed by the activation. saved: the norm
    had an addend, so the op takes `saved` instead of beta."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        wide = accumulation_dtype(dtype)
        dy, x = normal(rng, (n, 1, 2, c), dtype), normal(rng, (n, 1, 2, c), dtype)
        vectors = [normal(rng, c, wide), 0.1 * normal(rng, c, wide), rng.uniform(0.5, 2, c).astype(wide)]
        options = {"training": training, "activation": activation}
        if saved:
            return [dy, x, *vectors], options | {"saved": _backward_input(activation, normal(rng, x.shape, dtype))}
        return [dy, x, *vectors], options | ({"beta": normal(rng, c, wide)} if activation else {})

    return make
