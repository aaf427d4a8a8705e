"""The kernels of max, average and global pooling, against the oracle."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.backends.cuda.ops import pool
from gpuconv.dtypes import FLOAT_NAMES
from tests.kernels.agreement import assert_same_bits, expected, on_device, random
from tests.tolerance import assert_within, elementwise_bound, sum_bound

# (N, H, W, C), then the window's arguments
CASES = {
    "one pixel": ((1, 1, 1, 1), dict(kernel_size=1)),
    "empty batch": ((0, 4, 4, 3), dict(kernel_size=2)),
    "windows side by side": ((2, 32, 32, 12), dict(kernel_size=2)),
    "prime sizes": ((3, 7, 11, 5), dict(kernel_size=2)),
    "overlapping": ((2, 9, 7, 3), dict(kernel_size=3, stride=2)),
    "overlapping, padded": ((1, 8, 8, 16), dict(kernel_size=3, stride=2, padding=1)),
    "strides beyond the window": ((2, 11, 13, 4), dict(kernel_size=(1, 2), stride=(3, 5))),
    "uneven padding": ((2, 6, 5, 7), dict(kernel_size=(3, 2), stride=(2, 1), padding=((1, 2), (0, 1)))),
    "cover": ((2, 7, 9, 8), dict(kernel_size=(3, 2), stride=(2, 2), padding=((1, 1), (0, 1)), fit="cover")),
    "cover, long stride": ((1, 10, 9, 2), dict(kernel_size=2, stride=3, fit="cover")),
    "whole map": ((2, 5, 3, 33), dict(kernel_size=(5, 3))),
    "argmax beyond a byte": ((1, 20, 17, 2), dict(kernel_size=(20, 15), stride=1)),
}
case = pytest.mark.parametrize(("shape", "window"), CASES.values(), ids=CASES)
dtypes = pytest.mark.parametrize("dtype", FLOAT_NAMES)


@case
@dtypes
def test_max_pool_gives_the_bits_of_the_oracle(device, rng, shape, window, dtype):
    x = random(rng, shape, dtype)
    y, argmax = on_device("max_pool2d", device, x, **window)
    y64, argmax64 = expected("max_pool2d", x, **window)
    np.testing.assert_array_equal(y.astype(np.float64), y64)
    np.testing.assert_array_equal(argmax, argmax64)
    assert (y.dtype, argmax.dtype) == (x.dtype, argmax64.dtype)


@case
@dtypes
def test_max_pool_backward_is_within_its_bound(device, rng, shape, window, dtype):
    _, argmax = ops.max_pool2d(random(rng, shape, dtype), **window)
    dy = random(rng, argmax.shape, dtype)
    dx = on_device("max_pool2d_backward", device, dy, argmax, input_shape=shape, **window)
    dx64 = expected("max_pool2d_backward", dy, argmax, input_shape=shape, **window)
    magnitude = expected("max_pool2d_backward", np.abs(dy), argmax, input_shape=shape, **window)
    assert_within(dx, dx64, sum_bound(dtype, 9, magnitude))
    if shape[0]:
        assert_same_bits("max_pool2d_backward", device, dy, argmax, input_shape=shape, **window)


@pytest.mark.parametrize("special", [np.nan, -np.inf, np.inf, 0.0])
def test_max_pool_of_special_values_agrees_with_the_oracle(device, rng, special):
    x = rng.choice(np.array([special, -0.0, 1.0, -np.inf, np.nan, 2.0, 2.0], np.float32), (3, 6, 7, 4))
    window = dict(kernel_size=3, stride=2, padding=1)
    for ours, theirs in zip(on_device("max_pool2d", device, x, **window), ops.max_pool2d(x, **window)):
        np.testing.assert_array_equal(ours, theirs)


@case
@dtypes
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool_is_within_its_bound(device, rng, shape, window, dtype, count_include_pad):
    window = window | dict(count_include_pad=count_include_pad)
    x = random(rng, shape, dtype)
    y64, magnitude = expected("avg_pool2d", x, **window), expected("avg_pool2d", np.abs(x), **window)
    length = int(np.prod(window["kernel_size"]))
    assert_within(on_device("avg_pool2d", device, x, **window), y64, sum_bound(dtype, length, magnitude))

    dy = random(rng, y64.shape, dtype)
    dx = on_device("avg_pool2d_backward", device, dy, input_shape=shape, **window)
    dx64 = expected("avg_pool2d_backward", dy, input_shape=shape, **window)
    magnitude = expected("avg_pool2d_backward", np.abs(dy), input_shape=shape, **window)
    assert_within(dx, dx64, sum_bound(dtype, length, magnitude))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 7, 5, 3), (2, 4, 4, 40), (1, 33, 31, 1), (0, 2, 2, 3), (2, 8, 8, 64)]
)
@dtypes
def test_global_avg_pool_is_within_its_bound(device, rng, shape, dtype):
    x = random(rng, shape, dtype)
    magnitude = expected("global_avg_pool2d", np.abs(x))
    bound = sum_bound(dtype, shape[1] * shape[2], magnitude)
    assert_within(on_device("global_avg_pool2d", device, x), expected("global_avg_pool2d", x), bound)
    if shape[0]:
        assert_same_bits("global_avg_pool2d", device, x)

    dy = random(rng, (shape[0], 1, 1, shape[3]), dtype)
    dx64 = expected("global_avg_pool2d_backward", dy, input_shape=shape)
    dx = on_device("global_avg_pool2d_backward", device, dy, input_shape=shape)
    assert_within(dx, dx64, elementwise_bound(dtype, dx64))


def test_strided_inputs_and_outputs_give_the_same_bits(device, rng):
    wide = asarray(random(rng, (2, 6, 8, 6), "float32"), device)
    x = wide[:, :, ::2, 1::2]
    y, _ = ops.max_pool2d(asarray(to_numpy(x).copy(), device), kernel_size=2)
    target = asarray(np.full((2, 3, 2, 6), 7, np.float32), device)
    returned, _ = ops.max_pool2d(x, kernel_size=2, out=target[..., ::2])
    np.testing.assert_array_equal(to_numpy(returned), to_numpy(y))
    np.testing.assert_array_equal(to_numpy(target)[..., 1::2], 7)


def test_an_unaligned_view_gives_the_same_bits(device, rng):
    flat = asarray(random(rng, 2 * 4 * 4 * 8 + 1, "float32"), device)
    x = flat[1:].reshape(2, 4, 4, 8)
    y, _ = ops.max_pool2d(x, kernel_size=2)
    np.testing.assert_array_equal(to_numpy(y), ops.max_pool2d(to_numpy(x), kernel_size=2)[0])


def test_volumes_past_the_index_limit_are_processed_in_parts(device, rng, monkeypatch):
    """A launch indexes fewer than 2^31 elements; the limit is lowered here so that it is exceeded."""
    x = random(rng, (5, 9, 7, 8), "float32")
    window = dict(kernel_size=3, stride=2, padding=1)
    in_one_launch = on_device("max_pool2d", device, x, **window)
    monkeypatch.setattr(pool, "_LARGEST_PART", 2 * x[0].size + 1)
    for in_parts, at_once in zip(on_device("max_pool2d", device, x, **window), in_one_launch):
        np.testing.assert_array_equal(in_parts, at_once)
    dx = on_device("max_pool2d_backward", device, *in_one_launch, input_shape=x.shape, **window)
    np.testing.assert_array_equal(dx, ops.max_pool2d_backward(*in_one_launch, input_shape=x.shape, **window))
    monkeypatch.setattr(pool, "_LARGEST_PART", x[0].size)
    with pytest.raises(ValueError, match="elements per image, received 504"):
        on_device("max_pool2d", device, x, **window)
