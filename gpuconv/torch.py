"""gpuconv's operations as PyTorch operators with gradients, for PyTorch's tensors and layout::

    net = gpuconv.torch.replace(net)          # every Conv2d and Linear inside runs our kernels
    y = gpuconv.torch.conv2d(x, w, padding=1)  # or one call

Tensors share memory with our arrays. Volumes are NCHW; in channels_last memory, which results have, our kernels read
them as NHWC without a copy. CUDA tensors run on PyTorch's current stream, CPU tensors on "numpy", or on "emulated"
inside ``with gpuconv.torch.cpu_device("emulated")``. `torch.compile` leaves each operator as it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from gpuconv.types import Array, Options, Pair

try:
    import torch
except ImportError as error:
    raise ImportError("gpuconv.torch needs PyTorch; see pytorch.org for its installation") from error

from gpuconv import backends, ops, problems
from gpuconv.arguments import flag, integer, pair
from gpuconv.interop.torch import as_tensor, host_array
from gpuconv.names import lookup
from gpuconv.types import Padding, Size
from gpuconv.window_sizes import padding_pairs

__all__ = ["ACTIVATIONS", "Conv2d", "Linear", "avg_pool2d", "conv2d", "cpu_device", "linear", "max_pool2d", "replace"]

Tensor = torch.Tensor

_cpu_device: ContextVar[str] = ContextVar("the device that CPU tensors run on", default="numpy")


@contextlib.contextmanager
def cpu_device(name: str) -> Iterator[None]:
    """A context in which operators on CPU tensors run on another device; backward too, if called inside.

    Args:
        name: "numpy", which is the default outside, or "emulated".

    Raises ValueError for another name.
    """
    name = lookup("device of CPU tensors", name, {"numpy": "numpy", "emulated": "emulated"})
    token = _cpu_device.set(name)
    try:
        yield
    finally:
        _cpu_device.reset(token)


# --- calls -------------------------------------------------------------------------------------


def conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """As `torch.nn.functional.conv2d`, by `gpuconv.ops.conv2d`.

    Args:
        x: (N, C, H, W), float64, float32, float16 or bfloat16.
        w: Filters, (K, C // groups, R, S), of x's dtype.
        bias: (K,), of x's dtype, or None.
        stride, dilation: In pixels, above 0: one number, or (vertical, horizontal).
        padding: Zeros around x, in pixels: one number, (vertical, horizontal), ((top, bottom), (left, right)), "valid",
            or at stride 1 "same".
        groups: Divides C and K.

    Returns:
        y, (N, K, P, Q), of x's dtype, in channels_last memory.

    Raises:
        TypeError, ValueError: An argument is no tensor, or its shape, dtype or device does not fit.
    """
    stride, dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
    _expect_axes(4, x=x, w=w)
    groups = integer("groups", groups, 1)
    (top, bottom), (left, right) = padding_pairs(padding, (int(w.shape[2]), int(w.shape[3])), stride, dilation)
    return torch.ops.gpuconv.conv2d(x, w, bias, stride, [top, bottom, left, right], dilation, groups)


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ w.T + bias, as `torch.nn.functional.linear`, by `gpuconv.ops.linear`.

    Args:
        x: (..., in_features), float64, float32, float16 or bfloat16.
        w: (out_features, in_features), of x's dtype.
        bias: (out_features,), of x's dtype, or None.

    Returns:
        y, (..., out_features), of x's dtype.

    Raises:
        TypeError, ValueError: An argument is no tensor, or its shape, dtype or device does not fit.
    """
    _expect_axes(2, w=w)
    if not isinstance(x, Tensor) or not x.ndim:
        raise _wrong_tensor_error("x", "(..., in_features)", x)
    return torch.ops.gpuconv.linear(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), w, bias).reshape(
        *x.shape[:-1], w.shape[0]
    )


