"""The oracle: where it applies, how it rounds, which options it honors, and which modules it imports."""

import ast
import asyncio
import copy
import functools
import threading
from pathlib import Path

import numpy as np
import pytest

import gpuconv
from gpuconv import backends, ops, oracle, verify
from gpuconv.backends.cpu import precision as fast
from gpuconv.backends.reference.precision import round_tf32, round_to
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from gpuconv.verify.compare import results
from gpuconv.verify.oracle import expected_results
from tests.python_process import python

FOLDER = Path(gpuconv.__file__).parent / "backends" / "reference"
ONES = np.ones((1, 3), np.float32)


def computes_in_float64():
    """Whether ops on NumPy arrays compute in float64. In float32 this mean would be 0, because 1e8 + 3 is 1e8."""
    x = np.array([1e8, 3.0, -1e8], np.float32).reshape(1, 1, 3, 1)
    return {1.0: True, 0.0: False}[ops.avg_pool2d(x, kernel_size=(1, 3)).item()]


# --- where it applies --------------------------------------------------------------------------


def test_the_oracle_applies_within_the_block_and_ends_even_after_an_error():
    assert not computes_in_float64()
    with oracle():
        assert computes_in_float64()
        with gpuconv.oracle():
            assert computes_in_float64()
        assert computes_in_float64()
    assert not computes_in_float64()
    with pytest.raises(ValueError, match="accumulate"), oracle():
        ops.linear_wgrad(ONES, ONES, accumulate=True)
    assert not computes_in_float64()


def test_the_oracle_applies_to_this_thread_only():
    in_float64 = {}
    inside, over = threading.Event(), threading.Event()

    def other():
        inside.wait(10)
        in_float64["another thread"] = computes_in_float64()
        with oracle():
            in_float64["with its own"] = computes_in_float64()
            over.set()

    thread = threading.Thread(target=other)
    thread.start()
    with oracle():
        inside.set()
        over.wait(10)
        assert computes_in_float64()
    assert not computes_in_float64()
    thread.join(10)
    assert in_float64 == {"another thread": False, "with its own": True}


def test_the_oracle_applies_to_this_asyncio_task_only():
    async def with_it(entered, leave):
        with oracle():
            entered.set()
            await leave.wait()
            return computes_in_float64()

    async def main():
        entered, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(with_it(entered, leave))
        await entered.wait()
        outside = computes_in_float64()
        leave.set()
        return outside, await task

    assert asyncio.run(main()) == (False, True)


def test_the_oracle_can_decorate_a_function():
    assert oracle()(computes_in_float64)()
    assert not computes_in_float64()


def test_arrays_of_other_devices_are_not_affected():
    try:
        x = backends.asarray(ONES, "emulated")
    except backends.DeviceError as error:
        pytest.skip(str(error))
    with oracle():
        assert backends.backend_of(x=x).__name__ == "gpuconv.backends.cuda.ops"
        with pytest.raises(TypeError, match="dy is emulated, y is numpy"):
            ops.relu_backward(x, ONES)


# --- how it rounds -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "value", "rounded"),
    [
        ("float32", 1 + 2.0**-24, 1),  # ties to even
        ("float32", 1 + 3 * 2.0**-24, 1 + 2.0**-22),
        ("float16", 1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-10),  # rounded to float32 first, it would be a tie
        ("bfloat16", 1 + 2.0**-8, 1),
        ("bfloat16", 1 + 3 * 2.0**-8, 1 + 2.0**-6),
        ("bfloat16", 1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-7),
        ("bfloat16", -1 - 2.0**-8 - 2.0**-40, -1 - 2.0**-7),
        ("bfloat16", 2.0**-133 * 2.5, 2.0**-132),  # subnormal
        ("bfloat16", 2.0**-134, 0),
        ("bfloat16", 2.0**-134 * (1 + 2.0**-40), 2.0**-133),
        ("bfloat16", 2.0**128 * (1 - 2.0**-9), np.inf),
        ("bfloat16", 1e300, np.inf),
        ("float16", 65520, np.inf),
        ("float16", -65519.9, -65504),
        ("bfloat16", np.nan, np.nan),
        ("bfloat16", -np.inf, -np.inf),
    ],
)
@np.errstate(all="ignore")
def test_a_result_is_rounded_once(dtype, value, rounded):
    result = round_to(value, as_dtype(dtype))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.astype(np.float64), rounded)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@np.errstate(all="ignore")
