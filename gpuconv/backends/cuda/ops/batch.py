"""Batches from a uint8 data set in device memory, and their mixing: launchers of load_batch.cu and mix_batch.cu."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.backends.cuda.runtime.outputs import buffer, contiguous, store
from gpuconv.backends.cuda.runtime.scalars import device_scalar
from gpuconv.backends.cuda.runtime.structs import FAST_DIVMOD, fast_divmod, struct
from gpuconv.batch_augmentation import BatchAugmentation
from gpuconv.dtypes import as_dtype
from gpuconv.host_values import batch_indices, expect_within
from gpuconv.integers import ceil_div
from gpuconv.types import Array, ArrayT, Scalar

_ELEMENTS = 4096  # numbers of one sample per thread block

# A sample must have fewer numbers than this. A thread's loop ends at an index that may lie one stride past the last
# number, and this index must fit into 32 bits. The stride is the number of the sample's threads, in a large sample at
# most about a sixteenth of its numbers.
_MOST_ELEMENTS = 2**31 - 2**27

_FLIPS: dict[bool | str, int] = {False: 0, True: 1, "alternating": 2}  # the kernel's `enum Flip`

_BATCH = np.dtype(
    [
        ("images", np.int64),
        ("indices", np.int64),
        ("height", np.int32),
        ("width", FAST_DIVMOD),
        ("channels", FAST_DIVMOD),
    ]
    + [(name, np.int32) for name in ("mean_each", "std_each", "flip", "shift", "reflect", "cutout", "blocks")]
    + [("smallest", np.float32), ("low", np.float32, 4), ("range", np.float32, 4)],
    align=True,
)


_MIX = np.dtype(
    [("height", np.int32), ("width", FAST_DIVMOD), ("channels", FAST_DIVMOD)]
    + [(name, np.int32) for name in ("lambdas", "classes", "cut", "blocks")],
    align=True,
)


def _blocks(height: int, width: int, channels: int) -> int:
    """Thread blocks for a sample."""
    if height * width * channels >= _MOST_ELEMENTS:
        raise ValueError(f"an image has at most {_MOST_ELEMENTS - 1} numbers, received {height} x {width} x {channels}")
    return max(1, ceil_div(height * width * channels, _ELEMENTS))


@functools.lru_cache(maxsize=1024)
def _packed(
    shape: tuple[int, ...], indices: int, augmentation: BatchAugmentation, mean_each: bool, std_each: bool
) -> tuple[int, np.void]:
    """Thread blocks for a sample, and the kernel's `struct Batch`."""
    images, height, width, channels = shape
    blocks = _blocks(height, width, channels)
    if augmentation.colors[1]:  # contrast needs the mean of the image, for which each block would read all of it
        blocks = 1
    divisors = fast_divmod(max(1, width)), fast_divmod(max(1, channels))
    flip, reflect = _FLIPS[augmentation.flip], augmentation.border == "reflect"
    changes = flip, augmentation.shift, reflect, augmentation.cutout, blocks, augmentation.resized_crop
    *strengths, hue = augmentation.colors
    low = tuple(max(0.0, 1 - strength) for strength in strengths)
    spans = tuple(1 + strength - least for strength, least in zip(strengths, low))
    return blocks, struct(
        _BATCH, images, indices, height, *divisors, mean_each, std_each, *changes, (*low, -hue), (*spans, 2 * hue)
    )


def load_batch(
    images: Array,
    labels: Array,
    indices: Array,
    mean: Array,
    std: Array,
    augmentation: BatchAugmentation,
    *,
    seed: int,
    offset: Scalar,
    start: Scalar,
    count: int,
    dtype: DTypeLike,
    out: Array | None,
) -> tuple[Array, Array]:
    blocks, batch = _packed(images.shape, indices.shape[0], augmentation, mean.ndim > 1, std.ndim > 1)
    m, h, w, c = images.shape
    if isinstance(indices, np.ndarray) and emulator.host_reads():
        batch_indices(indices, start, count, m)
    n, dtype = count, as_dtype(dtype)
    images, labels, indices, mean, std = contiguous(images, labels, indices, mean, std)
    counters = (*device_scalar(offset, np.int64), *device_scalar(start, np.int64))
    picked = empty((n,), labels.dtype, like=labels)
    x = buffer(out, (n, h, w, c), dtype, like=images)
    if x.size:
        full = int(bool(augmentation.resized_crop) or any(augmentation.colors))
        kernel = load("load_batch.cu", {"DTYPE": dtype, "FULL": full}).kernel("load_batch")
        kernel(n * blocks, THREADS, x, picked, images, labels, indices, mean, std, seed, *counters, batch)
    return store(x, out), picked


@functools.lru_cache(maxsize=1024)
def _packed_mix(height: int, width: int, channels: int, *others: int) -> np.void:
    """The kernel's `struct Mix`. others: its members lambdas, classes and cut."""
    blocks = _blocks(height, width, channels)
    return struct(_MIX, height, fast_divmod(width), fast_divmod(channels), *others, blocks)


def mix_batch(
    x: ArrayT, labels: Array, table: Array, *, classes: int, cut: bool, seed: int, offset: Scalar, out: ArrayT | None
) -> tuple[ArrayT, Array]:
    n, *shape = x.shape
    mix = _packed_mix(*shape, table.shape[0], classes, cut)
    if isinstance(labels, np.ndarray) and emulator.host_reads():
        expect_within("labels", labels, classes)
    x, labels, table = contiguous(x, labels, table)
    targets = empty((n, classes), np.dtype(np.float32), like=x)
    mixed = buffer(out, x.shape, x.dtype, like=x)
    if n:
        kernel = load("mix_batch.cu", {"DTYPE": x.dtype}).kernel("mix_batch")
        counter = device_scalar(offset, np.int64)
        kernel(n * int(mix["blocks"]), THREADS, mixed, targets, x, labels, table, seed, *counter, n, mix)
    return store(mixed, out), targets
