"""Checks that a checkpoint belongs to a net."""

from __future__ import annotations

import os

import numpy as np

from gpuconv.checkpoint import Checkpoint, CheckpointError, as_json
from gpuconv.dtypes import converted, is_float
from gpuconv.layers.base import Layer
from gpuconv.training.compare_settings import differences, in_current_form, without_frozen


def check_net(path: str | os.PathLike[str], checkpoint: Checkpoint, net: Layer) -> None:
    """Raise CheckpointError, naming the first difference, if a checkpoint holds no net or belongs to another net than
    `net`, or if a weight is not finite or a buffer is NaN. Which layers are frozen does not matter. The net may have no
    weights (initialize=False)."""
    stored = checkpoint.state.get("net")
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path} holds no net; its state has {', '.join(checkpoint.state) or 'no entry'}")
    unseeded = {"seed": None}  # ignores the seed of the initial weights
    there, here = (without_frozen(config) for config in (in_current_form(stored), as_json(net.config())))
    found = differences(there | unseeded, here | unseeded)
    if found:
        raise CheckpointError(f"{path} is a checkpoint of another net: {found[0]}")
    check_arrays(path, checkpoint.part("net"), net)


def check_arrays(
    path: str | os.PathLike[str], there: dict[str, np.ndarray], net: Layer, same_dtype: bool = True
) -> None:
    """Raise CheckpointError that names the first array that is missing, does not belong to the net, has another shape
    or dtype, or holds NaN or infinity. Buffers may hold infinity.

    same_dtype: False accepts floats of any dtype that fit into the net's dtype."""
    found: list[str] = []
    variables = {key: layer.variables[name] for key, layer, name in net.named_variables()}
    own = {
        key: layer.arrays.get(name, variables[key].stand_in(layer.dtype)) for key, layer, name in net.named_variables()
    }
    for name in [*own, *there]:
        if name not in own or name not in there:
            found.append(f"{name} is {'not part of this net' if name in there else 'missing'}")
        elif tuple(own[name].shape) != there[name].shape:
            found.append(f"{name} has shape {there[name].shape} there and {tuple(own[name].shape)} here")
        elif own[name].dtype != there[name].dtype and (same_dtype or not is_float(there[name].dtype)):
            found.append(f"{name} is {there[name].dtype.name} there and {own[name].dtype.name} here")
    if found:
        raise CheckpointError(f"{path} is a checkpoint of another net: {found[0]}")
    for name, array in there.items():
        if np.isnan(array).any():
            raise CheckpointError(f"{path}: {name} holds NaN ({np.isnan(array).sum()} of {array.size} values)")
        if not variables[name].buffer and np.isinf(array).any():
            raise CheckpointError(f"{path}: {name} holds infinity ({np.isinf(array).sum()} of {array.size} values)")
        try:
            converted(name, array, own[name].dtype)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
