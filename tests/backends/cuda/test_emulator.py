"""What the emulated device gives to kernels: indices, barriers, warp operations, atomics, number types, workers."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gpuconv import asarray, ops
from gpuconv.backends import DeviceError, resolve
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.emulator import cxx, native
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.dtypes import as_dtype
from gpuconv.system import locks

KERNELS = Path(__file__).with_name("features.cu")
THREADS = 96


def run(kernel, grid, block, out, *arguments, shared=0, **settings):
    """The array that `kernel` writes; out: its (shape, dtype)."""
    y = emulator.empty(*out)
    with emulator.configure(**settings):
        load(KERNELS).kernel(kernel)(grid, block, y, *arguments, shared=shared)
    return np.asarray(y)


def in_all_orders(*call, **options):
    """The result, which must be the same for every seed, sanitizer and number of workers."""
    first = run(*call, **options)
    for settings in ({"seed": 3}, {"seed": 4, "workers": 2}, {"sanitize": "checked", "seed": 5}):
        np.testing.assert_array_equal(run(*call, **options, **settings), first)
    return first


def test_every_thread_has_its_indices():
    got = in_all_orders("indices", (3, 2, 4), (5, 3, 2), ((24 * 30, 4), np.int32))
    z, y, x = np.meshgrid(*(np.arange(n) for n in (8, 6, 15)), indexing="ij")
    assert sorted(tuple(row[:3]) for row in got.tolist()) == sorted(
        zip(x.ravel().tolist(), y.ravel().tolist(), z.ravel().tolist())
    )
    assert (got[:, 3] == 3 * 2 * 4 * 5 * 3 * 2).all()


def test_shared_memory_and_barriers_sum_a_block():
    x = np.random.default_rng(0).integers(-9, 9, 4 * 128).astype(np.int32)
    got = in_all_orders("block_sums", 4, 128, ((4, 2), np.int32), emulator.asarray(x), shared=128 * 4)
    np.testing.assert_array_equal(got, np.repeat(x.reshape(4, 128).sum(1)[:, None], 2, 1))


def test_block_votes_are_right_in_every_thread_order():
    got = in_all_orders("block_votes", 1, THREADS, ((3,), np.int32), 40)
    np.testing.assert_array_equal(got, [40, 1, 0])


@pytest.mark.parametrize("width", [32, 16, 4])
def test_shuffles_stay_within_segments_in_every_thread_order(width):
    got = in_all_orders("shuffles", 1, THREADS, ((4, THREADS), np.float64), width)
    lane = np.arange(THREADS)
    within, first = lane % width, lane - lane % width
    np.testing.assert_array_equal(got[0], first + 3)
    np.testing.assert_array_equal(got[1], np.where(within >= 1, lane - 1, lane))
    np.testing.assert_array_equal(got[2], np.where(within + 2 < width, lane + 2, lane))
    np.testing.assert_array_equal(got[3], lane ^ 1)


def test_half_a_warp_votes_by_itself():
    got = in_all_orders("warp_votes", 1, 64, ((3, 64), np.uint32))
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
    got = in_all_orders("last_block", 16, 32, ((1,), np.int32), partial, emulator.zeros(1, np.uint32))
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
    """The fibers are the portable ones (ucontext), in a separate process."""
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


@pytest.mark.slow
def test_address_sanitizer_names_kernel_block_and_thread():
    planted = Path(__file__).parents[2] / "kernels" / "planted.cu"
    program = f"""
