"""Ops whose `out`, `dy` or `x` is a slice of the channels give the bits of dense arrays and leave the other channels
unchanged."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.algorithms import serving
from gpuconv.backends import asarray, empty, to_numpy
from gpuconv.backends.cuda.runtime.capability import capability_named
from tests.kernels.convolutions import dtype_and_options

PIXELS = (2, 4, 4)
# The first channel of the slice, and the number of other channels. The last two slices allow no 16-byte moves.
SLICES = [(0, 8), (8, 16), (16, 24), (3, 8), (4, 13)]
# Transposed convolutions: name; filters, or 0 for depthwise ones; kernel size and stride.
TRANSPOSED = (("transposed", 8, 2), ("transposed-split-K", 512, 1), ("transposed-depthwise", 0, 2))
CASES = ("float32", 8, 3), ("float16", 8, 8)  # dtype, channels of the slice, input channels


def calls(device, dtype, filters, channels, rng):
    """Yields (name, a call that writes a slice as `out`, a call that reads one as `dy` or `x`). A call may be None."""

    def volume(*shape):
        return asarray(rng.normal(size=shape).astype(dtype), device)

    n, h, w = PIXELS
    x, weight, bias = volume(n, h, w, channels), volume(filters, 3, 3, channels), volume(filters)
    deep, narrow = volume(n, h, w, 512), volume(filters, 1, 1, 512)  # with split-K
    dense, depthwise = volume(n, h, w, filters), volume(filters, 3, 3, 1)
    vectors = [asarray(rng.uniform(1, 2, filters).astype(np.float32), device) for _ in range(4)]
    padded, in_groups = dict(padding=1), dict(padding=1, groups=filters)
    _, mask = ops.conv2d_relu(x, weight, bias, **padded)
    _, pooled = ops.conv2d_relu(volume(n, 2 * h, 2 * w, channels), weight, bias, pool=2, **padded)

    def conv_norm(x, w, bias):
        return ops.conv2d_batch_norm(x, w, bias, *vectors[:2], *_copies(vectors[2:]), **padded)

    def filter_and_bias_gradient(dy, x, **options):
        db = bias * 0
        return db, ops.conv2d_wgrad(dy, x, kernel_size=3, db=db, **options)

    norm_arrays = dense, *vectors[:2], vectors[2] * 1, vectors[3] * 1
    unpool = dict(input_shape=(n, 2 * h, 2 * w, channels), pool=2, mask=pooled)
    large_x = volume(n, 2 * h, 2 * w, channels)
    yield "conv2d", lambda out: ops.conv2d(x, weight, bias, activation="relu", out=out, **padded), None
    yield "split-K", lambda out: ops.conv2d(deep, narrow, bias, activation="relu", out=out), None
    yield "depthwise", lambda out: ops.conv2d(dense, depthwise, bias, out=out, **in_groups), None
    yield "masked", lambda out: ops.conv2d_relu(x, weight, bias, out=out, **padded), None
    yield "gelu", lambda out: ops.conv2d_relu(x, weight, bias, activation="gelu", out=out, **padded), None
    yield "norm", lambda out: ops.batch_norm(*norm_arrays, training=False, activation="relu", out=out), None
    yield (
        "training",
        lambda out: ops.batch_norm(dense, *vectors[:2], *_copies(vectors[2:]), training=True, out=out),
        None,
    )
    yield "leaky", lambda out: ops.leaky_relu(dense, out=out), None
    yield "leaky-backward", None, lambda dy: ops.leaky_relu_backward(dy, dense)
    yield "gelu-backward-of-slices", None, lambda dy: ops.gelu_backward(dy, dy)
    yield "add", lambda out: ops.add(dense, dense, out=out), None
    yield "copy", lambda out: ops.copy(dense, out=out), None
    yield "dgrad", None, lambda dy: ops.conv2d_dgrad(dy, weight, input_shape=x.shape, **padded)
    yield "dgrad-mask", None, lambda dy: ops.conv2d_dgrad(dy, weight, input_shape=x.shape, mask=mask, **padded)
    yield "dgrad-pool", None, lambda dy: ops.conv2d_dgrad(dy, weight, **unpool, **padded)
    yield "dgrad-depthwise", None, lambda dy: ops.conv2d_dgrad(dy, depthwise, input_shape=dense.shape, **in_groups)
    yield "wgrad", None, lambda dy: filter_and_bias_gradient(dy, x, **padded)
    yield "wgrad-pool", None, lambda dy: ops.conv2d_wgrad(dy, large_x, kernel_size=3, pool=2, mask=pooled, **padded)
    yield "wgrad-depthwise", None, lambda dy: filter_and_bias_gradient(dy, dense, **in_groups)
    yield "bias_grad", None, lambda dy: ops.bias_grad(dy, dense, activation="relu")
    for active in (None, "silu"):
        yield (
            f"norm-backward-{active}",
            None,
            lambda dy, a=active: ops.batch_norm_backward(dy, dense, *vectors[:3], beta=vectors[3], activation=a),
        )
    yield "add-both", None, lambda dy: ops.add(dy, dy)
    square, pooled_too = volume(filters, 3, 3, filters), dict(pool=2, **padded)
    halves, few = volume(filters, 3, 3, filters // 2), volume(filters, 3, 3, 4)
    yield "conv2d-of-x", None, lambda x: ops.conv2d(x, square, bias, **padded)
    yield "groups-of-x", None, lambda x: ops.conv2d(x, halves, bias, groups=2, **padded)
    yield "few-channels-of-x", None, lambda x: ops.conv2d(x[..., :4], few, **padded)
    yield "masked-of-x", None, lambda x: ops.conv2d_relu(x, square, bias, **pooled_too)
    yield "depthwise-of-x", None, lambda x: ops.conv2d(x, depthwise, bias, **in_groups)
    yield "wgrad-of-x", None, lambda x: filter_and_bias_gradient(dense, x, **padded)
    yield "wgrad-groups-of-x", None, lambda x: ops.conv2d_wgrad(dense, x, kernel_size=3, groups=2, **padded)
    yield "wgrad-depthwise-of-x", None, lambda x: ops.conv2d_wgrad(dense, x, kernel_size=3, **in_groups)
    yield "backward-of-x", None, lambda x: ops.conv2d_backward(dense, x, square, **padded)
    yield "conv-norm-of-x", None, lambda x: conv_norm(x, square, bias)
    yield "norm-of-x", None, lambda x: ops.batch_norm(x, *vectors, training=False)
    yield "training-of-x", None, lambda x: ops.batch_norm(x, *vectors[:2], *_copies(vectors[2:]), training=True)
    for training in (True, False):
        yield (
            f"norm-backward-of-x-training-{training}",
            None,
            lambda x, t=training: ops.batch_norm_backward(
                dense, x, *vectors[:3], beta=vectors[3], activation="silu", training=t
            ),
        )
    yield "norm-backward-of-both", None, lambda x: ops.batch_norm_backward(x, x, *vectors[:3])
    yield "add-vector", lambda out: ops.add(dense, bias, out=out), lambda dy: ops.add(dy, bias)
    yield "scale", lambda out: ops.scale(dense, factor=0.3, out=out), lambda dy: ops.scale(dy, factor=0.3)
    drawn = dict(p=0.4, seed=3, first=5)
    yield "dropout", lambda out: ops.dropout(dense, **drawn, out=out), lambda dy: ops.dropout_backward(dy, **drawn)
    drawn_aligned = drawn | dict(first=8)  # the numbers of whole blocks of Philox
    yield (
        "dropout-aligned",
        lambda out: ops.dropout(dense, **drawn_aligned, out=out),
        lambda dy: ops.dropout_backward(dy, **drawn_aligned),
    )
    window, large = dict(kernel_size=3, stride=2, padding=1), volume(n, 2 * h - 1, 2 * w, filters)
    argmax, shape = ops.max_pool2d(large, **window)[1], dict(input_shape=large.shape)
    yield (
        "max_pool",
        lambda out: ops.max_pool2d(large, **window, out=out)[0],
        lambda dy: ops.max_pool2d_backward(dy, argmax, **shape, **window),
    )
    yield (
        "avg_pool",
        lambda out: ops.avg_pool2d(large, **window, out=out),
        lambda dy: ops.avg_pool2d_backward(dy, **shape, **window),
    )
    for groups in (2, 1):
        _, mean, inv_std = ops.group_norm(dense, *vectors[:2], groups=groups)
        yield (
            f"group_norm-{groups}",
            lambda out, groups=groups: ops.group_norm(dense, *_copies(vectors[:2]), groups=groups, out=out),
            lambda dy, s=(mean, inv_std): ops.group_norm_backward(dy, dense, vectors[0], *s),
        )
    for name, k, size in TRANSPOSED:
        dy = volume(n, h // size, w // size, k or filters)
        weights = volume(k or filters, size, size, filters if k else 1)
        options = dict(input_shape=(n, h, w, filters), stride=size, groups=1 if k else filters)
        yield name, lambda out, dy=dy, w=weights, o=options: ops.conv2d_dgrad(dy, w, **o, out=out), None


def _copies(vectors):
    return [vector * 1 for vector in vectors]


def _bytes(results):
    arrays = results if isinstance(results, tuple) else (results,)
    return [to_numpy(array).tobytes() for array in arrays]


@pytest.mark.parametrize(("dtype", "filters", "channels"), CASES, ids=[case[0] for case in CASES])
def test_slices_have_the_bits_of_dense_arrays(device, rng, dtype, filters, channels):
    dy = rng.normal(size=(*PIXELS, filters)).astype(dtype)
    for name, write, read in calls(device, dtype, filters, channels, rng):
        for run, argument in ((write, None), (read, asarray(dy, device))):
            if run is None:
                continue
            expected = _bytes(run(argument))
            for first, other_channels in SLICES:
                inside = slice(first, first + filters)
                host = np.full((*PIXELS, other_channels + filters), 7, dtype)
                if argument is not None:
                    host[..., inside] = dy
                volume = asarray(host, device)
                assert _bytes(run(volume[..., inside])) == expected, (name, first, other_channels)
                after = to_numpy(volume)
                assert (np.delete(after, np.r_[inside], axis=-1) == 7).all(), (name, first, other_channels)


def test_slices_of_an_empty_batch_are_accepted(device):
    x, weight = empty((0, 4, 4, 3), "float32", device), empty((8, 1, 1, 3), "float32", device)
    out = empty((0, 4, 4, 20), "float32", device)[..., 4:12]
    assert ops.conv2d(x, weight, out=out) is out
    assert ops.copy(out).shape == (0, 4, 4, 8)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_copies_into_slices_of_channels_keep_the_others(device, dtype):
    """Some slices allow 16-byte moves and some do not; some maps have one pixel; some rows are unevenly spaced."""
    for shape, begin, end in (((2, 3, 5, 24), 8, 16), ((2, 3, 5, 7), 2, 5), ((1, 1, 1, 9), 0, 4), ((70, 5), 1, 5)):
        y, x = (np.random.default_rng(n).normal(size=shape).astype(dtype) for n in (0, 1))
        on_device = asarray(y, device)
        for begins, ends, packed in ((begin, end, True), (end, shape[-1], False)):
            part = on_device[..., begins:ends]
            source = asarray(x[..., begins:ends].copy(), device) if packed else asarray(x, device)[..., begins:ends]
            assert ops.copy(source, out=part) is part
        y[..., begin:] = x[..., begin:]
        np.testing.assert_array_equal(to_numpy(on_device), y)
    x = np.arange(120, dtype=dtype).reshape(2, 3, 4, 5)
    for view in (
        lambda a: a[:, ::2],
        lambda a: a.transpose(0, 2, 1, 3),
        lambda a: a[..., ::-1],
        lambda a: a[:, :, 1:3, 1:],
    ):
        np.testing.assert_array_equal(to_numpy(ops.copy(view(asarray(x, device)))), view(x))
        y = asarray(np.zeros_like(x), device)
        ops.copy(asarray(view(x).copy(), device), out=view(y))
        expected = np.zeros_like(x)
        view(expected)[...] = view(x)
        np.testing.assert_array_equal(to_numpy(y), expected)


@pytest.mark.parametrize("precision", ["float16", "tf32", "float32"])
def test_every_algorithm_reads_x_in_a_slice(device, rng, precision):
    dtype, tf32_option = dtype_and_options(precision)
    host = rng.normal(size=(2, 6, 6, 48)).astype(dtype)
    inside = asarray(host, device)[..., 16:32]
    dense = asarray(host[..., 16:32], device)
    w, bias, dy = (asarray(rng.normal(size=s).astype(dtype), device) for s in ((24, 3, 3, 16), 24, (2, 6, 6, 24)))
    for algorithm in serving(precision):
        if algorithm.runs_on(capability_named(device)):
            options = dict(padding=1, algo=algorithm.name, **tf32_option)
            of_slice, of_dense = (
                (ops.conv2d(x, w, bias, **options), ops.conv2d_wgrad(dy, x, kernel_size=3, **options))
                for x in (inside, dense)
            )
            assert _bytes(of_slice) == _bytes(of_dense), algorithm.name
