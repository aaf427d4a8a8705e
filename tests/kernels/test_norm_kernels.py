"""Bias gradient, batch and group normalization, and how the first two assign columns to threads."""

from contextlib import nullcontext
from itertools import cycle

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.algorithms import UnservedError, serving
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.ops import column_reduce, norm
from gpuconv.backends.cuda.runtime.outputs import THREADS
from gpuconv.backends.reference.conv import gradient_before_mask
from gpuconv.dtypes import accumulation_dtype, as_dtype
from gpuconv.problems import ACTIVATIONS, Conv2dProblem
from gpuconv.profiling import launches
from gpuconv.verify.conv_problems import conv, random_arrays
from gpuconv.verify.oracle import expected_results
from gpuconv.verify.rules.base import as_float64
from tests.kernels.agreement import FLOATS, accumulation, assert_same_bits, expected, on_device, random, thread_orders
from tests.tolerance import UNIT_ROUNDOFF, assert_within, elementwise_bound, sum_bound

SHAPES = {
    "one channel": (7, 1),
    "ragged end": (5, 3),
    "twelve channels": (2, 3, 5, 12),
    "prime sizes": (3, 7, 11, 5),
    "a net's layer": (4, 8, 8, 64),
    "several chunks": (20000, 7),
    "several chunks of one channel": (40001, 1),
    "all columns side by side": (33, 1000),
    "tiles": (9, 4376),  # the last one is narrower
}
SINGLE_NUMBERS = (17, 1031)  # columns in tiles, moved one number at a time
cases = pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, dtype) for shape in SHAPES.values() for dtype in FLOATS] + [(SINGLE_NUMBERS, "float32")],
)


def all_axes_but_the_last(x):
    return tuple(range(x.ndim - 1))


# --- how the matrix is divided among threads ---------------------------------------------------


