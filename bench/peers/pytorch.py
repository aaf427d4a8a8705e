"""PyTorch's sides of an operation: in each layout, and compiled."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np

from bench.entry_calls import SGD, Arrays, Call
from bench.our_side import set_count
from bench.sides import PEER, LeftOutError, Prepared, Side
from gpuconv import backends
from gpuconv.devices import Device
from gpuconv.problems import Conv2dProblem
from gpuconv.types import Options

# A function that prepares the inputs, which is not timed, and the timed work on them.
Operation = tuple[Callable[..., tuple], Callable[..., tuple]]


def load():
    """PyTorch, configured for the comparison. Raises ImportError if it is not installed."""
    import torch

    torch.backends.cudnn.benchmark = True
    # Equal precision: float32 means float32 on both sides.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch


def torch_device(device: str) -> str:
    """PyTorch's name for a device of gpuconv."""
    return device if Device.named(device).on_gpu else "cpu"


def tensor(array: np.ndarray, device: str, *, channels_last: bool = False):
    """A copy of a host array (volumes NHWC, filters KRSC) as an NCHW tensor on a device."""
    torch = load()
    array = np.array(array)
    if array.dtype.name == "bfloat16":
        made = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        made = torch.from_numpy(array)
    if array.ndim == 4:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        made = made.permute(0, 3, 1, 2).contiguous(memory_format=layout)
    return made.to(torch_device(device))


def expect_timed(device: str, with_compiled: bool, *, compile_it: bool, graph: bool = False) -> None:
    """Raises NotImplementedError for a CUDA graph without a GPU, and LeftOutError for a compiled variant in a run that
    does not time such variants (with_compiled=False)."""
    if graph and not Device.named(device).on_gpu:
        raise NotImplementedError("a CUDA graph needs a GPU")
    if compile_it and not with_compiled:
        raise LeftOutError("torch.compile would take longer than the rest of the run; --compile includes it")


def to_host(result) -> np.ndarray:
    """A tensor as a host array in our layout."""
    result = result.detach().cpu()
    return backends.to_numpy(result.permute(0, 2, 3, 1) if result.ndim == 4 else result)


def sides(call: Call, arrays: Arrays, device: str, compiled: bool) -> list[Side]:
    """Every variant of PyTorch that is timed. compiled: whether to time torch.compile too, which is slow to start."""

    def variant(channels_last: bool, compile_it: bool) -> Callable[[], Prepared]:
        def prepare() -> Prepared:
            torch = load()
            expect_timed(device, compiled, compile_it=compile_it)
            make, work = _OPERATIONS[call.entry.op](torch, call)
            if compile_it:
                torch.compiler.reset()
                work = torch.compile(work, mode="max-autotune-no-cudagraphs", dynamic=False)

            def inputs():
                return make(*[tensor(a, device, channels_last=channels_last) for a in arrays])

            sets = [inputs() for _ in range(set_count(arrays, device))]

            def run(number: int):
                with torch.no_grad():
                    return work(*sets[number % len(sets)])

            def results() -> list[np.ndarray]:
                with torch.no_grad():
                    return [to_host(result) for result in work(*inputs())]

            return Prepared(run, results)

        return prepare

    if call.entry.op in _UNCOMPILED:
        optimizer = call.entry.op.startswith("sgd")
        variants = {"fused": (False, False)} if optimizer else {"eager": (False, False), "channels_last": (True, False)}
    else:
        variants = {"eager": (False, False), "channels_last": (True, False), "compile": (True, True)}
    return [Side(PEER, name, variant(*options)) for name, options in variants.items()]


# --- the operations: preparation of the inputs, which is not timed, and the timed work ----------

# The optimizer is fused already, and the gradient of batch norm is one node of autograd's graph.
_UNCOMPILED = ("sgd_step", "sgd_master", "batch_norm_backward")


def _unchanged(*tensors):
    return tensors


def _fprop(torch, call: Call) -> Operation:
    options, op = _convolution_options(call), call.entry.op

    def work(x, w, bias):
        y = torch.nn.functional.conv2d(x, w, bias, **options)
        if op != "fprop":
            y = torch.relu_(y)
        return (torch.nn.functional.max_pool2d(y, 2) if op == "fprop_relu_pool" else y,)

    return _unchanged, work


