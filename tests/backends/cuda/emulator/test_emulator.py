"""What the emulated device gives to kernels: indices, barriers, warp operations, atomics, number types."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.dtypes import as_dtype

KERNELS = Path(__file__).with_name("features.cu")
THREADS = 96


def run(kernel, grid, block, out, *arguments, shared=0, **settings):
    """The array that `kernel` writes; out: its (shape, dtype). The other arrays are copied, so they do not change."""
    y, given = emulator.empty(*out), [each.copy() if isinstance(each, np.ndarray) else each for each in arguments]
    with emulator.configure(**settings):
        load(KERNELS).kernel(kernel)(grid, block, y, *given, shared=shared)
    return np.asarray(y)


def in_several_orders(*call, **options):
    """The result of a kernel. It must be the same in other orders of threads (seeds), with two workers, and with all
    accesses checked."""
    first = run(*call, **options)
    for settings in ({"seed": 3}, {"seed": 4, "workers": 2}, {"sanitize": "checked", "seed": 5}):
        np.testing.assert_array_equal(run(*call, **options, **settings), first)
    return first


def test_every_thread_has_its_indices():
    got = in_several_orders("indices", (3, 2, 4), (5, 3, 2), ((24 * 30, 4), np.int32))
    z, y, x = np.meshgrid(*(np.arange(n) for n in (8, 6, 15)), indexing="ij")
    assert sorted(tuple(row[:3]) for row in got.tolist()) == sorted(
        zip(x.ravel().tolist(), y.ravel().tolist(), z.ravel().tolist())
    )
    assert (got[:, 3] == 3 * 2 * 4 * 5 * 3 * 2).all()


def test_shared_memory_and_barriers_sum_a_block():
    x = np.random.default_rng(0).integers(-9, 9, 4 * 128).astype(np.int32)
    got = in_several_orders("block_sums", 4, 128, ((4, 2), np.int32), emulator.asarray(x), shared=128 * 4)
    np.testing.assert_array_equal(got, np.repeat(x.reshape(4, 128).sum(1)[:, None], 2, 1))


def test_variables_beside_the_most_dynamic_memory_have_addresses():
    most = 227 * 1024 - 8  # leaves room for two variables of 4 bytes
    got = in_several_orders("variables_beside_dynamic_memory", 1, 1, ((3,), np.int32), shared=most)
    np.testing.assert_array_equal(got, [1, 2, 3])


def test_block_votes_are_right_in_several_thread_orders():
    got = in_several_orders("block_votes", 1, THREADS, ((3,), np.int32), 40)
    np.testing.assert_array_equal(got, [40, 1, 0])


@pytest.mark.parametrize("width", [32, 16, 4])
def test_shuffles_stay_within_segments_in_several_thread_orders(width):
    got = in_several_orders("shuffles", 1, THREADS, ((4, THREADS), np.float64), width)
    lane = np.arange(THREADS)
    within, first = lane % width, lane - lane % width
    np.testing.assert_array_equal(got[0], first + 3)
    np.testing.assert_array_equal(got[1], np.where(within >= 1, lane - 1, lane))
    np.testing.assert_array_equal(got[2], np.where(within + 2 < width, lane + 2, lane))
    np.testing.assert_array_equal(got[3], lane ^ 1)


def test_half_a_warp_votes_by_itself():
    got = in_several_orders("warp_votes", 1, 64, ((3, 64), np.uint32))
    even = sum(1 << lane for lane in range(0, 32, 2))
    low = np.arange(64) % 32 < 16
    np.testing.assert_array_equal(got[0], np.where(low, even & 0xFFFF, even & 0xFFFF0000))
    np.testing.assert_array_equal(got[1], 1)
    np.testing.assert_array_equal(got[2], 0)


def test_integer_atomics_count_across_blocks():
    initial = emulator.zeros(6, np.int32)
    initial[2], initial[3] = 1 << 30, -(1 << 30)
    for workers, seed in ((1, 0), (2, 9)):
        y = initial.copy()
        with emulator.configure(workers=workers, seed=seed):
            load(KERNELS).kernel("atomics")(50, 64, y)
        np.testing.assert_array_equal(np.asarray(y), [3200, -3200, -5, 3194, 1, 3200])


def test_the_last_block_sums_what_the_others_wrote():
    partial = emulator.empty(16, np.int32)
    got = in_several_orders("last_block", 16, 32, ((1,), np.int32), partial, emulator.zeros(1, np.uint32))
    assert got[0] == sum(range(16))


def test_float_atomics_do_not_compile():
    with pytest.raises(emulator.EmulatorError, match="no floating-point atomics"):
        load(KERNELS, {"FLOAT_ATOMIC": 1}).kernel("indices")(1, 1, emulator.empty(4, np.int32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_16_bit_float_converts_exactly(dtype):
    bits = np.arange(2**16, dtype=np.uint16)
    as_float = run(f"{dtype}_to_float", 256, 256, ((2**16,), np.float32), emulator.asarray(bits))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(as_float, bits.view(as_dtype(dtype)).astype(np.float32))
    back = run(f"float_to_{dtype}", 256, 256, ((2**16,), np.uint16), emulator.asarray(as_float))
    number = ~np.isnan(as_float)
    np.testing.assert_array_equal(back[number], bits[number])
    assert np.isnan(back[~number].view(as_dtype(dtype)).astype(np.float32)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("source", ["float", "double"])
def test_floats_are_rounded_to_the_nearest_16_bit_float(dtype, source):
    generator = np.random.default_rng(0)
    wide = np.float32 if source == "float" else np.float64
    x = (generator.normal(0, 1, 2**16) * 2.0 ** generator.integers(-26, 17, 2**16)).astype(wide)
    # Below 0x7800 a number and the next larger one are finite in both dtypes.
    below = generator.integers(0, 0x7800, 4096).astype(np.uint16)
    above = (below + 1).astype(np.uint16)
    x[:4096] = sum(bits.view(as_dtype(dtype)).astype(wide) for bits in (below, above)) / 2
    with np.errstate(over="ignore"):
        expected = x.astype(as_dtype(dtype))
    got = run(f"{source}_to_{dtype}", 256, 256, ((2**16,), np.uint16), emulator.asarray(x)).view(as_dtype(dtype))
    if source == "double" and dtype == "bfloat16":  # ml_dtypes converts to float first, and so rounds twice
        differs = got != expected
        assert (np.abs(got.astype(float) - x)[differs] <= np.abs(expected.astype(float) - x)[differs]).all()
    else:
        np.testing.assert_array_equal(got.astype(wide), expected.astype(wide))


def test_vector_types_bit_functions_and_math_functions_give_cudas_results():
    got = run("odds_and_ends", 1, 1, ((12,), np.float64))
    expected = [10, 4, 3, 31, 32, 0x80000000, 0x3F800000, 0.5, 7, -2.5, 0xFFFFFFFE, 0x56789AB1]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
def test_a_divergent_barrier_is_reported_without_assembly():
    """A separate process uses the portable fibers (ucontext)."""
    program = f"""
