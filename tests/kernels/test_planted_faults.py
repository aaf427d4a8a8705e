"""Faults that a GPU would hide, planted in small kernels. The error names the kernel, the block and, where it can, the
thread and the line."""

import re
from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.devices import address

PLANTED = Path(__file__).with_name("planted.cu")
N = 128  # two blocks of 64 threads

# Faults that every run names, and faults that only a checked run names with their line.
ALWAYS = {
    "barrier_not_reached": r"divergent barrier.*63 of 64 threads are at a barrier.*1 of 64 threads exited: \(5, 0, 0\)",
    "two_barriers": r"divergent barrier: waits at planted\.cu:\d+ while others wait elsewhere",
    "shuffle_not_reached": r"divergent warp operation.*31 of 64 threads are in a warp operation",
    "shuffle_from_an_idle_lane": r"a shuffle at planted\.cu:\d+ reads lane 16, which does not take part",
    "shuffle_without_its_own_lane": r"a warp operation whose mask lacks the calling lane",
    "failed_assertion": r"assertion failed: !culprit\(\)",
    "divides_by_zero": r"an integer (is )?divided by zero",
    "runs_over_its_stack": r"stack overflow",
    "copy_of_too_many_bytes": r"an asynchronous copy of 4 bytes takes 0 to 4 from its source, received 8",
    "misaligned_copy": r"an asynchronous copy moves 4, 8 or 16 bytes between addresses aligned to that number",
}
CHECKED = {
    "reads_past_the_end": r"out of bounds: reads 4 bytes at offset 532 of argument 'x', which has 512 bytes",
    "reads_before_the_start": r"out of bounds: reads 4 bytes at offset -4 of argument 'x'",
    "writes_past_the_end": r"out of bounds: writes 4 bytes at offset 532 of argument 'y'",
    "writes_nowhere": r"out of bounds: writes 4 bytes at an address that belongs to no argument",
    "reads_a_null_pointer": r"out of bounds: an access through a null pointer",
    "writes_past_shared_memory": r"out of bounds: writes 4 bytes at offset 256 of shared dynamic memory",
    "indexes_past_a_local_array": r"out of bounds: an index past the end of an array",
    "reads_unwritten_shared_memory": r"reads shared tile \+ 20 bytes, which nothing wrote",
    "misaligned_vector": r"an address is not aligned to the 16 bytes",
    "copy_not_waited_for": r"reads shared tile \+ 20 bytes, which an asynchronous copy that was not waited for",
    "copy_not_committed": r"reads shared tile \+ 20 bytes, which an asynchronous copy that was not waited for",
    "shared_race": r"race: writes shared tile \+ 0 bytes, which thread \(0, 0, 0\) read at",
    "race_between_blocks": r"race: writes argument 'y' \+ 20 bytes, which thread \(5, 0, 0\) of another block wrote",
}
SEVERAL_MAY_BE_NAMED = ("barrier_not_reached", "two_barriers", "shuffle_not_reached")


def fault_line(kernel):
    lines = PLANTED.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if f" {kernel}(" in line)
    return next((i + 1 for i, line in enumerate(lines[start:], start) if line.endswith("// fault")), None)


def launch(kernel, **settings):
    x, y = emulator.asarray(np.arange(N, dtype=np.float32)), emulator.empty(N)
    with emulator.configure(**settings):
        load(PLANTED).kernel(kernel)(2, 64, y, x, shared=256)
    return np.asarray(y)


def message(kernel, **settings):
    with pytest.raises(emulator.EmulatorError) as caught:
        launch(kernel, **settings)
    return str(caught.value)


@pytest.mark.parametrize("sanitize", ["none", "checked"])
@pytest.mark.parametrize("kernel", ALWAYS)
def test_a_planted_fault_is_found_in_every_run(kernel, sanitize):
    output = message(kernel, sanitize=sanitize)
    assert output.startswith(f"kernel {kernel}, block (1, 0, 0), thread (")
    if kernel not in SEVERAL_MAY_BE_NAMED:
        assert "thread (5, 0, 0)" in output
    assert re.search(ALWAYS[kernel], output), output


@pytest.mark.parametrize("kernel", CHECKED)
def test_a_planted_fault_is_found_in_a_checked_run(kernel):
    output = message(kernel, sanitize="checked")
    assert output.startswith(f"kernel {kernel}, block (1, 0, 0), thread (5, 0, 0): "), output
    assert f"at planted.cu:{fault_line(kernel)}" in output
    assert re.search(CHECKED[kernel], output), output


