"""What every op refuses: the type and message of each error, raised before anything is computed."""

import re

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.backends import cpu
from gpuconv.problems import Conv2dProblem, Epilogue, Pool2dProblem

F32 = np.float32


def zeros(*shape, dtype=F32):
    return np.zeros(shape, dtype)


X, W = zeros(2, 5, 7, 4), zeros(6, 3, 2, 4)
Y = zeros(2, 3, 6, 6)
ROWS, WEIGHT = zeros(5, 3), zeros(4, 3)
LOGITS, LABELS = zeros(3, 4), np.zeros(3, np.int64)
VECTOR = zeros(4)
MASK = zeros(2, 5, 7, 2, dtype=np.uint8)  # the mask of a 2 x 2 pool whose output has the shape of X, in one group
PARAMS = [zeros(2, 3), zeros(5)]
POOL = dict(kernel_size=2)
POOL_BACKWARD = dict(kernel_size=2, input_shape=X.shape)
ARGMAX = np.zeros((2, 2, 3, 4), np.uint8)
IMAGES, INDICES = np.zeros((3, 5, 7, 4), np.uint8), np.zeros(2, np.int64)


def layout(*names):
    moved = " and ".join(f"{name}.transpose(0, 2, 3, 1)" for name in names)
    return f"; that is PyTorch's layout, channels before rows and columns: {moved} moves them last"