def test_16_bit_floats_and_midpoints_and_neighbors_of_midpoints_are_rounded_right(dtype):
    halves = np.arange(1 << 16, dtype=np.uint16).view(as_dtype(dtype))
    halves = np.sort(halves[np.isfinite(halves)].astype(np.float64))
    np.testing.assert_array_equal(round_to(halves, as_dtype(dtype)).astype(np.float64), halves)
    middles = (halves[1:] + halves[:-1]) / 2
    ties = middles.astype(as_dtype(dtype))  # ml_dtypes rounds through float32, which holds them exactly
    np.testing.assert_array_equal(round_to(middles, as_dtype(dtype)).astype(np.float64), ties.astype(np.float64))
    for side, neighbors in ((-np.inf, halves[:-1]), (np.inf, halves[1:])):
        rounded = round_to(np.nextafter(middles, side), as_dtype(dtype)).astype(np.float64)
        np.testing.assert_array_equal(rounded, neighbors)


@np.errstate(all="ignore")
def test_tf32_is_rounded_by_its_definition_and_as_fast_code_rounds_it():
    exact = [0, 1 + 2.0**-11, -1 - 2.0**-11, 1 + 2.0**-11 - 2.0**-23, 3 * 2.0**-137, np.inf, -np.inf, np.nan]
    rounded = [0, 1 + 2.0**-10, -1 - 2.0**-10, 1, 2.0**-135, np.inf, -np.inf, np.nan]
    np.testing.assert_array_equal(round_tf32(np.array(exact)), rounded)
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, np.uint32)
    edges = np.array([0, 1, 0xFFF, 0x1000, 0x7FFFFF, 0x800000, 0x7F7FEFFF, 0x7F7FF000, 0x7F7FFFFF], np.uint32)
    for x in (bits.view(np.float32), edges.view(np.float32), -edges.view(np.float32)):
        np.testing.assert_array_equal(round_tf32(x.astype(np.float64)), fast.round_tf32(x))


# Ops whose contract also rounds something before the result: a value between two fused ops or before an activation, or
# a factor.
ROUNDED_BEFORE = {"batch_norm", "batch_norm_backward", "conv2d_batch_norm", "scale"}


cases_of = functools.cache(lambda tier: verify.cases((tier,)))


