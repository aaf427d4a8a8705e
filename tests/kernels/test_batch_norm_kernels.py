"""The kernels of batch normalization, with an activation, an addend and a pool."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.activations import ACTIVATIONS
from gpuconv.backends.cuda import emulator
from gpuconv.backends.reference.conv import gradient_before_mask
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from gpuconv.problems import Conv2dProblem
from gpuconv.verify.oracle import expected_results
from gpuconv.verify.rules.base import as_float64
from tests.kernels.agreement import accumulation, assert_same_bits, expected, on_device, random, thread_orders
from tests.kernels.column_shapes import SHAPES, SINGLE_NUMBERS, all_axes_but_the_last, shapes_and_dtypes
from tests.tolerance import UNIT_ROUNDOFF, assert_within, elementwise_bound, sum_bound


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


@shapes_and_dtypes
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


@shapes_and_dtypes
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
def test_batch_norm_has_the_same_bits_in_several_thread_orders(device, rng, shape):
    x, dy = random(rng, shape, "float32"), random(rng, shape, "float32")
    gamma, beta, mean, var = vectors(rng, shape[-1], "float32")
    assert_same_bits("batch_norm", device, x, gamma, beta, mean, var, training=True)
    assert_same_bits("batch_norm_backward", device, dy, x, gamma, mean, var)


def test_the_variance_is_right_despite_a_large_mean(device, rng):
    """In float32, the mean of the squares minus the square of the mean would lose this variance entirely."""
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
    assert y is view
    references = expected_results("batch_norm", [x[:, ::2], *operands], {"training": True})
    for reference, result in zip(references, (y, mean, inv_std)):
        assert_within(to_numpy(result), reference.value, reference.bound, reference.name)
    for reference, statistic in zip(references[3:], strided[2:], strict=True):
        np.testing.assert_allclose(to_numpy(statistic), reference.value, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(memory)[:, 1::2], x[:, 1::2])

    dy = asarray(random(rng, (10, 3), "float32"), device)
    fresh = ops.batch_norm_backward(dy, asarray(x, device)[:, ::2], strided[0], mean, inv_std)
    in_place = ops.batch_norm_backward(dy, asarray(x, device)[:, ::2], strided[0], mean, inv_std, out=dy)
    assert in_place[0] is dy
    for a, b in zip(fresh, in_place):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


@pytest.mark.parametrize("shape", [(5, 3), (9, 4376), SINGLE_NUMBERS])
def test_in_place_gives_the_same_bits(device, rng, shape):
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
    inv_std64 = 1 / np.sqrt(as_float64(operands[3]) + 1e-5)
    assert_within(inv_std, inv_std64, elementwise_bound("float32", inv_std64), "inv_std")
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


@pytest.mark.parametrize("shape", [(5, 3), (3, 4, 8), (3000, 7)])
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


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
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