import numpy as np
from gpuconv.backends.cuda.emulator import cxx
cxx._COMMON.append("-DGPUCONV_UCONTEXT")
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load
y = emulator.empty((4, 2), np.int32)
for seed in (0, 5):
    emulator.configure(seed=seed)
    load({str(KERNELS)!r}).kernel("block_sums")(4, 128, y, emulator.asarray(np.ones(512, np.int32)), shared=512)
assert (np.asarray(y) == 128).all()
try:
    load({str(KERNELS)!r}).kernel("block_votes")(1, 976, emulator.empty(3, np.int32), -1)
except emulator.EmulatorError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "divergent barrier" in done.stdout, done.stderr


def test_the_first_kernel_of_a_process_need_not_use_a_thread_index(tmp_path):
    """The kernel runs in a new process: no earlier kernel has set up the thread context that all kernels share."""
    (tmp_path / "simple.cu").write_text('extern "C" __global__ void simple(float* y) { y[0] = 7; }\n')
    program = f"""
import numpy as np
from gpuconv import asarray, ops
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load
y = emulator.empty(1)
load({str(tmp_path / "simple.cu")!r}).kernel("simple")(1, 1, y)
print(y[0], ops.relu(asarray(np.ones(3, np.float32), "emulated")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "7.0 [1. 1. 1.]\n", done.stderr


def test_a_deadlock_is_reported_although_a_thread_has_exited_without_ever_waiting(tmp_path):
    """The kernel runs in a new process: no earlier kernel has left the place of a wait in that thread's slot."""
    (tmp_path / "exits.cu").write_text(
        '#include "cluster.cuh"\n'
        'extern "C" __global__ void __cluster_dims__(2, 1, 1) exits(float* y) {\n'
        "    if (threadIdx.x == 63) return;\n"
        "    cluster_sync();\n"
        "    y[blockIdx.x] = 1;\n"
        "}\n"
    )
    program = f"""
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load
try:
    load({str(tmp_path / "exits.cu")!r}).kernel("exits")(2, 64, emulator.empty(2))
except emulator.EmulatorError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert re.search(r"deadlock.* at a cluster_sync\(\), which lacks 2 of 128 threads", done.stdout), done
