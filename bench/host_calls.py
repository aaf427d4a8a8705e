"""A call of every op, for measuring its Python time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np


def calls() -> dict[str, tuple[Callable[[], object], int]]:
    """By op name: a call, and the number of arrays in its lists. Most calls write into preallocated arrays."""
    import gpuconv as gc
    from gpuconv import ops

    def array(*shape: int, dtype=np.float32):
        return gc.asarray(np.ones(shape, dtype), "cuda")

    x, w, bias, y = array(1, 8, 8, 4), array(8, 3, 3, 4), array(8), array(1, 8, 8, 8)
    dx, dw, db, y2 = array(1, 8, 8, 4), array(8, 3, 3, 4), array(8), array(1, 8, 8, 8)
    gamma, db2, group = array(8), array(8), array(1, 2)
    pooled, won, mean = array(1, 4, 4, 4), array(1, 4, 4, 4, dtype=np.uint8), array(1, 1, 1, 4)
    scores, labels, loss, targets = array(4, 10), array(4, dtype=np.int64), array(), array(4, 10)
    rows, matrix, vector, products = array(4, 16), array(10, 16), array(10), array(4, 10)
    drows, dmatrix, dvector = array(4, 16), array(10, 16), array(10)
    images, order, batch = array(8, 8, 8, 4, dtype=np.uint8), array(8, dtype=np.int64), array(4, 8, 8, 4)
    all_labels, zero, one, mixed = array(8, dtype=np.int64), array(4), array(4), array(4, 8, 8, 4)
    dgamma_of_x, dbeta_of_x, digest = array(4), array(4), array(5, dtype=np.float64)
    totals, scaling, counters = array(4, dtype=np.float64), array(4, dtype=np.float64), array(4, dtype=np.int64)
    counter, rate, rates = array(1, dtype=np.int64), array(1), array(8, 1)
    params, grads, first, second, third = ([array(16) for _ in range(62)] for _ in range(5))
    matrices, directions, velocities = ([array(4, 4) for _ in range(6)] for _ in range(3))
    window = {"kernel_size": 2}
    elementwise: dict[str, Callable[[], object]] = {}
    for name in ("relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "silu", "hard_swish"):
        forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
        elementwise[name] = partial(forward, x, out=dx)
        elementwise[f"{name}_backward"] = partial(backward, x, x, out=dx)
    single = elementwise | {
        "softmax": lambda: ops.softmax(scores, out=products),
        "add": lambda: ops.add(x, x, out=dx),
        "copy": lambda: ops.copy(x, out=dx),
        "scale": lambda: ops.scale(x, factor=0.5, out=dx),
        "dropout": lambda: ops.dropout(x, p=0.5, seed=1, out=dx),
        "dropout_backward": lambda: ops.dropout_backward(x, p=0.5, seed=1, out=dx),
        "conv2d": lambda: ops.conv2d(x, w, bias, padding=1, out=y),
        "conv2d_relu": lambda: ops.conv2d_relu(x, w, bias, padding=1, out=y),
        "conv2d_relu, gelu": lambda: ops.conv2d_relu(x, w, bias, activation="gelu", padding=1, out=y),
        "conv2d_dgrad": lambda: ops.conv2d_dgrad(y, w, input_shape=(1, 8, 8, 4), padding=1, out=dx),
        "conv2d_dgrad, accumulated": lambda: ops.conv2d_dgrad(
            y, w, input_shape=(1, 8, 8, 4), padding=1, out=dx, accumulate=True
        ),
        "conv2d_wgrad": lambda: ops.conv2d_wgrad(y, x, kernel_size=3, padding=1, out=dw, db=db),
        "conv2d_backward": lambda: ops.conv2d_backward(y, x, w, padding=1, out=dx, dw=dw, db=db),
        "conv2d_batch_norm": lambda: ops.conv2d_batch_norm(x, w, None, gamma, bias, db, db2, padding=1, out=y),
        "bias_grad": lambda: ops.bias_grad(y, out=db),
        "bias_grad, gelu": lambda: ops.bias_grad(y, y2, activation="gelu", out=db),
        "linear": lambda: ops.linear(rows, matrix, vector, out=products),
        "linear_dgrad": lambda: ops.linear_dgrad(products, matrix, out=drows),
        "linear_wgrad": lambda: ops.linear_wgrad(products, rows, out=dmatrix, db=dvector),
        "max_pool2d": lambda: ops.max_pool2d(x, **window, out=pooled),
        "max_pool2d_backward": lambda: ops.max_pool2d_backward(pooled, won, input_shape=x.shape, **window, out=dx),
        "avg_pool2d": lambda: ops.avg_pool2d(x, **window, out=pooled),
        "avg_pool2d_backward": lambda: ops.avg_pool2d_backward(pooled, input_shape=x.shape, **window, out=dx),
        "global_avg_pool2d": lambda: ops.global_avg_pool2d(x, out=mean),
        "global_avg_pool2d_backward": lambda: ops.global_avg_pool2d_backward(mean, input_shape=x.shape, out=dx),
        "batch_norm": lambda: ops.batch_norm(y, gamma, bias, db, db2, training=False, out=y),
        "group_norm": lambda: ops.group_norm(y, gamma, bias, groups=2, out=y),
        "group_norm_backward": lambda: ops.group_norm_backward(y, y2, gamma, group, group, out=y, dgamma=db, dbeta=db2),
        "batch_norm, training": lambda: ops.batch_norm(y, gamma, bias, db, db2, training=True, out=y),
        "batch_norm_backward": lambda: ops.batch_norm_backward(y, y2, gamma, bias, bias, out=y, dgamma=db, dbeta=db2),
        "batch_norm_backward, below a convolution": lambda: ops.batch_norm_backward(
            y, x, one, zero, one, w=w, padding=1, dgamma=dgamma_of_x, dbeta=dbeta_of_x
        ),
        "softmax_cross_entropy": lambda: ops.softmax_cross_entropy(scores, labels, out=scores),
        "svm_hinge": lambda: ops.svm_hinge(scores, labels, out=scores),
        "mean_squared_error": lambda: ops.mean_squared_error(scores, targets, out=scores),
        "huber_loss": lambda: ops.huber_loss(scores, targets, out=scores),
        "binary_cross_entropy": lambda: ops.binary_cross_entropy(scores, targets, out=scores),
        "add_metrics": lambda: ops.add_metrics(totals, loss, scores, labels),
        "load_batch": lambda: ops.load_batch(images, all_labels, order, mean=zero, std=one, count=4, out=batch),
        "mix_batch": lambda: ops.mix_batch(batch, labels, one, classes=10, offset=counter, out=mixed),
        "digest": lambda: ops.digest(x, out=digest),
        "random_uniform": lambda: ops.random_uniform(x, seed=1),
        "random_normal": lambda: ops.random_normal(x, seed=1),
        "random_permutation": lambda: ops.random_permutation(order, seed=1),
        "advance_step_counter": lambda: ops.advance_step_counter(counters, rate, rates, batch_size=4),
        "advance_counter": lambda: ops.advance_counter(counter, by=1),
    }
    several = {
        "sgd_step": (lambda: ops.sgd_step(params, grads, first, lr=0.1, momentum=0.9), 186),
        "adagrad_step": (lambda: ops.adagrad_step(params, grads, first, lr=0.1), 186),
        "rmsprop_step": (lambda: ops.rmsprop_step(params, grads, first, lr=0.1), 186),
        "adam_step": (lambda: ops.adam_step(params, grads, first, second, lr=0.1, step=1), 248),
        "adam_step, averages": (
            lambda: ops.adam_step(params, grads, first, second, averages=third, lr=0.1, step=1),
            310,
        ),
        "lion_step": (lambda: ops.lion_step(params, grads, first, lr=0.1), 186),
        "clip_norm": (lambda: ops.clip_norm(scaling, grads, max_norm=1.0), 62),
        "clip_values": (lambda: ops.clip_values(grads, clip_value=1.0), 62),
        "update_loss_scale": (lambda: ops.update_loss_scale(scaling, grads), 62),
        "muon_step": (lambda: ops.muon_step(matrices, directions, velocities, lr=0.1, momentum=0.9), 18),
    }
    return {name: (call, 0) for name, call in single.items()} | several
