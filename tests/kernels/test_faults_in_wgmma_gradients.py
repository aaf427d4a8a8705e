"""Faults planted one at a time in the wgmma kernels of a convolution's gradients. The emulated device's checker names
each fault, or the values differ from the oracle's."""

from __future__ import annotations

import pytest

from gpuconv.algorithms import find
from gpuconv.backends.cuda import emulator
from gpuconv.verify.conv_problems import conv
from tests.kernels.convolutions import force_algorithm
from tests.kernels.wgmma_faults import (
    DEADLOCK,
    FAULTS_OF_FPROP,
    LAYOUT,
    MAIN_LOOP,
    RING,
    TOO_EARLY,
    VALUES,
    assert_agrees,
    assert_found,
    planted,
)

SUMS, STRAIGHT, TAPS, PIXELS = "column_sums.cuh", "straight_iterator.cuh", "tap_iterator.cuh", "pixel_iterator.cuh"
WINDOWS, BLOCKS = "conv2d_matrices.cuh", "gemm.cuh"
DGRAD, WGRAD = "conv2d_dgrad", "conv2d_wgrad"
KERNEL_HEADER = {DGRAD: "input_gradient.cuh", WGRAD: "filter_gradient.cuh"}
# One block computes several tiles. It fills the ring one and a half times for each tile of wgrad, and for each tile of
# dgrad in the deepest of four phases. The phases have different taps.
CASES = {
    DGRAD: conv(1, 33, 17, 136, 144, 3, stride=2, padding=1, dilation=(3, 1)),
    WGRAD: conv(1, 25, 22, 16, 136, 3, padding=1),
}

OUTSIDE = "out of bounds: reads 16 bytes at "
OVERLAP = "race: writes shared dynamic memory + # bytes, which thread (#, 0, 0) wrote at @ with no barrier between"
OTHERS_TABLE = "race: writes shared table + # bytes, which thread (#, 0, 0) read at @ with no barrier between"
WINDOWS_TABLE = "race: writes shared table + # bytes, which|race: reads shared table + # bytes, which"
OTHER_BLOCKS = "race: writes argument 'partials' + # bytes, which thread (#, 0, 0) of another block wrote at @"

