"""Fills arrays with random numbers, whose bits `gpuconv.random` defines."""

from gpuconv import random


def random_uniform(y, *, low, high, seed, stream, substream, offset):
    position = dict(seed=seed, stream=stream, substream=substream, offset=offset)
    y[...] = random.uniform(y.shape, low=low, high=high, dtype=y.dtype, **position)
    return y


def random_normal(y, *, mean, std, seed, stream, substream, offset):
    position = dict(seed=seed, stream=stream, substream=substream, offset=offset)
    y[...] = random.normal(y.shape, mean=mean, std=std, dtype=y.dtype, **position)
    return y


def random_permutation(order, *, seed, epoch, stream):
    order[...] = random.permutation(len(order), seed=seed, epoch=epoch, stream=stream)
    return order
