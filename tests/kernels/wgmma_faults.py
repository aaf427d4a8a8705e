"""Faults to plant in the convolution kernels of wgmma, and what the emulated device's checker says of each.

test_faults_in_wgmma_fprop.py and test_faults_in_wgmma_gradients.py plant them, one at a time.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import time
from collections.abc import Sequence

import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime import replaced_files, source
from gpuconv.problems import Conv2dProblem
from tests.kernels.convolutions import assert_right, assert_wgrad_right
from tests.kernels.fault_messages import pattern

MAIN_LOOP, RING, LAYOUT, FPROP = "gemm_wgmma.cuh", "wgmma_tile.cuh", "wgmma_layout.cuh", "conv2d_fprop_wgmma.cu"
VALUES = "a value differs from the oracle's"

# What the checker says, in the notation of fault_messages.py.
READS = "a wgmma of warpgroup # reads shared dynamic memory + # bytes, which "
PENDING = READS + "an asynchronous copy that was not waited for has yet to write"
UNWRITTEN = READS + "nothing wrote"
UNFENCED = READS + "thread (#, 0, 0) wrote at @ with no fence_proxy_async() between"
UNSYNCHRONIZED = "race: " + READS + "thread (#, 0, 0) wrote at @ with no barrier between"
OVERWRITTEN = "race: writes shared dynamic memory + # bytes, which a wgmma of warpgroup # read at @ and "
TOO_EARLY = f"{PENDING}|{UNWRITTEN}|{UNSYNCHRONIZED}"
DEADLOCK = (
    "deadlock; warpgroup 0: 128 threads, first (0, 0, 0), wait at @ for the end of phase # (parity #) of the mbarrier "
)

# Each fault: the file, its text without and with the fault, and what the checker says.
FAULTS_OF_FPROP = {
    "no proxy fence": (MAIN_LOOP, "fence_proxy_async();", ";", UNFENCED),
    "proxy fence before the copies arrive": (
        MAIN_LOOP,
        "wait_for_copies<UNDER_WAY>();\n            say_copied(a);",
        "fence_proxy_async();\n wait_for_copies<UNDER_WAY>();\n copied.say_filled();\n copied.next();\n --under_way;",
        UNFENCED,
    ),
    "copies not committed": (MAIN_LOOP, "commit_copies();", ";", TOO_EARLY),
    "copies not waited for": (MAIN_LOOP, "wait_for_copies<UNDER_WAY>();", ";", TOO_EARLY),
    "copies waited for a stage late": (MAIN_LOOP, "<UNDER_WAY>();", "<UNDER_WAY + 1>();", TOO_EARLY),
    "last copies not waited for": (MAIN_LOOP, "finish() {\n        wait_for_copies<0>();", "finish() {", PENDING),
    "copies before the stage is free": (MAIN_LOOP, "filling.wait_until_free();", ";", f"{TOO_EARLY}|{OVERWRITTEN}"),
    "products before the stage is filled": (MAIN_LOOP, "filled.wait_until_filled();", ";", TOO_EARLY),
    "no fence of the registers": (MAIN_LOOP, "wgmma_fence();", ";", "a wgmma at @ with no wgmma_fence() before it"),
    "products not committed": (MAIN_LOOP, "wgmma_commit();", ";", OVERWRITTEN),
    "products waited for a stage late": (MAIN_LOOP, "wgmma_wait<1>();", "wgmma_wait<2>();", OVERWRITTEN),
    "products not waited for": (
        MAIN_LOOP,
        "wgmma_wait<0>();",
        ";",
        "reads accumulators of a wgmma that was not waited for, issued at @",
    ),
    "another stage said to be filled": (MAIN_LOOP, "copied.say_filled();", "filling.say_filled();", DEADLOCK),
    "another stage freed": (
        MAIN_LOOP,
        "multiplied.say_free();\n                mul",
        "filled.say_free();\n mul",
        DEADLOCK,
    ),
    "last stage of a tile not freed": (MAIN_LOOP, "pin(at[part]);\n        multiplied.say_free();", ";", DEADLOCK),
    "wrong phase of a filled stage": (RING, "filled()[stage], parity)", "filled()[stage], parity ^ 1)", TOO_EARLY),
    "wrong phase of a free stage": (RING, "parity ^ 1", "parity", DEADLOCK),
    "phase that never changes": (RING, "parity ^= 1;", ";", f"{TOO_EARLY}|{OVERWRITTEN}"),
    "one arrival too few": (RING, "[i], FILLERS)", "[i], FILLERS - 1)", TOO_EARLY),
    "one arrival too many": (RING, "* WARPGROUPS)", "* WARPGROUPS + 1)", DEADLOCK),
    "stage freed by one warpgroup": (RING, "CLUSTER * WARPGROUPS)", "1)", OVERWRITTEN),
    "every lane frees the stage": (RING, "if (threadIdx.x % 128 == 0) mbar", "mbar", OVERWRITTEN),
    "uninitialized barrier": (RING, "i < STAGES; ++i", "i < STAGES - 1; ++i", "which nothing initialized"),
    "barriers initialized again": (
        RING,
        "if (threadIdx.x == 0) {",
        "{",
        "was initialized at @ and not invalidated since",
    ),
    "no barrier after the initialization": (
        RING,
        "__syncthreads();",
        ";",
        "initialized at @ with no barrier between|which nothing initialized",
    ),
    "stages that overlap": (RING, "stage * STAGE_BYTES", "stage * STAGE_BYTES / 2", UNSYNCHRONIZED),
    "descriptor of another swizzle": (
        LAYOUT,
        "STRIDE, 0, SWIZZLE}",
        "STRIDE, 0, Swizzle::BYTES_64}",
        "wgmma: operand A does not begin where a swizzled atom does",
    ),
    "registers that nobody gave": (
        FPROP,
        "Ring ring;",
        "Ring ring; take_registers<232>();",
        "wait at @ for # registers (232 a thread in place of #), and the block has # free",
    ),
}


@contextlib.contextmanager
def planted(folder, kernel_file, *edits):
    """Within this context the kernels of a .cu have a fault. edits: (the name of a file, a part of its text, and that
    part with the fault)."""
    for path in source.directory().iterdir():
        if path.suffix == ".cuh" or path.name == kernel_file:
            shutil.copy(path, folder)
    for file, before, after in edits:
        shipped = (folder / file).read_text(encoding="utf-8")
        assert shipped.count(before) == 1
        (folder / file).write_text(shipped.replace(before, after), encoding="utf-8")
    with replaced_files.replace_files({kernel_file: folder / kernel_file}):
        yield


def assert_agrees(op: str, case: Conv2dProblem) -> None:
    """Runs an op in bfloat16 on the emulated device and compares its results with the oracle's; those of conv2d_wgrad
    include db."""
    if op == "conv2d_wgrad":
        assert_wgrad_right("emulated", case, "bfloat16")
    else:
        assert_right(op, "emulated", case, "bfloat16")


@functools.cache
def seconds_without_fault(kernel_file: str, op: str, case: Conv2dProblem) -> float:
    """The processor time of a checked run of the shipped kernel; a first run may compile it."""
    with (
        replaced_files.replace_files({kernel_file: source.directory() / kernel_file}),
        emulator.configure(sanitize="checked", seed=0),
    ):
        for _ in range(2):
            begin = time.process_time()
            assert_agrees(op, case)
    return time.process_time() - begin


def assert_found(kernel_file: str, op: str, case: Conv2dProblem, text: str, seeds: Sequence[int]):
    """Checks that a planted fault is found under each seed, and a deadlock at once: in at most three times the
    processor time of a run without the fault.

    text: a part of the checker's message, as in `FAULTS_OF_FPROP`, or VALUES, of which the time is not checked. Nor is
    that of the first run, which may compile."""
    limit = 0 if text == VALUES else 3 * seconds_without_fault(kernel_file, op, case)
    for seed in seeds:
        begin = time.process_time()
        with (
            emulator.configure(sanitize="checked", seed=seed),
            pytest.raises(AssertionError if text == VALUES else emulator.EmulatorError) as caught,
        ):
            assert_agrees(op, case)
        message = str(caught.value)
        if text == VALUES:
            assert "expected" in message, message
        else:
            assert seed == seeds[0] or time.process_time() - begin < limit, "a deadlock must be noticed at once"
            assert_named(message, kernel_file.removesuffix(".cu"), text)


def assert_named(message: str, kernel_name: str, text: str) -> None:
    """The message names the kernel, block, thread and warpgroup, and contains `text`."""
    named = rf"kernel {kernel_name}, block \(\d+, \d, 0\), thread \(\d+, 0, 0\) of warpgroup [012]: "
    assert re.match(named, message), message
    assert re.search(pattern(text), message), message