def max_pool2d(x: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Tensor:
    """The largest value of each window, as `torch.nn.functional.max_pool2d`, by `gpuconv.ops.max_pool2d`.

    Args:
        x: (N, C, H, W), float64, float32, float16 or bfloat16.
        kernel_size: In pixels: one number, or (height, width); a window has at most 256 pixels.
        stride: In pixels, above 0: one number, or (vertical, horizontal); by default the kernel size.
        padding: Pixels around x that never win: one number, or (vertical, horizontal).

    Returns:
        y, (N, C, P, Q), of x's dtype, in channels_last memory.

    Raises:
        TypeError, ValueError: x is no tensor with four axes, or a window is too large.
    """
    _expect_axes(4, x=x)
    return torch.ops.gpuconv.max_pool2d(x, *_window(kernel_size, stride, padding))[0]


def avg_pool2d(
    x: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, count_include_pad: bool = True
) -> Tensor:
    """The mean of each window, as `torch.nn.functional.avg_pool2d`, by `gpuconv.ops.avg_pool2d`.

    Args:
        x: (N, C, H, W), float64, float32, float16 or bfloat16.
        kernel_size: In pixels: one number, or (height, width).
        stride: In pixels, above 0: one number, or (vertical, horizontal); by default the kernel size.
        padding: Zeros around x, in pixels: one number, or (vertical, horizontal).
        count_include_pad: Whether the mean counts the padding's zeros.

    Returns:
        y, (N, C, P, Q), of x's dtype, in channels_last memory.

    Raises:
        TypeError, ValueError: x is no tensor with four axes, or an option is not accepted.
    """
    _expect_axes(4, x=x)
    counted = flag("count_include_pad", count_include_pad)
    return torch.ops.gpuconv.avg_pool2d(x, *_window(kernel_size, stride, padding), counted)


class Conv2d(torch.nn.Conv2d):
    """A `torch.nn.Conv2d` that runs our kernels; its filters are kept in channels_last memory.

    Args:
        arguments, options: Those of `torch.nn.Conv2d`.

    Raises ValueError for a padding_mode other than "zeros".
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        _adopt_module(self)

    def forward(self, input: Tensor) -> Tensor:
        """`conv2d` of `input`, (N, C, H, W), with the module's filters and bias."""
        padding: Any = self.padding
        return conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]


class Linear(torch.nn.Linear):
    """A `torch.nn.Linear` that runs our kernels.

    Args:
        in_features, out_features, bias, device, dtype: As `torch.nn.Linear` takes them.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`linear` of `input`, (..., in_features), with the module's weight and bias."""
        return linear(input, self.weight, self.bias)


_SWAPS: dict[type, type] = {torch.nn.Conv2d: Conv2d, torch.nn.Linear: Linear}


