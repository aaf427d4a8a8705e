"""Depthwise convolutions: packs of channels, phases of a stride, splits, and which problems use the kernels."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.ops import depthwise
from gpuconv.problems import Conv2dProblem
from gpuconv.profiling.launches import record_launches
from gpuconv.verify.conv_problems import conv
from gpuconv.verify.oracle import expected_results
from tests.kernels import convolutions
from tests.kernels.agreement import assert_same_bits, on_device, varied
from tests.kernels.convolutions import directions
from tests.tolerance import assert_within

SQUARE = conv(2, 11, 10, 16, 16, (3, 3), padding=((1, 1), (1, 1)), groups=16)
UNEVEN = conv(2, 9, 13, 24, 24, (4, 3), stride=(3, 2), padding=((2, 1), (0, 3)), dilation=(2, 3), groups=24)
CASES = {
    "packs": SQUARE,
    "strided": UNEVEN,
    "common factor": varied(UNEVEN, stride=(2, 4), dilation=(2, 2)),
    "single numbers": varied(UNEVEN, c=7, k=7, groups=7),
    "three filters a channel": varied(UNEVEN, c=8, k=24, groups=8),
    "more taps than threads": conv(1, 19, 21, 32, 32, (17, 16), padding=((8, 8), (8, 8)), groups=32),
    "wide rows": conv(1, 3, 70, 64, 64, (1, 5), groups=64),
    "windows cut by the border": varied(UNEVEN, fit="cover"),
}


ACTIVATION = {"conv2d": dict(activation="silu")}  # in the forward direction an activation is applied too


def arguments(op: str, case: Conv2dProblem):
    """As `convolutions.arguments`, with the activation."""
    arrays, options = convolutions.arguments(op, case)
    return arrays, options | ACTIVATION.get(op, {})


def assert_right(op: str, device: str, case: Conv2dProblem, dtype: str = "float32", **options):
    """As `convolutions.assert_right`, with the activation; the kernels for depthwise convolutions must run."""
    with record_launches() as launches:
        result = convolutions.assert_right(op, device, case, dtype, **ACTIVATION.get(op, {}), **options)
    assert launches[0].kernel.name.endswith("_depthwise")
    return result


@directions
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_shape_agrees_with_the_oracle(device, op, case):
    assert_right(op, device, case)


@directions
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["packs", "strided", "three filters a channel"])
def test_every_dtype_agrees_with_the_oracle(device, op, dtype, name):
    assert_right(op, device, CASES[name], dtype)


@directions
def test_tf32_rounds_both_factors(device, op):
    assert_right(op, device, SQUARE, tf32=True)
    exact, rounded = (
        on_device(op, device, *arguments(op, SQUARE)[0], **arguments(op, SQUARE)[1], tf32=tf32)
        for tf32 in (False, True)
    )
    assert np.abs(exact - rounded).max() > 1e-5


@directions
def test_thread_orders_and_packs_give_the_same_bits(device, op):
    arrays, options = arguments(op, UNEVEN)
    assert_same_bits(op, device, *arrays, **options)
    unaligned = [asarray(np.concatenate([a.ravel()[:1], a.ravel()]), device)[1:].reshape(a.shape) for a in arrays]
    one_by_one = to_numpy(getattr(ops, op)(*unaligned, **options))
    np.testing.assert_array_equal(one_by_one, on_device(op, device, *arrays, **options))


@directions
def test_memory_accesses_stay_within_bounds(op):
    with emulator.configure(sanitize="checked", seed=3):
        assert_right(op, "emulated", UNEVEN)
        assert_right(op, "emulated", CASES["single numbers"])


def test_a_filter_gradient_accumulates_over_splits(device, monkeypatch):
    monkeypatch.setattr(depthwise, "_MOST_BLOCKS", 5)
    (dy, x), options = arguments("conv2d_wgrad", SQUARE)
    before = np.random.default_rng(3).standard_normal((16, 3, 3, 1)).astype(np.float32)
    (gradient,) = expected_results("conv2d_wgrad", [dy, x], options)
    out = asarray(before.copy(), device)
    with record_launches() as launches:
        result = on_device("conv2d_wgrad", device, dy, x, **options, out=out, accumulate=True)
    assert launches[0].grid == 5  # a block for each split, as all taps and channels fit in one tile
    assert_within(result, before + gradient.value, gradient.bound + 1e-6, "accumulated")


@pytest.mark.parametrize("name", ["packs", "strided", "single numbers"])
def test_an_input_gradient_accumulates_into_a_slice(device, name):
    (dy, w), options = arguments("conv2d_dgrad", CASES[name])
    *pixels, c = CASES[name].x_shape
    before = np.random.default_rng(3).standard_normal((*pixels, c + 8)).astype(np.float32)
    options |= dict(accumulate=True, out=before[..., 4:-4])
    (expected,) = expected_results("conv2d_dgrad", [dy, w], options)
    volume = asarray(before, device)
    ops.conv2d_dgrad(asarray(dy, device), asarray(w, device), **options | dict(out=volume[..., 4:-4]))
    assert_within(to_numpy(volume)[..., 4:-4], expected.value, expected.bound, "accumulated")
    for outside in (np.s_[..., :4], np.s_[..., -4:]):
        np.testing.assert_array_equal(to_numpy(volume)[outside], before[outside])


@directions
def test_an_empty_batch_gives_nothing_or_zeros(device, op):
    arrays, options = arguments(op, varied(SQUARE, n=0))
    result = on_device(op, device, *arrays, **options)
    assert result.size == 0 or not result.any()


def test_the_algorithm_is_refused_for_other_convolutions():
    x, w = np.ones((1, 4, 4, 6), np.float32), np.ones((6, 3, 3, 1), np.float32)
    np.testing.assert_array_equal(ops.conv2d(x, w, groups=6, algo="depthwise"), np.full((1, 2, 2, 6), 9))
    for groups, channels in ((1, 6), (3, 2)):
        with pytest.raises(ValueError, match="'depthwise' serves convolutions in several groups of one channel each"):
            ops.conv2d(x, np.ones((6, 3, 3, channels), np.float32), groups=groups, algo="depthwise")


def test_a_matrix_product_algorithm_can_be_named_instead(device):
    arrays, options = arguments("conv2d", SQUARE)
    (expected,) = expected_results("conv2d", arrays, options)
    with record_launches() as launches:
        result = on_device("conv2d", device, *arrays, **options, algo="simt-64x32")
    assert_within(result, expected.value, expected.bound, "as a product")
    assert launches[0].kernel.name == "conv2d_fprop_simt"


def test_a_layer_reports_the_depthwise_algorithm():
    from gpuconv.layers import Conv2D, Input, Sequential
    from gpuconv.summary import summary

    net = Sequential([Input((8, 8, 6)), Conv2D(6, 3, groups=6)], device="emulated")
    assert "depthwise" in summary(net)