import sys
import numpy as np
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load
x, y = emulator.asarray(np.arange(128, dtype=np.float32)), emulator.empty(128)
load({str(planted)!r}).kernel("correct")(2, 64, y, x)
assert y[0] == 63
load({str(planted)!r}).kernel(sys.argv[1])(2, 64, y, x, shared=256)
"""
    for kernel, kinds in {
        "reads_past_the_end": "use-after-poison",
        "writes_past_shared_memory": "use-after-poison",
        "indexes_past_a_local_array": "past the end of an array",
        "misaligned_vector": "not aligned to the 16 bytes",
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", program, kernel],
            capture_output=True,
            text=True,
            check=False,
            env=emulator.address_environment(),
        )
        assert done.returncode != 0
        assert kinds in done.stderr, done.stderr[-3000:]
        assert re.search(r"planted\.cu:\d+", done.stderr), done.stderr[-3000:]
        assert f"kernel {kernel}, block (1, 0, 0), thread (5, 0, 0)" in done.stderr, done.stderr[-3000:]


def test_the_first_kernel_of_a_process_need_not_use_a_thread_index(tmp_path):
    """In a new process, so that no earlier kernel has set up the thread context that later ones share."""
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


def test_address_sanitizer_needs_its_own_process():
    with emulator.configure(sanitize="address"), pytest.raises(emulator.EmulatorError, match="LD_PRELOAD"):
        load(KERNELS).kernel("indices")(1, 1, emulator.empty(4, np.int32))


@pytest.fixture
def forget_compiler():
    """Search for the compiler again, in this test and in the next."""
    cached = cxx.find, cxx.version, native.runtime
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.usefixtures("forget_compiler")
def test_a_missing_compiler_is_reported(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(DeviceError, match=r"needs a C\+\+ compiler and found none"):
        resolve("emulated")


@pytest.mark.usefixtures("forget_compiler")
@pytest.mark.parametrize(
    ("cxx", "message"),
    [
        ("no-such-c++", "CXX is 'no-such-c\\+\\+', and there is no program 'no-such-c\\+\\+'"),
        ("ccache-that-is-not-there g++", "there is no program 'ccache-that-is-not-there'"),
        ("/", "there is no program '/'"),
        ('g++ "', "is not a command: No closing quotation"),
        ("false", "false --version.* does not run:\\nstatus 1"),
        ("/etc/passwd", "there is no program"),
    ],
    ids=lambda text: text.split()[0],
)
def test_a_wrong_cxx_is_refused_and_not_replaced(cxx, message, monkeypatch):
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(DeviceError, match=message):
        resolve("emulated")


@pytest.mark.usefixtures("forget_compiler")
def test_cxx_may_hold_options_and_paths(monkeypatch, tmp_path):
    compilers = cxx.find()
    script = tmp_path / "my compiler"
    script.write_text(f'#!/bin/sh\necho "$@" >> "$0.log"\nexec {shlex.join(compilers)} "$@"\n')
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "'./my compiler' -DOF_THE_USER=7")
    cxx.find.cache_clear()
    made = cxx.compile_library("probe", "int probe = OF_THE_USER;\n")
    assert made.is_file()
    output = (tmp_path / "my compiler.log").read_text().splitlines()
    assert all(line.startswith("-DOF_THE_USER=7") for line in output)
    assert len(output) == 3  # runs of the compiler: version, compilation, linking


def test_ctrl_c_does_not_reach_the_compiler():
    """A run finishes its step, which may have to compile a kernel first."""
    group = cxx._run([sys.executable, "-c", "import os; print(os.getpgrp())"], "python")
    assert int(group) != os.getpgrp()


def test_the_same_headers_in_another_folder_are_not_compiled_again(monkeypatch, tmp_path):
    """One cache serves every checkout, and can be moved to another machine."""
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    made = cxx.compile_library("probe", "int probe = 1;\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for header in cxx._HERE.glob("*.h"):
        shutil.copy(header, elsewhere)
    monkeypatch.setattr(cxx, "_HERE", elsewhere)
    assert cxx.compile_library("probe", "int probe = 1;\n") == made
    (elsewhere / "other.h").touch()
    assert cxx.compile_library("probe", "int probe = 1;\n") != made


@pytest.mark.usefixtures("forget_compiler")
def test_the_error_of_a_failing_compiler_holds_its_own_message(monkeypatch, tmp_path):
    script = tmp_path / "c++"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && echo mine && exit\nprintf "caf\\351: no space" >&2\nexit 4\n')
    script.chmod(0o755)
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(DeviceError, match=r"runtime does not compile for the emulated device:\ncaf.: no space"):
        resolve("emulated")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SEED", "x", "GPUCONV_EMULATOR_SEED is 'x': expected a whole number"),
        ("SEED", str(2**64), "seed must be from 0"),
        ("SANITIZE", "all", "GPUCONV_EMULATOR_SANITIZE is 'all': sanitize must be one of"),
        ("WORKERS", "0", "GPUCONV_EMULATOR_WORKERS is '0': workers must be at least 1"),
    ],
)
def test_invalid_environment_variables_are_refused(variable, value, message, monkeypatch):
    monkeypatch.setattr(sys.modules[emulator.settings.__module__], "_current", None)
    monkeypatch.setenv(f"GPUCONV_EMULATOR_{variable}", value)
    with pytest.raises(DeviceError, match=message):
        resolve("emulated")


def test_environment_variables_set_the_emulator(monkeypatch):
    monkeypatch.setattr(sys.modules[emulator.settings.__module__], "_current", None)
    for name, value in (("SEED", "7"), ("WORKERS", "3"), ("SANITIZE", "checked")):
        monkeypatch.setenv(f"GPUCONV_EMULATOR_{name}", value)
    assert emulator.settings() == emulator.Settings(7, "checked", 3)


def test_a_kernel_may_be_in_a_folder_of_any_name(tmp_path):
    """With quotes, backslashes and undecodable bytes in names, kernels compile, and an error names the file."""
    folder = tmp_path / os.fsdecode(b'caf\xe9 "a\\b"')
    folder.mkdir()
    kernel = b'extern "C" __global__ void count(int *y) { y[threadIdx.x] = threadIdx.x; } // caf\xe9\n'
    (folder / "right.cu").write_bytes(kernel)
    (folder / "wrong.cu").write_bytes(b'#include "a\\b.cuh"\n' + kernel)
    (folder / "a\\b.cuh").write_text("\nthis is no C++\n")
    y = emulator.empty(4, np.int32)
    load(folder / "right.cu").kernel("count")(1, 4, y)
    np.testing.assert_array_equal(y.view(np.ndarray), range(4))
    with pytest.raises(emulator.EmulatorError, match=r"(?m)^a\\b\.cuh:2:\d+: error"):
        load(folder / "wrong.cu").kernel("count")(1, 4, y)


def test_settings_are_checked():
    assert emulator.settings().workers >= 1
    before = emulator.settings()
    with emulator.configure(seed=3, sanitize="checked") as chosen:
        assert emulator.settings() is chosen
        assert (chosen.seed, chosen.sanitize, chosen.workers) == (3, "checked", before.workers)
    assert emulator.settings() == before
    with pytest.raises(ValueError, match="sanitize must be one of none, checked, address, received 'all'"):
        emulator.configure(sanitize="all")
    with pytest.raises(ValueError, match="seed must be"):
        emulator.configure(seed=-1)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        emulator.configure(workers=0)
    assert emulator.settings() == before


def test_a_compile_error_points_into_the_cu_file(tmp_path):
    (tmp_path / "bad.cu").write_text('\nextern "C" __global__ void bad(float* y) {\n    y[0] = missing;\n}\n')
    with pytest.raises(emulator.EmulatorError, match=r"bad does not compile[\s\S]*bad\.cu:3:\d+: error.*missing"):
        load(tmp_path / "bad.cu").kernel("bad")(1, 1, emulator.empty(1))


def test_processes_that_start_at_once_compile_the_runtime_one_after_another(monkeypatch, tmp_path):
    """Once the runtime is compiled, no process waits."""
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))

    def compile_in_a_thread():
        thread = threading.Thread(
            target=cxx.compile_library, args=("probe", "int probe = 2;\n"), kwargs={"once": True}, daemon=True
        )
        thread.start()
        return thread

    with locks.hold(cxx._HERE):
        first = compile_in_a_thread()
        first.join(0.2)
        assert first.is_alive()
    first.join(60)
    assert [*tmp_path.glob("cache/*/library.so")]
    with locks.hold(cxx._HERE):
        second = compile_in_a_thread()
        second.join(10)
        assert not second.is_alive()


def watch_relu(n, writer=None):
    """The report of a watch of all n values of a ReLU."""
    y = emulator.empty((n,), np.float32)
    with emulator.watch_writes(y, writer) as seen:
        ops.relu(asarray(np.ones(n, np.float32), "emulated"), out=y)
    return seen


def test_a_watch_names_the_thread_that_wrote_and_the_memory_that_it_used():
    (writer,) = watch_relu(4)
    assert (writer.kernel, writer.block, writer.thread, writer.warp) == ("relu_forward", (0, 0, 0), (0, 0, 0), 0)
    assert writer.source.startswith("activation.cu:")
    reads, writes = emulator.Touched("argument 'x'", 0, 15, 16, 0), emulator.Touched("argument 'y'", 0, 15, 0, 16)
    assert watch_relu(4, writer) == [writer, reads, writes]


def test_a_watch_reports_every_write_of_a_launch_with_thousands():
    packs = 4096  # of 4 values, each stored by one thread
    writers = watch_relu(4 * packs)
    assert len({(writer.block, writer.thread) for writer in writers}) == len(writers) == packs
    *again, reads, writes = watch_relu(4 * packs, writers[-1])
    assert again == writers
    assert (reads.read, writes.written) == (16, 16)


def test_a_launch_that_fails_reports_what_it_wrote_before(tmp_path):
    path = tmp_path / "fails.cu"
    path.write_text('extern "C" __global__ void fails(int* y) { y[0] = 1; y[1] = 2; y[2] = 3; }')
    y = emulator.empty((2,), np.int32)
    with emulator.watch_writes(y) as seen, pytest.raises(emulator.EmulatorError, match="out of bounds"):
        load(path).kernel("fails")(1, 1, y)
    assert [writer.kernel for writer in seen] == ["fails", "fails"]


def test_a_watch_refuses_what_it_could_not_report():
    x, y = (emulator.empty((4,), np.float32) for _ in range(2))
    with emulator.watch_writes(y) as seen:
        with pytest.raises(RuntimeError, match="watch one view at a time"), emulator.watch_writes(x):
            pass
        unchecked = pytest.raises(emulator.EmulatorError, match='sanitize="checked", received "none"')
        with unchecked, emulator.configure(sanitize="none"):
            ops.relu(x, out=y)
        ops.relu(x, out=y)
    assert len(seen) == 1
