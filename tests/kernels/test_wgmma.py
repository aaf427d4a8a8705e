"""Products of a warpgroup: the wrappers of wgmma.cuh against plain products, and their machine code."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from gpuconv import asarray, to_numpy
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.analysis import machine_code
from gpuconv.backends.cuda.runtime import nvrtc, source
from gpuconv.backends.cuda.runtime.capability import capability_named
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.dtypes import as_dtype
from tests.kernels.compiled import assert_no_spills

ROWS, DEPTH = 64, 64
KERNELS = Path(__file__).with_name("wgmma_products.cu")
ALL_LAYOUTS = list(itertools.product(range(4), range(4)))  # (swizzle, mn_major) of the kernel `product`
COLUMNS = {64: ALL_LAYOUTS, 128: [(1, 0), (1, 3)], 192: [(1, 1)], 256: [(1, 0), (1, 2)]}


def module(n, dtype="bfloat16"):
    return load(KERNELS, {"DTYPE": dtype, "COLUMNS": n})


def product(device, n, dtype, swizzle, mn_major, *, a, b, before, shift_a=0, shift_b=0):
    sums = asarray(before, device)
    run = module(n, dtype).kernel("product")
    arrays, size = [asarray(a, device), asarray(b, device)], (ROWS + n) * DEPTH * 2 + shift_a + shift_b
    run(1, 128, sums, *arrays, swizzle, mn_major, shift_a, shift_b, shared=size)
    return to_numpy(sums)


def operands(rng, n, dtype):
    a, b = (rng.standard_normal((rows, DEPTH)).astype(as_dtype(dtype)) for rows in (ROWS, n))
    return dict(a=a, b=b, before=rng.standard_normal((ROWS, n)).astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", COLUMNS)
def test_a_product_has_the_same_bits_in_every_layout(device, rng, n, dtype):
    if device != "emulated" and capability_named(device) != 90:
        pytest.skip("wgmma needs a GPU of compute capability 9.0")
    arrays = operands(rng, n, dtype)
    a, b, before = (arrays[name].astype(np.float64) for name in ("a", "b", "before"))
    expected, magnitude = a @ b.T + before, np.abs(a) @ np.abs(b).T + np.abs(before)
    results = []
    for layout in COLUMNS[n]:
        result = product(device, n, dtype, *layout, **arrays)
        assert (np.abs(result - expected) <= 2.0**-23 * (DEPTH + 1) * magnitude).all(), layout
        results.append(result.tobytes())
    assert len(set(results)) == 1  # a layout changes no bit


def test_the_checker_and_another_order_of_threads_change_no_bit(rng):
    arrays = operands(rng, 64, "float16")
    plain = product("emulated", 64, "float16", 1, 1, **arrays)
    with emulator.configure(sanitize="checked", seed=3):
        np.testing.assert_array_equal(product("emulated", 64, "float16", 1, 1, **arrays), plain)


@pytest.mark.parametrize("swizzle", [1, 2, 3])
def test_a_swizzled_operand_at_a_misaligned_address_is_reported(rng, swizzle):
    arrays = operands(rng, 64, "float16")
    for mn_major, shifts in itertools.product(range(4), ((128, 896), (0, 128))):
        operand = "B" if shifts[0] == 0 else "A"
        with pytest.raises(
            emulator.EmulatorError, match=f"operand {operand} does not begin where a swizzled atom does"
        ):
            product("emulated", 64, "float16", swizzle, mn_major, **arrays, shift_a=shifts[0], shift_b=shifts[1])


FAULTS = {
    "different_descriptors": "the threads of a warpgroup pass different descriptors",
    "reads_uninitialized_memory": r"reads shared dynamic memory \+ 0 bytes, which nothing wrote",
    "reads_past_shared_memory": r"out of bounds: reads 16 bytes at offset 131072 of shared dynamic memory",
}


@pytest.mark.parametrize("kernel", FAULTS)
def test_a_planted_fault_is_reported(kernel):
    sums = asarray(np.zeros(128, np.float32), "emulated")
    with emulator.configure(sanitize="checked"), pytest.raises(emulator.EmulatorError, match=FAULTS[kernel]) as caught:
        module(64, "float16").kernel(kernel)(1, 128, sums, shared=16384)
    assert str(caught.value).startswith(f"kernel {kernel}, block (0, 0, 0), thread (")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", COLUMNS)
def test_each_product_is_one_hgmma_and_nothing_spills(n, dtype):
    try:
        nvrtc.toolkit()
        machine_code.disassembler()
    except nvrtc.CompileError as error:
        pytest.skip(str(error))
    macros = {"DTYPE": dtype, "COLUMNS": str(n)}
    binary = nvrtc.compile_cubin("wgmma_products", source.flatten(KERNELS), macros, "sm_90a")
    code = machine_code.disassemble(binary.path)["product"]
    expected = f"HGMMA.64x{n}x16.F32" + (".BF16" if dtype == "bfloat16" else "")
    opcodes = [instruction.opcode for instruction in code if instruction.opcode.startswith("HGMMA")]
    assert opcodes == [expected] * (16 if n == 64 else 4) * (DEPTH // 16)
    assert_no_spills(binary)
    assert binary.resources["product"].registers <= n // 2 + 32
