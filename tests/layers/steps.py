"""Inputs of a net, and a step of it with all results, to compare two ways of running it."""

import numpy as np

import gpuconv as gc


def ones(net):
    """(x, dy) of two images: ones in the shapes of the net's input and output."""
    return (gc.asarray(np.ones((2, *shape), net.dtype), net.device) for shape in (net.input_shape, net.output_shape))


def step(net, rng):
    """Forward, backward and inference: all of their results, as bytes."""
    x, dy = (
        gc.asarray(rng.normal(size=(2, *shape)).astype(net.dtype), net.device)
        for shape in (net.input_shape, net.output_shape)
    )
    results = {"y": net.forward(x, True), "dx": net.backward(dy), "inferred": net.infer(x)}
    return {name: gc.to_numpy(value).tobytes() for name, value in (results | net.grads() | net.buffers()).items()}