# Each fault: the direction, the file ("" for the .cu), its text without and with the fault, what the checker or the
# comparison says, and the number of splits of split-K.
FAULTS_OF_GRADIENTS = {
    "panels of the filters an atom apart": (DGRAD, LAYOUT, "PLAIN ? ATOM : PANEL)", "ATOM)", VALUES, 1),
    "groups of 8 in the depth a panel apart": (DGRAD, LAYOUT, "|| !PLAIN ? ATOM", "? ATOM", TOO_EARLY, 1),
    "the same filters for all of a stage": (DGRAD, MAIN_LOOP, "descriptor(b, 0, k)", "descriptor(b, 0, 0)", VALUES, 1),
    "filters half as deep": (DGRAD, MAIN_LOOP, "descriptor(b, 0, k)", "descriptor(b, 0, k / 2)", VALUES, 1),
    "filters as if K-major": (
        DGRAD,
        MAIN_LOOP,
        "descriptor(b, 0, k)",
        "descriptor(b, k, 0)",
        "wgmma: operand B does not begin where a swizzled atom does",
        1,
    ),
    "rows of the other warpgroup": (DGRAD, MAIN_LOOP, "group_row + part * 64, k", "part * 64, k", VALUES, 1),
    "filters where dy is": (DGRAD, MAIN_LOOP, "b = a + TileA::BYTES", "b = a", VALUES, 1),
    "tiles that overlap": (DGRAD, MAIN_LOOP, "IteratorA::Tile::BYTES", "IteratorA::Tile::BYTES / 2", OVERLAP, 1),
    "no mask of taps": (DGRAD, TAPS, "(tap.bits & ~inside[pass]) == 0}", "true}", OUTSIDE, 1),
    "mask of rows only": (
        DGRAD,
        TAPS,
        "inside[pass] |= uint32(matrix.column_inside(at, s)) << (down + s)",
        "inside[pass] |= 1u << (down + s)",
        OUTSIDE,
        1,
    ),
    "no mask of channels": (DGRAD, TAPS, "column < matrix.columns ? all : 0", "all", OUTSIDE, 1),
    "no barrier before the tables": (DGRAD, "", "sync_copiers();", ";", OTHERS_TABLE, 1),
    "rows of the first phase": (DGRAD, WINDOWS, "phase.h.pixel + i", "i", VALUES, 1),
    "columns of the first phase": (DGRAD, WINDOWS, "phase.w.pixel + w", "w", VALUES, 1),
    "taps of the first phase": (DGRAD, WINDOWS, "conv.s + phase.w.tap", "conv.s", VALUES, 1),
    "taps next to each other": (DGRAD, WINDOWS, "r * conv.tap_step_h", "r", VALUES, 1),
    "windows of the first phase": (DGRAD, WINDOWS, "phase.w.window + w", "w", VALUES, 1),
    "windows next to each other": (DGRAD, WINDOWS, "-(r * conv.window_step_h", "-(r", OUTSIDE, 1),
    "one row of phases": (
        DGRAD,
        KERNEL_HEADER[DGRAD],
        "row = conv.stride_w.divide(column)",
        "row = 0",
        "race: writes argument 'dx' + # bytes, which thread (#, 0, 0) wrote at @ with no barrier between",
        1,
    ),
    "pixels past the end of a phase": (
        DGRAD,
        WINDOWS,
        "h < conv.h && w < conv.w ?",
        "h < conv.h ?",
        "out of bounds: writes 16 bytes at",
        1,
    ),
    "every split as deep as the phase": (
        DGRAD,
        KERNEL_HEADER[DGRAD],
        "min(block.end, phase.depth(conv))",
        "phase.depth(conv)",
        VALUES,
        2,
    ),
    "splits that begin at 0": (DGRAD, BLOCKS, "int32(blockIdx.y) * scheduler.depth_per_split", "0", VALUES, 2),
    "one workspace for the splits of dx": (
        DGRAD,
        KERNEL_HEADER[DGRAD],
        "blockIdx.y * (int64",
        "0 * (int64",
        OTHER_BLOCKS,
        2,
    ),
    "panels of both operands an atom apart": (WGRAD, LAYOUT, "PLAIN ? ATOM : PANEL)", "ATOM)", VALUES, 1),
    "groups of 8 in both depths a panel apart": (WGRAD, LAYOUT, "|| !PLAIN ? ATOM", "? ATOM", TOO_EARLY, 1),
    "dy half as deep": (WGRAD, MAIN_LOOP, "part * 64, k)", "part * 64, k / 2)", VALUES, 1),
    "filters of the other warpgroup": (WGRAD, MAIN_LOOP, "group_row + part * 64, k", "part * 64, k", VALUES, 1),
    "half of an atom's filters": (
        WGRAD,
        MAIN_LOOP,
        "group_row + part * 64, k",
        "group_row / 2 + part * 64, k",
        "wgmma: operand A does not begin where a swizzled atom does",
        1,
    ),
    "tiles of pixels that overlap": (
        WGRAD,
        MAIN_LOOP,
        "IteratorA::Tile::BYTES",
        "IteratorA::Tile::BYTES / 2",
        OVERLAP,
        1,
    ),
    "sums of db before the copies arrive": (
        WGRAD,
        MAIN_LOOP,
        "            wait_for_copies<0>();\n            while",
        "            while",
        "reads shared dynamic memory + # bytes, which an asynchronous copy that was not waited for has yet to write",
        1,
    ),
    "sums of db from another stage": (
        WGRAD,
        MAIN_LOOP,
        "a.add(copied",
        "a.add(filling",
        "reads shared dynamic memory",
        1,
    ),
    "no barrier after the windows are found": (
        WGRAD,
        MAIN_LOOP,
        "if (IteratorA::FILLS_AHEAD || IteratorB::FILLS_AHEAD) sync_copiers();",
        "",
        "reads shared table + # bytes, which",
        1,
    ),
    "one table of windows": (WGRAD, PIXELS, "turn ^= 1;", "", WINDOWS_TABLE, 1),
    "windows of the previous tile": (
        WGRAD,
        PIXELS,
        "find_pixels(depth);\n    }\n};",
        "find_pixels(depth - 64);\n    }\n};",
        VALUES,
        1,
    ),
    "no mask of windows": (WGRAD, PIXELS, "matrix.reaches(at, reach)}", "true}", OUTSIDE, 1),
    "no mask of pixels": (WGRAD, STRAIGHT, "depth + lines < end[0]}", "end[0] > 0}", OUTSIDE, 1),
    "no mask of filters": (
        WGRAD,
        STRAIGHT,
        "column < matrix.columns ? matrix.lines - line(pass) : 0",
        "matrix.lines - line(pass)",
        OUTSIDE,
        1,
    ),
    "no barrier before the table of windows": (WGRAD, "", "sync_copiers();", ";", WINDOWS_TABLE, 1),
    "db past the filters": (
        WGRAD,
        KERNEL_HEADER[WGRAD],
        "if (block.row + row >= conv.k) return;",
        "",
        "out of bounds: writes 2 bytes at",
        1,
    ),
    "no barrier before the sums of db are added": (
        WGRAD,
        SUMS,
        "= sums[j];\n        sync();",
        "= sums[j];",
        "reads shared dynamic memory + # bytes, which",
        1,
    ),
    "db in the ring": (WGRAD, RING, "return stored_memory(THREADS / 32);", "return shared_memory();", "race: ", 1),
    "db in the buffers of the sums": (
        WGRAD,
        RING,
        "return stored_memory(THREADS / 32);",
        "return stored_memory(0);",
        "race: ",
        1,
    ),
    "one workspace for the splits of dw": (
        WGRAD,
        KERNEL_HEADER[WGRAD],
        "partials + blockIdx.y * (",
        "partials + 0 * (",
        OTHER_BLOCKS,
        2,
    ),
    "a workspace without db": (
        WGRAD,
        KERNEL_HEADER[WGRAD],
        "(db ? (conv.all_filters + 3) / 4 * 4 : 0)",
        "0",
        OTHER_BLOCKS,
        2,
    ),
    "partial sums of db in those of dw": (
        WGRAD,
        KERNEL_HEADER[WGRAD],
        "partials[size() + filter]",
        "partials[filter]",
        "race: ",
        2,
    ),
}


