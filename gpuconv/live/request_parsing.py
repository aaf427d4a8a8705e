"""Reads a browser's requests; each is checked completely before anything is done."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np

from gpuconv.checkpoint import parse, parse_json
from gpuconv.images.image_file import Picture
from gpuconv.layers import Input, Layer, Sequential
from gpuconv.layers.registry import layer_class
from gpuconv.types import Json, Record

MOST_PARAMETERS = 50_000_000
MOST_VALUES = 50_000_000  # the values of a layer's output for one image
MOST_LAYERS = 500  # those inside other layers included


class LayerError(ValueError):
    """An edited net has an invalid layer. layer: its index in the list, or None."""

    def __init__(self, message: str, layer: int | None) -> None:
        super().__init__(message)
        self.layer = layer


def read_command(body: bytes) -> tuple[str, Record]:
    """The name and the arguments of a JSON object {"do": NAME, ...}. Raises ValueError for anything else."""
    try:
        found = parse(body.decode())
    except UnicodeDecodeError:
        raise ValueError("a command is JSON in UTF-8") from None
    name = found.pop("do", None)
    if not isinstance(name, str):
        raise ValueError('a command is a JSON object such as {"do": "pause"}')
    return name, found


def read_net(text: object, input_shape: tuple[int, ...], classes: int, seed: int) -> Record:
    """The config of a net from a JSON list of layers, for images of `input_shape` in `classes` classes.

    Raises LayerError with the index of the invalid layer."""
    try:
        listed = parse_json(str(text))
    except json.JSONDecodeError as error:
        raise LayerError(f"this is not JSON: {error.msg}: line {error.lineno} column {error.colno}", None) from None
    except ValueError as error:
        raise LayerError(f"this is not JSON: {error}", None) from None
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_LAYERS:
        raise LayerError(f"a net is a list of 1 to {MOST_LAYERS} layers", None)
    shape, count = tuple(input_shape), 0
    for number, config in enumerate(listed):
        try:
            layer = Layer.from_config(config)
            if isinstance(layer, Input):
                raise ValueError("leave Input out of this list: the input follows from the images")
            shape = layer.place("", shape)
            for each in layer.walk():
                _expect_bounded(each)
                count += 1
            if count > MOST_LAYERS:
                raise ValueError(f"a net has at most {MOST_LAYERS} layers, those inside others included")
        except Exception as error:  # the browser may send options of any type
            raise LayerError(f"layer {number + 1}: {error}", number) from None
    if shape != (classes,):
        raise LayerError(
            f"layer {len(listed)}: the last layer must give {classes} scores, one for each class; it gives {[*shape]}",
            len(listed) - 1,
        )
    try:
        fresh = [Layer.from_config(config) for config in listed]
        net = Sequential([Input(input_shape), *fresh], seed=seed, initialize=False)
    except (ValueError, TypeError) as error:  # two layers have the same name
        raise LayerError(str(error), None) from None
    if net.parameter_count > MOST_PARAMETERS:
        parameters = f"{net.parameter_count:,} parameters"
        raise LayerError(f"the net has {parameters}; at most {MOST_PARAMETERS:,} are allowed", None)
    return net.config()


def write_net(config: Record) -> str:
    """The layers after the input, one per line, without defaults; `read_net` reads this."""
    lines = [json.dumps(_without_defaults(layer)) for layer in config["layers"] if layer["layer"] != "Input"]
    return "[\n  " + ",\n  ".join(lines) + "\n]"


def read_image(body: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """An image file as uint8 (H, W, C) of the net's size, and a line about its conversion."""
    height, width, channels = shape
    picture = Picture.decode(io.BytesIO(body), "this file")
    image = picture.array(size=(height, width), channels=channels)
    original = f"{picture.image.height}x{picture.image.width}, mode {picture.mode}"
    return image, f"{original}, as {height}x{width} with {channels} channel{'s' * (channels > 1)}"


def read_drawing(body: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """A drawing as an image of the net's size: one byte per pixel, row-major, the same in every channel."""
    height, width, channels = shape
    if len(body) != height * width:
        raise ValueError(f"a drawing has {height * width} bytes, one for each pixel, received {len(body)}")
    return np.repeat(np.frombuffer(body, np.uint8).reshape(height, width, 1), channels, axis=2)


def _expect_bounded(layer: Layer) -> None:
    count = layer.parameter_count
    values = int(np.prod([float(size) for size in layer.output_shape or ()]))
    if count > MOST_PARAMETERS or values > MOST_VALUES:
        raise ValueError(
            f"{type(layer).__name__} has {count:,} parameters and gives {values:,} values; at most {MOST_PARAMETERS:,} "
            f"parameters and {MOST_VALUES:,} values are allowed"
        )


def _without_defaults(config: Json) -> Json:
    """A net's config without names and without settings that have their defaults."""
    if isinstance(config, list):
        return [_without_defaults(entry) for entry in config]
    if not isinstance(config, dict) or "layer" not in config:
        return config
    defaults = {entry.name: entry.default for entry in dataclasses.fields(layer_class(config["layer"]))}
    own = {name: _without_defaults(value) for name, value in config.items() if name not in ("layer", "name", "frozen")}
    kept = {name: value for name, value in own.items() if value != _as_in_config(defaults.get(name))}
    frozen = {"frozen": config["frozen"]} if config.get("frozen") else {}
    return {"layer": config["layer"], **kept, **frozen}


def _as_in_config(default: object) -> object:
    """A layer's default as a config holds it, with a list for a tuple."""
    return list(default) if isinstance(default, tuple) else default
