"""Batches from a uint8 data set, one sample at a time. The contract defines the bits: arithmetic is float32, rounded to
dtype at the end, and each sample draws four random words, w0 to w3:

flip    True: if w0 >= 2^31. "alternating": if word 0 of the image's own block is; in odd epochs, if it is not
shift   by dy = (w1 * (2 shift + 1) >> 32) - shift, and by dx, the same from w2
cutout  a square with a side of `cutout` pixels, which begins at centre - cutout // 2;
        centre: row (w3 >> 16) * H >> 16, column (w3 & 0xffff) * W >> 16

Output pixel (h, w) is pixel (h + dy, w + dx) of the image, or of the flipped image.
"""

import numpy as np

from gpuconv import random
from gpuconv.arguments import batch_indices
from gpuconv.backends.reference.precision import number


def load_batch(
    images, labels, indices, *, mean, std, flip, shift, border, cutout, seed, offset, start, count, dtype, out
):
    offset, (m, height, width, channels) = int(number(offset)), images.shape
    indices = batch_indices(indices, start, count, m)
    x = np.empty((count, height, width, channels), dtype) if out is None else out
    words = random.bits(4 * count, seed=seed, stream=random.AUGMENT, offset=offset).reshape(count, 4)
    for n, index in enumerate(map(int, indices)):
        w0, w1, w2, w3 = map(int, words[n])
        rows = np.arange(height) + (w1 * (2 * shift + 1) >> 32) - shift
        columns = np.arange(width) + (w2 * (2 * shift + 1) >> 32) - shift
        if border == "reflect":  # at the outermost pixels
            rows, columns = (size - 1 - abs(size - 1 - abs(at)) for at, size in ((rows, height), (columns, width)))
        blank = ~_within(rows, 0, height)[:, None] | ~_within(columns, 0, width)
        flipped = flip is True and w0 >= 2**31
        if flip == "alternating":
            own, *_ = random.philox4x32((index & 0xFFFFFFFF, index >> 32, random.AUGMENT, 1), seed=seed)
            flipped = (own >= 2**31) != ((offset + n) // m % 2 == 1)
        if flipped:
            columns = width - 1 - columns
        top, left = ((w3 >> 16) * height >> 16) - cutout // 2, ((w3 & 0xFFFF) * width >> 16) - cutout // 2
        blank |= _within(np.arange(height), top, top + cutout)[:, None] & _within(np.arange(width), left, left + cutout)
        pixels = images[index][rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]
        normal = (pixels.astype(np.float32) - mean) * (np.float32(1) / std)
        x[n] = np.where(blank[:, :, None], 0, normal)
    return x, labels[indices]


def _within(position: np.ndarray, first: int, last: int) -> np.ndarray:
    return (position >= first) & (position < last)
