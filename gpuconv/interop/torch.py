"""Exact conversion of PyTorch state dicts to gpuconv's and back: values are moved, never computed.

PyTorch's volumes are NCHW and its filters (K, C, R, S); gpuconv's are NHWC and (K, R, S, C). So filters are transposed.
The columns of the FC layers that read a flattened volume, and the values of norms between the flattening and such a
layer, are reordered from (C, H, W) to (H, W, C). Layers are matched in forward order regardless of their names, so
torchvision's names work too. PyTorch is imported only if tensors are requested.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import backends
from gpuconv.arguments import flag
from gpuconv.layers import BatchNorm, Flatten, GroupNorm, Layer, LayerNorm, Linear
from gpuconv.layers.base import expect_built
from gpuconv.layers.branches import Merging
from gpuconv.text.plain_text import one_line

if TYPE_CHECKING:
    from torch import Tensor


_COUNTER = "num_batches_tracked"  # PyTorch's count of batches, which gpuconv does not use
_NORMS = BatchNorm, GroupNorm, LayerNorm
_SETTINGS = {"eps": "eps", "num_groups": "groups"}  # of norms: PyTorch's name and gpuconv's
_TORCH_NAMES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class _Part:
    """A layer with weights. volume: (H, W, C), if it reads the features of a flattened volume."""

    layer: Layer
    volume: tuple[int, ...] | None

    @property
    def names(self) -> list[str]:
        return [name for name in self.layer.variables if name in _TORCH_NAMES]

    def torch_shape(self, name: str) -> tuple[int, ...]:
        shape = self.layer.variables[name].shape
        return tuple(shape[axis] for axis in (0, 3, 1, 2)) if len(shape) == 4 else shape

    def from_torch(self, name: str, value: np.ndarray) -> np.ndarray:
        if value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)
        elif self.volume and self._over_features(name):
            h, w, c = self.volume
            value = np.moveaxis(value.reshape(*value.shape[:-1], c, h, w), -3, -1).reshape(value.shape)
        return np.ascontiguousarray(value)

    def to_torch(self, name: str, value: np.ndarray) -> np.ndarray:
        if value.ndim == 4:
            value = value.transpose(0, 3, 1, 2)
        elif self.volume and self._over_features(name):
            value = np.moveaxis(value.reshape(*value.shape[:-1], *self.volume), -1, -3).reshape(value.shape)
        return np.array(value, order="C")

    def _over_features(self, name: str) -> bool:
        """Whether the array's last axis indexes the flattened features."""
        return isinstance(self.layer, _NORMS) or name == "weight"


def _parts(net: Layer) -> list[_Part]:
    parts: list[_Part] = []
    _add_parts(net, None, parts)
    return parts


def _add_parts(layer: Layer, volume: tuple[int, ...] | None, parts: list[_Part]) -> tuple[int, ...] | None:
    """Append a layer and its inner layers. volume: as in `_Part`, of the layer's input; returns that of its output."""
    if volume and layer.input_shape != (math.prod(volume),):
        volume = None  # a user's layer has made something else of the features
    if isinstance(layer, Merging):
        ends = {_add_parts(row, volume, parts) if row else volume for row in layer.rows}
        if len(ends) > 1 or (layer.merge != "add" and ends != {None}):
            raise ValueError(f"{layer.path} joins flattened features, which PyTorch orders differently")
        return ends.pop()
    if isinstance(layer, Flatten) and len(shape := layer.input_shape or ()) == 3:
        volume = shape if shape[0] * shape[1] > 1 and shape[2] > 1 else None
    if isinstance(layer, GroupNorm) and volume and layer.groups > 1:
        raise ValueError(f"{layer.path} has groups of flattened features, which PyTorch orders differently")
    if any(name in _TORCH_NAMES for name in layer.variables):
        parts.append(_Part(layer, volume if isinstance(layer, (Linear, *_NORMS)) else None))
    for _, inner in layer.children():
        volume = _add_parts(inner, volume, parts)
    return None if isinstance(layer, Linear) else volume


def from_torch(state: object, net: Layer, *, strict: bool = True) -> dict[str, np.ndarray]:
    """A PyTorch module or its state dict as a state for ``net.load_state_dict``.

    Args:
        state: A module, or its tensors or arrays by any names, in the order of the modules.
        net: Built, of the same architecture; variables that PyTorch does not have (dropout's offset) keep their values.
        strict: False omits missing keys and passes unexpected ones on, so that ``net.load_state_dict(found,
            strict=False)`` returns both. Because layers are matched in order, layers can be missing or additional only
            at the end.

    Raises:
        ValueError: The state does not fit the net; the message names each missing or unexpected key, each wrong shape
            and, for a module, each norm of another `eps` or number of groups. Also for a net that groups flattened
            features, or joins them with others, because PyTorch orders them differently.
        TypeError: `state` is neither a module nor a state dict, or holds a tensor that NumPy cannot hold, `net` is not
            a net, or `strict` not a bool.
        RuntimeError: The net has no shapes yet.
    """
    modules = dict(state.named_modules()) if hasattr(state, "named_modules") else {}
    if isinstance(state, Layer) or not isinstance(net, Layer):
        raise TypeError(
            "from_torch takes a PyTorch module or state dict, then the net of gpuconv, received "
            f"{type(state).__name__} and {type(net).__name__}"
        )
    state, strict = _state_of(state, "the state"), flag("strict", strict)
    expect_built(net)
    parts, groups = _parts(net), _groups(state)
    problems = [f"unexpected {prefix}" for prefix in list(groups)[len(parts) :]]
    problems += [f"no module is left for {part.layer.path}" for part in parts[len(groups) :]]
    own_state = {key: backends.to_numpy(value) for key, value in net.state_dict().items()}
    lacking = {_join(part.layer.path, name) for part in parts for name in part.names}
    unused = {key for key in state if not _is_batch_counter(key)}
    others = []
    for part, (prefix, keys) in zip(parts, groups.items()):
        layer = f"for {part.layer.path} ({type(part.layer).__name__})"
        problems += [f"missing {_join(prefix, name)} {layer}" for name in part.names if name not in keys]
        problems += [f"unexpected {keys[name]} {layer}" for name in keys if name not in part.names]
        others += _other_settings(modules.get(prefix), prefix, part.layer)
        for name in part.names:
            if name not in keys:
                continue
            lacking.discard(_join(part.layer.path, name))
            unused.discard(keys[name])
            value, expected = host_array(state[keys[name]], keys[name]), part.torch_shape(name)
            if value.shape != expected:
                others.append(f"{keys[name]} has shape {value.shape} where {part.layer.path} takes {expected}")
            else:
                own_state[_join(part.layer.path, name)] = part.from_torch(name, value)
    if problems := [*(problems if strict else []), *others]:
        raise ValueError(f"the PyTorch state does not fit the net: {'; '.join(problems)}")
    if strict:
        return own_state
    found = {key: value for key, value in own_state.items() if key not in lacking}
    return found | {key: host_array(value, key) for key, value in state.items() if key in unused}