REFUSALS = [
    # arrays: dtype, rank, agreement
    (
        ops.relu,
        [np.zeros(3, np.uint8)],
        {},
        TypeError,
        "x must be a float array (float64, float32, float16, bfloat16), received uint8; convert it, for example with "
        "array.astype('float32') / 255 for images",
    ),
    (ops.conv2d, [IMAGES, W], {}, TypeError, "x must be a float array"),
    (ops.relu, [np.zeros(3, np.complex64)], {}, TypeError, "received complex64"),
    (ops.max_pool2d, [zeros(5, 7, 4)], POOL, ValueError, "x must have the axes (N, H, W, C), received shape (5, 7, 4)"),
    (ops.softmax, [zeros(3)], {}, ValueError, "x must have the axes (N, classes), received shape (3,)"),
    (ops.bias_grad, [zeros(3)], {}, ValueError, "dy must have at least 2 axes, received shape (3,)"),
    (ops.bias_grad, [zeros(2, 3), zeros(2, 3)], {}, ValueError, "received activation=None with saved=an array"),
    (ops.bias_grad, [zeros(2, 3)], {"activation": "gelu"}, ValueError, "activation='gelu' with saved=None"),
    (ops.bias_grad, [zeros(2, 3), zeros(3, 3)], {"activation": "gelu"}, ValueError, "saved must have shape (2, 3)"),
    (ops.bias_grad, [zeros(2, 3), np.zeros((2, 3))], {"activation": "gelu"}, TypeError, "one dtype, received dy"),
    (
        ops.relu_backward,
        [zeros(3), zeros(3, dtype=float)],
        {},
        TypeError,
        "all arrays of one call must have one dtype, received dy float32, y float64",
    ),
    (ops.relu_backward, [zeros(3), zeros(4)], {}, ValueError, "y must have shape (3,) (dy's shape), received (4,)"),
    (ops.silu_backward, [zeros(3), zeros(4)], {}, ValueError, "x must have shape (3,) (dy's shape), received (4,)"),
    (
        ops.tanh,
        [zeros(3)],
        {"out": zeros(2)},
        ValueError,
        "out must have shape (3,) (the result's shape), received (2,)",
    ),
    (
        ops.tanh,
        [zeros(3)],
        {"out": zeros(3, dtype=float)},
        TypeError,
        "out must have the result's dtype float32, received float64",
    ),
    (
        ops.leaky_relu,
        [zeros(3)],
        {"negative_slope": -1},
        ValueError,
        "negative_slope must lie in [0.0, inf), received -1",
    ),
    (ops.elu, [zeros(3)], {"alpha": -1}, ValueError, "alpha must lie in [0.0, inf), received -1"),
    (ops.elu_backward, [zeros(3), zeros(3)], {"alpha": "1"}, TypeError, "alpha must be a number, received '1'"),
    (
        ops.gelu,
        [zeros(3)],
        {"approximate": "tan"},
        ValueError,
        "unknown GELU approximation 'tan'; did you mean 'tanh'? (known: none, tanh)",
    ),
    (
        ops.gelu_backward,
        [zeros(3), zeros(3)],
        {"approximate": None},
        TypeError,
        "the GELU approximation is chosen by name, received NoneType: None",
    ),
    # convolution
    (
        ops.conv2d,
        [X, zeros(6, 3, 2, 3)],
        {},
        ValueError,
        "the filters read 3 channels in each of 1 group(s), so the input must have 3 channels, received 4",
    ),
    (
        ops.conv2d,
        [X, zeros(6, 3, 2, 1)],
        {"groups": 3},
        ValueError,
        "groups must divide the channels and the filters, received groups 3, 4 channels, 6 filters",
    ),
    (ops.conv2d, [zeros(2, 3, 8, 8), zeros(6, 2, 2, 3)], {}, ValueError, f"received 8{layout('x')}"),
    (ops.conv2d, [zeros(2, 3, 8, 8), zeros(6, 3, 2, 2)], {}, ValueError, f"received 8{layout('x', 'w')}"),
    (ops.conv2d, [zeros(2, 8, 8, 3), zeros(6, 3, 2, 2)], {}, ValueError, f"received 3{layout('w')}"),
    (
        ops.conv2d,
        [zeros(2, 4, 7, 7), zeros(6, 3, 3, 2)],
        {"groups": 2},
        ValueError,
        f"received groups 2, 7 channels, 6 filters{layout('x')}",
    ),
    (
        ops.batch_norm,
        [zeros(2, 3, 8, 8), *[zeros(3)] * 4],
        {"training": True},
        ValueError,
        f"each channel), received (3,){layout('x')}",
    ),
    (ops.conv2d, [X, W], {"groups": 0}, ValueError, "groups must be at least 1, received 0"),
    (ops.conv2d, [X, W], {"stride": 0}, ValueError, "stride must be at least 1, received 0"),
    (ops.conv2d, [X, W], {"dilation": (1, 0)}, ValueError, "dilation[1] must be at least 1, received 0"),
    (
        ops.conv2d,
        [X, W],
        {"fit": "flor"},
        ValueError,
        "unknown fit 'flor'; did you mean 'floor'? (known: floor, exact, cover)",
    ),
    (ops.conv2d, [X, W], {"stride": 3, "fit": "exact"}, ValueError, "input sizes that would fit: 3 or 6"),
    (ops.conv2d, [X, W], {"activation": "rely"}, ValueError, "unknown activation 'rely'; did you mean 'relu'?"),
    (ops.conv2d, [X, zeros(6, 9, 2, 4)], {}, ValueError, "the filter spans 9 but the padded input only 5"),
    (
        ops.conv2d,
        [X, W, zeros(5)],
        {},
        ValueError,
        "bias must have shape (6,) (one value for each filter), received (5,)",
    ),
    (ops.conv2d, [X, W, zeros(6, dtype=float)], {}, TypeError, "received x float32, w float32, bias float64"),
    (ops.conv2d, [X, W], {"out": Y[:1]}, ValueError, "out must have shape (2, 3, 6, 6)"),
    (ops.conv2d_relu, [X, W], {"pool": 3}, ValueError, "pool must be 1 (none) or 2 (2 x 2 windows), received 3"),
    (ops.conv2d_relu, [X, W], {"pool": 2, "stride": 3}, ValueError, "needs maps of at least 2 x 2, received 1 x 2"),
    (ops.conv2d_relu, [X, W], {"pool": 2, "out": Y}, ValueError, "out must have shape (2, 1, 3, 6)"),
    (ops.conv2d_relu, [X, W], {"activation": "sigmoid"}, ValueError, "unknown activation of conv2d_relu 'sigmoid'"),
    (ops.conv2d_relu, [X, W], {"activation": "gelu", "pool": 2}, ValueError, "a pool of conv2d_relu follows"),
    (
        ops.conv2d_dgrad,
        [Y, W],
        {"input_shape": (2, 5, 7, 4), "pool": 2},
        ValueError,
        "pool=2 needs the mask that conv2d_relu returned, received None",
    ),
    (
        ops.conv2d_dgrad,
        [Y, W],
        {"input_shape": (2, 5, 7, 4), "mask": Y},
        TypeError,
        "mask must be uint8, as conv2d_relu returns it, received float32",
    ),
    (
        ops.conv2d_dgrad,
        [Y, W],
        {"input_shape": (2, 5, 7, 4), "mask": zeros(2, 3, 6, 6, dtype=np.uint8)},
        ValueError,
        "mask must have shape (2, 3, 6, 1) (as conv2d_relu returns it), received (2, 3, 6, 6)",
    ),
    (
        ops.conv2d_wgrad,
        [Y, X],
        {"kernel_size": (3, 2), "mask": zeros(2, 1, 3, 3, dtype=np.uint8), "pool": 2},
        ValueError,
        "dy must have shape (2, 1, 3, 6) (the output of conv2d_relu), received (2, 3, 6, 6)",
    ),
    (ops.conv2d_wgrad, [Y, X], {"kernel_size": (3, 2), "db": zeros(5)}, ValueError, "db must have shape (6,)"),
    (
        ops.conv2d_dgrad,
        [Y, W],
        {"input_shape": (5, 7, 4)},
        ValueError,
        "input_shape must be (N, H, W, C), received (5, 7, 4)",
    ),
    (
        ops.conv2d_dgrad,
        [Y, W],
        {"input_shape": (2, 5, -7, 4)},
        ValueError,
        "input_shape[2] must be at least 0, received -7",
    ),
    (
        ops.conv2d_dgrad,
        [Y, W],
        {"input_shape": (2, 5, 8, 4)},
        ValueError,
        "dy must have shape (2, 3, 7, 6) (the convolution's output), received (2, 3, 6, 6)",
    ),
    (
        ops.conv2d_dgrad,
        [Y, W],
        {"input_shape": (2, 5, 7, 4), "accumulate": True},
        ValueError,
        "accumulate=True adds to out, which was not given",
    ),
    (ops.conv2d_wgrad, [Y, X], {"kernel_size": (3, 3)}, ValueError, "dy must have shape (2, 3, 5, 6)"),
    (ops.conv2d_wgrad, [Y, X], {"kernel_size": (3, 2), "groups": 4}, ValueError, "groups must divide"),
    (
        ops.conv2d_wgrad,
        [Y, X],
        {"kernel_size": (3, 2), "accumulate": True},
        ValueError,
        "accumulate=True adds to out, which was not given",
    ),
    (
        ops.conv2d_backward,
        [Y, X, zeros(6, 3, 3, 4)],
        {},
        ValueError,
        "dy must have shape (2, 3, 5, 6) (the convolution's output), received (2, 3, 6, 6)",
    ),
    (ops.conv2d_backward, [Y, X, zeros(6, 3, 2, 3)], {}, ValueError, "so the input must have 3 channels, received 4"),
    (ops.conv2d_backward, [Y, X, W], {"dw": zeros(6, 3, 2, 1)}, ValueError, "dw must have shape (6, 3, 2, 4)"),
    (ops.conv2d_backward, [Y, X, W], {"db": zeros(5)}, ValueError, "db must have shape (6,)"),
    (ops.conv2d_backward, [Y, X, W], {"out": Y}, ValueError, "out must have shape (2, 5, 7, 4)"),
    (
        ops.conv2d_backward,
        [Y, X, W],
        {"accumulate": True},
        ValueError,
        "accumulate=True adds to dw, which was not given",
    ),
    (
        ops.conv2d_backward,
        [Y, X, W],
        {"accumulate_dx": True},
        ValueError,
        "accumulate_dx=True adds to out, which was not given",
    ),
    (ops.bias_grad, [Y], {"accumulate": True}, ValueError, "accumulate=True adds to out, which was not given"),
    # pools
    (ops.max_pool2d, [X], {"kernel_size": 0}, ValueError, "kernel_size must be at least 1, received 0"),
    (ops.avg_pool2d, [X], {"kernel_size": 2, "stride": False}, TypeError, "stride must be an integer, received False"),
    (
        ops.max_pool2d,
        [X],
        {"kernel_size": (2, 3), "padding": ((0, 0), (0, 3))},
        ValueError,
        "a pool's padding must be smaller than its kernel_size (2, 3), or a window would contain only padding; "
        "received ((0, 0), (0, 3))",
    ),
    (
        ops.max_pool2d,
        [zeros(2, 0, 7, 4)],
        {"kernel_size": 3, "padding": 2},
        ValueError,
        "a pool needs maps of at least one pixel, received shape (2, 0, 7, 4)",
    ),
    (
        ops.global_avg_pool2d,
        [zeros(2, 0, 7, 4)],
        {},
        ValueError,
        "the mean over an empty map is undefined, received shape (2, 0, 7, 4)",
    ),
    (
        ops.max_pool2d_backward,
        [zeros(2, 2, 3, 4), ARGMAX.astype(np.int64)],
        POOL_BACKWARD,
        TypeError,
        "argmax must be uint8, as max_pool2d returns it, received int64",
    ),
    (
        ops.max_pool2d_backward,
        [zeros(2, 2, 3, 4), ARGMAX[:1]],
        POOL_BACKWARD,
        ValueError,
        "argmax must have shape (2, 2, 3, 4) (the pool's output), received (1, 2, 3, 4)",
    ),
    (
        ops.avg_pool2d_backward,
        [zeros(2, 2, 4, 4)],
        POOL_BACKWARD,
        ValueError,
        "dy must have shape (2, 2, 3, 4) (the pool's output), received (2, 2, 4, 4)",
    ),
    (
        ops.global_avg_pool2d_backward,
        [zeros(2, 1, 2, 4)],
        {"input_shape": X.shape},
        ValueError,
        "dy must have shape (2, 1, 1, 4) (one value for each map), received (2, 1, 2, 4)",
    ),
    # linear
    (ops.linear, [ROWS, zeros(4, 2)], {}, ValueError, "w reads 2 features, so x must have 2 columns, received 3"),
    (
        ops.linear,
        [ROWS, WEIGHT, zeros(3)],
        {},
        ValueError,
        "bias must have shape (4,) (one value for each output feature), received (3,)",
    ),
    (ops.linear, [X, WEIGHT], {}, ValueError, "x must have the axes (N, in_features), received shape (2, 5, 7, 4)"),
    (
        ops.linear_dgrad,
        [ROWS, WEIGHT],
        {},
        ValueError,
        "w has 4 output features, so dy must have 4 columns, received 3",
    ),
    (ops.linear_wgrad, [ROWS, zeros(4, 2)], {}, ValueError, "dy and x must have one batch size, received 5 and 4"),
    # normalization and dropout
    (
        ops.batch_norm,
        [X, zeros(3), VECTOR, VECTOR, VECTOR],
        {"training": True},
        ValueError,
        "gamma must have shape (4,) (one value for each channel), received (3,)",
    ),
    (
        ops.batch_norm,
        [X, VECTOR, VECTOR, VECTOR, zeros(4, dtype=float)],
        {"training": True},
        TypeError,
        "running_var must be float32 for float32 data, received float64",
    ),
    (
        ops.batch_norm,
        [X.astype(np.float16), *[zeros(4, dtype=np.float16)] * 4],
        {"training": True},
        TypeError,
        "gamma must be float32 for float16 data, received float16",
    ),
    (
        ops.batch_norm,
        [zeros(1, 4), *[VECTOR] * 4],
        {"training": True},
        ValueError,
        "batch statistics need more than one value for each channel, received shape (1, 4)",
    ),
    (
        ops.batch_norm,
        [X, *[VECTOR] * 4],
        {"training": True, "momentum": 1.5},
        ValueError,
        "momentum must lie in [0.0, 1.0], received 1.5",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"accumulate": True, "dgamma": VECTOR},
        ValueError,
        "accumulate=True adds to dbeta, which was not given",
    ),
    (
        ops.batch_norm_backward,
        [X[:1], X, *[VECTOR] * 3],
        {},
        ValueError,
        "dy must have shape (2, 5, 7, 4) (x's shape), received (1, 5, 7, 4)",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"mask": MASK},
        ValueError,
        "input_shape must be (N, H, W, C), received None",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"input_shape": (2, 10, 14, 4)},
        ValueError,
        "input_shape (2, 10, 14, 4) belongs to a pool: give its mask too",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"mask": MASK, "input_shape": (2, 12, 14, 4)},
        ValueError,
        "a 2 x 2 pool of input_shape (2, 12, 14, 4) gives (2, 6, 7, 4), but x has shape (2, 5, 7, 4)",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"mask": MASK, "input_shape": (2, 11, 15, 4), "groups": 4},
        ValueError,
        "mask must have shape (2, 5, 7, 4) (as conv2d_relu returns it), received (2, 5, 7, 2)",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"stride": 2},
        ValueError,
        "stride, padding, dilation, fit, algo and tf32 belong to a convolution: give its w too",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"groups": 3},
        ValueError,
        "groups=3 needs w, or the mask of a convolution's pool; received neither",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"training": "yes"},
        TypeError,
        "training must be True or False, received 'yes'",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"w": X[:, :1, :1], "mask": MASK},
        ValueError,
        "the gradient passes a convolution (w) or a pool (mask), received both w and a mask",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"mask": MASK, "input_shape": (2, 10, 14, 4), "out": X.copy()},
        ValueError,
        "out must have shape (2, 10, 14, 4)",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"activation": "relu"},
        ValueError,
        "the gradient of activation='relu' needs beta, or saved after an addend; received neither",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"saved": X},
        ValueError,
        "saved belongs to the activation after an addend: give activation too",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"saved": X, "activation": "relu", "w": zeros(4, 1, 1, 4)},
        ValueError,
        "saved cannot be combined with a convolution (w) or a pool (mask), received w",
    ),
    (
        ops.batch_norm_backward,
        [X, X, *[VECTOR] * 3],
        {"saved": X[:1], "activation": "relu"},
        ValueError,
        "saved must have shape (2, 5, 7, 4) (x's shape), received (1, 5, 7, 4)",
    ),
    (
        ops.batch_norm,
        [X, *[VECTOR] * 4],
        {"training": True, "addend": X[..., :1]},
        ValueError,
        "addend must have shape (2, 5, 7, 4) (the shape of the norm's output), received (2, 5, 7, 1)",
    ),
    (
        ops.batch_norm,
        [X, *[VECTOR] * 4],
        {"training": False, "addend": X.astype(np.float16)},
        TypeError,
        "addend must have the dtype of the norm's output, float32, received float16",
    ),
    (ops.conv2d_batch_norm, [X, W, None, *[zeros(6)] * 4], {"addend": X}, ValueError, "addend must have shape"),
    (
        ops.conv2d_batch_norm,
        [X, W, None, *[VECTOR] * 4],
        {},
        ValueError,
        "gamma must have shape (6,) (one value for each channel), received (4,)",
    ),
    (
        ops.conv2d_batch_norm,
        [X[:1, :3, :2], W, None, *[zeros(6)] * 4],
        {},
        ValueError,
        "batch statistics need more than one value for each filter, received maps of (1, 1, 1, 6)",
    ),
    (
        ops.conv2d_batch_norm,
        [X[:1, :4, :3], W, None, *[zeros(6)] * 4],
        {"pool": 2},
        ValueError,
        "each filter, received maps of (1, 1, 1, 6)",
    ),
    (
        ops.conv2d_batch_norm,
        [X, W, None, *[zeros(6)] * 4],
        {"pool": 3},
        ValueError,
        "pool must be 1 (none) or 2 (2 x 2 windows), received 3",
    ),
    (ops.dropout, [X], {"p": 1.0, "seed": 0}, ValueError, "p must lie in [0.0, 1.0), received 1.0"),
    (ops.dropout, [X], {"p": 0.5, "seed": -1}, ValueError, "seed must be at least 0, received -1"),
    (ops.dropout_backward, [X], {"p": 0.5, "seed": 0, "substream": 0.5}, TypeError, "substream must be an integer"),
    # losses
    (
        ops.softmax_cross_entropy,
        [LOGITS, LABELS.astype(F32)],
        {},
        TypeError,
        "labels must be integers of shape (3,), or floats of shape (3, 4), received float32 of (3,)",
    ),
    (ops.softmax_cross_entropy, [LOGITS, LABELS.astype(bool)], {}, TypeError, "labels must be integers of shape (3,)"),
    (
        ops.softmax_cross_entropy,
        [LOGITS, LOGITS[:, 1:]],
        {},
        ValueError,
        "labels must have shape (3, 4) (a probability for each class), received (3, 3)",
    ),
    (ops.softmax_cross_entropy, [LOGITS, LOGITS > 0], {}, TypeError, "floats of shape (3, 4), received bool of (3, 4)"),
    (
        ops.svm_hinge,
        [LOGITS, LOGITS],
        {},
        TypeError,
        "labels must be integers of shape (3,), received float32 of (3, 4)",
    ),
    (
        ops.softmax_cross_entropy,
        [LOGITS, LABELS[:2]],
        {},
        ValueError,
        "labels must have shape (3,) (one label for each row), received (2,)",
    ),
    (
        ops.softmax_cross_entropy,
        [LOGITS[:0], LABELS[:0]],
        {},
        ValueError,
        "a mean loss needs at least one sample and one class, received shape (0, 4)",
    ),
    (
        ops.softmax_cross_entropy,
        [LOGITS, LABELS],
        {"label_smoothing": 2},
        ValueError,
        "label_smoothing must lie in [0.0, 1.0], received 2",
    ),
    (
        ops.softmax_cross_entropy,
        [LOGITS, LABELS, LOGITS[0, 1:]],
        {},
        ValueError,
        "weight must have shape (4,) (one for each class), received (3,)",
    ),
    (
        ops.softmax_cross_entropy,
        [LOGITS, LABELS, LOGITS[0].astype(float)],
        {},
        TypeError,
        "weight must be float32 for float32 scores, received float64",
    ),
    (
        ops.softmax_cross_entropy,
        [LOGITS, LOGITS],
        {"ignore_index": 1},
        ValueError,
        "ignore_index=1 needs integer labels, received float32 of (3, 4)",
    ),
    (
        ops.softmax_cross_entropy,
        [LOGITS, LABELS],
        {"ignore_index": 1.0},
        TypeError,
        "ignore_index must be an integer, received 1.0",
    ),
    (
        ops.add_metrics,
        [np.zeros(4), np.zeros((), F32), LOGITS, None],
        {"ignore_index": 1},
        ValueError,
        "ignore_index=1 needs integer labels, received none",
    ),
    (
        ops.mean_squared_error,
        [LOGITS, LOGITS[:, 0]],
        {},
        ValueError,
        "targets must have shape (3, 4) (one for each score), received (3,)",
    ),
    (
        ops.mean_squared_error,
        [LOGITS, LABELS],
        {},
        TypeError,
        "targets must be floats of the scores' shape (3, 4), received int64",
    ),
    (ops.mean_squared_error, [LOGITS[:0], LOGITS[:0]], {}, ValueError, "needs at least one sample"),
    (ops.huber_loss, [LOGITS, LOGITS], {"delta": 0}, ValueError, "delta must be above 0, received 0"),
    (ops.huber_loss, [LOGITS, LOGITS], {"delta": -1}, ValueError, "delta must lie in [0.0, inf), received -1"),
    (
        ops.binary_cross_entropy,
        [LOGITS, LOGITS, LOGITS[0, 1:]],
        {},
        ValueError,
        "pos_weight must have shape (4,) (one for each of the last axis), received (3,)",
    ),
    (
        ops.binary_cross_entropy,
        [LOGITS, LOGITS, LOGITS[0].astype(float)],
        {},
        TypeError,
        "pos_weight must be float32 for float32 scores, received float64",
    ),
    (ops.svm_hinge, [LOGITS[:, :0], LABELS], {}, ValueError, "received shape (3, 0)"),
    (ops.svm_hinge, [LOGITS, LABELS], {"delta": -0.5}, ValueError, "delta must lie in [0.0, inf), received -0.5"),
    # optimizer steps
    (
        ops.sgd_step,
        [PARAMS, PARAMS[:1]],
        {"lr": 1},
        ValueError,
        "grads must have as many arrays as params (2), received 1",
    ),
    (
        ops.sgd_step,
        [PARAMS, PARAMS[::-1]],
        {"lr": 1},
        ValueError,
        "grads[0] must have shape (2, 3) (the shape of params[0]), received (5,)",
    ),
    (
        ops.sgd_step,
        [PARAMS, [PARAMS[0], zeros(5, dtype=float)]],
        {"lr": 1},
        TypeError,
        "grads[1] must be float32 as params[1] is, received float64",
    ),
    (ops.sgd_step, [[LABELS], [LABELS]], {"lr": 1}, TypeError, "params[0] must be a float array"),
    (ops.sgd_step, [zeros(2, 3), PARAMS], {"lr": 1}, TypeError, "params must be a list of arrays, received ndarray"),
    (ops.sgd_step, [PARAMS, PARAMS], {"lr": 1, "momentum": 0.9}, ValueError, "momentum 0.9 needs velocities"),
    (
        ops.sgd_step,
        [PARAMS, PARAMS, PARAMS],
        {"lr": 1, "nesterov": True},
        ValueError,
        "nesterov=True needs a momentum above 0",
    ),
    (ops.sgd_step, [PARAMS, PARAMS], {"lr": -1}, ValueError, "lr must lie in [0.0, inf), received -1"),
    (
        ops.sgd_step,
        [PARAMS, PARAMS],
        {"lr": 1, "weight_decay": [0.1]},
        ValueError,
        "weight_decay must be one number or one for each of 2 params, received 1",
    ),
    (
        ops.adagrad_step,
        [PARAMS, PARAMS, PARAMS],
        {"lr": 1, "weight_decay": -1},
        ValueError,
        "weight_decay must lie in [0.0",
    ),
    (ops.rmsprop_step, [PARAMS, PARAMS, PARAMS], {"lr": 1, "alpha": 1.5}, ValueError, "alpha must lie in [0.0, 1.0]"),
    (ops.lion_step, [PARAMS] * 3, {"lr": 1, "beta2": 1}, ValueError, "beta2 must lie in [0.0, 1.0), received 1"),
    (ops.muon_step, [PARAMS, PARAMS, PARAMS], {"lr": 1}, ValueError, "rank 2 or more, received params[1] of (5,)"),
    (ops.muon_step, [[zeros(2, 3)]] * 3, {"lr": 1, "nesterov": True}, ValueError, "nesterov=True needs a momentum"),
    (ops.muon_step, [[zeros(2, 3)]] * 3, {"lr": 1, "steps": -1}, ValueError, "steps must"),
    (ops.muon_step, [[zeros(2, 3)]] * 3, {"lr": 1, "tf32": 1}, TypeError, "tf32 must be True or False, received 1"),
    (ops.muon_step, [[np.zeros((2, 3))]] * 3, {"lr": 1, "tf32": True}, TypeError, "float32 arrays, received float64"),
    (ops.muon_step, [[np.zeros((2, 3))]] * 3, {"lr": 1, "precision": "tf32"}, TypeError, "received float64 parameters"),
    (ops.muon_step, [[zeros(2, 3)]] * 3, {"lr": 1, "precision": "fp8"}, ValueError, "known: full, tf32, bfloat16"),
    (ops.muon_step, [[zeros(2, 3)]] * 3, {"lr": 1, "precision": "bfloat16", "tf32": True}, ValueError, "give one of"),
    (ops.adam_step, [PARAMS] * 4, {"lr": 1, "step": 0}, ValueError, "step must be at least 1, received 0"),
    (
        ops.adam_step,
        [PARAMS] * 4,
        {"lr": 1, "step": 1, "beta1": 1},
        ValueError,
        "beta1 must lie in [0.0, 1.0), received 1",
    ),
    (
        ops.adam_step,
        [PARAMS] * 4,
        {"lr": np.ones(2, F32), "step": 1},
        ValueError,
        "lr must be a number or hold one element, received shape (2,)",
    ),
    (
        ops.update_loss_scale,
        [zeros(4), PARAMS],
        {},
        TypeError,
        "scaling must be float64 of shape (4,), received float32 of (4,)",
    ),
    (ops.clip_norm, [np.zeros(4), PARAMS], {"max_norm": 0}, ValueError, "max_norm must be above 0, received 0"),
    (ops.clip_norm, [np.zeros(4), PARAMS], {"max_norm": -1}, ValueError, "max_norm must lie in [0.0, inf)"),
    (ops.clip_norm, [zeros(4), PARAMS], {"max_norm": 1}, TypeError, "clipped must be float64 of shape (4,)"),
    (ops.clip_norm, [np.zeros(4), PARAMS, zeros(4)], {"max_norm": 1}, TypeError, "scaling must be float64"),
    (ops.clip_norm, [np.zeros(4), [LABELS]], {"max_norm": 1}, TypeError, "grads[0] must be a float array"),
    (ops.clip_values, [PARAMS], {"clip_value": 0}, ValueError, "clip_value must be above 0, received 0"),
    (ops.clip_values, [PARAMS], {"clip_value": float("nan")}, ValueError, "clip_value must lie in [0.0, inf)"),
    (ops.clip_values, [[PARAMS[0]] * 2], {"clip_value": 1}, ValueError, "grads"),
    (ops.clip_values, [zeros(3)], {"clip_value": 1}, TypeError, "grads must be a list of arrays"),
    (ops.update_loss_scale, [np.zeros(4), [LABELS]], {}, TypeError, "grads[0] must be a float array"),
    (
        ops.update_loss_scale,
        [np.zeros(4), PARAMS],
        {"backoff": 2},
        ValueError,
        "backoff must lie in [0.0, 1.0], received 2",
    ),
    (ops.update_loss_scale, [np.zeros(4), PARAMS], {"backoff": 0}, ValueError, "backoff must be above 0, received 0"),
    (ops.group_norm, [X, zeros(4), zeros(4)], {"groups": 3}, ValueError, "received groups 3, 4 channels"),
    (ops.group_norm, [X, zeros(4), zeros(4)], {"groups": 0}, ValueError, "groups must be at least 1, received 0"),
    (
        ops.group_norm,
        [X[:, :0], zeros(4), zeros(4)],
        {"groups": 2},
        ValueError,
        "need at least one value, received shape",
    ),
    (
        ops.group_norm_backward,
        [X, X, zeros(4), zeros(4), zeros(4)],
        {},
        ValueError,
        "mean must be (N, groups), as group_norm returns it, received shape (4,)",
    ),
    (
        ops.group_norm_backward,
        [X, X, zeros(4), zeros(2, 2), zeros(2, 1)],
        {},
        ValueError,
        "inv_std must have shape (2, 2) (the mean's shape), received (2, 1)",
    ),
    # arithmetic
    (
        ops.copy,
        [X],
        {"out": X[:1]},
        ValueError,
        "out must have shape (2, 5, 7, 4) (the result's shape), received (1, 5, 7, 4)",
    ),
    (
        ops.add,
        [X, X[:1]],
        {},
        ValueError,
        "b must have shape (2, 5, 7, 4) (a's shape, or that of its last axis), received (1, 5, 7, 4)",
    ),
    (ops.add, [X, X[0, 0, 0, :3]], {}, ValueError, "(a's shape, or that of its last axis), received (3,)"),
    (ops.add, [X, X.astype(float)], {}, TypeError, "received a float32, b float64"),
    (ops.scale, [X], {"factor": np.nan}, ValueError, "factor must lie in (-inf, inf), received nan"),
    (
        ops.add_metrics,
        [zeros(4), np.zeros((), F32), LOGITS, LABELS],
        {},
        TypeError,
        "totals must be float64 of shape (4,) or (5,), received float32 of (4,)",
    ),
    (
        ops.add_metrics,
        [np.zeros(4), np.zeros((), F32), LOGITS, LABELS, np.ones(LOGITS.shape[1], F32)],
        {},
        TypeError,
        "totals must be float64 of shape (5,), received float64 of (4,)",
    ),
    (
        ops.add_metrics,
        [np.zeros(5), np.zeros((), F32), LOGITS, None, np.ones(LOGITS.shape[1], F32)],
        {},
        ValueError,
        "weight needs integer labels, whose weights it sums; received none",
    ),
    (
        ops.add_metrics,
        [np.zeros(4), np.zeros(()), LOGITS, LABELS],
        {},
        TypeError,
        "loss must be float32 for float32 scores, received float64",
    ),
    # batches
    (
        ops.load_batch,
        [X, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR},
        TypeError,
        "images must be uint8 (M, H, W, C), received float32 of shape (2, 5, 7, 4)",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES.astype(np.int32)],
        {"mean": VECTOR, "std": VECTOR},
        TypeError,
        "indices must be int64 of rank 1, received int32 of shape (2,)",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS[:2], INDICES],
        {"mean": VECTOR, "std": VECTOR},
        ValueError,
        "labels must have shape (3,) (one label for each image), received (2,)",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": zeros(3), "std": VECTOR},
        ValueError,
        "mean must be float32 of shape (4,) or (5, 7, 4), received float32 (3,)",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "shift": 5},
        ValueError,
        "shift must be smaller than the image (5 x 7), received 5",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "resized_crop": 1.5},
        ValueError,
        "resized_crop must lie in [0.0, 1.0], received 1.5",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "hue": 0.6},
        ValueError,
        "hue must lie in [0.0, 0.5], received 0.6",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "contrast": 0.4},
        ValueError,
        "brightness, contrast, saturation and hue change images of 1 or 3 channels, received 4 channels",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "start": 1, "count": len(INDICES)},
        ValueError,
        "does not fit",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "start": np.array([1])},
        ValueError,
        "needs a count",
    ),
    (ops.mix_batch, [IMAGES, LABELS, VECTOR], {"classes": 3}, TypeError, "x must be a float array"),
    (
        ops.mix_batch,
        [X[:, :, :0], LABELS[:2], VECTOR],
        {"classes": 3},
        ValueError,
        "x must have images of at least one number, received shape (2, 5, 0, 4)",
    ),
    (
        ops.mix_batch,
        [X, LABELS, VECTOR],
        {"classes": 3},
        ValueError,
        "labels must have shape (2,) (one label for each image), received (3,)",
    ),
    (
        ops.mix_batch,
        [X, LABELS[:2].astype(np.int32), VECTOR],
        {"classes": 3},
        TypeError,
        "labels must be int64, the numbers of classes, received int32",
    ),
    (
        ops.mix_batch,
        [X, np.array([0, 3]), VECTOR],
        {"classes": 3},
        ValueError,
        "labels must lie in [0, 3), received 3 at index 1",
    ),
    (
        ops.mix_batch,
        [X, LABELS[:2], zeros(0)],
        {"classes": 3},
        TypeError,
        "table must be float32 of shape (T,), T from 1, received float32 of shape (0,)",
    ),
    (ops.mix_batch, [X, LABELS[:2], VECTOR], {"classes": 0}, ValueError, "classes must be at least 1, received 0"),
    (ops.mix_batch, [X, LABELS[:2], VECTOR], {"classes": 3, "cut": "yes"}, TypeError, "cut must be True or False"),
    (
        ops.advance_step_counter,
        [np.zeros(3, np.int64), np.zeros(1), np.zeros(1)],
        {"batch_size": 1},
        TypeError,
        "counters must be int64 of shape (4,), received int64 (3,)",
    ),
    (
        ops.advance_step_counter,
        [np.zeros(4, np.int64), np.zeros(1, np.float32), np.zeros(1)],
        {"batch_size": 1},
        TypeError,
        "lr and rates must both be float32 or both float64",
    ),
    (
        ops.advance_step_counter,
        [np.zeros(4, np.int64), np.zeros(2), np.zeros((3, 1))],
        {"batch_size": 1},
        ValueError,
        "rates must be rows like lr, (T, L) and (L,), received (3, 1) and (2,)",
    ),
    (ops.advance_counter, [np.zeros(1)], {"by": 1}, TypeError, "counter must be int64"),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "dtype": "int8"},
        TypeError,
        "dtype must be one of float64, float32, float16, bfloat16, received int8",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, np.array([0, 3])],
        {"mean": VECTOR, "std": VECTOR},
        ValueError,
        "indices must lie in [0, 3), received 3 at index 1",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, np.array([-1])],
        {"mean": VECTOR, "std": VECTOR},
        ValueError,
        "indices must lie in [0, 3), received -1 at index 0",
    ),
    (
        ops.load_batch,
        [IMAGES, LABELS, INDICES],
        {"mean": VECTOR, "std": VECTOR, "start": np.array([-1]), "count": 1},
        ValueError,
        "indices has 2 entries; a batch of 1 from -1 on does not fit",
    ),
    # numbers out of range of every dtype
    (
        ops.muon_step,
        [[zeros(2, 3)]] * 3,
        {"lr": 1, "steps": 10**20},
        ValueError,
        "steps must be at most 100, received 100000000000000000000",
    ),
    (ops.conv2d, [X, W], {"padding": 2**31 - 1}, ValueError, "the output must fit into memory, received (2,"),
    (
        ops.global_avg_pool2d_backward,
        [X[:, :1, :1]],
        {"input_shape": (2, 2**62, 5, 4)},
        ValueError,
        "input_shape must fit into memory, received (2, 4611686018427387904, 5, 4)",
    ),
    (ops.scale, [X], {"factor": 1e39}, ValueError, "factor must be a number that float32 can hold, received 1e+39"),
    (
        ops.scale,
        [X],
        {"factor": 1.0, "divisor": 2.0**-130},
        ValueError,
        "factor / divisor must be a number that float32 can hold, received 1.36",
    ),
    (
        ops.sgd_step,
        [PARAMS, PARAMS],
        {"lr": 10**400},
        ValueError,
        "lr must be a number that a float can hold, received a number of some 400 digits",
    ),
    (ops.sgd_step, [PARAMS, PARAMS], {"lr": float("nan")}, ValueError, "lr must lie in [0.0, inf), received nan"),
    (ops.scale, [X], {"factor": np.complex64(2)}, TypeError, "factor must be a number, received np.complex64"),
    (
        ops.scale,
        [X],
        {"factor": np.timedelta64(2, "s")},
        TypeError,
        "factor must be a number, received np.timedelta64(2,'s')",
    ),
    (
        ops.dropout,
        [X],
        {"p": 0.5, "seed": 0, "offset": np.array([1.0])},
        TypeError,
        "offset must be a number or an array of int64, received an array of float64",
    ),
    (
        ops.sgd_step,
        [PARAMS, PARAMS],
        {"lr": np.array([1])},
        TypeError,
        "lr must be a number or an array of float32 or float64, received an array of int64",
    ),
    (
        ops.svm_hinge,
        [LOGITS, LABELS],
        {"grad_scale": np.ones(1, F32)},
        TypeError,
        "grad_scale must be a number or an array of float64, received an array of float32",
    ),
    (
        ops.digest,
        [zeros(5, 3), zeros(5, 4)],
        {},
        ValueError,
        "before must have shape (5, 3) (x's shape), received (5, 4)",
    ),
]


