"""Convolution kernels beyond the cases of test_every_op: tiles and vector widths, split-K, views, special values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gpuconv import algorithms, asarray, ops, to_numpy
from gpuconv.activations import ACTIVATIONS
from gpuconv.algorithms import ALGORITHMS, find, serving
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.gemm import launch
from gpuconv.backends.cuda.runtime.capability import capability_named
from gpuconv.dtypes import as_dtype
from gpuconv.profiling import launches
from gpuconv.verify.conv_problems import conv, random_arrays, random_convolutions
from gpuconv.verify.oracle import expected_results
from tests.kernels.agreement import assert_same_bits, on_device
from tests.kernels.convolutions import (
    DIRECTIONS,
    arguments,
    assert_right,
    directions,
    dtype_and_options,
    force_algorithm,
    problem,
)
from tests.tolerance import assert_within


@directions
@pytest.mark.parametrize("channels", [(16, 72), (5, 67)], ids=["vectors", "single numbers"])
def test_every_float32_tile_gives_the_same_bits(device, monkeypatch, op, channels):
    results = []
    for algorithm in serving("float32"):
        force_algorithm(monkeypatch, algorithm)
        results.append(assert_right(op, device, problem(*channels)).tobytes())
    assert all(result == results[0] for result in results[1:])


@directions
def test_a_named_algorithm_is_the_one_that_runs(device, monkeypatch, op):
    plans, original = [], launch.launch

    def recorded(product, plan, *arguments, **options):
        plans.append(plan)
        return original(product, plan, *arguments, **options)

    monkeypatch.setattr(launch, "launch", recorded)
    for algorithm in serving("float32"):
        assert_right(op, device, problem(16, 24), algo=algorithm.name)
        assert plans[-1].algorithm == algorithm
    chosen = assert_right(op, device, problem(16, 24))
    pinned = assert_right(op, device, problem(16, 24), algo=plans[-1].algorithm.name)
    np.testing.assert_array_equal(chosen, pinned)


@directions
@pytest.mark.parametrize("channels", [(16, 24), (5, 7)], ids=["vectors", "single numbers"])
def test_tf32_is_within_its_bound_and_differs_from_float32(device, op, channels):
    rounded = assert_right(op, device, problem(*channels), tf32=True)
    assert np.abs(rounded - assert_right(op, device, problem(*channels))).max() > 1e-4


OTHER_PRECISIONS = [(a.name, precision) for a in ALGORITHMS for precision in a.precisions if precision != "float32"]


@directions
@pytest.mark.parametrize(("algo", "precision"), OTHER_PRECISIONS)
def test_every_algorithm_agrees_with_the_oracle_in_every_other_precision(device, op, algo, precision):
    if not find(algo, precision).runs_on(capability_named(device)):
        pytest.skip(f"{algo} does not run on this GPU")
    dtype, tf32_option = dtype_and_options(precision)
    assert_right(op, device, problem(16, 72), dtype, algo=algo, **tf32_option)


@pytest.mark.parametrize(("dtype", "tf32"), [("float16", False), ("bfloat16", False), ("float32", True)])
@pytest.mark.parametrize("channels", [(3, 24), (3, 70), (8, 64), (5, 7)])
def test_the_tile_for_filter_gradients_of_first_layers_agrees_with_the_oracle(device, channels, dtype, tf32):
    case, options = problem(*channels), dict(algo="mma-64x32", tf32=tf32)
    with launches.record_launches() as launched:
        assert_right("conv2d_wgrad", device, case, dtype, **options)
    kernel = launched[0].kernel
    assert algorithms.algorithm_of_launch(kernel.name, kernel.module.defines) == "mma-64x32"
    arrays, window = arguments("conv2d_wgrad", conv(1, 5, 6, *channels, (3, 2), padding=1), dtype)
    assert_same_bits("conv2d_wgrad", device, *arrays, **window, **options)
    if device == "emulated":
        with emulator.configure(sanitize="checked", seed=7):
            assert_right("conv2d_wgrad", device, conv(1, 5, 6, *channels, (3, 2), padding=1), dtype, **options)


@directions
@pytest.mark.parametrize("channels", [(4, 3), (3, 4), (8, 8), (5, 7)])
def test_channels_and_filters_of_any_two_vector_widths_agree_with_the_oracle(device, op, channels):
    assert_right(op, device, problem(*channels))
    assert_right(op, device, problem(*channels, groups=3))


@directions
@pytest.mark.parametrize("split_k", [2, 5])
def test_split_k_agrees_with_the_oracle(device, monkeypatch, op, split_k):
    force_algorithm(monkeypatch, most_parts=split_k)
    options = dict(activation="silu") if op == "conv2d" else {}
    for case in (problem(16, 24), problem(5, 7, groups=2)):
        assert_right(op, device, case, **options)
    arrays, given_options = arguments(op, problem(8, 8))
    assert_same_bits(op, device, *arrays, **given_options)


@directions
def test_thread_orders_and_repeats_give_the_same_bits(device, op):
    for case in (problem(16, 24), problem(5, 7)):
        arrays, options = arguments(op, case)
        assert_same_bits(op, device, *arrays, **options)


@directions
@pytest.mark.parametrize("channels", [(8, 12), (3, 5)])
def test_memory_accesses_stay_within_bounds(device, monkeypatch, op, channels):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    case = conv(1, 5, 6, *channels, (3, 2), stride=(2, 1), padding=((1, 0), (2, 1)))
    with emulator.configure(sanitize="checked", seed=7):
        for split_k in (1, 3):
            force_algorithm(monkeypatch, most_parts=split_k)
            assert_right(op, device, case)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_fused_bias_and_activation_agree_with_the_oracle(device, activation, with_bias):
    (x, w, bias), options = arguments("conv2d", problem(4, 6))
    arrays, options = [x, w, bias if with_bias else None], options | dict(activation=activation)
    (expected,) = expected_results("conv2d", arrays, options)
    assert_within(on_device("conv2d", device, *arrays, **options), expected.value, expected.bound, activation)


@pytest.mark.parametrize("split_k", [1, 3])
def test_wgrad_accumulates(device, monkeypatch, split_k):
    force_algorithm(monkeypatch, most_parts=split_k)
    case = problem(4, 6)
    arrays, options = arguments("conv2d_wgrad", case)
    (expected,) = expected_results("conv2d_wgrad", arrays, options)
    before = np.random.default_rng(1).standard_normal(case.w_shape).astype(np.float32)
    dw = asarray(np.repeat(before, 2, axis=3), device)
    target = dw[..., ::2]
    result = ops.conv2d_wgrad(*[asarray(a, device) for a in arrays], **options, out=target, accumulate=True)
    assert result is target
    value = expected.value + before
    assert_within(to_numpy(dw)[..., ::2], value, expected.bound + 2.0**-22 * np.abs(value))
    np.testing.assert_array_equal(to_numpy(dw)[..., 1::2], before)


@pytest.mark.parametrize("split_k", [1, 3])
@pytest.mark.parametrize(("channels", "margin"), [((24, 40), 8), ((5, 67), 3)], ids=["vectors", "single numbers"])
@pytest.mark.parametrize(
    ("algo", "dtype"),
    [("simt-64x32", "float64"), ("simt-64x64", "float32"), ("mma-64x64", "bfloat16"), ("wgmma-256x64", "bfloat16")],
)
def test_dgrad_accumulates_into_a_slice(monkeypatch, algo, dtype, channels, margin, split_k):
    """The stride leaves pixels that no window reads. The volume's other channels do not change."""
    case = conv(2, 14, 12, *channels, (2, 3), stride=(3, 2), padding=((1, 0), (0, 1)))
    force_algorithm(monkeypatch, find(algo, dtype), split_k)
    arrays, options = arguments("conv2d_dgrad", case, dtype)
    before = np.random.default_rng(1).standard_normal((*case.x_shape[:-1], case.c + 2 * margin)).astype(as_dtype(dtype))
    options |= dict(accumulate=True, out=before[..., margin:-margin])
    (expected,) = expected_results("conv2d_dgrad", arrays, options)
    volume = asarray(before, "emulated")
    options["out"] = volume[..., margin:-margin]
    with emulator.configure(sanitize="checked", seed=3):
        assert ops.conv2d_dgrad(*[asarray(a, "emulated") for a in arrays], **options) is options["out"]
    assert_within(to_numpy(options["out"]), expected.value, expected.bound)
    own_channels = np.s_[margin:-margin]
    np.testing.assert_array_equal(np.delete(to_numpy(volume), own_channels, -1), np.delete(before, own_channels, -1))