def test_a_race_between_warps_is_found_in_some_order():
    # If the second warp has not run yet, the memory is unwritten. If it has, the read is a race.
    outputs = {message("race_between_warps", sanitize="checked", seed=seed) for seed in range(8)}
    assert any("race: reads shared tile + 148 bytes, which thread (37, 0, 0) wrote" in text for text in outputs), (
        outputs
    )
    assert all("block (1, 0, 0), thread (5, 0, 0)" in text or "thread (37, 0, 0)" in text for text in outputs)


def test_a_race_gives_different_bits_in_another_order():
    results = [launch("race_between_warps", seed=seed, sanitize="none") for seed in range(8)]
    assert any(not np.array_equal(results[0], other, equal_nan=True) for other in results[1:])


def test_use_after_free_is_found():
    freed, y = emulator.zeros(64), emulator.empty(N)
    addresses = emulator.asarray(np.array([address(freed)], np.uint64))
    kernel = load(PLANTED).kernel("reads_freed_memory")
    with emulator.configure(sanitize="checked"):
        kernel(2, 64, y, addresses)
        del freed
        with pytest.raises(emulator.EmulatorError, match=r"block \(1, 0, 0\), thread \(5, 0, 0\): out of bounds"):
            kernel(2, 64, y, addresses)


def test_writes_past_a_buffer_are_found_without_checking():
    y = emulator.empty(N)
    x = emulator.zeros(N)
    kernel = load(PLANTED).kernel("writes_past_the_end")
    with (
        emulator.configure(sanitize="none"),
        pytest.raises(emulator.EmulatorError, match="a write 20 bytes past the end of a buffer of 512 bytes"),
    ):
        kernel(2, 64, y, x)


def test_writes_past_shared_memory_are_found_without_checking():
    output = message("writes_past_shared_memory", sanitize="none")
    expected = "block (1, 0, 0): out of bounds: a write 0 bytes past the end of shared dynamic memory"
    assert output == f"kernel writes_past_shared_memory, {expected}"


def test_an_invalid_address_does_not_end_the_process():
    assert "block (1, 0, 0), thread (5, 0, 0): out of bounds" in message("writes_nowhere", sanitize="none")


def test_only_the_message_of_an_unchecked_run_mentions_sanitize_checked():
    unchecked, checked = (message("calls_a_null_function", sanitize=sanitize) for sanitize in ("none", "checked"))
    for text in (unchecked, checked):
        assert "thread (5, 0, 0): out of bounds: an access at an address that does not exist" in text
    assert 'sanitize="checked"' in unchecked
    assert "sanitize" not in checked


def test_unwritten_memory_and_unfinished_copies_read_as_nan_without_checking():
    for kernel in ("reads_unwritten_shared_memory", "copy_not_waited_for", "copy_not_committed"):
        y = launch(kernel, sanitize="none")
        assert np.isnan(y[64 + 5])
        assert np.isnan(y).sum() == 1


@pytest.mark.parametrize("sanitize", ["none", "checked"])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_a_correct_kernel_gives_the_same_bits_in_every_order(seed, sanitize):
    expected = np.arange(N, dtype=np.float32).reshape(2, 64)[:, ::-1].ravel()
    np.testing.assert_array_equal(launch("correct", seed=seed, sanitize=sanitize), expected)


def test_the_device_works_after_a_fault():
    for kernel in ("barrier_not_reached", "runs_over_its_stack", "writes_nowhere"):
        message(kernel)
        np.testing.assert_array_equal(launch("correct")[:64], np.arange(64)[::-1])


@pytest.mark.parametrize(
    ("call", "fault"),
    [("__syncthreads()", "divergent barrier"), ("__syncwarp()", "divergent warp operation")],
    ids=["barrier", "warp"],
)
def test_operations_on_the_same_line_of_two_headers_are_divergent(call, fault, tmp_path):
    for name in ("even", "odd"):
        (tmp_path / f"{name}.cuh").write_text(f"__device__ void {name}() {{ {call}; }}\n")
    (tmp_path / "two_headers.cu").write_text(
        '#include "even.cuh"\n#include "odd.cuh"\n'
        'extern "C" __global__ void mix(float* y) {\n'
        "    if (threadIdx.x % 2) odd();\n    else even();\n    y[threadIdx.x] = 1;\n}\n"
    )
    with pytest.raises(emulator.EmulatorError, match=rf"{fault}.*(even|odd)\.cuh:1"):
        load(tmp_path / "two_headers.cu").kernel("mix")(1, 32, emulator.empty(32))