IDS = [
    f"{op.__name__}-{words if len(words) < 90 else words[:45] + ' ... ' + words[-40:]}"
    for op, _, _, _, words in REFUSALS
]


@pytest.mark.parametrize(("op", "arrays", "options", "error", "words"), REFUSALS, ids=IDS)
def test_a_wrong_argument_is_refused(op, arrays, options, error, words):
    with pytest.raises(error, match=re.escape(words)) as raised:
        op(*arrays, **options)
    assert raised.type is error


def test_every_op_has_a_refusal():
    """Ops that share their check with another op need none of their own."""
    shared = {"relu", "relu6", "sigmoid", "silu", "hard_swish", "hard_swish_backward"}
    shared |= {"relu6_backward", "sigmoid_backward", "tanh_backward", "leaky_relu_backward"}
    elsewhere = {name for name in ops.__all__ if name.startswith("random_")}  # tests/test_random.py
    assert {case[0].__name__ for case in REFUSALS} | shared | elsewhere >= set(ops.__all__)


@pytest.fixture
def received(monkeypatch):
    """The arguments that a call of an op passes to its backend, by position and by name."""

    def call(op, *arrays, **options):
        calls = []
        monkeypatch.setattr(
            getattr(cpu, ops.OPS[op].family), op, lambda *arguments, **named: calls.append((arguments, named))
        )
        getattr(ops, op)(*arrays, **options)
        return calls[0]

    return call


