"""The base of all layers: options, variables, forward, backward. Layers know no backend; they call `gpuconv.ops`.

A layer is a dataclass. Its fields are its hyperparameters, so `config` and `from_config` need no code of their own.
`plan` infers the output shape and declares the variables, `reset` initializes them. forward calls `stash` to keep what
backward needs. backward takes it, once, with `unstash`, so memory is released as backward proceeds.

The layers inside, gradients, freezing and the state dict are in `state.py`. A net runs its layers by `layer_call.py`.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from gpuconv import backends
from gpuconv.arguments import flag, integer, seed_value
from gpuconv.devices import Device, is_on
from gpuconv.dtypes import as_precision, converted
from gpuconv.layers.config import as_setting, constructor_call, encode, expect_rebuildable, make, settings
from gpuconv.layers.hooks import Handle, Hook
from gpuconv.layers.layer_call import call, listen, run
from gpuconv.layers.registry import LAYERS, name_of
from gpuconv.layers.shapes import expect_axes, volume_size
from gpuconv.layers.state import Frozen, Stateful, Unmatched, descendants, named_layers, restored_on_error
from gpuconv.layers.variables import Variable, weight_and_bias
from gpuconv.types import Array, Options, Record, Shape

__all__ = [  # includes names that this file only imports, so that users find all of them here
    "LAYERS",
    "Array",
    "Handle",
    "Hook",
    "Layer",
    "Shape",
    "Unmatched",
    "Variable",
    "call",
    "descendants",
    "expect_axes",
    "listen",
    "named_layers",
    "run",
    "volume_size",
    "weight_and_bias",
]


@dataclass(eq=False, repr=False)
class Layer(Stateful["Layer"]):
    """The base of all layers.

    `build` sets `input_shape` and `output_shape` (both without N), `variables` and `path`. The path is the layer's
    name, prefixed by the names of its containers: "residual1.conv2". `arrays` holds the values of the variables. `tf32`
    says whether float32 products are computed in TF32 (`gpuconv.ops.conv2d`). A net's config stores `tf32` as part of
    its precision; a layer's config does not store it.

    Args:
        name: Its name inside the net, without a dot; by default its kind and number ("conv1").
        frozen: The names of variables that are not trained, or True for all of them, including those of layers
            inside. It can be set at any time, see `freeze`.

    Raises:
        TypeError: A setting of another type.
        ValueError: A setting that cannot be used. A check that needs the input's shape is made when the layer is built,
            every other check when the layer is created.
    """

    stem: ClassVar[str] = "layer"
    numbered: ClassVar[bool] = True  # the default name is stem and number; otherwise the stem alone, if no layer has it
    elementwise: ClassVar[bool] = False  # the output can overwrite the input, so `summary` counts no volume for it
    takes_parts: ClassVar[bool] = False  # forward and backward also take a `gpuconv.layers.batch_parts.PerPart`
    writes_slices: ClassVar[bool] = False  # whether forward takes `out`, a slice of the channels of a wider volume
    reads_slices: ClassVar[bool] = False  # whether backward reads a dy that is such a slice without copying it
    idle_in_inference: ClassVar[bool] = False  # whether `infer` returns x itself
    takes_slices: ClassVar[bool] = False  # whether forward and backward read an x that is such a slice without a copy
    holds_input: ClassVar[bool] = False  # whether the layer below may write its output into this layer's output
    takes_addend: ClassVar[bool] = False  # whether forward takes `addend`, which it adds to its output
    adds_input_grad: ClassVar[bool] = False  # whether backward takes `onto`, to which it adds the input's gradient
    # Whether the layer slides over a larger image as it is; others replace themselves in `as_sliding`, or cannot slide.
    slides: ClassVar[bool] = True

    _: KW_ONLY
    name: str | None = None
    frozen: bool | str | tuple[str, ...] = Frozen()  # type: ignore[assignment]

    def __init_subclass__(cls, base: bool = False, **options: object) -> None:
        """base: whether the class is only a base of layers, so that no config can name it."""
        super().__init_subclass__(**options)
        if not base:
            LAYERS[name_of(cls)] = cls
        cls.is_foreign = not cls.__module__.startswith("gpuconv.")

    def __post_init__(self) -> None:
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"a layer's name must be text, received {self.name!r}")
        if self.name is not None and (not self.name or "." in self.name):
            raise ValueError(f"a layer's name must not be empty or contain a dot, received {self.name!r}")
        for name, value in self.hyperparameters().items():
            if name != "frozen":
                is_flag = not self.is_foreign and isinstance(getattr(type(self), name, None), bool)
                setattr(self, name, flag(name, value) if is_flag else as_setting(value))
        self.path, self.device, self.dtype = "", "numpy", np.dtype("float32")
        self.tf32 = False
        self.input_shape: Shape | None = None
        self.output_shape: Shape | None = None
        self.variables: dict[str, Variable] = {}
        self.arrays: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self._stale: set[str] = set()
        self._saved: tuple[object, ...] | None = None

    is_foreign: ClassVar[bool] = False  # whether a user defined it; its results may have another float dtype
    hooks: ClassVar[Mapping[str, tuple[Hook, ...]]] = MappingProxyType({})  # an instance with hooks has its own
    normalization: ClassVar[Any] = None  # how images are normalized; a net's first layer keeps it, see `Sequential`

    # --- what a layer defines ------------------------------------------------------------------

    def plan(self, input_shape: Shape) -> Shape:
        """Check the input's shape, declare `self.variables`, return the output's shape.

        Args:
            input_shape: Without N, like the result.

        Raises:
            ValueError: The layer does not take this shape.
        """
        return input_shape

    def forward(self, x: Array, training: bool = False) -> Array:
        """The layer's output. Keeps what `backward` needs until backward or the next forward.

        x: (N, *input_shape) of the net's dtype, on its device. training: use batch statistics and dropout. A layer that
        `writes_slices` also takes `out`, a slice of the channels of a wider volume, and writes its output there. One
        that `takes_addend` also takes `addend`, a `gpuconv.layers.addend.Addend`, and adds it to its output.

        Raises TypeError or ValueError for an x that the layer does not take.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        """Add to the gradients of the parameters; return the input's gradient.

        A layer that `adds_input_grad` also takes `onto`, a `gpuconv.layers.input_gradient.Onto`. The array of
        `onto` holds a gradient of the same input from another layer. This layer adds its own gradient to that array
        and returns the array. Without `onto` it returns a new array.

        Args:
            dy: The output's gradient.
            input_grad: Whether the input's gradient is computed; without it the result is None.

        Raises:
            RuntimeError: There was no forward since the last backward.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    @property
    def mult_adds(self) -> int:
        """Multiply-adds of a forward pass of one image."""
        return 0

    def algorithms(self, batch_size: int, device: str | None = None) -> dict[str, str]:
        """The algorithms of "fprop", "dgrad" and "wgrad"; {} for a layer without matrix products and for a device with
        a single algorithm.

        Args:
            batch_size: Images of a batch, at least 1.
            device: By default the layer's.
        """
        return {}

    def fused(self) -> Layer:
        """This layer with the sequences inside it fused; arrays are shared. See `Sequential.fuse`."""
        return self

    @property
    def has_own_passes(self) -> bool:
        """Whether a user's class defines the layer's forward, infer or backward; then no other layer can replace it."""
        own = [vars(kind) for kind in type(self).__mro__ if not kind.__module__.startswith("gpuconv.")]
        return any(name in methods for methods in own for name in ("forward", "infer", "backward"))

    def as_sliding(self, flattened: Shape | None) -> tuple[Layer | None, Shape | None]:
        """(layer, flattened): an unbuilt layer that computes the same as this one at each position of a larger image,
        or None if no layer is needed; and `flattened` for the next layer.

        flattened: between a `Flatten` and the first FC layer after it, the shape before that `Flatten`; else None.
        Raises ValueError for a layer that cannot slide. See `Sequential.as_convolutional`.
        """
        if fixed := next((layer for layer in self.walk() if not layer.slides), None):
            raise ValueError(f"{fixed.path}, {fixed!r}, reads the whole map, so the net cannot slide over larger ones")
        return Layer.from_config(self.config()), flattened

    def slid(self, flattened: Shape | None) -> tuple[Layer | None, Shape | None]:
        """The former name of `as_sliding`; `flattened` has the same meaning."""
        return self.as_sliding(flattened)

    # --- building ------------------------------------------------------------------------------

    def build(
        self,
        input_shape: Shape,
        *,
        seed: int = 0,
        dtype: DTypeLike | None = None,
        device: str | None = None,
        initialize: bool = True,
        precision: str | None = None,
    ) -> Shape:
        """Infer all shapes from the input shape and create the missing variables. Layers that are built already keep
        their values; `reset` draws new ones. Returns the output shape.

        Args:
            input_shape: Without N, such as (32, 32, 3).
            seed: The seed of the initial values.
            dtype, precision: See `to`; by default those of the kept values, else float32.
            device: By default that of the kept values, else NumPy.
            initialize: False allocates nothing, which is enough for a `summary`.

        Raises:
            ValueError: A shape does not fit, and the message names the layer's path; or another argument is out of its
                range; or a kept value is out of the range of its new dtype; or an initializer does not take its
                variable. Nothing has changed then.
            TypeError: A layer cannot be rebuilt from its config, or an argument has another type. Nothing has changed
                then.
            DeviceError: The device is not available. Nothing has changed then.
        """
        initialize, seed = flag("initialize", initialize), seed_value("seed", seed)
        shape = _as_shape("input_shape", input_shape)
        # `arrays` is missing if a subclass's __init__ does not call the base's; `place` raises then.
        kept = [layer for layer in self.walk() if vars(layer).get("arrays")]
        if kept and dtype is None and precision is None:
            precision = kept[0].precision
        net_dtype, tf32 = as_precision(dtype, precision)
        device = backends.resolve(device or (kept[0].device if kept else "numpy"))
        for layer in self.walk():
            expect_rebuildable(layer)
        with restored_on_error(self):
            self.place("", shape)
            chosen = Device.named(device), net_dtype, tf32
            if any((Device.named(layer.device), layer.dtype, layer.tf32) != chosen for layer in kept):
                self.to(device, dtype, precision=precision)
            self.compute_in(net_dtype, tf32, device if kept or initialize else None)
            if initialize:
                self._draw(seed)
        assert self.output_shape is not None
        return self.output_shape

    def place(self, path: str, input_shape: Shape) -> Shape:
        """`plan` this layer at a `path` of the net, for an `input_shape` without N.

        Raises what `plan` raises, with the path added; ValueError if a frozen name or an array that the layer already
        has does not fit; TypeError if a subclass's __init__ does not call the base's.
        """
        if "variables" not in vars(self):
            raise TypeError(f"the __init__ of {type(self).__name__} must call super().__init__() first")
        self.path, self.input_shape = path, input_shape
        try:
            self.output_shape = _as_shape("plan's result", self.plan(input_shape))
            self._expect_variables()
        except (ValueError, TypeError) as error:
            where = path or type(self).__name__
            if getattr(error, "layer", None):
                raise
            located = type(error)(f"{where}: {error}")
            located.layer = where  # type: ignore[union-attr]
            raise located from error
        return self.output_shape

    def _expect_variables(self) -> None:
        """Raise ValueError if a frozen name or one of the layer's arrays belongs to none of its variables, or if an
        array has another shape than its variable."""
        if self.frozen:
            self.frozen = self.frozen  # checks the names now that the variables are known
        for name, array in self.arrays.items():
            variable = self.variables.get(name)
            if variable is None or tuple(array.shape) != variable.shape:
                needed = f"must be of shape {variable.shape}" if variable else "is none of its variables"
                raise ValueError(
                    f"the layer has weights already, for another input: {name} of shape {tuple(array.shape)} {needed} "
                    f"for an input of {self.input_shape}; put a new layer there"
                )

    def twin(self) -> Self:
        """A copy that shares nothing: the same settings and values, without gradients, kept activations and hooks."""
        saved, gradients = [layer._saved for layer in self.walk()], [layer.gradients for layer in self.walk()]
        try:
            for layer in self.walk():
                layer._saved, layer.gradients = None, {}
            twin = copy.deepcopy(self)
            for layer in twin.walk():
                vars(layer).pop("hooks", None)
            return twin
        finally:
            for layer, kept, own in zip(self.walk(), saved, gradients):
                layer._saved, layer.gradients = kept, own

    def to(self, device: str | None = None, dtype: DTypeLike | None = None, *, precision: str | None = None) -> Self:
        """Move to a device, change the precision, or both; returns itself. Gradients and kept activations are dropped.

        Args:
            device: By default unchanged.
            dtype: As `precision`, without TF32.
            precision: "float32"; "tf32", float32 arrays multiplied in TF32; "float16", "bfloat16" or "float64". In a
                16-bit net, norms keep their parameters and statistics in float32. By default unchanged.

        Raises:
            ValueError: The device or precision is unknown, both `dtype` and `precision` are given, or a weight is
                outside the range of its new dtype. Nothing has changed then.
            TypeError: `dtype` is not one of gpuconv's float dtypes. Nothing has changed then.
            DeviceError: The device is not available. Nothing has changed then.
        """
        device = self.device if device is None else backends.resolve(device)
        given = dtype is not None or precision is not None
        net_dtype, tf32 = as_precision(dtype, precision) if given else (self.dtype, self.tf32)
        moved = [
            (layer, name, _move_array(key, layer.arrays[name], device, layer.variables[name].resolve_dtype(net_dtype)))
            for key, layer, name in self.named_variables()
            if name in layer.arrays
        ]
        self.compute_in(net_dtype, tf32, device)
        for layer in self.walk():
            layer.gradients.clear()
            layer.release()
        for layer, name, array in moved:
            layer.arrays[name] = array
        return self

    # --- running -------------------------------------------------------------------------------

    def __call__(self, x: Array, training: bool = False) -> Array:
        """Run `forward` as inside a net, with the layer's hooks."""
        return run(self, "forward", x, flag("training", training))

    def register_forward_hook(self, hook: Hook) -> Handle:
        """Call ``hook(layer, x, y)`` after each forward or `infer` of this layer in a net, with its input and output.

        A net that trains on a device with kernels is fused by default; a layer that has a hook before the Trainer is
        created is left out of fusion. A captured step calls hooks only during capture. Returns a handle;
        ``handle.remove()``, or the end of ``with handle:``, removes the hook. Raises TypeError for a hook that cannot
        be called. A hook returns None or the output itself; it cannot replace the output, so for any other result the
        layer raises TypeError.
        """
        return Handle(self, "forward", hook)

    def register_backward_hook(self, hook: Hook) -> Handle:
        """Call ``hook(layer, dx, dy)`` after each backward. dx is the input's gradient, None where not requested; dy is
        the output's gradient. The hook must not change these arrays. Otherwise as `register_forward_hook`."""
        return Handle(self, "backward", hook)

    @property
    def has_hooks(self) -> bool:
        return bool(self.hooks)

    def stash(self, *values: object) -> None:
        """Keep `values`, which backward needs."""
        self._saved = values

    def unstash(self) -> tuple[Any, ...]:
        """Return what forward kept and drop it, so that backward releases the memory. Raises RuntimeError if there was
        no forward since the last backward."""
        saved, self._saved = self._saved, None
        if saved is None:
            where = self.path or type(self).__name__
            raise RuntimeError(f"{where}.backward needs a forward before it; each forward serves one backward")
        return saved

    @property
    def kept(self) -> tuple[Any, ...]:
        """What forward kept for backward; () if nothing."""
        return self._saved or ()

    def attributes_of_part(self, statistics: Mapping[str, Array], gradients: dict[str, Array]) -> dict[str, object]:
        """The values of the layer's attributes while it runs another part of a batch: with these running `statistics`,
        with `gradients` that count as zero, and without kept activations."""
        return {"arrays": {**self.arrays, **statistics}, "gradients": gradients, "_stale": {*gradients}, "_saved": None}

    def save(self, path: str | os.PathLike[str] | None = None, *values: object) -> None:
        """Write the weights, config, classes and normalization into one safetensors file. `gpuconv.load` reads the file
        of a `Sequential`; `gpuconv.training.load_weights` reads the file of any layer.
        In a user's layer, `save` without a path is the old name of `stash`, with a DeprecationWarning.

        Args:
            path: The file.
            values: Only for that old call.

        Raises:
            CheckpointError: The file cannot be written; an existing file at `path` is unchanged, unless the error came
                from flushing the folder after the rename.
            RuntimeError: The net is not built or has no weights yet; an existing file at `path` is unchanged.
            IsADirectoryError: `path` is a folder.
            TypeError: `path` is not a path; a user's layer without layers inside takes the old call instead.
        """
        from gpuconv.layers.saving import save

        save(self, path, *values)

    def take(self) -> tuple[Any, ...]:
        """The old name of `unstash`, with a DeprecationWarning."""
        warnings.warn("the layer calls take(), which is called unstash() now", DeprecationWarning, stacklevel=2)
        return self.unstash()

    def release(self) -> None:
        """Drop what forward kept, here and in the layers inside."""
        for layer in self.walk():
            layer._saved = None

    def infer(self, x: Array, **into: Any) -> Array:
        """forward(x) without training. It keeps nothing for backward, and drops what an earlier forward kept.

        Args:
            x: As in `forward`.
            into: out and addend, for a layer whose forward takes them.
        """
        y = self.forward(x, **into)
        self.release()
        return y

    # --- configuration -------------------------------------------------------------------------

    def config(self) -> Record:
        """The layer as JSON-serializable values; `from_config` rebuilds it."""
        return {"layer": name_of(type(self))} | {key: encode(value) for key, value in self.hyperparameters().items()}

    def hyperparameters(self) -> Options:
        """The current values of the layer's fields."""
        return {name: getattr(self, name) for name in settings(type(self))}

    @staticmethod
    def from_config(config: Mapping[str, Any], **options: Any) -> Any:  # noqa: ANN401 - a layer of any class
        """The layer or net that `config` describes; the entry "layer" names its class.

        options: further arguments of the constructor; for a net also device, initialize, and dtype or precision, which
        replaces the config's precision. Raises ValueError for an unknown layer or option (the message names the nearest
        known one), for a missing option and for a value out of its range. Raises TypeError for a value of another type.
        """
        return make(config, **options)

    def __repr__(self) -> str:
        """The call that creates this layer, without its name and default arguments."""
        return constructor_call(self)


def _move_array(name: str, array: Array, device: str, dtype: np.dtype) -> Array:
    if array.dtype == dtype and is_on(array, device):
        return array
    return backends.asarray(converted(name, backends.to_numpy(array), dtype), device)


def _as_shape(name: str, given: object) -> Shape:
    """Check a shape without N and return it as a tuple. Raises TypeError or ValueError, which contain `name`."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a shape without N, such as (32, 32, 3), received {given!r}")
    return tuple(integer(f"{name}[{axis}]", size, 1) for axis, size in enumerate(given))


def expect_built(net: object) -> None:
    """Raise TypeError for anything but a net or layer, and RuntimeError if its shapes are unknown."""
    if not isinstance(net, Layer):
        hint = f": gpuconv.models.build({net!r}) builds the net of that name" if isinstance(net, str) else ""
        raise TypeError(f"a net must be a gpuconv.Sequential or another layer, received {type(net).__name__}{hint}")
    if not net.built:
        raise RuntimeError("the net has no shapes yet: begin it with Input(...) or call build(input_shape)")
