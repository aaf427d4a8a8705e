"""The arrays in a tree of layers: variables, gradients, frozen parameters, the state dict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike

from gpuconv import backends
from gpuconv.arguments import flag, is_torch, seed_value
from gpuconv.dtypes import as_precision, converted, precision_of
from gpuconv.layers.shapes import volume_size
from gpuconv.layers.variables import Variable
from gpuconv.names import canonical, lookup
from gpuconv.types import Array, Shape

ALL = "*"  # represents the names of all variables

LayerT = TypeVar("LayerT", bound="Stateful[Any]")


class Unmatched(NamedTuple):
    """The keys that were not loaded (fields named as in PyTorch): keys of the net that the state lacks, and keys of the
    state that the net lacks."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Frozen:
    """The field `Layer.frozen`: the names of variables that are not trained, or True for all; by default none."""

    def __get__(self, layer: Stateful[Any] | None, kind: object = None) -> bool | tuple[str, ...]:
        if layer is None:  # asked by `dataclass` for the field's default
            return ()
        return True if ALL in layer._frozen else layer._frozen

    def __set__(self, layer: Stateful[Any], value: bool | str | Sequence[str]) -> None:
        planned = vars(layer).get("output_shape") is not None
        if isinstance(value, bool | np.bool_):
            layer._frozen = (ALL,) if value else ()
            if planned:
                layer._set_frozen(layer._frozen)
        else:
            names = (value,) if isinstance(value, str) else value
            if not isinstance(names, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"frozen must be True, False or names of variables, received {value!r}")
            names = tuple(names)
            if planned and not names and layer.children():
                layer._set_frozen(())  # as False does
            layer._frozen = tuple(canonical("variable", name, layer.variables) for name in names) if planned else names