def test_arguments_reach_the_backend_in_normal_form(received):
    (x, w, bias, problem, epilogue), options = received("conv2d", X, W, stride=(2, 1), padding="valid", fit="Exact")
    assert (x is X, w is W, bias) == (True, True, None)
    assert problem is Conv2dProblem.of(X.shape, W.shape, stride=(2, 1), fit="exact")
    assert epilogue is Epilogue.of()
    assert options == dict(algo="auto", tf32=False, out=None)
    (_, pool), _ = received("max_pool2d", X, kernel_size=[2, 3])
    assert pool is Pool2dProblem.of(X.shape, (2, 3), stride=(2, 3))
    (*_, epilogue), _ = received("conv2d", X, W, activation="Leaky-ReLU")
    assert epilogue is Epilogue.of("leaky_relu")
    (*_, problem, epilogue), options = received("conv2d_dgrad", Y, W, input_shape=[2, np.int64(5), 7, 4])
    assert problem is Conv2dProblem.of(X.shape, W.shape)
    assert epilogue is Epilogue.of()
    assert options == dict(mask=None, algo="auto", tf32=False, out=None, accumulate=False)
    _, options = received("sgd_step", PARAMS, PARAMS, lr=1, weight_decay=0.5)
    assert options["weight_decay"] == (0.5, 0.5)


