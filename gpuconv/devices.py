"""Devices, and the device of an array. `gpuconv.backends` opens devices and moves arrays."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuconv.names import canonical
from gpuconv.types import Array

KINDS = ("numpy", "emulated", "cuda")
_ALIASES = {"cpu": "numpy"}  # other names, used by PyTorch, JAX and Keras
KIND_OF_TYPE: dict[type, str | None] = {np.ndarray: "numpy"}
SUBCLASSES: set[type] = set()  # subclasses of NumPy's array seen so far; ops receive plain views of them
MASKED = "masked"  # the kind of masked arrays, which no device accepts


class DeviceError(RuntimeError):
    """The requested device is not available; the message says what is missing."""


class SettingError(DeviceError, ValueError):
    """An environment variable that a device reads has an invalid value."""


@dataclass(frozen=True)
class Device:
    """A device, by its kind and index. kind: one of KINDS, or "auto", which `gpuconv.backends.resolve` replaces. index:
    the index of a CUDA device. any_gpu: whether the name leaves the GPU open, as "cuda" and "auto" do."""

    kind: str
    index: int = 0
    any_gpu: bool = field(default=False, compare=False)

    @staticmethod
    def named(name: str) -> Device:
        """The device of this name. Another library's device, such as `x.device` of a CuPy array, is read by its text.
        Raises ValueError for an unknown name."""
        return _named(str(name))  # CuPy's devices cannot be keys of a cache

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU: its times are meaningful, and launches are asynchronous."""
        return self.kind == "cuda"

    @property
    def emulated(self) -> bool:
        """Whether it runs the CUDA kernels on the CPU: its times are meaningless."""
        return self.kind == "emulated"

    @property
    def automatic(self) -> bool:
        """Whether it is "auto", which stands for another device."""
        return self.kind == "auto"

    @property
    def runs_kernels(self) -> bool:
        """Whether ops run as CUDA kernels, on a GPU or emulated: they have algorithms, and a step can be captured."""
        return self.kind in ("cuda", "emulated")


@functools.cache
def _named(text: str) -> Device:
    name = f"cuda:{text[13:-1]}" if text.startswith("<CUDA Device ") else text  # CuPy's text
    kind, colon, index = name.partition(":")
    kind = canonical("device", _ALIASES.get(kind.lower(), kind), (*KINDS, "auto"))
    if colon and (kind != "cuda" or not (index.isascii() and index.isdigit())):
        raise ValueError(f"a device is numpy (or cpu), cuda, cuda:1, emulated or auto, received {text!r}")
    return Device(kind, int(index or 0), any_gpu=not colon and kind in ("cuda", "auto"))


def kind_of(array: object) -> str | None:
    """The kind of the device on which an array lives, found by the array's type. `MASKED` for a masked array, None for
    any other object."""
    array_type = type(array)
    if array_type in KIND_OF_TYPE:
        return KIND_OF_TYPE[array_type]
    modules = [base.__module__ for base in array_type.__mro__]
    kind: str | None = None
    if any(module.startswith("gpuconv.backends.cuda.emulator") for module in modules):
        kind = "emulated"
    elif any(module.partition(".")[0] == "cupy" for module in modules) and hasattr(array, "data"):
        kind = "cuda"
    elif isinstance(array, np.ndarray):
        kind = MASKED if isinstance(array, np.ma.MaskedArray) else "numpy"
        SUBCLASSES.add(array_type)
    KIND_OF_TYPE[array_type] = kind
    return kind


@functools.cache
def gpu_name(index: int) -> str:
    """The name of the GPU of this index, such as "cuda:1"."""
    return f"cuda:{index}"


def device_or_none(array: Any) -> str | None:  # noqa: ANN401 - any object
    """The name of the array's device; None for anything that is not an array, and `MASKED` for a masked one."""
    kind = kind_of(array)
    return gpu_name(array.device.id) if kind == "cuda" else kind


def device_of(array: object, name: str = "the array") -> str:
    """The name of the device an array lives on: "numpy", "emulated", "cuda:0", ...

    name: for messages. Raises TypeError for anything that is not an array, and for a masked one.
    """
    device = device_or_none(array)
    if device is None:
        raise TypeError(
            f"expected an array of NumPy or CuPy, received {type(array).__name__}; gpuconv.asarray makes one"
        )
    if device == MASKED:
        raise masked_array_error(name)
    return device


def is_on(x: Any, device: str) -> bool:  # noqa: ANN401 - any object
    """Whether `x` is an array on `device`. device: not "auto"."""
    named = Device.named(device)
    return kind_of(x) == named.kind and (not named.on_gpu or x.device.id == named.index)


def masked_array_error(name: str) -> TypeError:
    return TypeError(f"{name} must not be a masked array, as its mask would be lost; x.filled(value) makes a plain one")


def address(array: Array) -> int:
    """The address of an array in its device's memory."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
