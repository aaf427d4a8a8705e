"""Refused calls of ops that load and mix batches, and their errors."""

import numpy as np

from gpuconv import ops
from tests.refusals.arrays import IMAGES, INDICES, LABELS, VECTOR, X, zeros

REFUSALS = [
    (
        ops.load_batch,
        [X, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR},
        TypeError,
        "images must be uint8 (M, H, W, C), received float32 of shape (2, 5, 7, 4)",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES.astype(np.int32)],
        {"mean": VECTOR, "std": VECTOR},
        TypeError,
        "indices must be int64 of rank 1, received int32 of shape (2,)",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS[:2], INDICES],
        {"mean": VECTOR, "std": VECTOR},
        ValueError,
        "labels must have shape (3,) (one label for each image), received (2,)",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": zeros(3), "std": VECTOR},
        ValueError,
        "mean must be float32 of shape (4,) or (5, 7, 4), received float32 (3,)",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR.astype(np.float64)},
        TypeError,
        "std must be float32 of shape (4,) or (5, 7, 4), received float64 (4,)",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "shift": 5},
        ValueError,
        "shift must be smaller than the image (5 x 7), received 5",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "resized_crop": 1.5},
        ValueError,
        "resized_crop must lie in [0.0, 1.0], received 1.5",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "hue": 0.6},
        ValueError,
        "hue must lie in [0.0, 0.5], received 0.6",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "contrast": 0.4},
        ValueError,
        "brightness, contrast, saturation and hue change images of 1 or 3 channels, received 4 channels",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "start": 1, "count": len(INDICES)},
        ValueError,
        "does not fit",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "start": np.array([1])},
        ValueError,
        "needs a count",
    ),
    (ops.mix_batch, [IMAGES, LABELS, VECTOR], {"classes": 3}, TypeError, "x must be a float array"),
    (
        ops.mix_batch,
        [X[:, :, :0], LABELS[:2], VECTOR],
        {"classes": 3},
        ValueError,
        "x must have images of at least one number, received shape (2, 5, 0, 4)",
    ),
    (
        ops.mix_batch,
        [X, LABELS, VECTOR],
        {"classes": 3},
        ValueError,
        "labels must have shape (2,) (one label for each image), received (3,)",
    ),
    (
        ops.mix_batch,
        [X, LABELS[:2].astype(np.int32), VECTOR],
        {"classes": 3},
        TypeError,
        "labels must be int64, the numbers of classes, received int32",
    ),
    (
        ops.mix_batch,
        [X, LABELS[:2], zeros(0)],
        {"classes": 3},
        TypeError,
        "table must be float32 of shape (T,), T from 1, received float32 of shape (0,)",
    ),
    (ops.mix_batch, [X, LABELS[:2], VECTOR], {"classes": 0}, ValueError, "classes must be at least 1, received 0"),
    (ops.mix_batch, [X, LABELS[:2], VECTOR], {"classes": 3, "cut": "yes"}, TypeError, "cut must be True or False"),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "dtype": "int8"},
        TypeError,
        "dtype must be one of float64, float32, float16, bfloat16, received int8",
    ),
]