@directions
def test_strided_and_unaligned_views_give_the_same_bits(device, op):
    arrays, options = arguments(op, problem(8, 12))
    expected = on_device(op, device, *arrays, **options)

    def strided(a):
        return asarray(np.repeat(a, 2, axis=-1), device)[..., ::2]

    def unaligned(a):
        return asarray(np.concatenate([np.zeros(1, a.dtype), a.reshape(-1)]), device)[1:].reshape(a.shape)

    for view in (strided, unaligned):
        views = [view(a) for a in arrays]
        np.testing.assert_array_equal(to_numpy(getattr(ops, op)(*views, **options)), expected)
        out = view(np.full(expected.shape, 7, np.float32))
        assert getattr(ops, op)(*[asarray(a, device) for a in arrays], **options, out=out) is out
        np.testing.assert_array_equal(to_numpy(out), expected)


def test_the_output_may_be_the_input(device):
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 6, 7, 40), (40, 3, 3, 40)))
    options = dict(stride=1, padding=1)
    for op, arrays, more in (("conv2d", [x, w], {}), ("conv2d_dgrad", [x, w], dict(input_shape=x.shape))):
        expected = on_device(op, device, *arrays, **options, **more)
        moved = [asarray(a, device) for a in arrays]
        assert getattr(ops, op)(*moved, **options, **more, out=moved[0]) is moved[0]
        np.testing.assert_array_equal(to_numpy(moved[0]), expected)


def test_an_empty_batch_gives_empty_outputs_and_adds_nothing_to_dw(device):
    case = conv(0, 5, 7, 3, 4, (3, 3))
    for op in DIRECTIONS:
        assert_right(op, device, case)
    x, _, _, dy = [asarray(a, device) for a in random_arrays(case, np.float32)]
    dw = asarray(np.ones(case.w_shape, np.float32), device)
    ops.conv2d_wgrad(dy, x, kernel_size=(3, 3), out=dw, accumulate=True)
    np.testing.assert_array_equal(to_numpy(dw), 1)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=random_convolutions())
def test_random_convolutions_agree_with_the_oracle(device, case):
    for op in DIRECTIONS:
        assert_right(op, device, case)


def test_infinities_and_nan_propagate(device):
    x = np.ones((1, 4, 4, 8), np.float32)
    x[0, 1, 2, 3], x[0, 3, 0, 1] = np.nan, np.inf
    w = np.ones((5, 1, 1, 8), np.float32)
    y = on_device("conv2d", device, x, w, activation="relu")
    np.testing.assert_array_equal(y, ops.conv2d(x, w, activation="relu"))
