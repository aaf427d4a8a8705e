"""Loads batches from a uint8 data set, a sample at a time, and mixes them. All devices give these bits: they compute in
float32 (mix_batch: the accumulation dtype) and round to dtype at the end. Each loaded sample draws words w0 to w3:

flip    True: if w0 >= 2^31. "alternating": in even epochs, if word 0 of the block at the image's index, in substream 1,
        is >= 2^31; in odd epochs, if that word is less
shift   by dy = (w1 * (2 shift + 1) >> 32) - shift rows, and by dx columns, computed from w2 in the same way
cutout  zeros in a square of `cutout` pixels a side, which begins at center - cutout // 2;
        center: row (w3 >> 16) * H >> 16, column (w3 & 0xffff) * W >> 16

The image is first cropped and recolored, by words of further substreams, and then flipped. Output pixel (h, w) is pixel
(h + dy, w + dx) of the flipped image.
"""

import math

import numpy as np

from gpuconv import random
from gpuconv.backends.reference.precision import round_to
from gpuconv.dtypes import accumulation_dtype
from gpuconv.host_values import batch_indices, expect_within, value_of


def load_batch(images, labels, indices, mean, std, augmentation, *, seed, offset, start, count, dtype, out):
    offset, (m, height, width, channels) = int(value_of(offset)), images.shape
    flip, shift, cutout = augmentation.flip, augmentation.shift, augmentation.cutout
    indices = batch_indices(indices, start, count, m)
    x = np.empty((count, height, width, channels), dtype) if out is None else out
    words = random.bits(4 * count, seed=seed, stream=random.AUGMENT, offset=offset).reshape(count, 4)
    for n, index in enumerate(map(int, indices)):
        w0, w1, w2, w3 = map(int, words[n])
        rows = np.arange(height) + (w1 * (2 * shift + 1) >> 32) - shift
        columns = np.arange(width) + (w2 * (2 * shift + 1) >> 32) - shift
        if augmentation.border == "reflect":  # mirrored at the outermost pixels
            rows, columns = (size - 1 - abs(size - 1 - abs(at)) for at, size in ((rows, height), (columns, width)))
        blank = ~_within(rows, 0, height)[:, None] | ~_within(columns, 0, width)
        flipped = flip is True and w0 >= 2**31
        if flip == "alternating":
            flipped = (_random_words(index, 1, seed)[0] >= 2**31) != ((offset + n) // m % 2 == 1)
        if flipped:
            columns = width - 1 - columns
        top, left = ((w3 >> 16) * height >> 16) - cutout // 2, ((w3 & 0xFFFF) * width >> 16) - cutout // 2
        blank |= _within(np.arange(height), top, top + cutout)[:, None] & _within(np.arange(width), left, left + cutout)
        image = images[index].astype(np.float32)
        if augmentation.resized_crop:
            image = _crop_resized(images[index], np.float32(augmentation.resized_crop), offset + n, seed)
        if any(augmentation.colors):
            image = _recolored(image, augmentation.colors, _random_words(offset + n, 2, seed))
        pixels = image[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]
        normal = (pixels - mean) * (np.float32(1) / std)
        x[n] = np.where(blank[:, :, None], 0, normal)
    return x, labels[indices]


def mix_batch(x, labels, table, *, classes, cut, seed, offset, out):
    expect_within("labels", labels, classes)
    (_, height, width, _), one, real = x.shape, np.float32(1), accumulation_dtype(x.dtype)
    w0, w1, w2, _ = _random_words(int(value_of(offset)), 3, seed)
    factor, before = table[w0 * len(table) >> 32], np.roll(x, 1, axis=0)
    if cut:
        side, inside = np.sqrt(one - factor), np.full((height, width, 1), True)
        for shape, size, word in (((-1, 1, 1), height, w1), ((-1, 1), width, w2)):
            center, half = word * size >> 32, int(side / 2 * np.float32(size))
            inside &= _within(np.arange(size), center - half, center + half).reshape(shape)
        mixed, factor = np.where(inside, before, x), one - np.float32(inside.sum()) / np.float32(inside.size)
    else:
        mixed = factor * x.astype(real) + (one - factor) * before.astype(real)
    own, other = (each[:, None] == np.arange(classes) for each in (labels, np.roll(labels, 1)))
    return round_to(mixed, x.dtype, out), factor * own + (one - factor) * other


def _crop_resized(image, smallest, block, seed):
    """The first of ten drawn rectangles that fits into the image, else a central one, stretched to the image's size."""
    height, width, _ = image.shape
    for attempt in range(10):
        area, ratio, vertical, horizontal = _random_words(block, 4 + attempt, seed)
        side = np.sqrt(_between(smallest, 1, area) * np.float32(height * width))
        x = (2 * _between(0, 1, ratio) - 1) * np.float32(math.log(4 / 3) / 2)
        q = (12 + x * x + 6 * x) / (12 + x * x - 6 * x)  # Padé approximant of exp(x), the square root of width / height
        rows, columns = int(np.rint(side / q)), int(np.rint(side * q))
        top, left = vertical * (height - rows + 1) >> 32, horizontal * (width - columns + 1) >> 32
        if 0 < rows <= height and 0 < columns <= width:
            break
    else:  # one side is at most 4/3 of the other one, rounded
        rows, columns = min(height, (8 * width + 3) // 6), min(width, (8 * height + 3) // 6)
        top, left = (height - rows) // 2, (width - columns) // 2
    part = image[top : top + rows, left : left + columns].astype(np.int64)
    y, x = _resampled(rows, height), _resampled(columns, width)
    return np.einsum("ph,qw,hwc->pqc", y, x, part).astype(np.float32) / 2**16


def _resampled(length, size):
    """(size, length): weights in units of 1/256 that interpolate `length` pixels linearly at `size` positions."""
    step = (length << 32) // size
    at = ((np.arange(size) * step + step // 2 - 2**31) >> 24).clip(0, 256 * (length - 1))
    return (256 - abs(at[:, None] - 256 * np.arange(length))).clip(0)


def _recolored(image, colors, words):
    """Like torchvision's ColorJitter: blends with black, the mean gray and the gray image, then rotates the hue."""
    weights = (0.2989, 0.587, 0.114) if image.shape[2] == 3 else (1,)
    for name, amount, word in zip(("brightness", "contrast", "saturation"), colors, words):
        factor, gray = _between(max(0, 1 - amount), 1 + amount, word), 0 * image[:, :, :1]
        if name != "brightness":
            for channel, weight in enumerate(weights):
                gray = gray + np.float32(weight) * image[:, :, channel, None]
        if name == "contrast":
            total = (gray * 2**16).astype(np.int64).sum()
            gray = np.float32(total) / np.float32(gray.size) / 2**16
        image = (factor * image + (1 - factor) * gray).clip(0, 255)
    if not colors[3] or image.shape[2] == 1:
        return image
    (red, green, blue), most, least = np.moveaxis(image, 2, 0), image.max(axis=2), image.min(axis=2)
    span, turned_by = most - least, 6 * _between(-colors[3], colors[3], words[3])
    parts = [part / (span + (span == 0)) for part in (green - blue, blue - red, red - green)]
    hue = np.where(most == red, parts[0], np.where(most == green, 2 + parts[1], 4 + parts[2])) + turned_by
    sixths = [at - 6 * np.floor(at / 6) for at in (5 + hue, 3 + hue, 1 + hue)]  # back to RGB
    return np.stack([most - span * np.minimum(at, 4 - at).clip(0, 1) for at in sixths], axis=2)


def _random_words(block, substream, seed):
    counter = (block & 0xFFFFFFFF, block >> 32, random.AUGMENT, substream)
    return [int(word) for word in random.philox4x32(counter, seed=seed)]


def _between(low, high, word):
    """low + (high - low) * u, rounded to float32 at each step, where u = (word >> 8) / 2^24 is uniform in [0, 1)."""
    return np.float32(low) + np.float32(high - low) * np.float32((word >> 8) / 2**24)


def _within(position: np.ndarray, first: int, last: int) -> np.ndarray:
    return (position >= first) & (position < last)