class Stateful(Generic[LayerT]):
    """The part of a layer that holds arrays: `variables` declares them, `arrays` and `gradients` have them by name."""

    path: str
    device: str
    dtype: np.dtype
    tf32: bool
    output_shape: Shape | None
    variables: dict[str, Variable]
    arrays: dict[str, Array]
    gradients: dict[str, Array]
    _stale: set[str]  # names of gradients that count as zero, whatever their arrays hold
    _frozen: tuple[str, ...] = ()  # the value of `frozen`: names, or ALL

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Take the attributes of a copied or pickled layer, and move its arrays to its device: CuPy unpickles arrays on
        the current one."""
        vars(self).update(attributes)
        for arrays in (attributes.get("arrays", {}), attributes.get("gradients", {})):
            arrays.update({name: backends.asarray(array, self.device) for name, array in arrays.items()})

    def children(self) -> Sequence[tuple[str, LayerT]]:
        """The inner layers, each with its name in the path."""
        return []

    @property
    def built(self) -> bool:
        """Whether the shapes are known, as after `build`."""
        return vars(self).get("output_shape") is not None

    def walk(self) -> Iterator[LayerT]:
        """This layer and every layer inside, in forward order."""
        yield cast(LayerT, self)
        for _, child in self.children():
            yield from child.walk()

    def all_variables(self) -> Iterator[tuple[LayerT, str, Variable]]:
        """(layer, name, variable) of every variable of the tree, in forward order."""
        for layer in self.walk():
            for name, variable in layer.variables.items():
                yield layer, name, variable

    @property
    def parameter_count(self) -> int:
        """The number of elements of all parameters in the tree, frozen ones included."""
        return sum(volume_size(variable.shape) for _, _, variable in self.all_variables() if not variable.buffer)

    @property
    def parameter_bytes(self) -> int:
        """The memory of all parameters, in bytes."""
        return sum(
            volume_size(variable.shape) * variable.resolve_dtype(self.dtype).itemsize
            for _, _, variable in self.all_variables()
            if not variable.buffer
        )

    def named_variables(self, trained: bool | None = None) -> Iterator[tuple[str, LayerT, str]]:
        """(key in the state dict, layer, variable's name) of all variables, or only the trained or untrained ones."""
        for layer, name, _ in self.all_variables():
            if trained is None or layer.trains(name) == trained:
                path = layer.path.removeprefix(self.path).removeprefix(".")
                yield (f"{path}.{name}" if path else name), layer, name

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - an array, or a layer of any class
        """A variable of this layer by its name; an inner layer, or its variable, by its dotted name:
        "residual1.conv1", "residual1.conv1.weight". Raises ValueError for an unknown name, RuntimeError for a variable
        that has no value yet."""
        if isinstance(name, str) and name in self.arrays:  # the short way, which layers take in every pass
            return self.arrays[name]
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

    @property
    def precision(self) -> str:
        """The precision in which the layer computes: the name of its dtype, or "tf32" for float32 arrays multiplied in
        TF32."""
        return precision_of(self.dtype, self.tf32)

    def compute_in(self, dtype: np.dtype, tf32: bool, device: str | None = None) -> None:
        """Set the precision in every layer of the tree, and also the device unless it is None. Existing arrays are
        neither converted nor moved, see `Layer.to`."""
        for layer in self.walk():
            layer.dtype, layer.tf32, layer.device = dtype, tf32, device or layer.device

    def reset(
        self, *, seed: int = 0, dtype: DTypeLike | None = None, device: str = "numpy", precision: str | None = None
    ) -> None:
        """Allocate every variable in the tree and draw its first value.

        Variable number i, counted through the tree, draws from sub-stream i of the seed's INIT stream, so the same seed
        gives the same bits on every device.

        Args:
            seed: From 0 to 2^64 - 1.
            dtype, precision: As in `gpuconv.layers.Layer.to`, except that the default is float32.
            device: Where the values live.

        Raises ValueError or TypeError for a wrong argument, DeviceError for a device that is not available, and what an
        initializer raises. Nothing has changed then; for this, the old values stay in memory until all new ones exist.
        """
        seed = seed_value("seed", seed)
        with restored_on_error(self):
            self.compute_in(*as_precision(dtype, precision), backends.resolve(device))
            for layer in self.walk():
                layer.arrays.clear()
                layer.gradients.clear()
            self._draw(seed)

    def _draw(self, seed: int) -> None:
        """Draw the first values of the variables that have none."""
        for number, (layer, name, variable) in enumerate(self.all_variables()):
            layer.seeded(seed, number)
            if name in layer.arrays:
                continue
            value = variable.initializer(
                variable.shape, dtype=variable.resolve_dtype(layer.dtype), seed=seed, substream=number
            )
            layer.arrays[name] = backends.asarray(value, layer.device)

    def seeded(self, seed: int, substream: int) -> None:
        """Called once for each variable with its random numbers' `seed` and `substream`. Dropout keeps them."""

    def gradient(self, name: str) -> Array:
        """The gradient of one of this layer's own variables; the array itself, not a copy."""
        if name not in self.gradients:
            value = self[name]
            self.gradients[name] = backends.zeros(value.shape, value.dtype, self.device)
        elif name in self._stale:
            backends.assign(self.gradients[name], 0)
        self._stale.discard(name)
        return self.gradients[name]

    def gradients_into(self, *names: str | None) -> tuple[list[Array | None], bool]:
        """The arrays for these variables' gradients, and whether backward adds to them (`accumulate`).

        Backward assigns if `zero_grad` has reset all of these gradients and none was read or written since; this saves
        writing zeros first. A name of None stays None.
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
        return any(layer.trains(name) for layer, name, _ in self.all_variables())

    def freeze(self) -> None:
        """Stop training this layer and all layers inside it. The weights stay in the state; batch norm still uses batch
        statistics in training and updates its running ones. Backward skips what only frozen layers would need."""
        self._set_frozen((ALL,))

    def unfreeze(self) -> None:
        """Train everything in this layer and inside it."""
        self._set_frozen(())

    def _set_frozen(self, value: tuple[str, ...]) -> None:
        for layer in self.walk():
            holds_none = layer.children() or (layer.output_shape is not None and not layer.variables)
            layer._frozen = () if holds_none else value

    def params(self) -> dict[str, Array]:
        """The trained arrays themselves, not copies; an optimizer changes them in place."""
        return {key: layer[name] for key, layer, name in self.named_variables(trained=True)}

    def named_parameters(self) -> Iterator[tuple[str, Array]]:
        """(name, array) of every parameter, frozen ones included; `params` has only the trained ones."""
        for key, layer, name in self.named_variables():
            if not layer.variables[name].buffer:
                yield key, layer[name]

    def grads(self) -> dict[str, Array]:
        """The gradients themselves, under the keys of `params`."""
        return {key: layer.gradient(name) for key, layer, name in self.named_variables(trained=True)}

    def buffers(self) -> dict[str, Array]:
        """The state without the params: running statistics, dropout's `offset`, the filter `ones` of `Upsample`,
        frozen weights."""
        return {key: layer[name] for key, layer, name in self.named_variables(trained=False)}

    def zero_grad(self) -> None:
        """Set every gradient to zero. Zeros are written only to a gradient that is read before the next backward, which
        assigns instead of adding."""
        for layer in self.walk():
            layer._stale.update(layer.gradients)

    def state_dict(self) -> dict[str, Array]:
        """Every array of the tree by its path. These are not copies: copy arrays that must not change with the net."""
        return {key: layer[name] for key, layer, name in self.named_variables()}

    def load_state_dict(self, state: Mapping[str, Array], strict: bool = True) -> Unmatched:
        """Copy values into the arrays, in place. Floats of another precision are converted.

        strict=False ignores missing and unexpected keys. Returns the keys that were missing and those that were
        unexpected.

        Raises:
            ValueError: A key is missing or unexpected, a shape is wrong (the message lists all such keys), or a number
                is outside the dtype's range. Nothing has changed then.
            TypeError: The state is not a mapping, or it has integers in place of floats, or floats in place of
                integers. Nothing has changed then.
        """
        if not isinstance(state, Mapping):
            hint = "; gpuconv.interop.from_torch(module, net) converts it" if hasattr(state, "state_dict") else ""
            raise TypeError(f"a state is a dictionary of arrays by name, received {type(state).__name__}{hint}")
        strict = flag("strict", strict)
        own = self.state_dict()
        unmatched = Unmatched([key for key in own if key not in state], [key for key in state if key not in own])
        problems = [f"missing {key}" for key in unmatched.missing_keys] if strict else []
        problems += [f"unexpected {key}" for key in unmatched.unexpected_keys] if strict else []
        values = {key: backends.to_numpy(value, key) for key, value in state.items() if key in own}
        own = {key: value for key, value in own.items() if key in values}
        problems += [
            f"{key} has shape {values[key].shape} where the net has {tuple(value.shape)}"
            for key, value in own.items()
            if values[key].shape != tuple(value.shape)
        ]
        if problems:
            of_torch = any(is_torch(value) for value in state.values())
            hint = ". It comes from PyTorch: gpuconv.interop.from_torch(state, net) translates it" if of_torch else ""
            raise ValueError(f"the state does not fit the net: {'; '.join(problems)}{hint}")
        for key, value in own.items():
            given, integers = values[key], value.dtype.kind in "iub"
            if given.dtype.kind == "c" or (given.dtype.kind in "iub") != integers:
                raise TypeError(f"{key} must be {value.dtype.name}, received {given.dtype.name}")
            values[key] = converted(key, given, value.dtype)
            if integers and not np.array_equal(values[key], given):
                raise ValueError(f"{key} holds integers that {value.dtype.name} cannot, received {given.dtype.name}")
        for key, array in own.items():
            backends.assign(array, values[key])
        return unmatched


@contextmanager
def restored_on_error(net: Stateful[Any]) -> Iterator[None]:
    """A context that gives every layer of a net its attributes back if it raises: arrays, gradients, precision, ..."""
    before = [
        (layer, {name: dict(value) if type(value) is dict else value for name, value in vars(layer).items()})
        for layer in net.walk()
    ]
    try:
        yield
    except BaseException:
        for layer, attributes in before:
            vars(layer).clear()
            vars(layer).update(attributes)
        raise


def named_layers(layer: Stateful[LayerT]) -> dict[str, LayerT]:
    """A layer's inner layers, by their names in paths. The layers in the body of a residual block count as the
    block's own."""
    found: dict[str, LayerT] = {}
    for key, inner in layer.children():
        found |= {key: inner} if key else named_layers(inner)
    return found


def descendants(layer: Stateful[LayerT]) -> Iterator[LayerT]:
    """All layers inside at any depth. The `Sequential` that is the body of a residual block is left out, because it has
    no name in paths; its layers are included."""
    for inner in named_layers(layer).values():
        yield inner
        yield from descendants(inner)
