"""Elementwise activations: each is one layer that runs one op."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from gpuconv import arguments, ops
from gpuconv.activations import ACTIVATIONS
from gpuconv.layers.base import Layer
from gpuconv.names import canonical
from gpuconv.ops.activation import GELU_FORMS
from gpuconv.types import Array, Options, Shape


@dataclass(eq=False, repr=False)
class Activation(Layer, base=True):
    """Runs the op named `op`, and in backward the op `op`_backward, which reads the input or the output of `op`."""

    elementwise = writes_slices = reads_slices = takes_slices = True
    op: ClassVar[str]
    keeps_output: ClassVar[bool]

    def __init_subclass__(cls, op: str | None = None, **options: Any) -> None:
        """op: by default that of the base class, as for a user's subclass of `ReLU`."""
        if op is None and not hasattr(cls, "op"):
            raise TypeError(f"class {cls.__name__} needs the name of its op: class {cls.__name__}(Activation, op=...)")
        if op is not None:
            cls.stem = cls.op = canonical("activation", op, ACTIVATIONS)
            cls.keeps_output = not ACTIVATIONS[cls.op].saves_input
        super().__init_subclass__(**options)  # lists the layer, so last

    @property
    def options(self) -> Options:
        """The op's keyword arguments."""
        return {}

    def plan(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        y = getattr(ops, self.op)(x, **self.options, out=out)
        self.stash(y if self.keeps_output else x)
        return y

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        (kept,) = self.unstash()
        return getattr(ops, f"{self.op}_backward")(dy, kept, **self.options) if input_grad else None


class ReLU(Activation, op="relu"):
    """max(x, 0)."""


class ReLU6(Activation, op="relu6"):
    """min(max(x, 0), 6)."""


class Sigmoid(Activation, op="sigmoid"):
    """1 / (1 + exp(-x))."""


class Tanh(Activation, op="tanh"):
    """The hyperbolic tangent."""


class SiLU(Activation, op="silu"):
    """x * sigmoid(x)."""


class HardSwish(Activation, op="hard_swish"):
    """x * min(max(x + 3, 0), 6) / 6."""


@dataclass(eq=False, repr=False)
class LeakyReLU(Activation, op="leaky_relu"):
    """x where x > 0, else negative_slope * x.

    Args:
        negative_slope: The factor of negative values, at least 0.
    """

    _: KW_ONLY
    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.number("negative_slope", self.negative_slope, 0.0)

    @property
    def options(self) -> Options:
        return {"negative_slope": self.negative_slope}


@dataclass(eq=False, repr=False)
class ELU(Activation, op="elu"):
    """x where x > 0, else alpha * (exp(x) - 1).

    Args:
        alpha: At least 0; -alpha is the limit for large negative values.
    """

    _: KW_ONLY
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.number("alpha", self.alpha, 0.0)

    @property
    def options(self) -> Options:
        return {"alpha": self.alpha}


@dataclass(eq=False, repr=False)
class GELU(Activation, op="gelu"):
    """x * Phi(x); see `gpuconv.ops.gelu`.

    Args:
        approximate: "none", or "tanh" for the approximation.
    """

    _: KW_ONLY
    approximate: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.approximate = canonical("GELU approximation", self.approximate, GELU_FORMS)

    @property
    def options(self) -> Options:
        return {"approximate": self.approximate}
