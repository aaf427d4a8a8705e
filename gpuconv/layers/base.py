"""What every layer is: options, variables, a forward, a backward. Layers know no backend; they call `gpuconv.ops`.

A layer is a dataclass. Its fields are its hyperparameters, so `config` and `from_config` need no code of their own.
`plan` infers the output shape and declares the variables, `reset` draws their first values. What backward needs is
kept by forward with `stash` and handed out, once, by `unstash`: memory is released as backward goes.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, cast

import numpy as np

from gpuconv import backends, initializers
from gpuconv.arguments import integer
from gpuconv.dtypes import accumulation_dtype, as_precision, is_float
from gpuconv.initializers import Initializer
from gpuconv.layers.registry import LAYERS, expect_rebuildable, layer_class, name_of
from gpuconv.names import canonical, lookup
from gpuconv.types import Array

Shape = tuple[int, ...]

ALL = "*"  # in the place of names of variables


@dataclass(frozen=True)
class Variable:
    """An array that a layer owns.

    initializer makes its first value. buffer: it is no parameter, but part of the state. frozen: a parameter that is
    not trained. dtype: "net" for the net's own, "accumulation" for the one that the net sums in (batch statistics), or
    the name of an integer dtype.
    """

    shape: Shape
    initializer: Initializer
    buffer: bool = False
    frozen: bool = False
    dtype: str = "net"

    @property
    def trained(self) -> bool:
        return not self.buffer and not self.frozen

    def resolve_dtype(self, net_dtype: np.dtype) -> np.dtype:
        if self.dtype == "net":
            return net_dtype
        return accumulation_dtype(net_dtype) if self.dtype == "accumulation" else np.dtype(self.dtype)

    def stand_in(self, net_dtype: np.dtype) -> np.ndarray:
        """An array of its shape and dtype that takes no memory."""
        return np.broadcast_to(np.zeros((), self.resolve_dtype(net_dtype)), self.shape)


class Unmatched(NamedTuple):
    """The keys of a state that were not loaded, as PyTorch names them."""

    missing_keys: list[str]
    unexpected_keys: list[str]


Hook = Callable[["Layer", Any, Any], None]


class Handle:
    """A hook of a layer, which `remove` takes away again."""

    def __init__(self, layer: Layer, direction: str, hook: Hook) -> None:
        if not callable(hook):
            raise TypeError(f"a hook is a function of (layer, x, y), received {type(hook).__name__}")
        self._of, self._hook = (layer, direction), hook
        self._set([*layer._hooks.get(direction, ()), hook])

    def _set(self, hooks: Sequence[Hook]) -> None:
        layer, direction = self._of
        known = {**layer._hooks, direction: tuple(hooks)}
        vars(layer)["_hooks"] = {name: those for name, those in known.items() if those}

    def remove(self) -> None:
        layer, direction = self._of
        self._set([hook for hook in layer._hooks.get(direction, ()) if hook is not self._hook])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


@dataclass(eq=False, repr=False)
class Layer:
    """The base of all layers.

    name: what it is called inside its net; by default its kind and number ("conv1"). frozen: the variables that are
    not trained, by name, or True for all of them and of the layers inside; it can be set at any time, see `freeze`.
    After `build`, `input_shape` and `output_shape` (both without N), `path` (its name with those of the containers
    around it, "residual1.conv2") and `variables` are known; `arrays` holds the values. tf32: whether float32 products
    are computed in TF32 (`gpuconv.ops.conv2d`); it is no part of the configuration.
    """

    stem: ClassVar[str] = "layer"
    numbered: ClassVar[bool] = True  # called by kind and number, else by kind alone
    elementwise: ClassVar[bool] = False  # the output takes its input's place: no volume of its own in `summary`
    slides: ClassVar[bool] = True  # on a larger image it does the same at more places

    _: KW_ONLY
    name: str | None = None
    frozen: bool | str | tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        LAYERS[name_of(cls)] = cls
        cls._foreign = not cls.__module__.startswith("gpuconv.")

    def __post_init__(self) -> None:
        if self.name is not None and (not self.name or "." in self.name):
            raise ValueError(f"a layer's name must not be empty nor hold a dot, received {self.name!r}")
        for entry in _options(type(self)):
            if entry != "frozen":
                setattr(self, entry, _tuples(getattr(self, entry)))
        self.path, self.device, self.dtype = "", "numpy", np.dtype("float32")
        self.tf32 = False
        self.input_shape: Shape | None = None
        self.output_shape: Shape | None = None
        self.variables: dict[str, Variable] = {}
        self.arrays: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self._stale: set[str] = set()  # gradients that count as zero whatever their arrays hold
        self._saved: tuple[Any, ...] | None = None

    _foreign: ClassVar[bool] = False  # whether its results may be of another float dtype than the net's
    _hooks: ClassVar[Mapping[str, tuple[Hook, ...]]] = MappingProxyType({})  # of an instance: its own
    normalization: ClassVar[Any] = None  # of the images that a net's first layer takes, see `Sequential`
    _frozen = cast(tuple[str, ...], ())  # behind `frozen`: names, or ALL

    # --- what a layer defines ------------------------------------------------------------------

    def plan(self, input_shape: Shape) -> Shape:
        """Check the input's shape, declare `self.variables`, return the output's shape (both without N)."""
        return input_shape

    def forward(self, x: Array, training: bool = False) -> Array:
        """The layer's output; what `backward` needs is kept until it is called, or until the next forward.

        x: (N, *input_shape) of the net's dtype, on its device. training: batch statistics and dropout are on.
        """
        raise NotImplementedError

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        """Add to the gradients of the parameters; return the input's gradient, or None with input_grad=False.

        dy: of the output's shape. Raises RuntimeError when there was no forward since the last backward.
        """
        raise NotImplementedError

    @property
    def mult_adds(self) -> int:
        """Multiply-adds of a forward pass of one image."""
        return 0

    def algorithms(self, batch_size: int, device: str | None = None) -> dict[str, str]:
        """The algorithm that "fprop", "dgrad" and "wgrad" take for batches of that size, on the layer's device or
        another; {} for a layer without products and where the device has one arithmetic alone."""
        return {}

    def children(self) -> Sequence[tuple[str, Layer]]:
        """The layers inside, each with its part of the path."""
        return []

    def fused(self) -> Layer:
        """The layer with the rows inside fused, sharing its arrays; see `Sequential.fuse`."""
        return self

    def slid(self, flattened: Shape | None) -> tuple[Layer | None, Shape | None]:
        """The layer, not built, that does the same at each place of a larger image, or None where there is none to do.

        flattened: the volume that a `Flatten` before it has flattened, until an FC layer reads it; returned for the
        layer behind. Raises ValueError for a layer that cannot slide. See `Sequential.as_convolutional`.
        """
        if not all(layer.slides for layer in self.walk()):
            raise ValueError(f"{self.path} holds an FC layer or a global pool inside, which cannot slide")
        return Layer.from_config(self.config()), flattened

    # --- building ------------------------------------------------------------------------------

    def build(
        self,
        input_shape: Shape,
        *,
        seed: int = 0,
        dtype: Any = None,
        device: str | None = None,
        initialize: bool = True,
        precision: str | None = None,
    ) -> Shape:
        """Infer all shapes from the input volume's, and make the variables that are not there yet; layers that are
        built keep their values, and `reset` draws new ones. Returns the output's shape.

        input_shape: without N, as (32, 32, 3). dtype or precision: see `to`; by default, as the device, those of the
        values that are kept. initialize=False allocates nothing: enough for a `summary`. Raises ValueError, with the
        layer's path, where a shape does not fit, and TypeError for a layer that its config does not make again; then
        nothing has changed.
        """
        shape = tuple(integer(f"input_shape[{axis}]", size, 1) for axis, size in enumerate(input_shape))
        for layer in self.walk():
            expect_rebuildable(layer, Layer)
        before = [(layer, dict(vars(layer))) for layer in self.walk()]
        try:
            self.place("", shape)
        except Exception:
            for layer, attributes in before:
                vars(layer).clear()
                vars(layer).update(attributes)
            raise
        kept = [layer for layer in self.walk() if layer.arrays]
        if kept and dtype is None and precision is None:
            precision = kept[0].precision
        net_dtype, tf32 = as_precision(dtype, precision)
        device = backends.resolve(device or (kept[0].device if kept else "numpy"))
        if any((layer.device, layer.dtype, layer.tf32) != (device, net_dtype, tf32) for layer in kept):
            self.to(device, dtype, precision=precision)
        self._compute_in(net_dtype, tf32, device if kept or initialize else None)
        if initialize:
            self._draw(seed)
        assert self.output_shape is not None
        return self.output_shape

    def place(self, path: str, input_shape: Shape) -> Shape:
        """`plan` this layer at a path of the net."""
        if "variables" not in vars(self):
            raise TypeError(f"the __init__ of {type(self).__name__} must call super().__init__() first")
        self.path, self.input_shape = path, input_shape
        try:
            self.output_shape = self.plan(input_shape)
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
        """Raise ValueError where what is frozen, or an array that the layer has already, is no variable of its own."""
        self.frozen = _get_frozen(self)
        for name, array in self.arrays.items():
            variable = self.variables.get(name)
            if variable is None or tuple(array.shape) != variable.shape:
                needed = f"must be of shape {variable.shape}" if variable else "is none of its variables"
                raise ValueError(
                    f"the layer has weights already, for another input: {name} of shape {tuple(array.shape)} {needed} "
                    f"for an input of {self.input_shape}; put a new layer there"
                )

    @property
    def built(self) -> bool:
        """Whether its shapes are known, as after `build`."""
        return self.output_shape is not None

    def twin(self) -> Self:
        """A copy that shares nothing: the same settings and values, without gradients, what forward kept, and hooks."""
        saved, gradients = [layer._saved for layer in self.walk()], [layer.gradients for layer in self.walk()]
        try:
            for layer in self.walk():
                layer._saved, layer.gradients = None, {}
            twin = copy.deepcopy(self)
            for layer in twin.walk():
                vars(layer).pop("_hooks", None)
            return twin
        finally:
            for layer, kept, own in zip(self.walk(), saved, gradients):
                layer._saved, layer.gradients = kept, own

    @property
    def precision(self) -> str:
        """What the layer computes in: the name of its dtype, or "tf32" for float32 arrays multiplied in TF32."""
        return "tf32" if self.tf32 else self.dtype.name

    def _compute_in(self, dtype: np.dtype, tf32: bool, device: str | None = None) -> None:
        for layer in self.walk():
            layer.dtype, layer.tf32, layer.device = dtype, tf32, device or layer.device

    def reset(self, *, seed: int = 0, dtype: Any = None, device: str = "numpy", precision: str | None = None) -> None:
        """Allocate every variable in the tree and draw its first value.

        Variable number i, counted through the whole net, draws from sub-stream i of the seed's INIT stream, so the
        same seed gives the same bits on every device.
        """
        self._compute_in(*as_precision(dtype, precision), backends.resolve(device))
        for layer in self.walk():
            layer.arrays.clear()
            layer.gradients.clear()
        self._draw(seed)

    def _draw(self, seed: int) -> None:
        """Draw the first values of the variables that have none."""
        for number, (layer, name, variable) in enumerate(self._all_variables()):
            layer.seeded(seed, number)
            if name in layer.arrays:
                continue
            value = variable.initializer(
                variable.shape, dtype=variable.resolve_dtype(layer.dtype), seed=seed, substream=number
            )
            layer.arrays[name] = backends.asarray(value, layer.device)

    def seeded(self, seed: int, substream: int) -> None:
        """Told once for each variable which random numbers are its own. Dropout keeps them."""

    # --- variables -----------------------------------------------------------------------------

    def walk(self) -> Iterator[Layer]:
        """This layer and every layer inside, in forward order."""
        yield self
        for _, child in self.children():
            yield from child.walk()

    def _all_variables(self) -> Iterator[tuple[Layer, str, Variable]]:
        for layer in self.walk():
            for name, variable in layer.variables.items():
                yield layer, name, variable

    @property
    def parameter_count(self) -> int:
        """How many numbers the parameters of the tree hold, frozen ones included."""
        return sum(volume_size(variable.shape) for _, _, variable in self._all_variables() if not variable.buffer)

    @property
    def parameter_bytes(self) -> int:
        """The memory of those numbers."""
        return sum(
            volume_size(variable.shape) * variable.resolve_dtype(self.dtype).itemsize
            for _, _, variable in self._all_variables()
            if not variable.buffer
        )

    def _named(self, trained: bool | None = None) -> Iterator[tuple[str, Layer, str]]:
        """(key in the state dict, layer, variable's name), of all or of only the trained or untrained ones."""
        for layer, name, _ in self._all_variables():
            if trained is None or layer.trains(name) == trained:
                path = layer.path.removeprefix(self.path).removeprefix(".")
                yield (f"{path}.{name}" if path else name), layer, name

    def __getitem__(self, name: str) -> Any:
        """The value of one of this layer's own variables; or a layer inside or its variable, by its name with dots,
        "residual1.conv1" or "residual1.conv1.weight"."""
        if inside := named_layers(self):
            head, dot, rest = name.partition(".") if isinstance(name, str) else (name, "", "")
            layer = lookup("layer", head, inside)
            return layer[rest] if dot else layer
        if self.built:
            name = canonical("variable", name, self.variables)
        try:
            return self.arrays[name]
        except KeyError:
            raise RuntimeError(
                f"{self.path or type(self).__name__} has no array {name!r}: build the net with an input shape "
                "and without initialize=False"
            ) from None

    def gradient(self, name: str) -> Array:
        """The gradient of one of this layer's own variables, live: what is added to it counts."""
        if name not in self.gradients:
            value = self[name]
            self.gradients[name] = backends.zeros(value.shape, value.dtype, self.device)
        elif name in self._stale:
            backends.assign(self.gradients[name], 0)
        self._stale.discard(name)
        return self.gradients[name]

    def gradients_into(self, *names: str | None) -> tuple[list[Any], bool]:
        """The arrays that backward leaves these variables' gradients in, and whether it adds to them (`accumulate`).

        Right after `zero_grad` it does not: to assign is to add to zero without having written one. None stays None.
        """
        given = {name for name in names if name is not None}
        assign = self._stale.issuperset(given)
        if assign:
            self._stale -= given
        return [None if name is None else self.gradient(name) for name in names], not assign

    def trains(self, name: str) -> bool:
        """Whether this is one of the layer's own variables, and trained."""
        variable = self.variables.get(name)
        return variable is not None and variable.trained and name not in self._frozen and ALL not in self._frozen

    @property
    def trainable(self) -> bool:
        """Whether anything in the tree is trained."""
        return any(layer.trains(name) for layer, name, _ in self._all_variables())

    def freeze(self) -> None:
        """Train nothing in this layer or inside it from now on. Its weights are state still; batch norm still takes the
        statistics of a batch in training and moves its running ones. Backward computes nothing that only frozen layers
        would need."""
        self._set_frozen((ALL,))

    def unfreeze(self) -> None:
        """Train everything in this layer and inside it."""
        self._set_frozen(())

    def _set_frozen(self, value: tuple[str, ...]) -> None:
        for layer in self.walk():
            holds_none = layer.children() or (layer.output_shape is not None and not layer.variables)
            layer._frozen = () if holds_none else value

    def params(self) -> dict[str, Array]:
        """The trained arrays, live: an optimizer changes them in place."""
        return {key: layer[name] for key, layer, name in self._named(trained=True)}

    def named_parameters(self) -> Iterator[tuple[str, Array]]:
        """(name, array) of every parameter, live, frozen ones included; `params` has the trained ones alone."""
        for key, layer, name in self._named():
            if not layer.variables[name].buffer:
                yield key, layer[name]

    def grads(self) -> dict[str, Array]:
        """The gradients, live, under the keys of `params`."""
        return {key: layer.gradient(name) for key, layer, name in self._named(trained=True)}

    def buffers(self) -> dict[str, Array]:
        """What the state holds beside the params: running statistics, dropout's offset, frozen weights."""
        return {key: layer[name] for key, layer, name in self._named(trained=False)}

    def zero_grad(self) -> None:
        """Every gradient counts as zero from here on: whoever asks for it sees zeros, and the next backward assigns."""
        for layer in self.walk():
            layer._stale.update(layer.gradients)

    def state_dict(self) -> dict[str, Array]:
        """Every array of the tree by its path, live: copy what must not change with the net."""
        return {key: layer[name] for key, layer, name in self._named()}

    def load_state_dict(self, state: Mapping[str, Array], strict: bool = True) -> Unmatched:
        """Copy values into the arrays, in place. Floats of another precision are converted.

        strict=False leaves alone what the state lacks, and what the net lacks. Returns the keys that were missing and
        those that were unexpected. Raises ValueError that lists every one of these and every wrong shape, or for an
        integer that does not fit, or TypeError for an integer where a float belongs, before anything is changed.
        """
        if not isinstance(state, Mapping):
            hint = "; gpuconv.interop.from_torch(module, net) makes one of it" if hasattr(state, "state_dict") else ""
            raise TypeError(f"a state is a dictionary of arrays by name, received {type(state).__name__}{hint}")
        own, values = self.state_dict(), {key: backends.to_numpy(value, key) for key, value in state.items()}
        unmatched = Unmatched([key for key in own if key not in values], [key for key in values if key not in own])
        problems = [f"missing {key}" for key in unmatched.missing_keys] if strict else []
        problems += [f"unexpected {key}" for key in unmatched.unexpected_keys] if strict else []
        own = {key: value for key, value in own.items() if key in values}
        problems += [
            f"{key} has shape {values[key].shape} where the net has {tuple(value.shape)}"
            for key, value in own.items()
            if values[key].shape != tuple(value.shape)
        ]
        if problems:
            of_torch = any(type(value).__module__.partition(".")[0] == "torch" for value in state.values())
            hint = ". It is of PyTorch: gpuconv.interop.from_torch(state, net) translates it" if of_torch else ""
            raise ValueError(f"the state does not fit the net: {'; '.join(problems)}{hint}")
        for key, value in own.items():
            given, integers = values[key], value.dtype.kind in "iub"
            if given.dtype.kind == "c" or (given.dtype.kind in "iub") != integers:
                raise TypeError(f"{key} must be {value.dtype.name}, received {given.dtype.name}")
            with np.errstate(all="ignore"):  # what is beyond a half becomes infinite, as in every op
                values[key] = given.astype(value.dtype)
            if integers and not np.array_equal(values[key], given):
                raise ValueError(f"{key} holds integers that {value.dtype.name} cannot, received {given.dtype.name}")
        for key, array in own.items():
            backends.assign(array, values[key])
        return unmatched

    def to(self, device: str | None = None, dtype: Any = None, *, precision: str | None = None) -> Self:
        """Move to a device, change the precision, or both; returns itself. Gradients and kept activations are dropped.

        precision: "float32"; "tf32", float32 arrays whose products are in TF32; "float16", "bfloat16" or "float64".
        Norms keep their parameters and statistics in float32 beside halves. dtype: the same as a dtype, without TF32.
        """
        device = self.device if device is None else backends.resolve(device)
        given = dtype is not None or precision is not None
        net_dtype, tf32 = as_precision(dtype, precision) if given else (self.dtype, self.tf32)
        self._compute_in(net_dtype, tf32, device)
        for layer in self.walk():
            layer.gradients.clear()
            layer.release()
        for layer, name, variable in self._all_variables():
            if name in layer.arrays:
                layer.arrays[name] = _moved(layer.arrays[name], device, variable.resolve_dtype(net_dtype))
        return self

    # --- running -------------------------------------------------------------------------------

    def __call__(self, x: Array, training: bool = False) -> Array:
        """`forward`."""
        return run(self, "forward", x, training)

    def register_forward_hook(self, hook: Hook) -> Handle:
        """From now on call ``hook(layer, x, y)`` after each forward of this layer in a net, with its input and output.

        Hooks see what the layers of the net they are in run. A net that trains on a device with kernels is fused, where
        a layer with a hook stays by itself if it has it before the Trainer is made; a captured step calls hooks when
        it is captured alone. Returns a handle; ``handle.remove()``, or the end of ``with handle:``, removes the hook.
        """
        return Handle(self, "forward", hook)

    def register_backward_hook(self, hook: Hook) -> Handle:
        """As `register_forward_hook`, of ``hook(layer, dx, dy)`` after each backward, with the gradients of its input
        (None where none was asked for) and of its output."""
        return Handle(self, "backward", hook)

    @property
    def has_hooks(self) -> bool:
        return bool(self._hooks)

    def stash(self, *values: Any) -> None:
        """Keep what backward needs."""
        self._saved = values

    def unstash(self) -> Any:
        """Hand out what forward kept and forget it, so that its memory goes when backward lets go."""
        saved, self._saved = self._saved, None
        if saved is None:
            where = self.path or type(self).__name__
            raise RuntimeError(f"{where}.backward needs a forward before it: each forward serves one backward")
        return saved

    @property
    def kept(self) -> tuple[Any, ...]:
        """What forward keeps until backward takes it; () when that is nothing."""
        return self._saved or ()

    def save(self, path: str | os.PathLike[str] | None = None, *values: Any) -> None:
        """Write the weights, what makes the net again, and its classes and normalization into one safetensors file,
        which `gpuconv.load` reads. Raises CheckpointError for what cannot be written, and RuntimeError for a net that
        has no weights yet; then what was at `path` is still there.

        In a layer of one's own, `save` without a path is the old name of `stash`, with a DeprecationWarning.
        """
        from gpuconv.layers.saving import save

        save(self, path, *values)

    def take(self) -> Any:
        """The old name of `unstash`, with a DeprecationWarning."""
        warnings.warn("the layer calls take(), which is called unstash() now", DeprecationWarning, stacklevel=2)
        return self.unstash()

    def release(self) -> None:
        """Forget what forward kept, here and inside."""
        for layer in self.walk():
            layer._saved = None

    def infer(self, x: Array) -> Array:
        """forward(x) of a net that is not trained, which keeps nothing for backward."""
        y = self.forward(x)
        self.release()
        return y

    # --- configuration -------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """The layer as JSON-able values; `from_config` makes it again."""
        return {"layer": name_of(type(self))} | {name: _encode(getattr(self, name)) for name in _options(type(self))}

    def hyperparameters(self) -> dict[str, Any]:
        """The values of the layer's fields, as they are now."""
        return {name: getattr(self, name) for name in _options(type(self))}

    @staticmethod
    def from_config(config: Mapping[str, Any], **options: Any) -> Any:
        """The layer or net that `config` describes; its class comes from the entry "layer".

        options: handed to the constructor too (a net takes dtype or precision, which replaces the config's, device,
        initialize). Raises ValueError for an
        unknown layer or option, with the nearest known one.
        """
        if not isinstance(config, Mapping) or "layer" not in config:
            raise ValueError(f"a layer's config is a mapping with the entry 'layer', received {config!r}")
        kind = layer_class(config["layer"])
        if "precision" in config:
            config = dict(config)
            options = {"precision": config.pop("precision")} | options
            if options.get("dtype") is not None:
                del options["precision"]
        known = {name: name for name in _options(kind)}
        given = {
            lookup(f"option of {kind.__name__}", key, known): _decode(value)
            for key, value in config.items()
            if key != "layer"
        }
        return kind(**given, **options)

    def __repr__(self) -> str:
        """The call that makes this layer, without what is left at its default."""
        shown = [
            f"{entry.name}={getattr(self, entry.name)!r}"
            for entry in fields(self)
            if entry.name != "name" and getattr(self, entry.name) != entry.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _get_frozen(layer: Layer) -> bool | tuple[str, ...]:
    return True if ALL in layer._frozen else layer._frozen


def _assign_frozen(layer: Layer, value: Any) -> None:
    known = vars(layer).get("output_shape") is not None
    if isinstance(value, bool):
        layer._frozen = (ALL,) if value else ()
        if known:
            layer._set_frozen(layer._frozen)
    else:
        names = (value,) if isinstance(value, str) else tuple(value)
        layer._frozen = tuple(canonical("variable", name, layer.variables) for name in names) if known else names


Layer.frozen = property(_get_frozen, _assign_frozen)  # type: ignore[assignment]


def _options(kind: type[Layer]) -> list[str]:
    return [entry.name for entry in fields(kind)]


def _encode(value: Any) -> Any:
    if isinstance(value, Layer):
        return value.config()
    return [_encode(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping) and "layer" in value:
        return Layer.from_config(value)
    return [_decode(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, (list, tuple)) else value


def _moved(array: Array, device: str, dtype: np.dtype) -> Array:
    if array.dtype == dtype and backends.device_of(array) == device:
        return array
    return backends.asarray(backends.to_numpy(array).astype(dtype), device)


# --- what layers share -------------------------------------------------------------------------


def expect_axes(input_shape: Shape, axes: str) -> None:
    """The input volume has one axis per letter of `axes`."""
    if len(input_shape) != len(axes.split()):
        hint = "; put Flatten() before" if axes == "features" and len(input_shape) == 3 else ""
        raise ValueError(
            f"the input must have the axes (N, {', '.join(axes.split())}), "
            f"received (N, {', '.join(map(str, input_shape))}){hint}"
        )


def volume_size(shape: Shape | None) -> int:
    """How many values a volume holds."""
    return math.prod(shape or ())


def weight_and_bias(layer: Any, weight_shape: Shape, groups: int = 1) -> dict[str, Variable]:
    """The variables of a layer with `weight_init`, `bias` and `bias_init`; the weight's first axis is the output."""
    initializer = initializers.get(layer.weight_init)
    variables = {"weight": Variable(weight_shape, partial(initializer, groups=groups) if groups > 1 else initializer)}
    if layer.bias:
        variables["bias"] = Variable(weight_shape[:1], initializers.get(layer.bias_init))
    return variables


def named_layers(layer: Layer) -> dict[str, Layer]:
    """The layers inside one, by their names in paths: those of a residual block's body stand in the block itself."""
    found: dict[str, Layer] = {}
    for key, inner in layer.children():
        found |= {key: inner} if key else named_layers(inner)
    return found


def descendants(layer: Layer) -> Iterator[Layer]:
    """All layers inside one that have a name in its paths."""
    for inner in named_layers(layer).values():
        yield inner
        yield from descendants(inner)


# --- running a child, in one place -------------------------------------------------------------

Listener = Callable[[Layer, str], AbstractContextManager[Any]]
_listeners: list[Listener] = []


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Within this context every child's run happens inside ``listener(layer, "forward" or "backward")``."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def run(layer: Layer, method: str, *args: Any, **options: Any) -> Any:
    """Call a child's "forward", "infer" or "backward": containers run children here and nowhere else.

    Errors get a note that says in which layer they arose.
    """
    try:
        if not (_listeners or layer._hooks or layer._foreign):
            return getattr(layer, method)(*args, **options)
        direction = "backward" if method == "backward" else "forward"
        with ExitStack() as stack:
            for listener in _listeners:
                stack.enter_context(listener(layer, direction))
            return call(layer, method, *args, **options)
    except (ValueError, TypeError, MemoryError, RuntimeError) as error:
        if layer.path:
            told = type(layer).__name__ if layer.children() else repr(layer)
            error.add_note(f"in {layer.path}.{method} of {told}")
        raise


def call(layer: Layer, method: str, *args: Any, **options: Any) -> Any:
    """As `run`, unheard by listeners: what it returns is in the net's dtype, and the layer's hooks see it."""
    found = getattr(layer, method)(*args, **options)
    if layer._foreign:
        found = _in_net_dtype(layer, method, found)
    if layer._hooks:
        backward = method == "backward"
        for hook in layer._hooks.get("backward" if backward else "forward", ()):
            hook(layer, *((found, args[0]) if backward else (args[0], found)))
    return found


def _in_net_dtype(layer: Layer, method: str, found: Any) -> Any:
    """What a user's layer returned, in the net's dtype if it is of another float dtype."""
    if found is None and method == "backward":  # as it is without input_grad
        return found
    if not hasattr(found, "dtype"):
        raise TypeError(f"{type(layer).__name__}.{method} must return an array, returned {type(found).__name__}")
    if not layer.built or found.dtype == layer.dtype or not is_float(found.dtype):
        return found
    return backends.asarray(found, dtype=layer.dtype)