def _backward(torch, call: Call) -> Operation:
    convolution, options = call.entry.workload, _convolution_options(call)
    direction = call.entry.op
    output_mask = {"dgrad": [True, False, False], "wgrad": [False, True, False]}.get(direction, [True, True, True])
    windows = [list(options[name]) for name in ("stride", "padding", "dilation")]

    def inputs(dy, *others):
        """dy, x, w: for arrays that the direction does not read, only shape and layout matter."""
        if direction == "dgrad":
            return dy, _like(torch, dy, convolution.x_shape), *others
        return (dy, *others, _like(torch, dy, convolution.w_shape)) if direction == "wgrad" else (dy, *others[:2])

    def work(dy, x, w):
        found = torch.ops.aten.convolution_backward(
            dy, x, w, [convolution.k], *windows, False, [0, 0], options["groups"], output_mask
        )
        return tuple([result for result in found if result is not None])

    return inputs, work


def _convolution_options(call: Call) -> Options:
    convolution: Conv2dProblem = call.entry.workload
    (top, bottom), (left, right) = convolution.padding
    if (top, left) != (bottom, right):
        raise NotImplementedError("PyTorch pads opposite sides of a convolution equally")
    return dict(
        stride=convolution.stride, padding=(top, left), dilation=convolution.dilation, groups=convolution.groups
    )


def _like(torch, tensor, shape: tuple[int, ...]):
    """An empty NCHW tensor of one of our shapes, in the memory format of another tensor."""
    n, h, w, c = shape
    layout = torch.contiguous_format if tensor.is_contiguous() else torch.channels_last
    return torch.empty((n, c, h, w), dtype=tensor.dtype, device=tensor.device, memory_format=layout)


def _max_pool(torch, call: Call) -> Operation:
    return _unchanged, lambda x: torch.nn.functional.max_pool2d(x, 2, return_indices=True)[:1]


def _max_pool_backward(torch, call: Call) -> Operation:
    _, _, width, _ = call.entry.workload

    def inputs(dy, argmax):
        """PyTorch's argmax indexes the map, ours the window."""
        rows = torch.arange(argmax.shape[2], device=argmax.device)[:, None]
        columns = torch.arange(argmax.shape[3], device=argmax.device)
        inside = argmax.long()
        flat = (2 * rows + inside // 2) * width + 2 * columns + inside % 2
        return dy, _like(torch, dy, call.entry.workload), flat

    def work(dy, x, flat):
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return (backward(dy, x, [2, 2], [2, 2], [0, 0], [1, 1], False, flat),)

    return inputs, work


def _batch_norm(torch, call: Call) -> Operation:
    def work(x, gamma, beta, mean, var):
        return (torch.nn.functional.batch_norm(x, mean, var, gamma, beta, training=True),)

    return _unchanged, work


def _batch_norm_backward(torch, call: Call) -> Operation:
    def inputs(dy, x, gamma, mean, inv_std):
        with torch.enable_grad():
            beta = torch.zeros_like(gamma)
            leaves = [x.requires_grad_(), gamma.requires_grad_(), beta.requires_grad_()]
            return torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True), leaves, dy

    def work(y, leaves, dy):
        return torch.autograd.grad(y, leaves, dy, retain_graph=True)

    return inputs, work


def _sgd(torch, call: Call) -> Operation:
    master = call.entry.op == "sgd_master"

    def inputs(param, grad, velocity, *masters):
        updated = torch.nn.Parameter(masters[0] if master else param)
        optimizer = torch.optim.SGD([updated], fused=True, **SGD)
        optimizer.state[updated]["momentum_buffer"] = velocity
        updated.grad = grad.to(updated.dtype)  # the fused step accepts no gradient of another dtype
        return optimizer, updated, velocity, param

    def work(optimizer, updated, velocity, param):
        optimizer.step()
        if not master:
            return updated, velocity
        param.copy_(updated)
        return param, velocity, updated.detach()

    return inputs, work


_OPERATIONS: dict[str, Callable[[ModuleType, Call], Operation]] = {
    "fprop": _fprop,
    "fprop_relu": _fprop,
    "fprop_relu_pool": _fprop,
    "dgrad": _backward,
    "wgrad": _backward,
    "backward": _backward,
    "bias_relu": lambda torch, _: (_unchanged, lambda x, bias: (torch.relu(x + bias[:, None, None]),)),
    "relu": lambda torch, _: (_unchanged, lambda x: (torch.relu(x),)),
    "relu_backward": lambda torch, _: (_unchanged, lambda dy, y: (torch.ops.aten.threshold_backward(dy, y, 0),)),
    "max_pool2d": _max_pool,
    "max_pool2d_backward": _max_pool_backward,
    "bias_grad": lambda torch, _: (_unchanged, lambda dy: (dy.sum((0, 2, 3)),)),
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "sgd_step": _sgd,
    "sgd_master": _sgd,
}