def elements_of(columns, width):
    """The indices of the elements that the launch's threads visit, by the arithmetic of `walk` in column_reduce.cuh."""
    size, stride, chunk, _, tile, rows = columns.struct.tolist()
    chunks, tiles = columns.grid
    thread = np.arange(columns.threads)
    visited = []
    for block in range(tiles):
        first = block * (tile // width) + thread
        inside = (thread * width < rows * tile) & (first < stride)
        for begin in range(0, chunks * chunk, chunk):
            for step in range(begin, begin + chunk):
                indices = ((first[inside] + step * stride) * width)[:, None] + np.arange(width)
                visited.append(indices[indices < size])
    return np.concatenate([np.zeros(0, int), *visited])


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("most_steps", [None, column_reduce.MAP_STEPS])
@pytest.mark.parametrize(
    "shape", [(1, 1), (0, 5), (5, 3), (100, 12), (4099, 1), (37, 64), (9, 255), (11, 1000), (3, 5000), (7, 20480)]
)
def test_each_element_is_visited_once_and_lanes_keep_their_column(shape, width, most_steps):
    rows, channels = shape
    if np.lcm(channels, width) > THREADS * width and channels % width:
        width = 1
    columns = column_reduce.distribute(rows, channels, width, most_steps)
    np.testing.assert_array_equal(np.sort(elements_of(columns, width)), np.arange(rows * channels))
    assert int(columns.struct["stride"]) * width % channels == 0
    assert columns.threads <= THREADS
    assert columns.threads % 32 == 0


def test_every_element_of_a_matrix_past_2_to_the_31_is_visited():
    rows, channels, width = 2**29, 24, 8
    columns = column_reduce.distribute(rows, channels, width, None)
    size, stride, chunk, _, _, step_rows = columns.struct.tolist()
    assert size == rows * channels
    assert (columns.chunks - 1) * chunk * step_rows < rows <= columns.chunks * chunk * step_rows
    assert columns.chunks <= 1024
    assert stride * width == step_rows * channels
    spread = column_reduce.distribute(rows, channels, width, column_reduce.MAP_STEPS)
    assert spread.chunks * column_reduce.MAP_STEPS * step_rows >= rows


@pytest.mark.parametrize(
    ("channels", "width"), [(1, 4), (3, 4), (12, 4), (255, 4), (1000, 4), (4360, 4), (257, 1), (1031, 1)]
)
def test_packs_are_used_wherever_whole_packs_keep_their_columns(device, channels, width):
    aligned = asarray(np.zeros(64, np.float32), device)
    assert column_reduce.width_of(channels, aligned) == width
    assert column_reduce.width_of(channels, aligned[1:]) == 1


# --- bias --------------------------------------------------------------------------------------


@cases
def test_bias_grad_is_within_its_bound(device, rng, shape, dtype):
    dy = random(rng, shape, dtype)
    bound = sum_bound(dtype, dy.size // shape[-1], np.abs(as_float64(dy)).sum(all_axes_but_the_last(dy)))
    assert_within(on_device("bias_grad", device, dy), expected("bias_grad", dy), bound)


def test_bias_grad_has_the_same_bits_in_every_thread_order(device, rng):
    for shape in ((20000, 7), (5, 3), SINGLE_NUMBERS):
        assert_same_bits("bias_grad", device, random(rng, shape, "float32"))


@pytest.mark.parametrize("shape", [(6, 5), (20000, 7)])
def test_bias_grad_accumulates(device, rng, shape):
    dy, before = random(rng, shape, "float16"), random(rng, shape[-1:], "float16")
    out = asarray(np.repeat(before, 2), device)
    assert_within(
        to_numpy(ops.bias_grad(asarray(dy, device), out=out[::2], accumulate=True)),
        expected("bias_grad", dy) + as_float64(before),
        sum_bound("float16", shape[0], np.abs(as_float64(dy)).sum(0) + np.abs(as_float64(before))),
    )
    np.testing.assert_array_equal(to_numpy(out)[1::2], before)


def test_bias_grad_accepts_empty_arrays_and_views(device, rng):
    out = asarray(np.full(4, np.nan, np.float32), device)
    np.testing.assert_array_equal(to_numpy(ops.bias_grad(asarray(np.zeros((0, 4), np.float32), device), out=out)), 0)
    assert on_device("bias_grad", device, np.zeros((3, 0), np.float32)).shape == (0,)
    dy = random(rng, (9, 14), "float32")
    for view in (lambda x: x[::2, 1::3], lambda x: x.reshape(-1)[3 : 3 + 60].reshape(10, 6)):
        bound = sum_bound("float32", 10, np.abs(view(dy)).sum(0))
        assert_within(to_numpy(ops.bias_grad(view(asarray(dy, device)))), expected("bias_grad", view(dy)), bound)


# --- batch normalization -----------------------------------------------------------------------


def vectors(rng, channels, dtype, count=4):
    """gamma, beta, a running mean and a running variance, or the first `count` of these."""
    gamma, beta, mean, var = (random(rng, (channels,), accumulation(dtype)) for _ in range(4))
    return [gamma, beta, mean, np.abs(var) + np.asarray(0.1, var.dtype)][:count]


def statistics_bounds(x, dtype, eps):
    """The worst errors of a mean, an inv_std and a variance that are summed in the accumulation dtype.

    The squared deviations are taken from the computed mean. Its error e moves the variance by up to 4 e times the
    standard deviation plus e squared, in addition to the rounding of the variance's own sum.
    """
    rows, name, x = x.size // x.shape[-1], accumulation(dtype), as_float64(x)
    mean_error = sum_bound(name, rows, np.abs(x).mean(all_axes_but_the_last(x)))
    variance, deviation = x.var(all_axes_but_the_last(x)), x.std(all_axes_but_the_last(x))
    variance_error = sum_bound(name, 2 * rows, variance) + 4 * mean_error * deviation + mean_error**2
    relative = 0.5 * variance_error / (variance + eps) + 4 * UNIT_ROUNDOFF[name]
    return mean_error, relative / np.sqrt(variance + eps), variance_error


@cases
def test_batch_norm_in_training_is_within_its_bound(device, rng, shape, dtype):
    x = (1.5 * random(rng, shape, "float64") + 3).astype(as_dtype(dtype))
    gamma, beta, *running = vectors(rng, shape[-1], dtype)
    running_on_device = [asarray(a.copy(), device) for a in running]
    running64 = [as_float64(a) for a in running]
    out = asarray(np.full(shape, np.nan, x.dtype), device)
    y, mean, inv_std = ops.batch_norm(
        *(asarray(a, device) for a in (x, gamma, beta)),
        *running_on_device,
        training=True,
        momentum=0.3,
        eps=1e-3,
        out=out,
    )
    y64, mean64, inv_std64 = ops.batch_norm(
        *(as_float64(a) for a in (x, gamma, beta)), *running64, training=True, momentum=0.3, eps=1e-3
    )
    assert y is out
    mean_error, inv_std_error, variance_error = statistics_bounds(x, dtype, 1e-3)
    xhat = (as_float64(x) - mean64) * inv_std64
    y_error = np.abs(gamma) * (inv_std64 * mean_error + np.abs(as_float64(x) - mean64) * inv_std_error)
    assert_within(to_numpy(mean), mean64, mean_error, "mean")
    assert_within(to_numpy(inv_std), inv_std64, inv_std_error, "inv_std")
    assert_within(to_numpy(y), y64, y_error + elementwise_bound(dtype, np.abs(gamma * xhat) + np.abs(beta)), "y")
    name = accumulation(dtype)
    errors = mean_error, 2 * variance_error
    for statistic, new, new64, old, error in zip(("mean", "var"), running_on_device, running64, running, errors):
        bound = 0.3 * error + elementwise_bound(name, np.abs(old) + np.abs(new64))
        assert_within(to_numpy(new), new64, bound, f"running {statistic}")


@cases
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_backward_is_within_its_bound(device, rng, shape, dtype, training):
    x, dy = random(rng, shape, dtype), random(rng, shape, dtype)
    gamma, _, mean, inv_std = vectors(rng, shape[-1], dtype)
    before = vectors(rng, shape[-1], dtype, 2)
    sums_so_far = [asarray(a.copy(), device) for a in before]
    dx, dgamma, dbeta = ops.batch_norm_backward(
        *(asarray(a, device) for a in (dy, x, gamma, mean, inv_std)),
        training=training,
        dgamma=sums_so_far[0],
        dbeta=sums_so_far[1],
        accumulate=True,
    )
    dx64, dgamma64, dbeta64 = expected("batch_norm_backward", dy, x, gamma, mean, inv_std, training=training)
    axes, rows = all_axes_but_the_last(x), x.size // shape[-1]
    xhat = np.abs((as_float64(x) - as_float64(mean)) * inv_std)
    sums = [(np.abs(as_float64(dy)) * xhat).sum(axes), np.abs(as_float64(dy)).sum(axes)]
    for gradient, gradient64, old, magnitude in zip((dgamma, dbeta), (dgamma64, dbeta64), before, sums):
        bound = sum_bound(accumulation(dtype), rows + 4, magnitude + np.abs(old))
        assert_within(to_numpy(gradient), gradient64 + as_float64(old), bound, "dgamma, dbeta")
    magnitude = np.abs(as_float64(dy)) + training * (sums[1] + xhat * sums[0]) / rows
    bound = np.abs(gamma * inv_std) * sum_bound(accumulation(dtype), rows + 8, magnitude)
    assert_within(to_numpy(dx), dx64, bound + elementwise_bound(dtype, dx64), "dx")


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 3, 5, 12), "float32"), ((20000, 7), "bfloat16"), (SINGLE_NUMBERS, "float32")]
)
def test_batch_norm_by_running_statistics_is_within_its_bound(device, rng, shape, dtype):
    x, operands = random(rng, shape, dtype), vectors(rng, shape[-1], dtype)
    y, mean, inv_std = on_device("batch_norm", device, x, *operands, training=False, eps=1e-3)
    y64, mean64, inv_std64 = expected("batch_norm", x, *operands, training=False, eps=1e-3)
    name = accumulation(dtype)
    magnitude = np.abs(as_float64(operands[0]) * (as_float64(x) - mean64) * inv_std64) + np.abs(operands[1])
    np.testing.assert_array_equal(mean, operands[2])
    assert_within(inv_std, inv_std64, elementwise_bound(name, inv_std64), "inv_std")
    assert_within(y, y64, elementwise_bound(name, magnitude, 8) + elementwise_bound(dtype, y64), "y")


