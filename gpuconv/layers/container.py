"""Layers made of layers: a list in a row, and a row with a way around it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import TYPE_CHECKING, Any

from gpuconv import arguments, backends, ops
from gpuconv.dtypes import as_precision, is_float
from gpuconv.layers import show
from gpuconv.layers.base import Layer
from gpuconv.layers.image_notes import class_names, fitting
from gpuconv.layers.rewrite import fused_row, slid_row, take_values
from gpuconv.layers.row import as_row, name_layers, own
from gpuconv.layers.running import call, run
from gpuconv.layers.shapes import Shape
from gpuconv.layers.state import descendants
from gpuconv.layers.volumes import Volumes
from gpuconv.problems import channels_first
from gpuconv.types import Array

if TYPE_CHECKING:
    from gpuconv.data import Normalization


@dataclass(eq=False, repr=False)
class Input(Layer):
    """The image volume a net takes, (H, W, C). larger=True lets bigger maps through, of the same depth."""

    stem = "input"
    numbered = False

    shape: tuple[int, ...]
    _: KW_ONLY
    larger: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shape = tuple(arguments.integer(f"shape[{axis}]", size, 1) for axis, size in enumerate(self.shape))

    def plan(self, input_shape: Shape) -> Shape:
        self.expect(input_shape)
        return input_shape

    def expect(self, shape: Shape) -> None:
        """Raise ValueError for a volume that the net does not take."""
        fits = (
            (
                len(shape) == len(self.shape)
                and shape[-1] == self.shape[-1]
                and all(size >= least for size, least in zip(shape, self.shape))
            )
            if self.larger
            else tuple(shape) == self.shape
        )
        if not fits:
            accepted = f"{_by(self.shape)} (height x width x depth){' or larger maps' if self.larger else ''}"
            hint = self._layout_hint(tuple(shape))
            raise ValueError(f"the net takes volumes of {accepted}, received {_by(shape)}{hint}")

    def _layout_hint(self, shape: Shape) -> str:
        if len(shape) == 3 and len(self.shape) == 3 and (*shape[1:], shape[0]) == self.shape:
            return channels_first("x")
        one = len(shape) == len(self.shape) - 1 and len(shape) > 0
        return "; the first axis counts the images: x[None] is a batch of one" if one else ""

    def forward(self, x: Array, training: bool = False) -> Array:
        self.expect(tuple(x.shape[1:]))
        if not is_float(x.dtype):
            raise TypeError(
                f"the net computes with floats, received {x.dtype.name}; net.predict(images) takes uint8 images, and "
                "normalises them as training did"
            )
        self.stash()
        return x

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        self.unstash()
        return dy if input_grad else None

    def slid(self, flattened: Shape | None) -> tuple[Layer, Shape | None]:
        return Input(self.shape, larger=True, name=self.name), flattened


@dataclass(eq=False, repr=False)
class Sequential(Layer):
    """Layers in a row, each fed with the volume before it: a net, or a part of one.

    seed draws its weights, precision (or dtype) and device say what and where they are (see `to`), and initialize=False
    makes none, which is enough for a `summary`. A list that begins with `Input`, or with a layer that is built, is
    built at once, another by `build`, whose own options come first. Layers without a name are called by kind and
    number, conv1, relu1, ...; ``net["conv1"]`` and ``net[0]`` give a layer.

    A layer that is built already, in another net say, is copied with its weights, so that no two nets share one:
    ``Sequential([*net[:-1], Linear(3)])`` is a net of its own with a new head. With share=True it is taken itself, and
    to train one net trains the other. A slice, ``net[:-1]``, is a net that shares the layers of this one.

    classes, the names of its scores, and normalization, of the uint8 images that it was trained on, are what `predict`
    reads. Training and `gpuconv.load` set them, and they are saved with the net.
    """

    stem = "block"

    layers: Sequence[Layer]
    _: KW_ONLY
    seed: int = 0
    dtype: InitVar[Any] = None
    device: InitVar[str | None] = None
    initialize: InitVar[bool] = True
    precision: InitVar[str | None] = None
    share: InitVar[bool] = False

    def __post_init__(
        self, dtype: Any, device: str | None, initialize: bool, precision: str | None, share: bool
    ) -> None:
        super().__post_init__()
        self.layers = as_row(self.layers)
        if not share:
            self.layers = own(self.layers)
        name_layers(self.layers)
        self.classes = None
        as_precision(dtype, precision)  # refuses what is wrong now rather than in `build`
        device = None if device is None else backends.resolve(device)
        self._given = {"dtype": dtype, "device": device, "initialize": initialize, "precision": precision}
        if isinstance(self.layers[0], Input):
            self.build(self.layers[0].shape)
        elif self.layers[0].input_shape is not None and not share:
            self.build(self.layers[0].input_shape)

    def build(self, input_shape: Shape, **options: Any) -> Shape:
        """As every layer's, with what the constructor was given where `options` do not say otherwise."""
        given = {"seed": self.seed} | self._given
        if {"dtype", "precision"} & options.keys():  # two ways to say one thing
            del given["dtype"], given["precision"]
        given |= options
        seed = arguments.seed_value("seed", given.pop("seed"))
        shape = super().build(input_shape, seed=seed, **given)
        self.seed = seed
        return shape

    def children(self) -> Sequence[tuple[str, Layer]]:
        return [(str(layer.name), layer) for layer in self.layers]

    def __getitem__(self, key: int | str | slice) -> Any:
        """A layer by its place in the row or by its name, "residual1.conv1" for one inside another; of a slice, a net
        that shares these layers."""
        if isinstance(key, str):
            return super().__getitem__(key)
        return self._part(key) if isinstance(key, slice) else self.layers[operator.index(key)]

    @property
    def classes(self) -> Sequence[str] | None:
        """The names of the classes, one for each score."""
        return self._classes

    @classes.setter
    def classes(self, names: Sequence[str] | None) -> None:
        self._classes = None if names is None else class_names(names, self.output_shape)

    @property
    def normalization(self) -> Normalization | None:
        """What `predict` and training normalise uint8 images by. The first layer keeps it, so that it goes with that
        layer into another net."""
        return self.layers[0].normalization

    @normalization.setter
    def normalization(self, value: Normalization | None) -> None:
        first: Any = self.layers[0]
        first.normalization = None if value is None else fitting(value, first.input_shape)

    def _part(self, places: slice) -> Sequential:
        layers = self.layers[places]
        if not layers:
            raise ValueError(f"a net has at least one layer, and of its {len(self)} none is in {_written(places)}")
        part = Sequential(layers, seed=self.seed, initialize=False, share=True)
        if layers[0].input_shape is not None:
            part.place(self.path, layers[0].input_shape)
            part.dtype, part.tf32, part.device = self.dtype, self.tf32, self.device
        if part.output_shape == self.output_shape:
            part._classes = self._classes
        return part

    def __repr__(self) -> str:
        """A line for each layer: its name, the call that makes it, and its output's shape where that is known."""
        return show.row(self)

    def _repr_html_(self) -> str:
        """A table of the layers for notebooks, as `gpuconv.summary.summary` counts them."""
        return show.html_of(self)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def plan(self, input_shape: Shape) -> Shape:
        for name, layer in self.children():
            input_shape = layer.place(f"{self.path}.{name}" if self.path else name, input_shape)
        return input_shape

    def reset(self, *, seed: int = 0, dtype: Any = None, device: str = "numpy", precision: str | None = None) -> None:
        self.seed = arguments.seed_value("seed", seed)
        super().reset(seed=seed, dtype=dtype, device=device, precision=precision)

    def config(self) -> dict[str, Any]:
        """As every layer's; a net's has its precision too, where that is not float32."""
        own = {} if self.path or self.precision == "float32" else {"precision": self.precision}
        return super().config() | own

    # --- running -------------------------------------------------------------------------------

    def forward(self, x: Array, training: bool = False) -> Array:
        for layer in self.layers:
            x = run(layer, "forward", x, training)
        return x

    def infer(self, x: Array) -> Array:
        for layer in self.layers:
            x = run(layer, "infer", x)
        return x

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        """As every layer's; with input_grad=False it ends at the first layer that has something to train."""
        if not input_grad and not self.trainable:
            self.release()
            return None
        end = 0 if input_grad else next(place for place, layer in enumerate(self.layers) if layer.trainable)
        for layer in reversed(self.layers[end + 1 :]):
            dy = run(layer, "backward", dy)
        dx = run(self.layers[end], "backward", dy, input_grad=input_grad)
        for layer in self.layers[:end]:
            layer.release()
        return dx

    def predict(
        self,
        images: Any,
        *,
        batch_size: int = 256,
        softmax: bool = False,
        top: int | None = None,
        normalize: bool | None = None,
    ) -> Any:
        """The scores of images, computed a batch at a time; nothing is kept for backward.

        images: (N, H, W, C) or one (H, W, C), as uint8 or floats, on the net's device or in host memory; an image file,
        or a list of files or arrays. uint8 and files are normalised as in training (`normalization`), floats are taken
        as the net was trained on them; normalize says otherwise.

        Returns (N, *output volume), or of one image its volume, as an array where the images were; with softmax=True
        probabilities over the last axis. top: instead the so many most probable classes of each image, as a list of
        (class, probability), the best first.

        Raises ValueError where it is not known how to normalise, and for floats that cannot have been normalised.
        """
        from gpuconv.layers.predict import predict

        return predict(self, images, batch_size=batch_size, softmax=softmax, top=top, normalize=normalize)

    def activations(self, images: Any, *, normalize: bool | None = None) -> Volumes:
        """Each layer's output volume, by the layer's name, in forward order: ``volumes["conv1"]``, and for one inside
        another layer ``volumes["residual1.conv1"]``. To iterate over it gives (name, volume) pairs.

        images, normalize: as in `predict`. Volumes are on the net's device, those of one image without N.
        """
        from gpuconv.layers.predict import prepared

        x, single = prepared(self, images, normalize)
        volumes = Volumes()

        def keep(layer: Layer, x: Array, y: Array) -> None:
            path = layer.path.removeprefix(self.path).removeprefix(".")
            volumes.append((path, y[0] if single else y))

        with ExitStack() as hooked:
            for layer in descendants(self):
                hooked.enter_context(layer.register_forward_hook(keep))
            self.infer(x)
        return volumes

    # --- making other nets of it ---------------------------------------------------------------

    def copy(self, *, device: str | None = None, dtype: Any = None, precision: str | None = None) -> Sequential:
        """A net of its own with the same layers and values, by default on the same device and of the same precision."""
        numbers = {"dtype": dtype, "precision": precision if dtype is not None else precision or self.precision}
        twin = Layer.from_config(self.config(), device=device or self.device, **numbers)
        twin.load_state_dict(self.state_dict())
        twin.classes, twin.normalization = self.classes, self.normalization
        return twin

    def fuse(self) -> Sequential:
        """This net with runs of layers in one op each, in fewer launches and trips through memory: the same results.

        CONV with RELU and a 2 x 2 max POOL become `gpuconv.ops.conv2d_relu`, CONV with another activation that keeps
        its output `gpuconv.ops.conv2d` with that activation, CONV with batch norm and maybe an activation
        `gpuconv.ops.conv2d_batch_norm`, batch norm and an activation `gpuconv.ops.batch_norm` with it, also inside rows
        and residual blocks; other layers stay. Activations are the same numbers, bit for bit, unless a device splits
        the sums of a convolution alone (few images, deep filters) or takes batch statistics where it is made, in
        another order; gradients are sums of the same products, of which filters and biases behind a pool add theirs in
        another order.

        The net returned shares the layers of this one, and so every array: training one trains both. State dicts,
        params and grads have the same keys. Raises RuntimeError for a net that was not built.
        """
        if self.input_shape is None:
            raise RuntimeError("a net is fused after it is built: begin it with Input(...) or call build(input_shape)")
        net = self.fused()
        net.classes, net.normalization = self.classes, self.normalization
        net.place(self.path, self.input_shape)
        for layer in net.walk():
            layer.dtype, layer.tf32, layer.device = self.dtype, self.tf32, self.device
        return net

    def fused(self) -> Sequential:
        if self.has_hooks:
            return self
        return Sequential(
            fused_row(self.layers), name=self.name, frozen=self.frozen, seed=self.seed, initialize=False, share=True
        )

    def as_convolutional(self) -> Sequential:
        """A net of CONV layers alone with the same values, which slides over larger images in one pass.

        On an image of the original size it gives the original scores as a 1x1 map; on a larger one, a map of scores at
        steps of the product of all strides. Each equals the original net's on the window of the original size there, as
        long as every window of a layer lies inside the layer's map: at the borders of a window, a layer with padding or
        fit="cover" sees the neighbourhood where the original sees nothing. Where fit="floor" left a rest of the
        original map unread, there may be scores whose window ends that much beyond the image, in what they do not read.

        Raises ValueError for a net that cannot slide: one with batch norm between Flatten and FC, or without an Input.
        """
        if not isinstance(self[0], Input):
            raise ValueError("a net that slides begins with Input, which says how large its windows are")
        layers, _ = slid_row(self.layers)
        twin = Sequential(layers, seed=self.seed, precision=self.precision, device=self.device)
        take_values(twin, self)
        return twin

    def slid(self, flattened: Shape | None) -> tuple[Layer, Shape | None]:
        layers, flattened = slid_row(self.layers, flattened)
        return Sequential(layers, name=self.name), flattened