def replace(module: torch.nn.Module) -> torch.nn.Module:
    """Replace every Conv2d and Linear of a module, or the module itself, by ours, in place.

    Parameters, names and hooks stay; filters move to channels_last memory. Subclasses of the two are left as they are.

    Args:
        module: Any module of PyTorch.

    Returns:
        The module.

    Raises:
        TypeError: It is no module of PyTorch.
        ValueError: A convolution has a padding_mode other than "zeros"; then nothing has changed.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"replace takes a module of PyTorch, received {type(module).__name__}")
    found = [each for each in module.modules() if type(each) in _SWAPS]
    for each in found:
        _expect_zeros(each)
    for each in found:
        each.__class__ = _SWAPS[type(each)]
        _adopt_module(each)
    return module


def _adopt_module(module: torch.nn.Module) -> None:
    """Check a module of ours, and move its filters to channels_last memory."""
    _expect_zeros(module)
    if isinstance(module, Conv2d):
        module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def _expect_zeros(module: torch.nn.Module) -> None:
    mode = getattr(module, "padding_mode", "zeros")
    if mode != "zeros":
        raise ValueError(f"our convolutions pad with zeros, received padding_mode={mode!r}")


# --- between tensors and arrays ----------------------------------------------------------------


def _run(op: Callable[..., Any], *tensors: Tensor | None, **options: Any) -> Any:
    """Run one of our ops on tensors in our layout; returned arrays become tensors that share their memory."""
    with _current_stream(tensors[0]):
        made = op(*(None if each is None else _array(each) for each in tensors), **options)
        return tuple(map(_tensor, made)) if isinstance(made, tuple) else _tensor(made)


def _expect_axes(count: int, **tensors: object) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.ndim != count:
            raise _wrong_tensor_error(name, f"with {count} axes", tensor)


def _wrong_tensor_error(name: str, accepted: str, received: object) -> Exception:
    if not isinstance(received, Tensor):
        return TypeError(f"{name} must be a tensor of PyTorch, received {type(received).__name__}")
    return ValueError(f"{name} must be a tensor {accepted}, received shape {tuple(received.shape)}")


def _array(tensor: Tensor) -> Array:
    if tensor.layout != torch.strided:
        raise TypeError(f"tensors must be dense, received one of layout {tensor.layout}; tensor.to_dense() makes one")
    tensor = tensor.detach().contiguous()
    if tensor.device.type == "cuda":
        return backends.asarray(tensor)
    return backends.asarray(host_array(tensor, "a tensor"), _cpu_device.get())


def _tensor(array: Array) -> Tensor:
    if backends.device_of(array).startswith("cuda"):
        return torch.from_dlpack(array)
    return as_tensor(backends.to_numpy(array))


def _current_stream(tensor: Tensor | None) -> contextlib.AbstractContextManager[object]:
    """A context in which PyTorch's current stream is CuPy's."""
    if tensor is None or tensor.device.type != "cuda":
        return contextlib.nullcontext()
    import cupy

    stack = contextlib.ExitStack()
    stack.enter_context(cupy.cuda.Device(tensor.device.index))
    stack.enter_context(cupy.cuda.ExternalStream(torch.cuda.current_stream(tensor.device).cuda_stream))
    return stack


def _nhwc(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1)


def _nchw(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 3, 1, 2)


def _window(kernel_size: Size, stride: Size | None, padding: Size) -> tuple[Pair, Pair, Pair]:
    kernel = pair("kernel_size", kernel_size, 1)
    return kernel, kernel if stride is None else pair("stride", stride, 1), pair("padding", padding, 0)


def _empty(like: Tensor, *shape: int) -> Tensor:
    """A volume with the strides that the kernels produce, for PyTorch's shape inference."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _windows(size: int, kernel: int, stride: int, padded: int, dilation: int = 1) -> int:
    return (size + padded - dilation * (kernel - 1) - 1) // stride + 1


def _operator(
    name: str, schema: str, fake: Callable[..., object]
) -> Callable[[Callable[..., object]], torch.library.CustomOpDef]:
    """Register a function as the operator gpuconv::name."""

    def register(function: Callable[..., object]) -> torch.library.CustomOpDef:
        made = torch.library.custom_op(f"gpuconv::{name}", function, mutates_args=(), schema=schema)
        made.register_fake(fake)
        return made

    return register


# --- convolution -------------------------------------------------------------------------------

_CONV = "int[] stride, int[] padding, int[] dilation, int groups"


def _conv_options(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int) -> Options:
    top, bottom, left, right = padding
    return dict(stride=tuple(stride), padding=((top, bottom), (left, right)), dilation=tuple(dilation), groups=groups)


