"""The expected results of each op: the oracle's results in float64, with bounds on the errors of a device's results.

Inputs have the dtype of the device's call, so float64 represents them exactly. If an op only adds and multiplies, its
result for the absolute values of the inputs is the magnitude to which the bound is proportional. Ops whose values are
defined exactly, such as those that draw random numbers, load batches or only select values, must match the oracle value
for value.
"""

from __future__ import annotations

import math

import numpy as np

from gpuconv import backends
from gpuconv.backends.reference.precision import round_tf32
from gpuconv.types import Array, Options
from gpuconv.verify.compare import Expected
from gpuconv.verify.rules import activations, digest, losses, norm, optim, products
from gpuconv.verify.rules.base import Arrays, Rule, accumulating_rule, as_float64, exact_results

# How many of an op's first arrays are rounded to TF32; 2 for ops that are not listed.
_FACTORS = {"conv2d_backward": 3, "batch_norm_backward": 1}


@backends.oracle()
def expected_results(op: str, arrays: Arrays, options: Options) -> list[Expected]:
    """The expected results of an op for host arrays, whatever algorithm computes them."""
    rule, tf32 = _RULES[op], options.get("tf32", False)
    options = {name: value for name, value in options.items() if name not in ("algo", "tf32")}
    if not rule:
        return exact_results(op, arrays, options)
    dtype = _dtype(arrays)
    arrays = [as_float64(a) for a in arrays]
    if tf32 and op == "muon_step":
        options["precision"] = "tf32"
    elif tf32:  # the products of factors rounded to TF32 are exact in float32, so float32's bounds hold
        factors = _FACTORS.get(op, 2)
        arrays = [*map(round_tf32, arrays[:factors]), *arrays[factors:]]
        options |= {"w": round_tf32(as_float64(options["w"]))} if "w" in options else {}
    return rule(op, arrays, options, dtype)


expect = expected_results  # its former name


def is_exact(op: str) -> bool:
    """Whether an op must give exactly the oracle's values."""
    return _RULES[op] is None


def _dtype(arrays: Arrays) -> np.dtype:
    """The dtype of a case: the narrowest float dtype among the arrays; float64 if there is none."""
    floats = [a.dtype for a in _flat(arrays) if a is not None and a.dtype.kind not in "iub"]
    return min(floats, key=lambda dtype: dtype.itemsize, default=np.dtype(np.float64))


def _flat(arrays: Arrays) -> list[Array]:
    return [a for array in arrays for a in (array if isinstance(array, list) else [array])]


_sum_of_two = products.linear_in_its_inputs(lambda arrays, options: 2)
_sum_of_window = products.linear_in_its_inputs(products.window_length)
_relative = activations.activation(lambda x, y: np.abs(y))

_RULES: dict[str, Rule | None] = {
    "conv2d": products.linear_in_its_inputs(products.conv_length),
    "conv2d_relu": products.conv2d_relu,
    "conv2d_dgrad": accumulating_rule(products.linear_in_its_inputs(products.dgrad_length), "accumulate"),
    "conv2d_wgrad": products.linear_in_its_inputs(products.wgrad_length),
    "conv2d_backward": accumulating_rule(products.conv2d_backward, "accumulate_dx"),
    "bias_grad": products.bias_grad(lambda op: _RULES[op]),
    "max_pool2d": None,
    "max_pool2d_backward": _sum_of_window,
    "avg_pool2d": _sum_of_window,
    "avg_pool2d_backward": _sum_of_window,
    "global_avg_pool2d": products.linear_in_its_inputs(lambda arrays, options: math.prod(arrays[0].shape[1:3])),
    "global_avg_pool2d_backward": products.linear_in_its_inputs(lambda arrays, options: 1),
    "relu": None,
    "relu_backward": None,
    "relu6": None,
    "relu6_backward": None,
    "leaky_relu": _relative,
    "leaky_relu_backward": activations.activation_backward(lambda y: np.ones_like(y)),
    "elu": _relative,
    "elu_backward": activations.activation_backward(lambda y: np.ones_like(y)),
    "sigmoid": activations.activation(lambda x, y: np.abs(y) * (1 + np.minimum(np.abs(x), 1))),
    "sigmoid_backward": activations.activation_backward(lambda y: np.ones_like(y)),
    "tanh": _relative,
    "tanh_backward": activations.activation_backward(lambda y: np.ones_like(y)),
    "gelu": activations.activation(lambda x, y: np.abs(x)),
    # The tanh form multiplies 1 - tanh**2, whose error is relative to 1, by x and the slope of the cubic.
    "gelu_backward": activations.activation_backward(lambda x: 1 + np.abs(x) * (1 + x**2 / 7)),
    "silu": activations.activation(lambda x, y: np.abs(y) * (1 + np.minimum(np.abs(x), 1))),
    "silu_backward": activations.activation_backward(lambda x: 1 + np.minimum(np.abs(x), 3)),
    "hard_swish": _relative,
    "hard_swish_backward": activations.activation_backward(lambda x: np.minimum(1 + np.abs(x), 3)),
    "softmax": activations.softmax,
    "linear": products.linear_in_its_inputs(lambda arrays, options: arrays[0].shape[1] + 1),
    "linear_dgrad": products.linear_in_its_inputs(lambda arrays, options: arrays[0].shape[1]),
    "linear_wgrad": products.linear_in_its_inputs(lambda arrays, options: arrays[0].shape[0]),
    "batch_norm": norm.batch_norm,
    "conv2d_batch_norm": norm.conv2d_batch_norm,
    "batch_norm_backward": norm.batch_norm_backward,
    "group_norm": norm.group_norm,
    "group_norm_backward": norm.group_norm_backward,
    "dropout": None,
    "dropout_backward": None,
    "softmax_cross_entropy": losses.softmax_cross_entropy,
    "svm_hinge": losses.svm_hinge,
    "mean_squared_error": losses.elementwise_loss,
    "huber_loss": losses.elementwise_loss,
    "binary_cross_entropy": losses.elementwise_loss,
    "sgd_step": optim.optimizer,
    "adagrad_step": optim.optimizer,
    "rmsprop_step": optim.optimizer,
    "adam_step": optim.optimizer,
    "lion_step": optim.optimizer,
    "clip_norm": optim.clip_norm,
    "clip_values": optim.clip_values,
    "update_loss_scale": optim.loss_scale,
    "muon_step": optim.muon,
    "add": _sum_of_two,
    "copy": None,
    "scale": _relative,
    "add_metrics": losses.metrics,
    "digest": digest.digest,
    "load_batch": None,
    "mix_batch": None,
    "advance_step_counter": None,
    "advance_counter": None,
    "random_uniform": None,
    "random_normal": None,
    "random_permutation": None,
}
