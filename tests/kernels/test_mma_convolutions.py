"""Convolutions on tensor cores by mma.sync (gemm_mma.cuh), against the oracle."""

from __future__ import annotations

import pytest

from gpuconv.algorithms import serving
from gpuconv.backends.cuda import emulator
from gpuconv.profiling import launches
from gpuconv.verify.conv_problems import conv
from tests.kernels.agreement import assert_same_bits
from tests.kernels.convolutions import arguments, assert_right, directions, dtype_and_options, force_algorithm, problem

TILE_PRECISIONS = ("float16", "bfloat16", "tf32")
precisions = pytest.mark.parametrize("precision", TILE_PRECISIONS)


@directions
@precisions
@pytest.mark.parametrize("channels", [(16, 72), (5, 67)], ids=["vectors", "single numbers"])
def test_every_tile_is_right_and_all_give_the_same_bits(device, op, precision, channels):
    dtype, tf32_option = dtype_and_options(precision)
    tiles = [algorithm for algorithm in serving(precision) if algorithm.family == "mma"]
    if precision == "float16":
        tiles = tiles[-1:]  # the other tiles run in bfloat16
    results = {assert_right(op, device, problem(*channels), dtype, algo=a.name, **tf32_option).tobytes() for a in tiles}
    assert len(results) == 1


@directions
def test_16_bit_floats_and_tf32_use_tensor_cores(op, device):
    for precision in TILE_PRECISIONS:
        dtype, tf32_option = dtype_and_options(precision)
        with launches.record_launches() as launched:
            assert_right(op, device, problem(8, 8), dtype, **tf32_option)
        assert launched[0].kernel.name.endswith("_mma")


@directions
@pytest.mark.parametrize("split_k", [2, 5])
def test_split_k_agrees_with_the_oracle(device, monkeypatch, op, split_k):
    force_algorithm(monkeypatch, serving("bfloat16")[2], split_k)
    activation = dict(activation="silu") if op == "conv2d" else {}
    for case in (problem(16, 24), problem(20, 28, groups=2)):
        with launches.record_launches() as launched:
            assert_right(op, device, case, "bfloat16", **activation)
        assert "gemm_reduce_splits" in [launch.kernel.name for launch in launched]


@directions
@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_thread_orders_give_the_same_bits(device, op, precision):
    dtype, tf32_option = dtype_and_options(precision)
    for channels in ((16, 24), (5, 7)):
        arrays, window = arguments(op, problem(*channels), dtype)
        assert_same_bits(op, device, *arrays, **window, algo="mma-64x64", **tf32_option)


@directions
@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
@pytest.mark.parametrize("channels", [(8, 24), (3, 5)])
def test_memory_accesses_stay_within_bounds(device, op, precision, channels):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    dtype, tf32_option = dtype_and_options(precision)
    case = conv(1, 5, 6, *channels, (3, 2), stride=(2, 1), padding=((1, 0), (2, 1)))
    with emulator.configure(sanitize="checked", seed=7):
        assert_right(op, device, case, dtype, algo="mma-64x64", **tf32_option)


@directions
def test_an_empty_batch_agrees_with_the_oracle(device, op):
    assert_right(op, device, conv(0, 5, 7, 8, 16, (3, 3)), "bfloat16", algo="mma-64x64")


@directions
@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_the_kernels_have_no_bank_conflicts(op, precision):
    """Shared memory is accessed by copies into the tiles, by fragment loads, and by sums on the way to the output."""
    dtype, tf32_option = dtype_and_options(precision)
    case = conv(1, 8, 8, 64, 64, (1, 1))
    for algorithm in serving(precision):
        if algorithm.family == "mma":
            with emulator.bank_conflicts() as counts:
                assert_right(op, "emulated", case, dtype, algo=algorithm.name, **tf32_option)
            accesses, conflicts = counts({"conv2d": "conv2d_fprop"}.get(op, op) + "_mma")
            assert accesses > 100, algorithm.name
            assert conflicts == 0, algorithm.name