def _other_settings(module: object, prefix: str, layer: Layer) -> list[str]:
    """The settings in which a layer differs from PyTorch's module of that name, if both have them."""
    settings = [(name, getattr(module, name, None), getattr(layer, own, None)) for name, own in _SETTINGS.items()]
    return [
        f"{prefix} has {name}={theirs} where {layer.path} has {ours}"
        for name, theirs, ours in settings
        if theirs is not None and ours is not None and theirs != ours
    ]


def _state_of(state: object, name: str) -> Mapping[str, Any]:
    """The state dict of a module, or the given state dict. name: for messages."""
    if isinstance(state, Layer):  # its class may have the name of one of PyTorch's
        raise TypeError(f"{name} must be a PyTorch module or a state dict, received {type(state).__name__} of gpuconv")
    state_dict = getattr(state, "state_dict", None)
    if not isinstance(state, Mapping) and callable(state_dict):
        state = state_dict()
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        hint = "; torch.load(path, weights_only=True) reads one" if isinstance(state, (str, os.PathLike)) else ""
        raise TypeError(f"{name} must be a PyTorch module or a state dict, received {type(state).__name__}{hint}")
    for key, value in state.items():
        if not hasattr(value, "shape"):
            raise TypeError(
                f"{name} must hold arrays by name, received {type(value).__name__} under {key!r}; a checkpoint "
                "often keeps the state dict under one of its keys, as in checkpoint['state_dict']"
            )
    return state


def to_torch(net: Layer, like: Mapping[str, object] | None = None, *, tensors: bool = False) -> dict[str, Any]:
    """The net's values as a PyTorch state dict, in PyTorch's layouts. Each batch norm gets the `num_batches_tracked`
    that PyTorch expects: that of `like`, or 0.

    Args:
        net: Built.
        like: The PyTorch module or its state dict, whose names are used; by default the net's names.
        tensors: Whether to return PyTorch tensors, which needs PyTorch, instead of NumPy arrays.

    Raises:
        TypeError: `net` is not a net, `tensors` not a bool, or `like` neither a module nor a state dict.
        RuntimeError: The net has no shapes yet.
        ValueError: `like` has another architecture, or the net is refused as in `from_torch`.
    """
    expect_built(net)
    tensors = flag("tensors", tensors)
    if like is not None:
        like = _state_of(like, "like")
        from_torch(like, net)  # only for its checks
    parts = _parts(net)
    prefixes = [part.layer.path for part in parts] if like is None else list(_groups(like))
    state: dict[str, np.ndarray] = {}
    for part, prefix in zip(parts, prefixes):
        for name in part.names:
            state[_join(prefix, name)] = part.to_torch(name, backends.to_numpy(part.layer[name]))
        if isinstance(part.layer, BatchNorm):
            key = _join(prefix, _COUNTER)
            state[key] = host_array(like[key], key) if like and key in like else np.array(0, np.int64)
    return {key: as_tensor(value) for key, value in state.items()} if tensors else state


def _groups(state: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Module -> {variable: key}, in order, from keys such as "features.0.weight"."""
    groups: dict[str, dict[str, str]] = {}
    for key in state:
        prefix, _, name = key.rpartition(".")
        if not _is_batch_counter(key):
            groups.setdefault(prefix, {})[name] = key
    return groups


def _is_batch_counter(key: str) -> bool:
    return key.rpartition(".")[2] == _COUNTER


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def host_array(value: object, key: str) -> np.ndarray:
    """A tensor or an array as a NumPy array with the same bits. key: its name, for messages. Raises TypeError for a
    tensor that NumPy cannot hold."""
    if not hasattr(value, "detach"):
        return backends.to_numpy(value, key)
    try:
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        # NumPy has no bfloat16.
        return backends.to_numpy(tensor, key) if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy()
    except (TypeError, RuntimeError) as error:  # meta, sparse and quantized tensors, and dtypes that NumPy lacks
        raise TypeError(f"{key} cannot become a NumPy array: {one_line(error)}") from error


def as_tensor(value: np.ndarray) -> Tensor:
    import torch

    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)