def test_a_gradient_receives_the_epilogue_of_the_forward_pass(received):
    x, w = zeros(2, 6, 6, 4), zeros(3, 3, 3, 4)
    dy, mask = zeros(2, 2, 2, 3), np.zeros((2, 2, 2, 2), np.uint8)
    expected = Epilogue.of(pool=2, masked=True)
    (*_, epilogue), _ = received("conv2d_relu", x, w, pool=np.int64(2), activation=None)
    assert epilogue is expected
    (*_, epilogue), _ = received("conv2d_relu", x, w, pool=np.int64(2))
    assert epilogue is Epilogue.of("relu", pool=2, masked=True)
    (*_, epilogue), _ = received("conv2d_relu", x, w, activation="GELU")
    assert epilogue is Epilogue.of("gelu", saves_input=True)
    for op, arrays, options in (
        ("conv2d_dgrad", (dy, w), {"input_shape": x.shape}),
        ("conv2d_wgrad", (dy, x), {"kernel_size": 3}),
        ("conv2d_backward", (dy, x, w), {}),
    ):
        (*_, problem, epilogue), given = received(op, *arrays, **options, mask=mask, pool=2)
        assert problem is Conv2dProblem.of(x.shape, w.shape), op
        assert epilogue is expected, op
        assert given["mask"] is mask, op
