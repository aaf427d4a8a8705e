"""Batches from a data set that lives on the device."""

from __future__ import annotations

import numpy as np

from gpuconv.arguments import INT32_MAX, flag, integer, is_array, number, seed_value, step_integer
from gpuconv.backends import backend_of
from gpuconv.batch_augmentation import BORDERS, batch_augmentation, flip_value
from gpuconv.dtypes import as_dtype
from gpuconv.names import canonical
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.expect import expect_float, expect_out, expect_shape
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import Array, ArrayT, Scalar

__all__ = ["load_batch", "mix_batch"]


@op("load_batch.cu")
def load_batch(
    images: Array,
    labels: Array,
    indices: Array,
    *,
    mean: Array,
    std: Array,
    flip: bool | str = False,
    shift: int = 0,
    border: str = "zero",
    cutout: int = 0,
    resized_crop: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    seed: int = 0,
    offset: Scalar = 0,
    start: Scalar = 0,
    count: int | None = None,
    dtype: str | np.dtype | type[object] = "float32",
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Gather, augment and normalize a batch from a uint8 data set.

    x[n] = (augment(images[indices[start + n]]) - mean) * (1 / std), computed in float32 and rounded once to dtype. The
    steps of augment are, in this order: crop, brightness, contrast, saturation, hue, flip, shift, cutout. Cut-out
    pixels are 0 after normalization. Sample n draws Philox blocks of the AUGMENT stream, at offset + n.

    resized_crop is torchvision's RandomResizedCrop to the image's own size. The crop's share of the image's area is
    uniform between resized_crop and 1, the logarithm of its width / height is uniform between log(3/4) and log(4/3),
    and its position is uniform. After ten draws that do not fit, the crop is the largest central rectangle with such a
    ratio. It is interpolated bilinearly, with positions in 1/256 of a pixel.

    brightness, contrast, saturation and hue are torchvision's ColorJitter in this fixed order. The first three
    turn the image into f * image + (1 - f) * other, clipped to the range of bytes. The factor f is uniform in
    [max(0, 1 - s), 1 + s], where s is the argument's value. With gray = 0.2989 R + 0.587 G + 0.114 B, other is black
    for brightness, the mean of gray for contrast, and gray for saturation. The hue (of HSV) is rotated by a fraction of
    the circle that is uniform in [-hue, hue]. The numbers are not rounded to bytes.

    flip="alternating" (Jordan 2024, arXiv:2404.00498): a random half of the images is flipped in even epochs, the rest
    in odd ones. The Philox block at an image's index, in substream 1 of the AUGMENT stream, decides to which half
    the image belongs. Sample n belongs to epoch (offset + n) // M, where offset is the number of samples loaded before.

    Args:
        images: (M, H, W, C) uint8, with H, W and C above 0.
        labels: (M,) int64.
        indices: int64 in [0, M), of rank 1. The batch is indices[start : start + count].
        mean: float32, (C,) or (H, W, C).
        std: float32, (C,) or (H, W, C).
        flip: Flip left and right: True with probability 1/2, "alternating" as above.
        shift: Shift by whole pixels, uniform in [-shift, shift] along each axis; less than H and W.
        border: The pixels that are shifted in: "zero" (0 after normalization) or "reflect" (the image mirrored at its
            outermost pixels).
        cutout: The side, in pixels, of a square around a uniform center that is cut out, clipped at the border; 0
            cuts nothing.
        resized_crop: The smallest share of an image's area that a crop takes, in (0, 1]; 0 does not crop.
        brightness: The s above, at least 0. If this or one of the next three is above 0, images must have 1 or 3
            channels.
        contrast: As brightness.
        saturation: As brightness.
        hue: In [0, 0.5]. It has no effect on images of 1 channel.
        seed: The seed of the random numbers: a 64-bit integer, at least 0.
        offset: The number of samples loaded before; may be an int64 array of one element.
        start: The first position in indices; may be an int64 array of one element.
        count: N, the size of the batch. None takes the rest; start must then be a number.
        dtype: The dtype of x, any float dtype.
        out: Receives x; by default a new array.

    Returns:
        x: (N, H, W, C), and the labels of these images: (N,) int64.

    Raises:
        ValueError: A position past the indices, or an index outside of [0, M), where the host can read the arrays; on
            a GPU the sample becomes NaN and its label -1. Also images of no numbers, a shift of at least H or W, and
            brightness, contrast, saturation or hue for images of another number of channels than 1 or 3.
    """
    backend = backend_of(
        images=images,
        labels=labels,
        indices=indices,
        mean=mean,
        std=std,
        optional=dict(out=out),
        numbers=dict(offset=offset, start=start),
    )
    shift, cutout = _check_images(images, labels, indices, mean, std, shift=shift, cutout=cutout)
    resized_crop = number("resized_crop", resized_crop, 0.0, 1.0)
    brightness, contrast = number("brightness", brightness, 0.0), number("contrast", contrast, 0.0)
    colors = brightness, contrast, number("saturation", saturation, 0.0), number("hue", hue, 0.0, 0.5)
    _, h, w, c = images.shape
    if any(colors):
        expect_augmentable((h, w, c), shift, colors)
    start, count = _batch_range(indices.shape[0], step_integer("start", start), count)
    dtype = as_dtype(dtype)
    expect_out(out, (count, h, w, c), dtype)
    flip, border, seed = flip_value(flip), canonical("border", border, BORDERS), seed_value("seed", seed)
    offset = step_integer("offset", offset)
    augmentation = batch_augmentation(flip, shift, border, cutout, resized_crop, colors)
    images, labels, indices, mean, std = copy_if_overlapping([out], images, labels, indices, mean, std)
    return backend.batch.load_batch(
        images,
        labels,
        indices,
        mean,
        std,
        augmentation,
        seed=seed,
        offset=offset,
        start=start,
        count=count,
        dtype=dtype,
        out=out,
    )


def _batch_range(length: int, start: object, count: object) -> tuple[Scalar, int]:
    """The start and the length of a batch from `length` indices. Raises ValueError if the host knows that the batch
    does not fit, and for a start in device memory without a count."""
    if is_array(start) and count is None:
        raise ValueError(
            "a start in device memory needs a count, because the length of the batch must be known before the op runs"
        )
    first = 0 if is_array(start) else integer("start", start, 0)
    count = max(0, length - first) if count is None else integer("count", count, 0)
    if first + count > length:
        raise ValueError(f"indices has {length} entries; a batch of {count} from {first} on does not fit")
    return (start if is_array(start) else first), count


@remembered
def _check_images(
    images: Array, labels: Array, indices: Array, mean: Array, std: Array, *, shift: object, cutout: object
) -> tuple[int, int]:
    if images.dtype != np.uint8 or len(images.shape) != 4:
        raise TypeError(
            f"images must be uint8 (M, H, W, C), received {images.dtype.name} of shape {tuple(images.shape)}"
        )
    m, h, w, c = images.shape
    if 0 in (h, w, c):
        raise ValueError(f"images must have at least one number each, received shape {tuple(images.shape)}")
    for name, vector in (("labels", labels), ("indices", indices)):
        if vector.dtype != np.int64 or len(vector.shape) != 1:
            raise TypeError(
                f"{name} must be int64 of rank 1, received {vector.dtype.name} of shape {tuple(vector.shape)}"
            )
    expect_shape("labels", labels, (m,), "one label for each image")
    for name, values in (("mean", mean), ("std", std)):
        if values.dtype != np.float32 or tuple(values.shape) not in ((c,), (h, w, c)):
            error = TypeError if values.dtype != np.float32 else ValueError
            raise error(
                f"{name} must be float32 of shape {(c,)} or {(h, w, c)}, "
                f"received {values.dtype.name} {tuple(values.shape)}"
            )
    shift = integer("shift", shift, 0)
    expect_augmentable((h, w, c), shift, (0.0, 0.0, 0.0, 0.0))
    return shift, integer("cutout", cutout, 0, INT32_MAX)


def expect_augmentable(image_shape: tuple[int, ...], shift: int, colors: tuple[float, float, float, float]) -> None:
    """Raise ValueError for images (H, W, C) that are too small for the shift or cannot be recolored."""
    h, w, c = image_shape
    if shift >= min(h, w):
        raise ValueError(f"shift must be smaller than the image ({h} x {w}), received {shift}")
    if any(colors) and c not in (1, 3):
        raise ValueError(
            f"brightness, contrast, saturation and hue change images of 1 or 3 channels, received {c} channels"
        )


@op("mix_batch.cu")
def mix_batch(
    x: ArrayT,
    labels: Array,
    table: Array,
    *,
    classes: int,
    cut: bool = False,
    seed: int = 0,
    offset: Scalar = 0,
    out: ArrayT | None = None,
) -> tuple[ArrayT, Array]:
    """Mix each image with the one before it, and the first with the last. The factor lambda is drawn once for a batch.

    mixup (Zhang et al. 2018, arXiv:1710.09412): mixed[i] = lambda * x[i] + (1 - lambda) * x[i - 1]. Each operation
    is rounded to the accumulation dtype, and the result to x's dtype.

    cutmix (Yun et al. 2019, arXiv:1905.04899): within a rectangle mixed[i] is x[i - 1], elsewhere x[i]. The rectangle
    reaches int(sqrt(1 - lambda) / 2 * H) rows and int(sqrt(1 - lambda) / 2 * W) columns, in float32, to both sides of a
    uniform center, and is clipped at the border; lambda becomes 1 minus the rectangle's share of the area.

    targets[i] is lambda at labels[i] plus 1 - lambda at labels[i - 1], in float32. mixup and cutmix are torchvision's.
    The Philox block at offset, in substream 3 of the AUGMENT stream, gives the entry of table and the center.

    Args:
        x: (N, H, W, C), any float dtype, with H, W and C above 0.
        labels: (N,) int64, in [0, classes).
        table: (T,) float32, equally likely values of lambda. That they lie in [0, 1] is not checked.
        classes: The number of classes.
        cut: Whether to cut a rectangle instead of blending.
        seed: The seed of the random numbers: a 64-bit integer, at least 0.
        offset: The number of samples loaded before; may be an int64 array of one element.
        out: Receives mixed; by default a new array.

    Returns:
        mixed: of the shape and dtype of x, and targets: (N, classes) float32.

    Raises:
        ValueError: A label outside the classes, where the host can read the arrays; on a GPU the targets of the two
            images that it is mixed into become NaN.
    """
    backend = backend_of(x=x, labels=labels, table=table, optional=dict(out=out), numbers=dict(offset=offset))
    classes, cut = _check_mix(x, labels, table, out, classes=classes, cut=cut)
    seed, offset = seed_value("seed", seed), step_integer("offset", offset)
    x, labels, table = copy_if_overlapping([out], x, labels, table)
    return backend.batch.mix_batch(x, labels, table, classes=classes, cut=cut, seed=seed, offset=offset, out=out)


@remembered
def _check_mix(
    x: Array, labels: Array, table: Array, out: Array | None, *, classes: object, cut: object
) -> tuple[int, bool]:
    shape = expect_float("x", x, "N H W C")
    if 0 in shape[1:]:
        raise ValueError(f"x must have images of at least one number, received shape {shape}")
    expect_shape("labels", labels, shape[:1], "one label for each image")
    if labels.dtype != np.int64:
        raise TypeError(f"labels must be int64 class numbers, received {labels.dtype.name}")
    if table.dtype != np.float32 or len(table.shape) != 1 or not 0 < table.shape[0] <= INT32_MAX:
        raise TypeError(
            f"table must be float32 of shape (T,), T from 1, received {table.dtype.name} of shape {tuple(table.shape)}"
        )
    expect_out(out, shape, x.dtype)
    return integer("classes", classes, 1, INT32_MAX), flag("cut", cut)