def _takes_layers_one_by_one(init: Any) -> Any:
    """The constructor that takes layers as PyTorch's does too, ``Sequential(conv, relu)``."""

    @functools.wraps(init)
    def constructor(self: Sequential, *layers: Any, **options: Any) -> None:
        is_row = layers and (not isinstance(layers[0], Layer) or isinstance(layers[0], Sequential))
        one_by_one = len(layers) > 1 or (layers and not is_row)
        init(self, *([layers] if one_by_one else layers), **options)

    return constructor


Sequential.__init__ = _takes_layers_one_by_one(Sequential.__init__)  # type: ignore[method-assign]
del Sequential.precision  # the default of the constructor's argument, which would hide the property of that name


@dataclass(eq=False, repr=False)
class Residual(Layer):
    """body(x) + shortcut(x), where no shortcut means x itself (He et al. 2015).

    body, shortcut: layers in a row, as a list or a `Sequential`. Keys read "residual1.conv1.weight" for the body and
    "residual1.shortcut.conv1.weight" for the shortcut.
    """

    stem = "residual"

    body: Sequence[Layer] | Sequential
    shortcut: Sequence[Layer] | Sequential | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._body = _row(self.body)
        self._shortcut = None if self.shortcut is None else _row(self.shortcut)

    @property
    def rows(self) -> tuple[Sequential, Sequential | None]:
        """The body and the shortcut."""
        return self._body, self._shortcut

    def children(self) -> Sequence[tuple[str, Layer]]:
        return [("", self._body)] + ([("shortcut", self._shortcut)] if self._shortcut else [])

    def plan(self, input_shape: Shape) -> Shape:
        body = self._body.place(self.path, input_shape)
        around = input_shape
        if self._shortcut:
            around = self._shortcut.place(f"{self.path}.shortcut" if self.path else "shortcut", input_shape)
        if body != around:
            raise ValueError(
                f"the body gives {body} but the way around it {around}, which cannot be added; "
                "a shortcut such as [Conv2D(channels, 1, stride=...)] can match them"
            )
        return body

    def forward(self, x: Array, training: bool = False) -> Array:
        y = call(self._body, "forward", x, training)
        return ops.add(y, call(self._shortcut, "forward", x, training) if self._shortcut else x)

    def infer(self, x: Array) -> Array:
        y = call(self._body, "infer", x)
        return ops.add(y, call(self._shortcut, "infer", x) if self._shortcut else x)

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        dx: Any = call(self._body, "backward", dy, input_grad=input_grad)
        around = call(self._shortcut, "backward", dy, input_grad=input_grad) if self._shortcut else dy
        return ops.add(dx, around) if input_grad else None

    def fused(self) -> Residual:
        if self.has_hooks or any(row and row.has_hooks for row in self.rows):
            return self
        return Residual(
            self._body.fused(), self._shortcut and self._shortcut.fused(), name=self.name, frozen=self.frozen
        )


def _by(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _row(layers: Sequence[Layer] | Sequential) -> Sequential:
    if not isinstance(layers, Sequential):
        return Sequential(as_row(layers))
    return layers.twin() if layers.built else layers


def _written(places: slice) -> str:
    return ":".join("" if end is None else str(end) for end in (places.start, places.stop))