@pytest.mark.parametrize("tier", ["tiny", pytest.param("odd", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("op", "dtype"), sorted({(case.op, dtype) for case in cases_of("tiny") for dtype in case.dtypes})
)
@np.errstate(all="ignore")
def test_every_op_gives_its_float64_result_rounded_once(op, dtype, tier):
    """Where the contract rounds on the way, the result is within the bounds that every device must meet."""
    for case in cases_of(tier):
        if case.op != op or dtype not in case.dtypes:
            continue
        arrays, options = case.arguments(dtype)
        expected = expected_results(op, copy.deepcopy(arrays), options)
        with oracle():
            named = results(op, arrays, getattr(ops, op)(*arrays, **options))
            assert verify.run_case(case, dtype, "numpy").passed
        for exact, result in zip(expected, named.values(), strict=True):
            rounded_before = op in ROUNDED_BEFORE or (exact.name == "y" and any(e.name == "saved" for e in expected))
            if rounded_before or exact.name == "mask" or "masters" in case.name:
                continue
            once = round_to(exact.value, result.dtype) if result.dtype.kind not in "iub" else exact.value
            np.testing.assert_array_equal(result.astype(float), once.astype(float), f"{exact.name} of {case.name}")


# --- which options it honors ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_dtype_out_and_accumulate_are_honored(dtype):
    dy, x = (np.arange(6.0).reshape(3, 2).astype(as_dtype(dtype)) for _ in range(2))
    with oracle():
        dw = ops.linear_wgrad(dy, x)
        out = np.ones((2, 4), dw.dtype)[:, ::2]
        assert ops.linear_wgrad(dy, x, out=out, accumulate=True) is out
        products = np.empty((3, 3), dw.dtype)
        assert ops.linear(dy, x, out=products) is products
    assert dw.dtype == dtype
    np.testing.assert_array_equal(dw.astype(float), [[20, 26], [26, 35]])
    np.testing.assert_array_equal(out.astype(float), [[21, 27], [27, 36]])
    np.testing.assert_array_equal(products.astype(float), [[1, 3, 5], [3, 13, 23], [5, 23, 41]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_backward_of_a_norm_with_activation_uses_the_rounded_value(dtype):
    x, dy = (np.random.default_rng(seed).normal(size=(50, 1)).astype(as_dtype(dtype)) for seed in (0, 1))
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    gamma = np.full(1, 1.1, np.float32)
    with oracle():
        _, _, dbeta = ops.batch_norm_backward(dy, x, gamma, zero, one, beta=one, activation="gelu", training=False)
        rounded = round_to(np.float64(gamma) * x.astype(float) + 1, x.dtype).astype(float)
        expected = ops.gelu_backward(dy.astype(float), rounded).sum()
    assert dbeta.item() == np.float32(expected)


def test_accumulating_rounds_the_sum_once():
    sums, one = np.array([[2048]], np.float16), np.array([[0.75]], np.float16)
    with oracle():
        ops.linear_wgrad(np.ones((1, 1), np.float16), one, out=sums, accumulate=True)
        assert sums.item() == 2048  # 2048.75; the next float16 is 2050
        ops.linear_wgrad(np.ones((2, 1), np.float16), np.repeat(one, 2, 0), out=sums, accumulate=True)
        assert sums.item() == 2050  # 2049.5; adding 0.75 twice would have left 2048


def test_tf32_rounds_the_factors_but_no_bias():
    x, w = np.array([[1 + 2.0**-11, 2.0**-12]], np.float32), np.ones((1, 2), np.float32)
    bias = np.array([1 + 2.0**-11], np.float32)  # TF32 would round it to 1 + 2**-10
    with oracle():
        assert ops.linear(x, w, bias, tf32=True).item() == 2 + 2.0**-10 + 2.0**-12 + 2.0**-11
        assert ops.linear(x, w, bias).item() == 2 + 2.0**-10 + 2.0**-12
        with pytest.raises(TypeError, match="tf32=True multiplies float32"):
            ops.linear(x.astype(float), w.astype(float), tf32=True)


def test_the_oracle_refuses_shapes_that_do_not_fit():
    with oracle(), pytest.raises(ValueError, match="channels"):
        ops.conv2d(np.ones((1, 4, 4, 3)), np.ones((2, 3, 3, 4)))


# --- what it imports ---------------------------------------------------------------------------


def test_the_oracle_is_short_and_imports_no_fast_code():
    files = sorted(FOLDER.glob("*.py"))
    assert sum(len(file.read_text().splitlines()) for file in files) <= 900
    allowed = {"collections", "inspect", "math", "typing", "numpy", "gpuconv"}
    ours = {"activations", "dtypes", "host_values", "newton_schulz", "problems", "random", "reference"}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name.partition(".")[0] in allowed, f"{file.name} imports {name}"
                parts = (
                    [alias.name for alias in node.names]
                    if name in ("gpuconv", "gpuconv.backends")
                    else [name.removeprefix("gpuconv.").removeprefix("backends.").partition(".")[0]]
                )
                assert not name.startswith("gpuconv") or set(parts) <= ours, f"{file.name} imports {parts}"


@pytest.mark.parametrize("first", ["import gpuconv", "import gpuconv.cli", "import gpuconv.verify, gpuconv.layers"])
def test_fast_code_is_set_up_at_its_first_use(first):
    """Importing the CPU backend configures the allocator, and its first op asks BLAS for the number of threads."""
    code = f"""
import sys
{first}
import gpuconv as gc, numpy as np
def loaded(): return [name for name in ("gpuconv.backends.cpu", "threadpoolctl") if name in sys.modules]
print(loaded())
with gc.oracle():
    gc.ops.conv2d(np.ones((2, 4, 4, 1)), np.ones((1, 3, 3, 1)))
print(loaded())
gc.ops.conv2d(np.ones((2, 4, 4, 1)), np.ones((1, 3, 3, 1)))
print(loaded()[:1])
"""
    assert python(code).split("\n") == ["[]", "[]", "['gpuconv.backends.cpu']"]
