"""Gradient checks: a layer's backward pass against numerical gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpuconv import arguments, backends, random
from gpuconv.layers import Conv2D, ConvTranspose2D, Layer, Linear
from gpuconv.text import html
from gpuconv.text.text_table import align_columns
from gpuconv.types import Array


@dataclass(frozen=True)
class GradientCheck:
    """The check of one array's gradient: how many elements were compared, and the worst relative error.

    Args:
        name: The array's name: "x" or a parameter's name.
        checked: The number of elements compared.
        worst: The largest error of an element, as `gradient_check` defines it; 0 means that rounding explains every
            difference.
        passed: Whether `worst` is within the tolerance.
        raw: The largest measured difference relative to its scale, before the noise is subtracted.
        noise: The noise of the element with the difference `raw`, relative to the same scale.
    """

    name: str
    checked: int
    worst: float
    passed: bool
    raw: float = 0.0
    noise: float = 0.0


class GradientChecks(list[GradientCheck]):
    """The results of `gradient_check`, a list; printed, or shown in a notebook, as a table."""

    HEADING = ("gradient of", "compared", "raw error", "rounding noise", "beyond noise", "")

    @property
    def passed(self) -> bool:
        return all(found.passed for found in self)

    def rows(self) -> list[list[str]]:
        """The table's cells, a row for each array."""
        return [
            [
                found.name,
                str(found.checked),
                f"{found.raw:.1e}",
                f"{found.noise:.1e}",
                f"{found.worst:.1e}",
                "ok" if found.passed else "WRONG",
            ]
            for found in self
        ]

    def __str__(self) -> str:
        return align_columns([[*self.HEADING], *self.rows()])

    def _repr_html_(self) -> str:
        return html.table(self.HEADING, self.rows(), "gradients against central differences")


def gradient_check(
    layer: Layer,
    x: Array | None = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    training: bool = True,
    samples: int | None = 64,
    tolerance: float = 1e-5,
    step: float = 1e-6,
    seed: int = 0,
) -> GradientChecks:
    """Compare backward with central differences, (f(v + h) - f(v - h)) / 2h, in float64. Checks the gradients of the
    input ("x") and of each trained parameter, on a copy of the layer or net on the same device. f is the sum of the
    output's elements times fixed random factors.

    An element's error is (|backward - numerical| - noise) / scale, or 0 if that is negative. The noise is the error
    that rounding the two values of f can cause. The scale is the larger of the two gradients, but at least a
    thousandth of the array's largest gradient.

    Dropout masks stay fixed. At ties, such as those of a max pool on a plain background, f has no derivative, and the
    two gradients differ even if backward is correct.

    Args:
        layer: A layer or net; it is not changed.
        x: (N, ...), by default two random volumes of the input shape.
        input_shape: The shape of one volume, without N; by default the layer's. For another shape than the layer is
            built for, the copy has newly drawn weights.
        training: Whether forward runs as in training, with batch statistics and dropout.
        samples: The number of elements to check in each array, at least 1; None for all.
        tolerance: The largest error that passes.
        step: h.
        seed: Draws the random volumes, the factors of f and the elements to check. Newly drawn weights, such as those
            of a layer that is not built, depend on the layer's own seed, or on 0 if it has none.

    Raises ValueError if the layer is not built and `input_shape` is not given, and ValueError or TypeError for a wrong
    argument.
    """
    if not isinstance(layer, Layer):
        received = f"the class {layer.__name__}; call it" if isinstance(layer, type) else type(layer).__name__
        raise TypeError(f"layer must be a layer or a net, received {received}")
    training = arguments.flag("training", training)
    samples = None if samples is None else arguments.integer("samples", samples, 1)
    tolerance, step = arguments.number("tolerance", tolerance, 0.0), arguments.positive("step", step)
    twin = _float64_copy(layer, input_shape)
    host = _normal((2, *(twin.input_shape or ())), seed, 0) if x is None else backends.to_numpy(x).astype(np.float64)
    if not host.size:
        raise ValueError(f"x must hold at least one sample, received shape {host.shape}")
    x = backends.asarray(host.copy(), layer.device)
    kept = backends.host_copies(twin.buffers())

    def forward() -> Array:
        for key, value in twin.buffers().items():
            backends.assign(value, kept[key])
        return twin.forward(x, training)

    y = forward()
    dy = _normal(y.shape, seed, 1)
    twin.zero_grad()
    dx = twin.backward(backends.asarray(dy, layer.device))
    pairs = {"x": (x, dx)} | {key: (value, twin.grads()[key]) for key, value in twin.params().items()}

    def loss() -> float:
        return float(np.vdot(backends.to_numpy(forward()), dy))

    noise = 4 * np.finfo(np.float64).eps * float(np.vdot(np.abs(backends.to_numpy(y)), np.abs(dy))) / step
    results = GradientChecks()
    for number, (name, (array, gradient)) in enumerate(pairs.items()):
        analytic = backends.to_numpy(gradient).ravel()
        chosen = random.permutation(array.size, seed=seed, epoch=number)[:samples]
        numerical = _numerical(loss, array, chosen, step)
        scale = np.maximum(np.maximum(np.abs(numerical), np.abs(analytic[chosen])), 1e-3 * np.abs(analytic).max())
        scale = np.maximum(scale, np.finfo(np.float64).tiny)
        raw = np.abs(numerical - analytic[chosen])
        at = int(np.argmax(raw / scale))
        worst = float(np.max(np.maximum(raw - noise, 0.0) / scale))
        results.append(
            GradientCheck(
                name, len(chosen), worst, worst <= tolerance, float(raw[at] / scale[at]), float(noise / scale[at])
            )
        )
    twin.release()
    return results


def _float64_copy(layer: Layer, input_shape: tuple[int, ...] | None) -> Layer:
    """A copy in float64 for volumes of `input_shape`, by default the layer's. It has the layer's values if the layer is
    built for that shape, and newly drawn weights otherwise."""
    shape = input_shape or layer.input_shape
    if shape is None:
        raise ValueError("the layer is not built: give input_shape, without N")
    twin = Layer.from_config(layer.config())
    for inner in twin.walk():
        if isinstance(inner, (Conv2D, ConvTranspose2D, Linear)):
            inner.algo = "auto"  # the chosen algorithm may not serve float64
    twin.build(shape, dtype="float64", device=layer.device, seed=getattr(layer, "seed", 0))
    if layer.input_shape == twin.input_shape:
        twin.load_state_dict(layer.state_dict())
    return twin


def _normal(shape: tuple[int, ...], seed: int, substream: int) -> np.ndarray:
    return random.normal(shape, seed=seed, stream=random.DATA, substream=substream, dtype="float64")


def _numerical(loss: Callable[[], float], array: Array, chosen: np.ndarray, step: float) -> np.ndarray:
    """The derivatives of `loss` by the `chosen` elements of the array, by central differences."""
    host = backends.to_numpy(array).copy()
    gradients = np.empty(len(chosen))
    for number, element in enumerate(chosen):
        sides = []
        for sign in (1, -1):
            moved = host.copy()
            moved.flat[element] += sign * step
            backends.assign(array, moved)
            sides.append(loss())
        gradients[number] = (sides[0] - sides[1]) / (2 * step)
    backends.assign(array, host)
    return gradients
