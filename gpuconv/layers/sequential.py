"""Layers in a sequence: a net, or a part of one."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from numpy.typing import DTypeLike

from gpuconv import arguments, backends
from gpuconv.dtypes import as_precision
from gpuconv.layers import show
from gpuconv.layers.activation_list import Volumes
from gpuconv.layers.base import Layer
from gpuconv.layers.image_notes import expect_class_names, expect_normalization
from gpuconv.layers.input import Input
from gpuconv.layers.layer_call import (
    adds_input_grad,
    in_place_runs,
    output_arrays,
    reads_slices,
    run,
    takes_slices,
    writes_slices,
)
from gpuconv.layers.layer_list import as_row, copy_built, name_layers
from gpuconv.layers.rewrite import chained_row, fused_row, sliding_row, take_values
from gpuconv.layers.state import descendants
from gpuconv.types import Array, Options, Record, Shape

if TYPE_CHECKING:
    from gpuconv.images.normalization import Normalization


@dataclass(eq=False, repr=False, init=False)
class Sequential(Layer):
    """A sequence of layers, each applied to the output of the one before: a net, or a part of one.

    A list that begins with `Input` is built at once. So is a list that begins with a built layer, unless `share` is
    set. `build` builds any other list; its options take precedence over the constructor's. Layers without a name are
    named by kind and number, conv1, relu1, ..., and `Input` by its kind; ``net["conv1"]`` and ``net[0]`` give a layer.

    A layer that is already built, for example in another net, is copied with its weights, so that no two nets share it:
    ``Sequential([*net[:-1], Linear(3)])`` is a separate net with a new head. A slice, ``net[:-1]``, is a net that
    shares the layers of this one.

    `predict` reads `classes`, the names of the scores, and `normalization`, how the uint8 images of training were
    normalized. Training and `gpuconv.load` set both, and they are saved with the net.

    Args:
        layers: A list, ``Sequential([conv, relu])``, or the first layer.
        more: The other layers, if they are given one by one: ``Sequential(conv, relu)``.
        seed: The seed of the initial weights and of dropout.
        dtype: The dtype of the arrays, in place of precision; see `to`.
        device: Where the arrays live, see `to`; by default where those of built layers are, else NumPy.
        initialize: False creates no weights, which is enough for a `summary`.
        precision: "float32", "tf32", "float16", "bfloat16" or "float64", see `to`; by default that of built layers,
            else "float32".
        share: Use layers that are already built instead of copying them: training one net then trains the other.
    """

    stem = "block"
    takes_parts = True

    layers: Sequence[Layer]
    _: KW_ONLY
    seed: int = 0

    _given = cast(Mapping[str, Any], MappingProxyType({}))  # the constructor's options, from which `build` starts

    def __init__(
        self,
        layers: Iterable[Layer] | Layer,
        *more: Layer,
        name: str | None = None,
        frozen: bool | str | tuple[str, ...] = (),
        seed: int = 0,
        dtype: DTypeLike | None = None,
        device: str | None = None,
        initialize: bool = True,
        precision: str | None = None,
        share: bool = False,
    ) -> None:
        self.name, self.frozen, self.seed = name, frozen, seed
        one_by_one = more or (isinstance(layers, Layer) and not isinstance(layers, Sequential))
        row = as_row((layers, *more) if one_by_one else layers)
        self.layers = row if arguments.flag("share", share) else copy_built(row)
        super().__post_init__()
        name_layers(self.layers)
        self.classes = None
        as_precision(dtype, precision)  # raises for a wrong precision now instead of in `build`
        device = None if device is None else backends.resolve(device)
        initialize = arguments.flag("initialize", initialize)
        self._given = {"dtype": dtype, "device": device, "initialize": initialize, "precision": precision}
        if isinstance(self.layers[0], Input):
            self.build(self.layers[0].shape)
        elif self.layers[0].input_shape is not None and not share:
            self.build(self.layers[0].input_shape)

    def build(self, input_shape: Shape, **options: object) -> Shape:
        """As `Layer.build`; `options` override the constructor's arguments. A net that was built before stays on its
        device and in its precision."""
        given: Options = {"seed": self.seed, **self._given}
        if self.input_shape is not None and any(layer.arrays for layer in self.walk()):
            given = {name: value for name, value in given.items() if name in ("seed", "initialize")}
        if {"dtype", "precision"} & options.keys():  # two names for one setting
            given |= {"dtype": None, "precision": None}
        given |= options
        seed = arguments.seed_value("seed", given.pop("seed"))
        shape = super().build(input_shape, seed=seed, **given)
        self.seed = seed
        return shape

    def children(self) -> Sequence[tuple[str, Layer]]:
        return [(str(layer.name), layer) for layer in self.layers]

    def __getitem__(self, key: int | str | slice) -> Any:  # noqa: ANN401 - a layer of any class, a net or an array
        """A layer by its index or its name ("residual1.conv1" for an inner layer); for a slice, a net that shares
        these layers."""
        if isinstance(key, str):
            return super().__getitem__(key)
        if isinstance(key, slice):
            return self._slice(key)
        if not -len(self.layers) <= (index := operator.index(key)) < len(self.layers):
            raise IndexError(f"the net has layers 0 to {len(self.layers) - 1}, received {index}")
        return self.layers[index]

    @property
    def classes(self) -> Sequence[str] | None:
        """The names of the classes, one for each score."""
        return self._classes

    @classes.setter
    def classes(self, names: Sequence[str] | None) -> None:
        self._classes = None if names is None else expect_class_names(names, self.output_shape)

    @property
    def normalization(self) -> Normalization | None:
        """The normalization of uint8 images for `predict` and training. The first layer holds it, so that nets which
        begin with the same layer share it."""
        return self.layers[0].normalization

    @normalization.setter
    def normalization(self, value: Normalization | None) -> None:
        first: Any = self.layers[0]
        first.normalization = None if value is None else expect_normalization(value, first.input_shape)

    def _slice(self, bounds: slice) -> Sequential:
        if bounds.step not in (None, 1):
            raise ValueError(
                f"a slice of a net shares its layers in their order, so its step must be 1, received {bounds.step}; "
                "Sequential([...]) copies layers in any order"
            )
        layers = self.layers[bounds]
        if not layers:
            raise ValueError(
                f"a net has at least one layer; none of the {len(self)} layers is in {_slice_text(bounds)}"
            )
        part = Sequential(layers, seed=self.seed, initialize=False, share=True)
        if layers[0].input_shape is not None:
            part.place(self.path, layers[0].input_shape)
            part.compute_in(self.dtype, self.tf32, self.device)
        if part.output_shape == self.output_shape:
            part.classes = self.classes
        return part

    def __repr__(self) -> str:
        """A line for each layer: its name, the call that creates it, and its output shape if known."""
        return show.text_of(self)

    def _repr_html_(self) -> str:
        """A table of the layers for notebooks: the output shape and the number of parameters of each."""
        return show.html_of(self)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __contains__(self, item: object) -> bool:
        """Whether `item` is one of the layers, or the name of a layer or variable, such as "residual1.conv1"."""
        if not isinstance(item, str):
            return any(layer is item for layer in self.layers)
        try:
            self[item]
        except ValueError:
            return False
        except RuntimeError:  # a variable that has no value yet, or any name in a layer that is not built
            return self.built
        return True

    @property
    def writes_slices(self) -> bool:  # type: ignore[override]
        """Whether the last layer writes slices."""
        return writes_slices(self.layers[-1])

    @property
    def last_in_inference(self) -> int:
        """The index of the layer that writes the output of `infer`. Going back from the last layer, this
        skips layers that are idle in inference and follow a layer that writes slices."""
        index = len(self.layers) - 1
        while index and self.layers[index].idle_in_inference and writes_slices(self.layers[index - 1]):
            index -= 1
        return index

    @property
    def reads_slices(self) -> bool:  # type: ignore[override]
        """Whether the last layer reads slices."""
        return reads_slices(self.layers[-1])

    @property
    def takes_slices(self) -> bool:  # type: ignore[override]
        """Whether the first layer takes slices."""
        return takes_slices(self.layers[0])

    @property
    def adds_input_grad(self) -> bool:  # type: ignore[override]
        """Whether the first layer adds the input's gradient to an array."""
        return adds_input_grad(self.layers[0])

    def plan(self, input_shape: Shape) -> Shape:
        for name, layer in self.children():
            input_shape = layer.place(f"{self.path}.{name}" if self.path else name, input_shape)
        return input_shape

    def reset(
        self, *, seed: int = 0, dtype: DTypeLike | None = None, device: str = "numpy", precision: str | None = None
    ) -> None:
        super().reset(seed=seed, dtype=dtype, device=device, precision=precision)
        self.seed = arguments.seed_value("seed", seed)

    def config(self) -> Record:
        """As `Layer.config`, with the net's precision unless that is float32."""
        more = {} if self.path or self.precision == "float32" else {"precision": self.precision}
        return super().config() | more

    # --- running -------------------------------------------------------------------------------

    def forward(self, x: Array, training: bool = False, **into: object) -> Array:
        """As `Layer.forward`. into: out and addend, for a last layer that takes them."""
        y = self._run_layers("forward", x, arguments.flag("training", training), **into)
        self._saved = (y.shape, y.dtype) if arguments.is_array(y) else None  # not for a PerPart
        return y

    def infer(self, x: Array, **into: object) -> Array:
        self._saved = None
        return self._run_layers("infer", x, **into)

    def _run_layers(self, method: str, x: Array, *options: object, **into: Any) -> Array:
        """The result of "forward" or "infer" of all layers, one after another."""
        planned = getattr(x, "shape", ())[1:] == self.input_shape  # neither larger images nor a PerPart
        idle = self.layers[self.last_in_inference + 1 :] if method == "infer" else []
        writing = self.layers[: len(self.layers) - len(idle)]
        runs = in_place_runs(writing) if planned else [[layer] for layer in writing]
        addend = {name: value for name, value in into.items() if name != "out"}
        for layers in [*runs, *([layer] for layer in idle)]:
            out = into.get("out") if layers is runs[-1] else None
            for layer, target in zip(layers, output_arrays(layers, x, out)):
                more = addend if layer is writing[-1] else {}
                x = run(layer, method, x, *options, **({} if target is None else {"out": target}), **more)
        return x

    def backward(self, dy: Array, *, input_grad: bool = True, **into: object) -> Array | None:
        """As `Layer.backward`; with input_grad=False it stops at the first layer with a trained variable. into:
        onto, for a first layer that takes it.

        Raises ValueError for a dy of another shape than the output, TypeError for one of another dtype; the kept
        activations remain then.
        """
        if self.kept and arguments.is_array(dy) and (dy.shape, dy.dtype) != self.kept:
            shape, dtype = self.kept
            error = ValueError if dy.shape != shape else TypeError
            raise error(f"dy must have shape {shape} and dtype {dtype}, as the output, received {dy.shape} {dy.dtype}")
        self._saved = None
        if not arguments.flag("input_grad", input_grad) and not self.trainable:
            self.release()
            return None
        end = 0 if input_grad else next(index for index, layer in enumerate(self.layers) if layer.trainable)
        for layer in reversed(self.layers[end + 1 :]):
            dy = run(layer, "backward", dy)
        dx = run(self.layers[end], "backward", dy, input_grad=input_grad, **into)
        for layer in self.layers[:end]:
            layer.release()
        return dx

    def predict(
        self,
        images: object,
        *,
        batch_size: int = 256,
        softmax: bool = False,
        top: int | None = None,
        normalize: bool | None = None,
    ) -> Any:  # noqa: ANN401 - an array, or lists with `top`
        """The scores of images, computed a batch at a time; nothing is kept for backward.

        Args:
            images: (N, H, W, C) or one (H, W, C), as uint8 or floats, on the net's device or in host memory; an image
                file, or a list of files or arrays.
            batch_size: Images computed at a time.
            softmax: Whether to return probabilities over the last axis.
            top: k returns the k most probable classes of each image instead, as a list of (class, probability), the
                best first. A class is its name in `classes`, or its number as text if `classes` is None.
            normalize: By default uint8 images and files are normalized as in training (`normalization`), and floats are
                assumed to be normalized; True or False overrides this.

        Returns: (N, *output volume), or for one image its output volume, on the device of the images.

        Raises:
            TypeError: The images are neither arrays of uint8 or floats nor files.
            ValueError: The images have another shape than the net takes, their normalization is unknown, floats do not
                look normalized, a file holds no image, or `top` is given and the net's output is larger than one score
                for each class.
            OSError: A file cannot be read.
            ImportError: Pillow is not installed, and a file is given.
            RuntimeError: The net is not built or has no weights.
        """
        from gpuconv.layers.predict import predict

        return predict(self, self.classes, images, batch_size=batch_size, softmax=softmax, top=top, normalize=normalize)

    def activations(self, images: object, *, normalize: bool | None = None) -> Volumes:
        """Each layer's output volume, by the layer's name, in forward order: ``volumes["conv1"]``, and for an inner
        layer ``volumes["residual1.conv1"]``. Iteration gives (name, volume) pairs.

        images, normalize: as in `predict`. Volumes are on the net's device, without N for a single image.
        """
        from gpuconv.layers.predict import prepare_images

        x, single = prepare_images(self, images, normalize)
        volumes = Volumes()

        def keep(layer: Layer, x: Array, y: Array) -> None:
            path = layer.path.removeprefix(self.path).removeprefix(".")
            volumes.append((path, y[0] if single else y))

        with ExitStack() as hooked:
            for layer in descendants(self):
                hooked.enter_context(layer.register_forward_hook(keep))
            self.infer(x)
        return volumes

    # --- other nets made from this one ---------------------------------------------------------------

    def copy(
        self, *, device: str | None = None, dtype: DTypeLike | None = None, precision: str | None = None
    ) -> Sequential:
        """A copy with the same layers and values, by default on the same device and in the same precision. Arguments as
        in `Layer.to`.
        """
        return self.twin().to(device, dtype, precision=precision)

    def fuse(self, *, norm_sums: bool | None = None) -> Sequential:
        """This net with several layers fused into one op where possible: the same results with fewer launches and less
        memory traffic.

        - CONV, RELU and optionally a 2 x 2 max POOL become `gpuconv.ops.conv2d_relu`.
        - CONV and another activation become `gpuconv.ops.conv2d` with that activation if the activation's backward
          reads the activation's output, and `gpuconv.ops.conv2d_relu` if it reads the activation's input, as for GELU.
        - CONV and a 2 x 2 max POOL become `gpuconv.ops.conv2d_relu` without the RELU.
        - CONV, optionally a 2 x 2 max POOL, batch norm and optionally an activation become
          `gpuconv.ops.conv2d_batch_norm`.
        - Batch norm and an activation become `gpuconv.ops.batch_norm` with that activation.
        - If the body of a residual block ends in batch norm, the norm's op also adds the shortcut, and applies the
          activation after the block if that activation's backward reads only its output and the norm is not fused with
          a POOL.
        - If a CONV follows a batch norm that is fused in one of these ways, the op that computes the CONV's input
          gradient also computes the norm's backward sums (`gpuconv.ops.batch_norm_backward` with w). A batch norm that
          is fused with a POOL or a shortcut is excluded. A CONV that is fused without a batch norm of its own is
          excluded too.

        Args:
            norm_sums: Whether the last of these fusions is done wherever it is possible; by default only where it is
                expected to be faster, after a norm without an activation.

        A depthwise CONV is never fused with a POOL or a norm; with an activation whose backward reads the activation's
        input, it becomes one layer of two ops. Activations with other options than the defaults, users' own layers, and
        layers with hooks are not fused. Layers inside containers are fused too.

        Outputs have the same bits as those of the unfused net, except where the order of a sum changes: where a device
        splits the sums of the unfused convolution (few images, deep filters), or computes batch statistics in the fused
        convolution. Gradients sum the same products, on some devices in another order; in 16 bits the input's gradient
        of a residual block may be rounded once instead of twice.

        The returned net shares the layers of this one, and so every array: training one trains both. State dicts,
        params and grads have the same keys. Raises RuntimeError for a net that is not built.
        """
        if self.input_shape is None:
            raise RuntimeError("a net is fused after it is built: begin it with Input(...) or call build(input_shape)")
        norm_sums = None if norm_sums is None else arguments.flag("norm_sums", norm_sums)
        net = self.fused()
        own = {id(layer) for layer in self.walk()}
        for row in [layer for layer in net.walk() if isinstance(layer, Sequential) and id(layer) not in own]:
            row.layers = list(chained_row(row.layers, norm_sums))
        net.classes, net.normalization = self.classes, self.normalization
        net.place(self.path, self.input_shape)
        net.compute_in(self.dtype, self.tf32, self.device)
        return net

    def fused(self) -> Sequential:
        if self.has_hooks:
            return self
        return Sequential(
            fused_row(self.layers), name=self.name, frozen=self.frozen, seed=self.seed, initialize=False, share=True
        )

    def as_convolutional(self) -> Sequential:
        """This net with its FC layers converted to CONV layers of the same values: it slides over larger images.

        On an image of the original size it gives the original scores as a 1x1 map. On a larger one it gives a map of
        scores, whose step is the product of all strides. Each score equals the original net's on the image window at
        that position, with these exceptions: with padding or fit="cover", a layer reads neighboring pixels where the
        original reads padding; and at the edges of a window, a ConvTranspose2D whose filters are larger than its stride
        and an Upsample of mode "bilinear" read neighboring pixels where the original has none. If fit="floor" leaves
        the last pixels of the original map unread, the windows of the last scores may extend that many pixels beyond
        the image; these pixels are not read.

        The new net has this net's `classes`. It has this net's `normalization` too, unless that subtracts a mean image,
        which fits only images of the original size.

        Raises ValueError for a net that cannot slide, such as one with a group norm, with batch norm between Flatten
        and FC, or without an Input, and RuntimeError for one without weights.
        """
        if not isinstance(self[0], Input):
            raise ValueError("a net that slides must begin with Input, which gives the size of its windows")
        layers, _ = sliding_row(self.layers)
        twin = Sequential(layers, seed=self.seed, precision=self.precision, device=self.device)
        take_values(twin, self)
        twin.classes, known = self.classes, self.normalization
        if known is not None and known.mean.ndim == known.std.ndim == 1:
            twin.normalization = known
        return twin

    def as_sliding(self, flattened: Shape | None) -> tuple[Layer, Shape | None]:
        layers, flattened = sliding_row(self.layers, flattened)
        return Sequential(layers, name=self.name), flattened


def runs_of(net: Layer) -> list[list[Layer]]:
    """The runs of `in_place_runs` in all sequences of a net."""
    return [each for row in net.walk() if isinstance(row, Sequential) for each in in_place_runs(row.layers)]


def _slice_text(bounds: slice) -> str:
    return ":".join("" if end is None else str(end) for end in (bounds.start, bounds.stop))
