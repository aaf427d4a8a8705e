"""Batches of a data set, the order of its images, and the counters of a run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv.types import Options
from gpuconv.verify.cases.case import Arguments, Case, Make, normal, text_of


def batch_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    problems = {"tiny": [(1, 1, 1, 1)], "odd": [(5, 7, 11, 3)], "real": [(16, 32, 32, 3), (32, 8, 8, 1)]}
    for tier, shapes in problems.items():
        for n, h, w, c in shapes:
            drawn = dict(flip=True, shift=min(h, w) // 4, cutout=h // 3, seed=3, offset=100)
            altered = drawn | dict(resized_crop=0.2, brightness=0.4, contrast=0.4, saturation=0.4, offset=2**32 - 3)
            hue_rotated = dict(brightness=0.4, hue=0.5, seed=3, offset=2**40)
            alternating = drawn | dict(flip="alternating", border="reflect", offset=7)
            for options in ({}, drawn, alternating, altered, hue_rotated):
                name = f"{n} of {h}x{w}x{c} {text_of(options)}".strip()
                yield Case("load_batch", tier, name, _batch(n, (h, w, c), options))
                yield Case("load_batch", tier, f"{name} from 2 on", _batch(n, (h, w, c), options, before=2))
            for cut in (False, True):
                options = dict(cut=cut, classes=10, seed=3, offset=2**32 + n)
                yield Case("mix_batch", tier, f"{n} of {h}x{w}x{c} {text_of(options)}", _mix(n, (h, w, c), options))
    for tier, done, number in (("tiny", 0, 1), ("odd", 6, 5), ("real", 3, 1000)):
        yield Case("advance_step_counter", tier, f"step {done} of 7", _counters(done, number), ("float64", "float32"))
        yield Case("advance_counter", tier, f"by {number}", _counter(number), ("float32",))
    yield Case("advance_step_counter", "odd", "35 rates", _counters(5, 3, 35), ("float64", "float32"))
    yield Case("advance_step_counter", "odd", "past the end", _counters(7, 3), ("float64", "float32"))
    for tier, n in (("tiny", 1), ("odd", 17), ("real", 1437)):
        yield Case("random_permutation", tier, str(n), _permutation(n), ("float32",))


def _batch(n: int, shape: tuple[int, ...], options: Options, before: int = 0) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        images, labels = rng.integers(0, 256, (9, *shape), np.uint8), rng.integers(0, 10, 9)
        statistics = dict(
            mean=rng.uniform(0, 255, shape[-1]).astype(np.float32),
            std=rng.uniform(20, 80, shape[-1]).astype(np.float32),
        )
        position = dict(start=np.array([before]), count=n) if before else {}
        return [images, labels, rng.integers(0, 9, n + before)], options | statistics | position | {"dtype": dtype.name}

    return make


def _mix(n: int, shape: tuple[int, ...], options: Options) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        return [normal(rng, (n, *shape), dtype), rng.integers(0, 10, n), rng.random(8).astype(np.float32)], options

    return make


def _counters(done: int, batch_size: int, width: int = 1) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        counters = np.array([done, 2**40 + done, 11, 2**40])
        return [counters, normal(rng, (width,), dtype), normal(rng, (7, width), dtype)], dict(batch_size=batch_size)

    return make


def _counter(by: int) -> Make:
    return lambda rng, dtype: ([np.array([2**40])], dict(by=by))


def _permutation(n: int) -> Make:
    return lambda rng, dtype: ([np.zeros(n, np.int64)], dict(seed=9, epoch=2))