@pytest.mark.parametrize("shape", [(20000, 7), (6, 5)])
def test_batch_norm_has_the_same_bits_in_every_thread_order(device, rng, shape):
    x, dy = random(rng, shape, "float32"), random(rng, shape, "float32")
    gamma, beta, mean, var = vectors(rng, shape[-1], "float32")
    assert_same_bits("batch_norm", device, x, gamma, beta, mean, var, training=True)
    assert_same_bits("batch_norm_backward", device, dy, x, gamma, mean, var)


def test_the_variance_is_right_despite_a_large_mean(device, rng):
    """x**2 - mean**2 in float32 would lose this variance entirely."""
    x = (random(rng, (3000, 5), "float64") + 4096).astype(np.float32)
    ones, zeros = np.ones(5, np.float32), np.zeros(5, np.float32)
    _, _, inv_std = on_device("batch_norm", device, x, ones, zeros, zeros, ones, training=True)
    np.testing.assert_allclose(inv_std, 1 / np.sqrt(as_float64(x).var(0) + 1e-5), rtol=2e-3)


def test_batch_norm_may_overwrite_its_input_and_work_on_views(device, rng):
    x, operands = random(rng, (10, 6), "float32"), vectors(rng, 3, "float32")
    strided = [asarray(np.repeat(a, 2), device)[::2] for a in operands]  # the running statistics too
    memory = asarray(x, device)
    view = memory[:, ::2]
    y, mean, inv_std = ops.batch_norm(view, *strided, training=True, out=view)
    *affine, running_mean, running_var = [as_float64(a) for a in operands]
    y64, _, _ = ops.batch_norm(as_float64(x[:, ::2]), *affine, running_mean, running_var, training=True)
    assert y is view
    np.testing.assert_allclose(to_numpy(y), y64, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(to_numpy(memory)[:, 1::2], x[:, 1::2])
    for statistic, statistic64 in zip(strided[2:], (running_mean, running_var)):
        np.testing.assert_allclose(to_numpy(statistic), statistic64, rtol=1e-5, atol=1e-6)

    dy = asarray(random(rng, (10, 3), "float32"), device)
    fresh = ops.batch_norm_backward(dy, asarray(x, device)[:, ::2], strided[0], mean, inv_std)
    in_place = ops.batch_norm_backward(dy, asarray(x, device)[:, ::2], strided[0], mean, inv_std, out=dy)
    assert in_place[0] is dy
    for a, b in zip(fresh, in_place):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


@pytest.mark.parametrize("shape", [(5, 3), (9, 4376), SINGLE_NUMBERS])
def test_no_element_is_normalized_twice(device, rng, shape):
    x, operands = random(rng, shape, "float32"), vectors(rng, shape[-1], "float32")
    y, mean, inv_std = on_device("batch_norm", device, x, *operands, training=True)
    arrays = [asarray(a, device) for a in (x, *operands)]
    np.testing.assert_array_equal(to_numpy(ops.batch_norm(*arrays, training=True, out=arrays[0])[0]), y)
    operands = (x, operands[0], mean, inv_std)
    dx, _, _ = on_device("batch_norm_backward", device, y, *operands)
    dy, *arrays = [asarray(a, device) for a in (y, *operands)]
    np.testing.assert_array_equal(to_numpy(ops.batch_norm_backward(dy, *arrays, out=dy)[0]), dx)


def test_batch_norm_accepts_an_empty_batch(device, rng):
    operands = vectors(rng, 3, "float32")
    y, mean, inv_std = on_device("batch_norm", device, np.zeros((0, 3), np.float32), *operands, training=False)
    assert y.shape == (0, 3)
    np.testing.assert_array_equal(mean, operands[2])
    np.testing.assert_allclose(inv_std, 1 / np.sqrt(operands[3] + 1e-5), rtol=1e-6)
    empty = np.zeros((0, 3), np.float32)
    _, dgamma, dbeta = on_device("batch_norm_backward", device, empty, empty, operands[0], mean, inv_std)
    np.testing.assert_array_equal([dgamma, dbeta], 0)


ADDEND_SHAPES = {
    "relu": "ragged end",
    "tanh": "several chunks",
    "gelu": "twelve channels",
    "silu": "tiles",
    "leaky_relu": "several chunks",
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("activation", ADDEND_SHAPES)
def test_an_addend_and_its_gradient_have_the_bits_of_separate_kernels(device, rng, activation, dtype):
    shape = SHAPES[ADDEND_SHAPES[activation]]
    x, addend, dy = (asarray(random(rng, shape, dtype), device) for _ in range(3))
    gamma, beta, *running = (asarray(vector, device) for vector in vectors(rng, shape[-1], dtype))
    for training in (True, False):
        options = dict(training=training, momentum=0.25)
        z, mean, inv_std = ops.batch_norm(x, gamma, beta, *(statistic.copy() for statistic in running), **options)
        total = ops.add(z, addend)
        y = ACTIVATIONS[activation].apply(ops, total)
        statistics = [statistic.copy() for statistic in running]
        added, *_ = ops.batch_norm(x, gamma, beta, *statistics, activation=activation, addend=addend, **options)
        np.testing.assert_array_equal(to_numpy(added), to_numpy(y))
    saved = total if ACTIVATIONS[activation].saves_input else y
    dz = ACTIVATIONS[activation].gradient(ops, dy, saved)
    separate = ops.batch_norm_backward(dz, x, gamma, mean, inv_std)
    fused = ops.batch_norm_backward(dy, x, gamma, mean, inv_std, activation=activation, saved=saved)
    for result, separate_result in zip(fused, [*separate, dz], strict=True):
        np.testing.assert_array_equal(to_numpy(result), to_numpy(separate_result))


@pytest.mark.parametrize("shape", [(5, 3), (3, 4, 8), (3000, 7)], ids=str)
def test_an_addend_and_its_gradient_run_under_the_checker_and_in_any_order(device, rng, shape):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    wide_shape = (*shape[:-1], 2 * shape[-1])
    x, addend, saved, dy = (asarray(random(rng, wide_shape, "float16"), device)[..., : shape[-1]] for _ in range(4))
    gamma, beta, *statistics = (asarray(vector, device) for vector in vectors(rng, shape[-1], "float16"))

    def results():
        added = [
            ops.batch_norm(x, gamma, beta, *(s.copy() for s in statistics), training=training, addend=addend)[0]
            for training in (False, True)
        ]
        gradients = ops.batch_norm_backward(dy, x, gamma, *statistics, activation="relu", saved=saved)
        return [to_numpy(array).copy() for array in (*added, *gradients)]

    plain = results()
    with emulator.configure(sanitize="checked", seed=7):
        checked = results()
    for order in thread_orders(device):
        with order:
            for in_order, result, with_checks in zip(results(), plain, checked, strict=True):
                np.testing.assert_array_equal(in_order, result)
                np.testing.assert_array_equal(with_checks, result)


def test_an_addend_may_be_empty(device):
    ones = [asarray(np.ones(4, np.float32), device) for _ in range(4)]
    none = asarray(np.zeros((0, 4), np.float32), device)
    y, mean, inv_std = ops.batch_norm(none, *ones, training=False, activation="relu", addend=none)
    dx, dgamma, dbeta, daddend = ops.batch_norm_backward(
        none, none, ones[0], mean, inv_std, activation="relu", saved=y, training=False
    )
    assert y.shape == dx.shape == daddend.shape == (0, 4)
    np.testing.assert_array_equal(to_numpy(dgamma), np.zeros(4))
    np.testing.assert_array_equal(to_numpy(dbeta), np.zeros(4))


def test_batch_norm_keeps_nan_in_its_channel(device, rng):
    x = random(rng, (50, 3), "float32")
    x[7, 1] = np.nan
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    y, _, _ = on_device("batch_norm", device, x, ones, zeros, zeros, ones, training=True)
    np.testing.assert_array_equal(np.isnan(y), [[False, True, False]] * 50)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_go_back_through_a_pool(device, rng, dtype):
    """At the pixels that the mask passes, dx has the bits that it has without a pool. The mask is random; the shapes
    have odd sizes, groups, and channels that are moved 16 bytes at a time or one by one."""
    for shape, groups in (((2, 7, 9, 16), 1), ((2, 6, 5, 48), 2), ((1, 5, 6, 6), 2), ((1, 4, 7, 37), 1)):
        case = Conv2dProblem.of(shape, (shape[3], 1, 1, shape[3] // groups), groups=groups)
        x, dy = (random(rng, case.pooled_shape(2), dtype) for _ in range(2))
        gamma, beta, mean, inv_std = vectors(rng, shape[3], dtype)
        mask = rng.integers(0, 256, case.mask_shape(2), np.uint8)
        arrays = [asarray(a, device) for a in (dy, x, gamma, mean, inv_std)]
        for options in ({}, {"training": False}, {"beta": asarray(beta, device), "activation": "gelu"}):
            plain = ops.batch_norm_backward(*arrays, **options)
            unpool = dict(mask=asarray(mask, device), input_shape=shape, groups=groups)
            out = asarray(np.full(shape, np.nan, x.dtype), device)
            dx, *sums = ops.batch_norm_backward(*arrays, **options, **unpool, out=out)
            assert dx is out
            np.testing.assert_array_equal(to_numpy(out), gradient_before_mask(to_numpy(plain[0]), mask, case, 2))
            for total, plain_total in zip(sums, plain[1:]):
                np.testing.assert_array_equal(to_numpy(total), to_numpy(plain_total))


def test_gradients_go_back_through_a_pool_under_the_checker_and_in_any_order(device, rng):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    for shape in ((2, 5, 7, 8), (1, 6, 4, 5)):
        case = Conv2dProblem.of(shape, (shape[3], 1, 1, shape[3]))
        x, dy = (random(rng, case.pooled_shape(2), "float32") for _ in range(2))
        gamma, _, mean, inv_std = vectors(rng, shape[3], "float32")
        mask = rng.integers(0, 256, case.mask_shape(2), np.uint8)
        unpool = dict(mask=asarray(mask, device), input_shape=shape)
        assert_same_bits("batch_norm_backward", device, dy, x, gamma, mean, inv_std, **unpool)
        with emulator.configure(sanitize="checked", seed=7):
            dx, *_ = on_device("batch_norm_backward", device, dy, x, gamma, mean, inv_std, **unpool)
        plain = on_device("batch_norm_backward", device, dy, x, gamma, mean, inv_std)
        np.testing.assert_array_equal(dx, gradient_before_mask(plain[0], mask, case, 2))


# --- statistics computed by a convolution ------------------------------------------------------


def conv_norm_arrays(case: Conv2dProblem, dtype: str):
    x, w, bias, _ = random_arrays(case, as_dtype(dtype))
    rng, wide_dtype = np.random.default_rng(6), accumulation_dtype(as_dtype(dtype))
    gamma, beta, mean = (rng.standard_normal(case.k).astype(wide_dtype) for _ in range(3))
    return [x, w, bias, gamma, beta, mean, rng.uniform(0.5, 2, case.k).astype(wide_dtype)]


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("merged", [False, True], ids=["one launch", "merged by an earlier launch"])
@pytest.mark.parametrize("channels", [(8, 72), (3, 5)])
def test_statistics_of_every_algorithm_agree_with_the_oracle(device, monkeypatch, channels, merged, pool):
    if merged:
        monkeypatch.setattr(norm, "_MOST_CHUNKS", 3)
        monkeypatch.setattr(norm, "_MERGED_CHUNKS", 2)
    case = conv(2, 9, 13, *channels, (3, 2), padding=((1, 1), (0, 2)))
    arrays = conv_norm_arrays(case, "float32")
    options = case.window | dict(activation="silu", pool=pool)
    expected = expected_results("conv2d_batch_norm", arrays, options)
    for algorithm in serving("float32"):
        moved = [asarray(a.copy(), device) for a in arrays]
        results = ops.conv2d_batch_norm(*moved, **options, algo=algorithm.name)
        for reference, result in zip(expected, [*results, *moved[-2:]], strict=True):
            assert_within(to_numpy(result), reference.value, reference.bound, f"{algorithm.name} {reference.name}")


def test_the_variance_is_right_despite_a_large_bias(device):
    """The mean is a thousand times the deviation: sums of squares would lose the variance."""
    case = conv(4, 8, 8, 4, 8, (1, 1))
    arrays = conv_norm_arrays(case, "float32")
    arrays[2] = np.full(8, 5000, np.float32)
    expected = expected_results("conv2d_batch_norm", arrays, case.window)
    moved = [asarray(a, device) for a in arrays]
    results = ops.conv2d_batch_norm(*moved, **case.window)
    inv_std = next(reference for reference in expected if reference.name == "inv_std")
    np.testing.assert_allclose(to_numpy(results[3]), inv_std.value, rtol=1e-3)


def test_statistics_have_the_same_bits_in_every_thread_order(device):
    case = conv(2, 9, 13, 4, 40, (3, 3))
    for pool in (1, 2):
        arrays = conv_norm_arrays(case, "float32")
        assert_same_bits("conv2d_batch_norm", device, *arrays, pool=pool, **case.window)


def test_statistics_have_no_memory_errors(device):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    for case in (conv(1, 5, 6, 4, 12, (3, 2)), conv(1, 7, 6, 3, 11, (3, 2))):
        for pool in (1, 2):
            options = case.window | dict(pool=pool)
            with emulator.configure(sanitize="checked", seed=7):
                results = on_device("conv2d_batch_norm", device, *conv_norm_arrays(case, "float32"), **options)
            expected = expected_results("conv2d_batch_norm", conv_norm_arrays(case, "float32"), options)
            for reference, result in zip(expected, results):
                assert_within(result, reference.value, reference.bound, reference.name)


# --- the backward sums in the epilogue of a convolution's gradient ------------------------------


def norm_below(case, dtype, activation=None, seed=0):
    """Arrays and options of batch_norm_backward for a norm below a convolution: the convolution reads its output."""
    rng = np.random.default_rng(seed)
    wide_dtype = accumulation(dtype)
    dy, x, w = (rng.standard_normal(shape).astype(dtype) for shape in (case.y_shape, case.x_shape, case.w_shape))
    gamma, beta, mean = (rng.standard_normal(case.c).astype(wide_dtype) for _ in range(3))
    inv_std = rng.uniform(0.5, 2, case.c).astype(wide_dtype)
    options = case.window | dict(w=w, activation=activation, beta=beta if activation else None, training=True)
    return [dy, x, gamma, mean, inv_std], options


def options_on(device, options):
    return {name: asarray(value, device) if isinstance(value, np.ndarray) else value for name, value in options.items()}


def assert_norm_below(device, case, dtype="float32", activation=None, **more):
    arrays, options = norm_below(case, dtype, activation)
    expected = expected_results("batch_norm_backward", arrays, options | more)
    results = on_device("batch_norm_backward", device, *arrays, **options_on(device, options), **more)
    for reference, result in zip(expected, results, strict=True):
        assert_within(result, reference.value, reference.bound, f"{case} {dtype} {more} {reference.name}")


CONVOLUTIONS_ABOVE = {
    "plain": conv(2, 9, 13, 8, 24, (3, 2), padding=((1, 1), (0, 2))),
    "phases": conv(2, 9, 10, 16, 8, (3, 2), stride=(2, 3), padding=1),
    "phases without taps": conv(1, 9, 9, 8, 8, (1, 1), stride=2),
    "groups": conv(2, 5, 7, 48, 32, 3, padding=1, groups=2),
    "beyond a tile": conv(1, 17, 19, 136, 16, 1),
    "single numbers": conv(2, 7, 6, 37, 5, 3, padding=1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS_ABOVE)
def test_backward_sums_of_every_algorithm_agree_with_the_oracle(device, monkeypatch, name):
    monkeypatch.setattr(norm, "_MOST_CHUNKS", 3)
    monkeypatch.setattr(norm, "_MERGED_CHUNKS", 2)
    for dtype, tf32 in (("float32", False), ("float32", True), ("float16", False)):
        for algorithm in serving("tf32" if tf32 else dtype):
            if "conv2d_dgrad" in algorithm.kernels and (device == "emulated" or algorithm.proved):
                refused = algorithm.cluster > 1 and name == "single numbers"  # clusters move only 16 bytes at once
                with pytest.raises(UnservedError) if refused else nullcontext():
                    assert_norm_below(device, CONVOLUTIONS_ABOVE[name], dtype, algo=algorithm.name, tf32=tf32)


def test_backward_sums_of_every_activation_agree_with_the_oracle(device):
    for activation, dtype in zip(ACTIVATIONS, cycle(FLOATS)):
        assert_norm_below(device, CONVOLUTIONS_ABOVE["phases"], dtype, activation)
    assert_norm_below(device, CONVOLUTIONS_ABOVE["groups"], activation="silu")


def test_backward_sums_run_in_the_gradients_kernel(device):
    arrays, options = norm_below(CONVOLUTIONS_ABOVE["plain"], "float32")
    with launches.record_launches() as launched:
        on_device("batch_norm_backward", device, *arrays, **options_on(device, options), algo="simt-64x32")
    kernels = [launch.kernel.name for launch in launched]
    assert kernels == ["conv2d_dgrad_simt", "batch_norm_backward_finish", "batch_norm_backward_dx"]


def test_backward_sums_of_no_images_are_zero(device):
    arrays, options = norm_below(conv(0, 5, 7, 3, 2, 3), "float32")
    dx, dgamma, dbeta = on_device("batch_norm_backward", device, *arrays, **options_on(device, options))
    assert dx.shape == (0, 5, 7, 3)
    assert not dgamma.any()
    assert not dbeta.any()


def test_backward_sums_have_the_same_bits_in_every_thread_order(device):
    for name, activation in (("phases", "gelu"), ("beyond a tile", None)):
        arrays, options = norm_below(CONVOLUTIONS_ABOVE[name], "float32", activation)
        assert_same_bits("batch_norm_backward", device, *arrays, **options_on(device, options))


def test_backward_sums_have_no_memory_errors(device):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    for name in ("phases", "single numbers"):
        with emulator.configure(sanitize="checked", seed=7):
            assert_norm_below(device, CONVOLUTIONS_ABOVE[name], activation="relu")


# --- group normalization -----------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "groups"), [((2, 5, 7, 12), 3), ((70, 33), 1), ((1, 3, 3, 512), 256)], ids=str)
def test_group_norm_has_the_same_bits_in_every_thread_order(device, rng, shape, groups):
    dy, x = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    gamma, beta = (rng.normal(size=shape[-1]).astype(np.float32) for _ in range(2))
    mean, inv_std = (rng.uniform(0.5, 1, size=(shape[0], groups)).astype(np.float32) for _ in range(2))
    assert_same_bits("group_norm", device, x, gamma, beta, groups=groups)
    assert_same_bits("group_norm_backward", device, dy, x, gamma, mean, inv_std)


def test_group_norm_may_overwrite_its_input_and_work_on_views(device, rng):
    x, dy = (rng.normal(size=(4, 3, 8)).astype(np.float32) for _ in range(2))
    gamma, beta = (asarray(rng.normal(size=8).astype(np.float32), device) for _ in range(2))
    memory = asarray(x, device)
    view, half = memory[::2], asarray(x[::2].copy(), device)
    y, mean, inv_std = ops.group_norm(half, gamma, beta, groups=2)
    dx, _, _ = ops.group_norm_backward(asarray(dy[::2].copy(), device), half, gamma, mean, inv_std)
    dy_view = asarray(dy, device)[::2]
    in_place, _, _ = ops.group_norm_backward(dy_view, view, gamma, mean, inv_std, out=dy_view)
    np.testing.assert_array_equal(to_numpy(in_place), to_numpy(dx))
    assert ops.group_norm(view, gamma, beta, groups=2, out=view)[0] is view
    np.testing.assert_array_equal(to_numpy(memory)[::2], to_numpy(y))
    np.testing.assert_array_equal(to_numpy(memory)[1::2], x[1::2])