def _conv_shape(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    top, bottom, left, right = padding
    p = _windows(x.shape[2], w.shape[2], stride[0], top + bottom, dilation[0])
    q = _windows(x.shape[3], w.shape[3], stride[1], left + right, dilation[1])
    return _empty(x, x.shape[0], w.shape[0], p, q)


@_operator("conv2d", f"(Tensor x, Tensor w, Tensor? bias, {_CONV}) -> Tensor", _conv_shape)
def _conv2d(x: Tensor, w: Tensor, bias: Tensor | None, *window: Any) -> Tensor:
    return _nchw(_run(ops.conv2d, _nhwc(x), _nhwc(w), bias, **_conv_options(*window)))


@_operator(
    "conv2d_dgrad",
    f"(Tensor dy, Tensor w, SymInt[] input_shape, {_CONV}) -> Tensor",
    lambda dy, w, input_shape, *window: _empty(dy, *input_shape),
)
def _conv2d_dgrad(dy: Tensor, w: Tensor, input_shape: Sequence[int], *window: Any) -> Tensor:
    n, c, h, width = input_shape
    return _nchw(_run(ops.conv2d_dgrad, _nhwc(dy), _nhwc(w), input_shape=(n, h, width, c), **_conv_options(*window)))


@_operator(
    "conv2d_wgrad",
    f"(Tensor dy, Tensor x, Tensor w, {_CONV}) -> Tensor",
    lambda dy, x, w, *window: _empty(dy, *w.shape),
)
def _conv2d_wgrad(dy: Tensor, x: Tensor, w: Tensor, *window: Any) -> Tensor:
    def wgrad(dy: Array, x: Array) -> Array:
        return ops.conv2d_wgrad(dy, x, kernel_size=(w.shape[2], w.shape[3]), **_conv_options(*window))

    return _nchw(_run(wgrad, _nhwc(dy), _nhwc(x)))


@_operator("bias_grad", "(Tensor dy) -> Tensor", lambda dy: dy.new_empty(dy.shape[1]))
def _bias_grad(dy: Tensor) -> Tensor:
    return _run(ops.bias_grad, _nhwc(dy) if dy.ndim == 4 else dy)


def _keep_conv(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, w, _, *ctx.window = inputs
    ctx.save_for_backward(x, w)


def _conv_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = torch.ops.gpuconv.conv2d_dgrad(dy, w, x.shape, *ctx.window) if needs[0] else None
    dw = torch.ops.gpuconv.conv2d_wgrad(dy, x, w, *ctx.window) if needs[1] else None
    db = torch.ops.gpuconv.bias_grad(dy) if needs[2] else None
    return dx, dw, db, None, None, None, None


_conv2d.register_autograd(_conv_backward, setup_context=_keep_conv)


# --- linear ------------------------------------------------------------------------------------


@_operator(
    "linear", "(Tensor x, Tensor w, Tensor? bias) -> Tensor", lambda x, w, bias: x.new_empty(x.shape[0], w.shape[0])
)
def _linear(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    return _run(ops.linear, x, w, bias)


@_operator("linear_dgrad", "(Tensor dy, Tensor w) -> Tensor", lambda dy, w: dy.new_empty(dy.shape[0], w.shape[1]))
def _linear_dgrad(dy: Tensor, w: Tensor) -> Tensor:
    return _run(ops.linear_dgrad, dy, w)


@_operator("linear_wgrad", "(Tensor dy, Tensor x) -> Tensor", lambda dy, x: dy.new_empty(dy.shape[1], x.shape[1]))
def _linear_wgrad(dy: Tensor, x: Tensor) -> Tensor:
    return _run(ops.linear_wgrad, dy, x)


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])


def _linear_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w = ctx.saved_tensors
    needs, own = ctx.needs_input_grad, torch.ops.gpuconv
    return (
        own.linear_dgrad(dy, w) if needs[0] else None,
        own.linear_wgrad(dy, x) if needs[1] else None,
        own.bias_grad(dy) if needs[2] else None,
    )


_linear.register_autograd(_linear_backward, setup_context=_keep_linear)


# --- pools -------------------------------------------------------------------------------------

_POOL = "int[] kernel_size, int[] stride, int[] padding"


def _pool_options(kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Options:
    return dict(kernel_size=tuple(kernel_size), stride=tuple(stride), padding=tuple(padding))


def _pool_shape(
    x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int], *_: object
) -> Tensor:
    p, q = (_windows(x.shape[2 + axis], kernel_size[axis], stride[axis], 2 * padding[axis]) for axis in (0, 1))
    return _empty(x, *x.shape[:2], p, q)


def _max_pool_shape(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
    y = _pool_shape(x, *window)
    return y, torch.empty_like(y, dtype=torch.uint8)


@_operator("max_pool2d", f"(Tensor x, {_POOL}) -> (Tensor, Tensor)", _max_pool_shape)
def _max_pool2d(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
    y, argmax = _run(ops.max_pool2d, _nhwc(x), **_pool_options(*window))
    if argmax.dtype != torch.uint8:
        raise ValueError(f"a max pool here has windows of at most 256 cells, received kernel_size {window[0]}")
    return _nchw(y), _nchw(argmax)


@_operator(
    "max_pool2d_backward",
    f"(Tensor dy, Tensor argmax, SymInt[] input_shape, {_POOL}) -> Tensor",
    lambda dy, argmax, input_shape, *window: _empty(dy, *input_shape),
)
def _max_pool2d_backward(dy: Tensor, argmax: Tensor, input_shape: Sequence[int], *window: Any) -> Tensor:
    n, c, h, w = input_shape
    options = _pool_options(*window) | dict(input_shape=(n, h, w, c))
    return _nchw(_run(ops.max_pool2d_backward, _nhwc(dy), _nhwc(argmax), **options))


def _keep_max_pool(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, *ctx.window = inputs
    ctx.input_shape = x.shape
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _max_pool_backward(ctx: Any, dy: Tensor, _: object) -> tuple[Tensor | None, ...]:
    (argmax,) = ctx.saved_tensors
    return torch.ops.gpuconv.max_pool2d_backward(dy, argmax, ctx.input_shape, *ctx.window), None, None, None


_max_pool2d.register_autograd(_max_pool_backward, setup_context=_keep_max_pool)


@_operator("avg_pool2d", f"(Tensor x, {_POOL}, bool count_include_pad) -> Tensor", _pool_shape)
def _avg_pool2d(
    x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int], count_include_pad: bool
) -> Tensor:
    options = _pool_options(kernel_size, stride, padding) | dict(count_include_pad=count_include_pad)
    return _nchw(_run(ops.avg_pool2d, _nhwc(x), **options))


@_operator(
    "avg_pool2d_backward",
    f"(Tensor dy, SymInt[] input_shape, {_POOL}, bool count_include_pad) -> Tensor",
    lambda dy, input_shape, *window: _empty(dy, *input_shape),
)
def _avg_pool2d_backward(
    dy: Tensor,
    input_shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    count_include_pad: bool,
) -> Tensor:
    n, c, h, w = input_shape
    options = _pool_options(kernel_size, stride, padding) | dict(count_include_pad=count_include_pad)
    return _nchw(_run(ops.avg_pool2d_backward, _nhwc(dy), input_shape=(n, h, w, c), **options))


def _keep_avg_pool(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, *ctx.window = inputs
    ctx.input_shape = x.shape


def _avg_pool_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx = torch.ops.gpuconv.avg_pool2d_backward(dy, ctx.input_shape, *ctx.window)
    return dx, None, None, None, None


_avg_pool2d.register_autograd(_avg_pool_backward, setup_context=_keep_avg_pool)


# --- activations -------------------------------------------------------------------------------


def _is_nhwc(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _elementwise(op: Callable[..., Array], *tensors: Tensor) -> Tensor:
    """Run an op in the layout of the first tensor."""
    return _nchw(_run(op, *map(_nhwc, tensors))) if _is_nhwc(tensors[0]) else _run(op, *tensors)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    """The operator of an elementwise op, whose backward reads the output or the input."""

    def like(x: Tensor, *_: object) -> Tensor:
        return torch.empty_like(x, memory_format=torch.channels_last if _is_nhwc(x) else torch.contiguous_format)

    @_operator(name, "(Tensor x) -> Tensor", like)
    def forward(x: Tensor) -> Tensor:
        return _elementwise(getattr(ops, name), x)

    @_operator(f"{name}_backward", "(Tensor dy, Tensor kept) -> Tensor", like)
    def backward(dy: Tensor, kept: Tensor) -> Tensor:
        return _elementwise(getattr(ops, f"{name}_backward"), dy, kept)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0] if problems.ACTIVATIONS[name].saves_input else output)

    forward.register_autograd(lambda ctx, dy: backward(dy, *ctx.saved_tensors), setup_context=keep)
    return forward


ACTIVATIONS = {
    name: _activation(name) for name in ("relu", "relu6", "elu", "sigmoid", "tanh", "gelu", "silu", "hard_swish")
}
