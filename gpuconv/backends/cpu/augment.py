"""Random crops and colors of uint8 images, for `load_batch`; backends/reference/batch.py defines the bits."""

from __future__ import annotations

import math

import numpy as np

from gpuconv import random

_COLORS, _CROP = 2, 4  # substreams; attempt i at a crop draws from _CROP + i
_ATTEMPTS = 10
_HALF_LOG = np.float32(math.log(4 / 3) / 2)  # a crop's width and height differ by a factor of at most 4/3


def crop_and_recolor(images, indices, augmentation, *, seed, offset):
    """(array, rows), such that array[rows] are the chosen images, cropped and recolored."""
    resized_crop, colors = augmentation.resized_crop, augmentation.colors
    if not resized_crop and not any(colors):
        return images, indices
    block = np.uint64(offset) + np.arange(len(indices), dtype=np.uint64)
    if resized_crop:
        chosen = _crop_and_resize(images, indices, np.float32(resized_crop), block, seed)
    else:
        chosen = images[indices].astype(np.float32)
    if any(colors):
        _recolor(chosen, colors, _random_words(block, _COLORS, seed))
    return chosen, np.arange(len(indices))


def _crop_and_resize(images, indices, smallest, block, seed):
    """(n, H, W, C) float32: a part of each image, resized to (H, W) by bilinear interpolation, with positions in units
    of 1/256 pixel."""
    height, width = images.shape[1:3]
    n = len(indices)
    # The crop of an image that no attempt fits: the largest central rectangle in which one side is at most 4/3 of the
    # other one, rounded.
    rows, columns = np.full(n, min(height, (8 * width + 3) // 6)), np.full(n, min(width, (8 * height + 3) // 6))
    top, left = (height - rows) // 2, (width - columns) // 2
    pending = np.arange(n)  # images for which no earlier attempt fitted
    for attempt in range(_ATTEMPTS):
        area, ratio, vertical, horizontal = _random_words(block[pending], _CROP + attempt, seed)
        side = np.sqrt(_uniform(smallest, np.float32(1) - smallest, area) * np.float32(height * width))
        x = (2 * _unit(ratio) - 1) * _HALF_LOG
        even, odd = 12 + x * x, 6 * x
        root = (even + odd) / (even - odd)  # exp(x), by its Padé approximant of order 2
        tall, wide = np.rint(side / root).astype(np.int64), np.rint(side * root).astype(np.int64)
        fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
        at, tall, wide = pending[fits], tall[fits], wide[fits]
        rows[at], columns[at] = tall, wide
        top[at], left[at] = vertical[fits] * (height - tall + 1) >> 32, horizontal[fits] * (width - wide + 1) >> 32
        pending = pending[~fits]
        if not pending.size:
            break

    above, below, lower_weight = (part[:, :, None] for part in _neighbors(top, rows, height))
    first, second, right_weight = (part[:, None] for part in _neighbors(left, columns, width))
    lower_weight, right_weight = lower_weight[..., None], right_weight[..., None]
    index = indices[:, None, None]
    upper, lower = (
        images[index, row, first] * (256 - right_weight) + images[index, row, second] * right_weight
        for row in (above, below)
    )
    return (upper * (256 - lower_weight) + lower * lower_weight).astype(np.float32) * np.float32(2**-16)


def _neighbors(start, length, size):
    """For `size` positions, evenly spaced over `length` pixels from start: the two nearest pixels, each (n, size), and
    the weight of the second one in units of 1/256."""
    length = length[:, None]
    step = (length << 32) // size
    at = (np.arange(size) * step + step // 2 - 2**31) >> 24
    at = at.clip(0, 256 * (length - 1))
    first = at >> 8
    return start[:, None] + first, start[:, None] + np.minimum(first + 1, length - 1), (at & 255).astype(np.int32)


def _recolor(x, colors, words):
    """Change brightness, contrast, saturation and hue of x (n, H, W, C), float32, in place."""
    *strengths, hue = colors
    brightness, contrast, saturation = (_factor(strength, word) for strength, word in zip(strengths, words))
    if brightness is not None:
        _blend(x, brightness, np.float32(0))
    if contrast is not None:
        total = (_gray(x) * np.float32(2**16)).astype(np.int64).sum(axis=(1, 2, 3))
        mean = total.astype(np.float32) / np.float32(math.prod(x.shape[1:3])) * np.float32(2**-16)
        _blend(x, contrast, mean[:, None, None, None])
    if saturation is not None:
        _blend(x, saturation, _gray(x))
    if hue and x.shape[3] == 3:
        _rotate_hue(x, 6 * _uniform(np.float32(-hue), np.float32(2 * hue), words[3])[:, None, None])


def _rotate_hue(x, sixths):
    """Rotate the hue, as in HSV, in units of a sixth of the circle."""
    red, green, blue = (x[..., c] for c in range(3))
    most = x.max(axis=3)
    span = most - x.min(axis=3)
    hue = np.where(most == green, np.float32(2), np.float32(4))
    difference = np.where(most == green, blue - red, red - green)
    hue, difference = np.where(most == red, np.float32(0), hue), np.where(most == red, green - blue, difference)
    hue = hue + difference / np.where(span == 0, np.float32(1), span) + sixths
    # Back to RGB. Over the circle of hues, red falls from the largest value to the smallest and rises again; green and
    # blue do the same, a third and two thirds of the circle later.
    for c, sixth in enumerate((5 + hue, 3 + hue, 1 + hue)):
        sixth -= 6 * np.floor(sixth / 6)
        x[..., c] = most - span * np.minimum(sixth, 4 - sixth).clip(0, 1)


def _factor(strength, word):
    """(n, 1, 1, 1): factors drawn uniformly from max(0, 1 - strength) to 1 + strength; None for strength 0."""
    low = max(0.0, 1 - strength)
    return _uniform(np.float32(low), np.float32(1 + strength - low), word)[:, None, None, None] if strength else None


def _gray(x):
    if x.shape[3] == 1:
        return x
    red, green, blue = (np.float32(weight) * x[..., c, None] for c, weight in enumerate((0.2989, 0.587, 0.114)))
    return red + green + blue


def _blend(x, factor, other):
    other = (1 - factor) * other
    x *= factor
    x += other
    x.clip(0, 255, out=x)


def _random_words(block, substream, seed):
    """The four words of each block, int64."""
    counter = (block & np.uint64(0xFFFFFFFF), block >> np.uint64(32), random.AUGMENT, substream)
    return [word.astype(np.int64) for word in random.philox4x32(counter, seed=seed)]


def _unit(word):
    """Numbers in [0, 1), float32."""
    return (word >> 8).astype(np.float32) * np.float32(2**-24)


def _uniform(low, span, word):
    """Numbers between low and low + span, float32."""
    return low + span * _unit(word)
