"""Checks of a net's metadata about its images: class names and normalization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.images.normalization import Normalization
from gpuconv.types import Shape


def expect_class_names(names: object, output_shape: Shape | None) -> list[str]:
    """The names as a list. Raises TypeError for anything but a list of names, and ValueError if the net is built and
    has another number of scores."""
    if isinstance(names, (str, bytes)) or not isinstance(names, (Sequence, np.ndarray)):
        raise TypeError(
            f"classes are a list of names, such as ['cat', 'dog'], received {type(names).__name__} {names!r}"
        )
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"classes are names, such as ['cat', 'dog'], received {type(name).__name__} {name!r}; "
                "[str(name) for name in classes] converts them"
            )
    if output_shape is not None and len(names) != output_shape[-1]:
        raise ValueError(f"the net has {output_shape[-1]} scores, received {len(names)} names of classes")
    return [str(name) for name in names]


def expect_normalization(normalization: object, input_shape: Shape | None) -> Normalization:
    """Returns the normalization. Raises TypeError for anything else, and ValueError if the net is built and takes
    images of another shape."""
    if not isinstance(normalization, Normalization):
        raise TypeError(
            "normalization is a gpuconv.data.Normalization(mean, std), with one number for each channel in units of "
            f"the pixels (0 to 255), received {type(normalization).__name__}"
        )
    if input_shape is not None:
        for name in ("mean", "std"):
            values = getattr(normalization, name)
            if values.shape not in (input_shape[-1:], input_shape):
                raise ValueError(
                    f"{name} must be of shape {input_shape[-1:]}, one number for each channel, or {input_shape}, "
                    f"one for each number of an image, received {values.shape}"
                )
    return normalization
