"""How many windows a filter or pool has along an axis, and padding in every form that ops take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from gpuconv.arguments import INT64_MAX, pair
from gpuconv.names import canonical
from gpuconv.types import PaddingPairs, Pair

T = TypeVar("T")

NO_PADDING: PaddingPairs = ((0, 0), (0, 0))


def output_size(size: int, kernel: int, stride: int, padding: Pair, dilation: int, fit: str) -> int:
    """The number of windows along one axis.

    Let span = dilation * (kernel - 1) + 1, slack = size + sum(padding) - span and rest = slack % stride. "floor"
    gives slack // stride + 1 windows and drops the rest. "exact" requires a rest of 0. "cover" adds a last partial
    window for the rest if that window begins before the end of the input (PyTorch's ``ceil_mode``).

    Raises ValueError if a window is larger than the padded input, or if there is a rest with "exact".
    """
    span = dilation * (kernel - 1) + 1
    slack = size + sum(padding) - span
    if slack < 0:
        raise ValueError(
            f"a window spans {span} but the padded input only {size + sum(padding)} "
            f"(size {size}, padding {padding[0]} + {padding[1]}); use a larger input, "
            "more padding or a smaller kernel_size or dilation"
        )
    steps, rest = divmod(slack, stride)
    if not rest or fit == "floor":
        return steps + 1
    if fit == "cover":
        starts_inside = (steps + 1) * stride < size + padding[0]
        return steps + 1 + starts_inside
    would_fit = [near for near in (size - rest, size - rest + stride) if near > 0]
    raise ValueError(
        f"fit='exact': windows of span {span} at stride {stride} do not tile a padded input of "
        f"{size + sum(padding)}; input sizes that would fit: {' or '.join(map(str, would_fit))}"
    )


def output_hw(
    hw: Sequence[int],
    kernel_size: Pair,
    stride: Pair,
    padding: PaddingPairs,
    dilation: Pair = (1, 1),
    fit: str = "floor",
) -> Pair:
    """(P, Q): `output_size` along height and width."""
    p, q = (
        output_size(hw[axis], kernel_size[axis], stride[axis], padding[axis], dilation[axis], fit) for axis in (0, 1)
    )
    return p, q


def canonical_padding(padding: T) -> T | str:
    """The name of a padding as documented; any other form as it is."""
    return canonical("padding", padding, ("same", "valid")) if isinstance(padding, str) else padding


def padding_pairs(padding: object, kernel_size: Pair, stride: Pair, dilation: Pair = (1, 1)) -> PaddingPairs:
    """Any form of padding that `gpuconv.ops` takes, as ((top, bottom), (left, right))."""
    if isinstance(padding, str):
        if canonical_padding(padding) == "valid":
            return NO_PADDING
        if stride != (1, 1):
            raise ValueError(f"padding='same' is defined at stride 1, received stride {stride}")
        return same_padding(kernel_size, dilation)
    if isinstance(padding, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in padding):
        if len(padding) != 2 or not all(isinstance(side, (tuple, list)) for side in padding):
            raise ValueError(f"padding must be ((top, bottom), (left, right)), received {padding!r}")
        return pair("padding[0]", padding[0], 0), pair("padding[1]", padding[1], 0)
    vertical, horizontal = pair("padding", padding, 0)
    return (vertical, vertical), (horizontal, horizontal)


def same_padding(kernel_size: Pair, dilation: Pair = (1, 1)) -> PaddingPairs:
    """The padding with which the output at stride 1 has the input's H and W. If an axis needs an odd number of padding
    cells, the extra one goes below or to the right."""

    def split(kernel: int, dilated: int) -> Pair:
        total = dilated * (kernel - 1)
        return total // 2, total - total // 2

    return split(kernel_size[0], dilation[0]), split(kernel_size[1], dilation[1])


def expect_memory(name: str, shape: Sequence[int]) -> None:
    """Raise ValueError for a volume that is too large for any memory."""
    if math.prod(shape) > INT64_MAX // 8 or max(shape) > INT64_MAX // 8:
        raise ValueError(f"{name} must fit into memory, received {tuple(shape)}")
