"""The image volume that a net takes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from gpuconv import arguments, backends
from gpuconv.dtypes import is_float
from gpuconv.layers.base import Layer
from gpuconv.problems import channels_first
from gpuconv.types import Array, Shape


@dataclass(eq=False, repr=False)
class Input(Layer):
    """The image volume that a net takes.

    Args:
        shape: (H, W, C).
        larger: Whether larger maps of the same depth are accepted too.

    Raises:
        TypeError: shape is not a tuple of integers.
        ValueError: A size is below 1.
    """

    stem = "input"
    numbered = False

    shape: tuple[int, ...]
    _: KW_ONLY
    larger: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.shape, (tuple, list)):
            raise TypeError(f"shape must be that of one image, such as (32, 32, 3), received {self.shape!r}")
        self.shape = tuple(arguments.integer(f"shape[{axis}]", size, 1) for axis, size in enumerate(self.shape))

    def plan(self, input_shape: Shape) -> Shape:
        self.expect(input_shape)
        return input_shape

    def expect(self, shape: Shape) -> None:
        """Raise ValueError for a `shape`, without N, that the net does not take."""
        fits = (
            (
                len(shape) == len(self.shape)
                and shape[-1:] == self.shape[-1:]
                and all(size >= least for size, least in zip(shape, self.shape))
            )
            if self.larger
            else tuple(shape) == self.shape
        )
        if not fits:
            axes = " (height x width x depth)" if len(self.shape) == 3 else ""
            accepted = f"{'volumes of ' if self.shape else ''}{_shape_text(self.shape)}{axes}"
            more = " or larger maps" if self.larger and len(self.shape) > 1 else ""
            hint = self._layout_hint(tuple(shape))
            raise ValueError(f"the net takes {accepted}{more}, received {_shape_text(shape)}{hint}")

    def _layout_hint(self, shape: Shape) -> str:
        if len(shape) == 3 and len(self.shape) == 3 and (*shape[1:], shape[0]) == self.shape:
            return channels_first("x")
        is_one_image = len(shape) == len(self.shape) - 1 and len(shape) > 0
        return "; the first axis counts the images: x[None] is a batch of one" if is_one_image else ""

    def forward(self, x: Array, training: bool = False) -> Array:
        backends.device_of(x, "x")  # raises for anything but an array
        self.expect(tuple(x.shape[1:]))
        if not is_float(x.dtype):
            raise TypeError(
                f"the net computes with floats, received {x.dtype.name}; net.predict(images) takes uint8 images, and "
                "normalizes them as training did"
            )
        self.stash()
        return x

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        self.unstash()
        return dy if input_grad else None

    def as_sliding(self, flattened: Shape | None) -> tuple[Layer, Shape | None]:
        return Input(self.shape, larger=True, name=self.name), flattened


def _shape_text(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "single numbers"
