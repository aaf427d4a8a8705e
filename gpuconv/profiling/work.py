"""The least work of an operation: floating-point operations and bytes of memory, and the time that these take.

The floor is the larger of two times. One is the time to read every input once and to write every output once, at the
rate of the device's own copy. The other is the time of all multiplications and additions, at the rate of the device's
matrix product (`gpuconv.profiling.peaks`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gpuconv.layers import Layer, NormChain, ResidualNorm
from gpuconv.layers.branches import Merging
from gpuconv.problems import DIRECTIONS, Conv2dProblem
from gpuconv.types import Array


@dataclass(frozen=True)
class Ceilings:
    """A device's peak rates. copy: bytes per second, read plus written. matrix: for each dtype, the FLOPs per second of
    a matrix product."""

    copy: float
    matrix: Mapping[str, float]


@dataclass(frozen=True)
class Work:
    """The least work. flops: multiplications and additions. bytes: memory read and written."""

    flops: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def floor(self, ceilings: Ceilings, dtype: str) -> float:
        """The least time, in seconds. For a dtype without a measured rate, only the bytes count."""
        rate = ceilings.matrix.get(dtype, math.inf)
        return max(self.flops / rate, self.bytes / ceilings.copy)


def convolution(problem: Conv2dProblem, itemsize: int, direction: str = "fprop") -> Work:
    """One direction ("fprop", "dgrad" or "wgrad") of a convolution: two of x, w and y are read, the third is written.

    itemsize: bytes of a number. Taps that fall on padding are counted, as is usual.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"a direction is fprop, dgrad or wgrad, received {direction!r}")
    x_size, w_size, y_size = (math.prod(shape) for shape in (problem.x_shape, problem.w_shape, problem.y_shape))
    return Work(2.0 * y_size * math.prod(problem.w_shape[1:]), float((x_size + w_size + y_size) * itemsize))


# --- a net's layers ----------------------------------------------------------------------------


def of_layer(
    layer: Layer, direction: str, batch_size: int, *, kept: int = 0, input_grad: bool = True, holds_input: bool = False
) -> Work:
    """One direction, "forward" or "backward", of a built layer.

    Forward reads the input and the parameters and writes the output. Backward reads the output's gradient and what
    forward kept (kept: bytes), and writes the gradients of the parameters that are trained; with input_grad it also
    reads the parameters and writes the gradient of the input. Only products count as FLOPs.

    A chain of fused layers counts the sum of its layers. A residual block or branches count only what joins their
    paths:

    - without a concatenation, the additions of outputs;
    - with one, the copies of outputs that cannot be written straight into their slices, and of gradients that cannot be
      read straight from the slices (holds_input: whether the layer below writes the input of a concatenation straight
      into its slice of the output);
    - in backward, the additions of input gradients; where a convolution adds its input's gradient to the sum of other
      branches, only the reading of that sum;
    - where a norm joins the paths, its reading of the shortcut's output in forward; in backward, with an activation,
      its reading of the output and its writing of the sum's gradient.
    """
    if isinstance(layer, NormChain):
        first, *others = layer.layers
        whole = of_layer(first, direction, batch_size, kept=kept, input_grad=input_grad)
        return sum((of_layer(each, direction, batch_size) for each in others), whole)
    size = layer.dtype.itemsize
    x, y = (batch_size * math.prod(shape or ()) * size for shape in (layer.input_shape, layer.output_shape))
    if isinstance(layer, ResidualNorm):
        active = layer.activation is not None
        joined = (1 if layer.adds_any_to_sum else 3) * x * input_grad
        return Work(0.0, float(y if direction == "forward" else 2 * y * active + joined))
    if isinstance(layer, Merging):
        shapes = dict(zip(layer.names, (row.output_shape if row else layer.input_shape for row in layer.rows)))
        copied = layer.copied_branches(direction, holds_input=holds_input)
        moved = 2.0 * batch_size * size * sum(math.prod(shapes[name] or ()) for name in copied)
        if direction == "backward":
            moved += sum(1.0 if adds else 3.0 for adds in layer.adds_to_sum[1:]) * x * input_grad
        elif layer.merge == "add":
            moved += 3.0 * (len(layer.rows) - 1) * y
        return Work(0.0, moved)
    variables = [
        (variable, inner.trains(name))
        for inner in layer.walk()
        for name, variable in inner.variables.items()
        if not variable.buffer
    ]
    parameters, trained = (
        sum(
            math.prod(v.shape) * v.resolve_dtype(layer.dtype).itemsize
            for v, trains in variables
            if trains or not only_trained
        )
        for only_trained in (False, True)
    )
    flops = 2.0 * batch_size * layer.mult_adds
    if direction == "forward":
        return Work(flops, float(x + parameters + y))
    products = input_grad + any(trains and len(variable.shape) > 1 for variable, trains in variables)
    return Work(products * flops, float(y + kept + trained + input_grad * (x + parameters)))


class BuiltOptimizer(Protocol):
    """An optimizer with its arrays."""

    @property
    def state(self) -> Mapping[str, Mapping[str, Array]]: ...
    @property
    def masters(self) -> Mapping[str, Array]: ...


def of_update(optimizer: BuiltOptimizer, params: Mapping[str, Array], reads: int = 1) -> Work:
    """The work of a built optimizer's step. It reads and writes the state, the masters and the parameters; a parameter
    that has a master is only written. reads: how often the gradients are read; twice with a loss scale."""
    kept = 2 * sum(a.nbytes for slot in (*optimizer.state.values(), optimizer.masters) for a in slot.values())
    own = sum(array.nbytes * (reads + (1 if name in optimizer.masters else 2)) for name, array in params.items())
    return Work(0.0, float(kept + own))
