"""The activations that convolutions, batch norm and other ops can apply: names, options and properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from gpuconv.types import ArrayT


@dataclass(frozen=True)
class Activation:
    """An activation that other ops can apply. It is the op of this name with its default options.

    saves_input: whether its backward reads its input rather than its output. jumps: the inputs at which its derivative
    jumps. steepest: an upper bound of its slope; the default is GELU's and holds for all but hard_swish. options: the
    op's keyword arguments besides `out`, with their defaults.
    """

    name: str
    saves_input: bool = False
    jumps: tuple[float, ...] = ()
    steepest: float = 1.13
    options: Mapping[str, float | str] = field(default_factory=dict, hash=False)

    @property
    def struct(self) -> str:
        """Its name in kernels/activation.cuh."""
        return "".join(part.title() for part in self.name.split("_"))

    def apply(self, ops: ModuleType, x: ArrayT, out: ArrayT | None = None) -> ArrayT:
        """The activation of x. ops: the module with the op and its backward."""
        return getattr(ops, self.name)(x, **self.options, out=out)

    def apply_backward(self, ops: ModuleType, dy: ArrayT, x: ArrayT) -> ArrayT:
        """The gradient of its input x. ops: as for `apply`."""
        return self.gradient(ops, dy, x if self.saves_input else self.apply(ops, x))

    def gradient(self, ops: ModuleType, dy: ArrayT, saved: ArrayT) -> ArrayT:
        """The gradient of its input. dy, saved: the arguments of its backward op. ops: as for `apply`."""
        return getattr(ops, f"{self.name}_backward")(dy, saved, **self.options)


ACTIVATIONS = {
    each.name: each
    for each in (
        Activation("relu", jumps=(0,)),
        Activation("relu6", jumps=(0, 6)),
        Activation("leaky_relu", jumps=(0,), options={"negative_slope": 0.01}),
        Activation("elu", options={"alpha": 1.0}),
        Activation("sigmoid"),
        Activation("tanh"),
        Activation("gelu", saves_input=True, options={"approximate": "none"}),
        Activation("silu", saves_input=True),
        Activation("hard_swish", saves_input=True, jumps=(-3, 3), steepest=1.5),
    )
}
SAVE_INPUT = [name for name, activation in ACTIVATIONS.items() if activation.saves_input]