@pytest.mark.parametrize("op", CASES)
def test_without_a_fault_the_values_agree(monkeypatch, op):
    for split_k in (1, 2):
        force_algorithm(monkeypatch, find("wgmma-128x128", "bfloat16"), split_k, 1)
        with emulator.configure(sanitize="checked", seed=3):
            assert_agrees(op, CASES[op])


# Each fault compiles the kernel, so only every fourth is in the tier `kernels`, and the others are in `slow`.
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[pytest.mark.slow] if number % 4 else [])
        for number, fault in enumerate(FAULTS_OF_GRADIENTS)
    ],
)
def test_a_fault_in_a_gradient_is_found(monkeypatch, tmp_path, fault):
    op, file, before, after, text, split_k = FAULTS_OF_GRADIENTS[fault]
    force_algorithm(monkeypatch, find("wgmma-128x128", "bfloat16"), split_k, 1)
    with planted(tmp_path, f"{op}_wgmma.cu", (file or f"{op}_wgmma.cu", before, after)):
        assert_found(f"{op}_wgmma.cu", op, CASES[op], text, seeds=(0, 3))


# Faults in the fences, waits, phases and arrivals of the main loop, which is the same in all directions.
FAULTS_OF_THE_MAIN_LOOP = (
    "no proxy fence",
    "copies not waited for",
    "copies before the stage is free",
    "products before the stage is filled",
    "no fence of the registers",
    "products waited for a stage late",
    "products not waited for",
    "another stage freed",
    "wrong phase of a filled stage",
    "phase that never changes",
    "one arrival too many",
)
# Another message that the checker may give: in dgrad the fault may end in a deadlock; in wgrad the copiers, which add
# up db, may be the first to read what has not arrived.
OTHER_MESSAGE = {
    DGRAD: DEADLOCK,
    WGRAD: "reads shared dynamic memory + # bytes, which an asynchronous copy that was not waited for has yet to write",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS_OF_THE_MAIN_LOOP)
@pytest.mark.parametrize("op", CASES)
def test_a_fault_of_the_main_loop_is_named_in_the_gradients_too(monkeypatch, tmp_path, op, fault):
    file, before, after, text = FAULTS_OF_FPROP[fault]
    force_algorithm(monkeypatch, find("wgmma-128x128", "bfloat16"), 1, 1)
    with planted(tmp_path, f"{op}_wgmma.cu", (file, before, after)):
        assert_found(f"{op}_wgmma.cu", op, CASES[op], f"{text}|{OTHER_MESSAGE[op]}", seeds=(0, 3))
