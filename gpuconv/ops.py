"""The ops users call: check the arguments, find the arrays' backend, call it.

Signatures and docstrings are the contract's (`gpuconv.backends.contract`), so ``help(gpuconv.ops.conv2d)`` tells
everything. An op works on whatever device its arrays are on: NumPy arrays run the reference, CuPy arrays the CUDA
kernels, emulated arrays the same kernels on the CPU.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TypeVar, cast

from gpuconv import shapes
from gpuconv.backends import Slot, backend_of, contract, current_device_of

Op = TypeVar("Op", bound=Callable)

__all__ = [name for name, member in vars(contract).items() if inspect.isfunction(member)]


def _op(declared: Op) -> Op:
    name = declared.__name__
    check = getattr(shapes, name)
    slots = {
        parameter.name: Slot(optional="None" in parameter.annotation, many="Sequence" in parameter.annotation)
        for parameter in inspect.signature(declared).parameters.values()
        if "Array" in parameter.annotation
    }

    @functools.wraps(declared)
    def op(*arrays, **options):
        backend, some = backend_of(slots, arrays, options)
        normalised = options | check(*arrays, **options)
        with current_device_of(some):
            return getattr(backend, name)(*arrays, **normalised)

    return cast(Op, op)


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
relu = _op(contract.relu)
relu_backward = _op(contract.relu_backward)
leaky_relu = _op(contract.leaky_relu)
leaky_relu_backward = _op(contract.leaky_relu_backward)
sigmoid = _op(contract.sigmoid)
sigmoid_backward = _op(contract.sigmoid_backward)
tanh = _op(contract.tanh)
tanh_backward = _op(contract.tanh_backward)
gelu = _op(contract.gelu)
gelu_backward = _op(contract.gelu_backward)
silu = _op(contract.silu)
silu_backward = _op(contract.silu_backward)
softmax = _op(contract.softmax)
linear = _op(contract.linear)
linear_dgrad = _op(contract.linear_dgrad)
linear_wgrad = _op(contract.linear_wgrad)
batch_norm = _op(contract.batch_norm)
conv2d_batch_norm = _op(contract.conv2d_batch_norm)
batch_norm_backward = _op(contract.batch_norm_backward)
dropout = _op(contract.dropout)
dropout_backward = _op(contract.dropout_backward)
softmax_cross_entropy = _op(contract.softmax_cross_entropy)
svm_hinge = _op(contract.svm_hinge)
sgd_step = _op(contract.sgd_step)
adagrad_step = _op(contract.adagrad_step)
rmsprop_step = _op(contract.rmsprop_step)
adam_step = _op(contract.adam_step)
update_loss_scale = _op(contract.update_loss_scale)
muon_step = _op(contract.muon_step)
load_batch = _op(contract.load_batch)
advance_clock = _op(contract.advance_clock)
advance_counter = _op(contract.advance_counter)
random_uniform = _op(contract.random_uniform)
random_normal = _op(contract.random_normal)
random_permutation = _op(contract.random_permutation)
add = _op(contract.add)
scale = _op(contract.scale)
add_metrics = _op(contract.add_metrics)
