"""Loads batches from a uint8 data set: gathers, augments and normalizes them. Mixes a batch's images and labels."""

from __future__ import annotations

import numpy as np

from gpuconv import random
from gpuconv.backends.cpu.augment import crop_and_recolor
from gpuconv.dtypes import accumulation_dtype
from gpuconv.host_values import batch_indices, expect_within, value_of


def load_batch(images, labels, indices, mean, std, augmentation, *, seed, offset, start, count, dtype, out):
    """See `gpuconv.ops.load_batch`; backends/reference/batch.py defines the bits."""
    n, (m, height, width, channels) = count, images.shape
    flip, shift, cutout = augmentation.flip, augmentation.shift, augmentation.cutout
    indices, offset = batch_indices(indices, start, n, m), int(value_of(offset))
    x = np.empty((n, height, width, channels), dtype) if out is None else out
    images, chosen = crop_and_recolor(images, indices, augmentation, seed=seed, offset=offset)

    if flip or shift or cutout:
        words = random.bits(4 * n, seed=seed, stream=random.AUGMENT, offset=offset).reshape(n, 4).astype(np.int64)
        w0, w1, w2, w3 = words.T[..., None]  # each (n, 1), to broadcast against rows or columns
        rows, columns = np.arange(height) + _shift(w1, shift), np.arange(width) + _shift(w2, shift)
        if augmentation.border == "reflect":
            rows, columns = _reflected(rows, height), _reflected(columns, width)
        blank = _is_outside(rows, height)[:, :, None] | _is_outside(columns, width)[:, None, :]
        if flip:
            flipped = w0 >= 2**31
            if flip == "alternating":
                odd = (offset + np.arange(n)) // m % 2 == 1
                own, *_ = random.philox4x32((indices & 0xFFFFFFFF, indices >> 32, random.AUGMENT, 1), seed=seed)
                flipped = ((own >= 2**31) ^ odd)[:, None]
            columns = np.where(flipped, width - 1 - columns, columns)
        if cutout:
            covered_rows = _is_covered((w3 >> 16) * height >> 16, cutout, height)
            covered_columns = _is_covered((w3 & 0xFFFF) * width >> 16, cutout, width)
            blank |= covered_rows[:, :, None] & covered_columns[:, None, :]
        pixels = images[
            chosen[:, None, None], rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None]
        ]
    else:
        blank, pixels = None, images[chosen]

    normal = pixels.astype(np.float32)  # a copy
    normal -= _full_size(mean, normal.shape[1:])
    normal *= _full_size(np.float32(1) / std, normal.shape[1:])
    if blank is not None:
        normal[blank] = 0
    x[...] = normal
    return x, labels[indices]


def mix_batch(x, labels, table, *, classes, cut, seed, offset, out):
    """See `gpuconv.ops.mix_batch`; backends/reference/batch.py defines the bits."""
    expect_within("labels", labels, classes)
    n, height, width, _ = x.shape
    words = random.bits(3, seed=seed, stream=random.AUGMENT, substream=3, offset=int(value_of(offset)))
    entry, *center = (int(word) * size >> 32 for word, size in zip(words, (len(table), height, width)))
    factor = table[entry]
    mixed = np.empty_like(x, order="C") if out is None else out
    if cut:
        side = np.sqrt(np.float32(1) - factor) / 2
        halves = [int(side * np.float32(size)) for size in (height, width)]
        rows, columns = (slice(max(0, at - half), at + half) for at, half in zip(center, halves))
        mixed[...] = x
        mixed[1:, rows, columns] = x[:-1, rows, columns]
        mixed[:1, rows, columns] = x[-1:, rows, columns]
        area = np.float32(x[0, rows, columns, 0].size) if n else np.float32(0)
        factor = np.float32(1) - area / np.float32(height * width)
    else:
        wide = x.astype(accumulation_dtype(x.dtype), copy=False)
        others = (np.float32(1) - factor) * wide
        own = factor * wide
        mixed[1:] = own[1:] + others[:-1]
        mixed[:1] = own[:1] + others[-1:]
    targets, images = np.zeros((n, classes), np.float32), np.arange(n)
    targets[images, labels] = factor
    targets[images, np.roll(labels, 1)] += np.float32(1) - factor
    return mixed, targets


def _full_size(values, shape):
    """The values, broadcast to a contiguous array of an image's shape. NumPy is several times slower if it broadcasts
    over three channels in each operation."""
    return np.ascontiguousarray(np.broadcast_to(values, shape))


def _reflected(position, size):
    """The positions, with those outside the image mirrored once at its first or its last position."""
    return size - 1 - abs(size - 1 - abs(position))


def _shift(word, shift):
    return (word * (2 * shift + 1) >> 32) - shift


def _is_outside(position, size):
    return (position < 0) | (position >= size)


def _is_covered(center, side, size):
    """(n, size): whether a square of this side around the center covers a position along an axis."""
    start = center - side // 2
    position = np.arange(size)
    return (position >= start) & (position < start + side)
