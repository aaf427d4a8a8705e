"""A net as one safetensors file: `Layer.save` writes it, `gpuconv.load` reads it.

The file is a checkpoint (`gpuconv/checkpoint.py`) of only the net: the arrays are ``net.*``, the state holds the net's
config, classes and normalization.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gpuconv import backends
from gpuconv.checkpoint import Checkpoint
from gpuconv.checkpoint import save as write
from gpuconv.images.normalization import Normalization
from gpuconv.layers.protocol import AnyLayer
from gpuconv.types import Record
from gpuconv.version import __version__

NOTES = ("classes", "mean", "std", "input_shape")


def save(net: AnyLayer, path: object, *values: object) -> None:
    """See `Layer.save`."""
    if values or not isinstance(path, (str, os.PathLike)):
        return _stash(net, *(() if path is None else (path, *values)))
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; save takes the name of a file, such as {path / 'net.safetensors'}"
        )
    if not net.built:
        raise RuntimeError("the net has no weights yet: begin it with Input(...) or call build(input_shape)")
    write(path, checkpoint_of(net))


def _stash(layer: AnyLayer, *values: object) -> None:
    """The former meaning of `save` in users' layers, now `stash`. Raises TypeError for other layers."""
    if not layer.is_foreign or layer.children():
        received = ", ".join(type(value).__name__ for value in values) or "no path"
        raise TypeError(
            f"save(path) writes the net to a file, received {received}; a layer keeps what its backward needs with "
            "self.stash(...)"
        )
    warnings.warn("the layer calls save(...), which is called stash(...) now", DeprecationWarning, stacklevel=4)
    layer.stash(*values)


def checkpoint_of(net: AnyLayer) -> Checkpoint:
    """A checkpoint of the net, without optimizer state."""
    tensors = backends.host_copies({f"net.{key}": array for key, array in net.state_dict().items()})
    state = {"gpuconv": __version__, "net": net.config(), "input_shape": list(net.input_shape or ())}
    return Checkpoint(tensors, notes(net) | state)


def notes(net: AnyLayer) -> Record:
    """The metadata of a net's images, JSON-serializable: the entries of `NOTES` that are set."""
    classes, normalization = getattr(net, "classes", None), getattr(net, "normalization", None)
    found: Record = {}
    if classes is not None:
        found["classes"] = list(classes)
    if normalization is not None:
        found |= {"mean": normalization.mean.tolist(), "std": normalization.std.tolist()}
    return found | {"input_shape": list(net.input_shape or ())}


class Noted(Protocol):
    """A net that keeps metadata about its images."""

    classes: Sequence[str] | None
    normalization: Normalization | None


def take_notes(net: Noted, found: Record) -> None:
    """Set a net's classes and normalization from its notes."""
    net.classes = found.get("classes")
    net.normalization = Normalization(found["mean"], found["std"]) if "mean" in found else None
