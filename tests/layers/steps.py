"""Inputs of a net, and all results of one of its steps, to compare two ways of running the net."""

import numpy as np

import gpuconv as gc


def ones(net):
    """(x, dy) of two images: ones in the shapes of the net's input and output."""
    return (gc.asarray(np.ones((2, *shape), net.dtype), net.device) for shape in (net.input_shape, net.output_shape))


def step_bytes(net, rng):
    """Forward, backward and inference: all of their results, as bytes, by name."""
    x, dy = (
        gc.asarray(rng.normal(size=(2, *shape)).astype(net.dtype), net.device)
        for shape in (net.input_shape, net.output_shape)
    )
    results = {"y": net.forward(x, True), "dx": net.backward(dy), "inferred": net.infer(x)}
    return {name: gc.to_numpy(value).tobytes() for name, value in (results | net.grads() | net.buffers()).items()}


def step_arrays(net, images=3, seed=0):
    """Scores, input gradient and parameter gradients of a training step, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    x = gc.asarray(rng.standard_normal((images, *net.input_shape)), net.device, net.dtype)
    y = net.forward(x, training=True)
    dy = gc.asarray(rng.standard_normal(y.shape), net.device, net.dtype)
    net.zero_grad()
    dx = net.backward(dy)
    return [gc.to_numpy(array).copy() for array in (y, dx, *net.grads().values())]


def kinds(net):
    """The class names of the net's layers, not of those inside others."""
    return [type(layer).__name__ for layer in net]
