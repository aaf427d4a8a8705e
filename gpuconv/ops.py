"""The ops users call: check the arguments, find the arrays' backend, call it.

Signatures and docstrings are the contract's (`gpuconv.backends.contract`), so ``help(gpuconv.ops.conv2d)`` tells
everything. An op works on whatever device its arrays are on: NumPy arrays run the CPU backend, CuPy arrays the CUDA
kernels, emulated arrays the same kernels on the CPU.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from gpuconv import shapes
from gpuconv.backends import SUBCLASSES, Slot, backend_of, contract, current_device_of, plain_views
from gpuconv.backends.overlap import separate

Op = TypeVar("Op", bound=Callable)

__all__ = [name for name, member in vars(contract).items() if inspect.isfunction(member)]


_RESULTS = ("out", "dw", "db", "dgamma", "dbeta")  # the arguments that receive a result, in every op that has them


def _op(declared: Op, *, in_place: bool = False, changes: str = "") -> Op:
    """The public form of a declared op.

    in_place: `out` may be an input itself, since each number of that input is read before its place is written.
    changes: the arguments that the op changes in place; training=False leaves them alone.
    """
    name = declared.__name__
    check = getattr(shapes, name)
    slots = {
        parameter.name: Slot(optional="None" in parameter.annotation, many="Sequence" in parameter.annotation)
        for parameter in inspect.signature(declared).parameters.values()
        if "Array" in parameter.annotation
    }
    results, changed = [result for result in _RESULTS if result in slots], tuple(changes.split())

    @functools.wraps(declared)
    def op(*arrays, **options):
        backend, some = backend_of(slots, arrays, options)
        arrays, options, viewed = plain_views(arrays, options) if SUBCLASSES else (arrays, options, ())
        options |= check(*arrays, **options)
        written = changed if options.get("training", True) else ()
        for result in results:
            if options.get(result) is not None:
                written = (*written, result)
        with current_device_of(some):
            if written:
                arrays, options = separate(slots, written, arrays, options, in_place)
            result = getattr(backend, name)(*arrays, **options)
        return _as_given(result, viewed) if viewed else result

    return cast(Op, op)


def _as_given(result: Any, viewed: list[Any]) -> Any:
    """The result of an op with each array that was given as a subclass of NumPy's in that form again."""
    if isinstance(result, tuple):
        return tuple(_as_given(each, viewed) for each in result)
    return next((given for given, view in viewed if view is result), result)


conv2d = _op(contract.conv2d)
conv2d_relu = _op(contract.conv2d_relu)
conv2d_dgrad = _op(contract.conv2d_dgrad)
conv2d_wgrad = _op(contract.conv2d_wgrad)
conv2d_backward = _op(contract.conv2d_backward)
bias_grad = _op(contract.bias_grad)
max_pool2d = _op(contract.max_pool2d)
max_pool2d_backward = _op(contract.max_pool2d_backward)
avg_pool2d = _op(contract.avg_pool2d)
avg_pool2d_backward = _op(contract.avg_pool2d_backward)
global_avg_pool2d = _op(contract.global_avg_pool2d)
global_avg_pool2d_backward = _op(contract.global_avg_pool2d_backward)
relu = _op(contract.relu, in_place=True)
relu_backward = _op(contract.relu_backward, in_place=True)
leaky_relu = _op(contract.leaky_relu, in_place=True)
leaky_relu_backward = _op(contract.leaky_relu_backward, in_place=True)
sigmoid = _op(contract.sigmoid, in_place=True)
sigmoid_backward = _op(contract.sigmoid_backward, in_place=True)
tanh = _op(contract.tanh, in_place=True)
tanh_backward = _op(contract.tanh_backward, in_place=True)
gelu = _op(contract.gelu, in_place=True)
gelu_backward = _op(contract.gelu_backward, in_place=True)
silu = _op(contract.silu, in_place=True)
silu_backward = _op(contract.silu_backward, in_place=True)
softmax = _op(contract.softmax, in_place=True)
linear = _op(contract.linear)
linear_dgrad = _op(contract.linear_dgrad)
linear_wgrad = _op(contract.linear_wgrad)
batch_norm = _op(contract.batch_norm, in_place=True, changes="running_mean running_var")
conv2d_batch_norm = _op(contract.conv2d_batch_norm, changes="running_mean running_var")
batch_norm_backward = _op(contract.batch_norm_backward, in_place=True)
dropout = _op(contract.dropout, in_place=True)
dropout_backward = _op(contract.dropout_backward, in_place=True)
softmax_cross_entropy = _op(contract.softmax_cross_entropy, in_place=True)
svm_hinge = _op(contract.svm_hinge, in_place=True)
sgd_step = _op(contract.sgd_step, changes="params velocities masters")
adagrad_step = _op(contract.adagrad_step, changes="params square_sums masters")
rmsprop_step = _op(contract.rmsprop_step, changes="params square_averages masters")
adam_step = _op(contract.adam_step, changes="params exp_avgs exp_avg_sqs masters")
update_loss_scale = _op(contract.update_loss_scale, changes="scaling")
muon_step = _op(contract.muon_step, changes="params velocities masters")
load_batch = _op(contract.load_batch)
advance_clock = _op(contract.advance_clock, changes="clock lr")
advance_counter = _op(contract.advance_counter, changes="counter")
random_uniform = _op(contract.random_uniform, changes="y")
random_normal = _op(contract.random_normal, changes="y")
random_permutation = _op(contract.random_permutation, changes="order")
add = _op(contract.add, in_place=True)
scale = _op(contract.scale, in_place=True)
add_metrics = _op(contract.add_metrics, changes="totals")
