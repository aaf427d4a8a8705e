"""Filling arrays with random numbers, whose bits `gpuconv.random` fixes."""

from gpuconv import random


def random_uniform(y, *, low=0.0, high=1.0, seed, stream=0, substream=0, offset=0):
    where = dict(seed=seed, stream=stream, substream=substream, offset=offset)
    y[...] = random.uniform(y.shape, low=low, high=high, dtype=y.dtype, **where)
    return y


def random_normal(y, *, mean=0.0, std=1.0, seed, stream=0, substream=0, offset=0):
    where = dict(seed=seed, stream=stream, substream=substream, offset=offset)
    y[...] = random.normal(y.shape, mean=mean, std=std, dtype=y.dtype, **where)
    return y


def random_permutation(order, *, seed, epoch=0, stream=1):
    order[...] = random.permutation(len(order), seed=seed, epoch=epoch, stream=stream)
    return order
