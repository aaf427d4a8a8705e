"""Faults planted one at a time in the convolution kernels that use wgmma in clusters. The emulated device's checker
names each fault, or the values are wrong.

test_faults_in_wgmma_fprop.py plants faults in the code that kernels without clusters also use. test_clusters.py plants
faults in small kernels.
"""

from __future__ import annotations

import pytest

from gpuconv.algorithms import find
from gpuconv.verify.conv_problems import conv
from tests.kernels.convolutions import force_algorithm
from tests.kernels.wgmma_faults import MAIN_LOOP, RING, VALUES, assert_found, planted

MULTICAST = "multicast_iterator.cuh"
FPROP, DGRAD, WGRAD = (f"conv2d_{each}_wgmma_cluster.cu" for each in ("fprop", "dgrad", "wgrad"))
# One cluster computes eight cluster tiles, of two groups, and fills the ring one and a half times for each tile.
CASE = conv(1, 17, 16, 128, 272, 3, padding=1, groups=2)

# What the checker says, in the notation of fault_messages.py.
BARRIER = "the mbarrier shared barriers + # bytes"
DEADLOCK = (
    "deadlock; block (0, 0, 0), warpgroup 0: 128 threads, first (0, 0, 0), wait at @ for the end of phase # (parity #) "
    f"of {BARRIER}"
)
TOO_OFTEN = f"arrives at {BARRIER} more often than phase # expects: "
READS = "a wgmma of warpgroup # of block (#, 0, 0) reads shared dynamic memory + # bytes of block (#, 0, 0), which "
UNSYNCHRONIZED = f"race: {READS}"
UNWRITTEN = f"{READS}nothing wrote"
PENDING = f"{READS}an asynchronous copy that was not waited for has yet to write"
OVERWRITTEN = "race: a bulk copy writes shared dynamic memory + # bytes of block (#, 0, 0), which "
OVERWRITTEN_BY_THREADS = "race: writes shared dynamic memory + # bytes of block (#, 0, 0), which a wgmma of warpgroup "
BYTES = "wrong byte count: "
OTHER_BLOCK = "race: writes argument 'y' + # bytes, which thread (#, 0, 0) of block (#, 0, 0) wrote at @ "

KERNEL_BLOCK = "const Block block = block_of_cluster(scheduler, taps, tile);\n            const Input"

# Each fault: the file, its text without and with the fault, and what the checker says, or VALUES.
FAULTS = {
    "no arrival that expects the bytes": (
        RING,
        "COPIERS + (SHARED ? 1 : 0)",
        "COPIERS",
        f"{TOO_OFTEN}|{UNSYNCHRONIZED}",
    ),
    "one arrival too many": (RING, "SHARED ? 1 : 0", "SHARED ? 2 : 0", f"{DEADLOCK}, which lacks 1 of 130 arrivals"),
    "stage freed by one block": (
        RING,
        "CLUSTER * WARPGROUPS",
        "WARPGROUPS",
        f"{TOO_OFTEN}|{OVERWRITTEN}|{OVERWRITTEN_BY_THREADS}",
    ),
    "stage freed only in the own block": (
        RING,
        "mbarrier_arrive_in(&freed()[stage], rank)",
        "mbarrier_arrive(&freed()[stage])",
        f"{OVERWRITTEN}|{BYTES}|{TOO_OFTEN}",
    ),
    "stage freed only in the first block": (RING, "rank < CLUSTER", "rank < 1", DEADLOCK),
    "stage freed in a block outside the cluster": (
        RING,
        "freed()[stage], rank)",
        "freed()[stage], rank + 1)",
        "arrives in block 2 of a cluster of 2 blocks, at @",
    ),
    "no barrier of the cluster at the beginning": (
        RING,
        "if constexpr (SHARED) cluster_sync();\n        else __sync",
        "__sync",
        f"loads for {BARRIER} of block (#, 0, 0), which nothing initialized|with no cluster_sync() between",
    ),
    "no barrier of the cluster at the end": (
        FPROP,
        "Ring::close();",
        ";",
        f"arrives at {BARRIER} of block (#, 0, 0), and that block has ended: no cluster_sync() before its end",
    ),
    "only copying threads at the cluster's last barrier": (
        FPROP,
        "    Ring::close();",
        "    if (warpgroup() == WARPGROUPS) Ring::close();",
        "deadlock; block (0, 0, 0), warpgroup 0: 128 threads, first (0, 0, 0), have exited",
    ),
    "no fence of the initialized barriers": (
        RING,
        "fence_mbarrier_init();",
        ";",
        "which the async proxy does not see: no fence_mbarrier_init() by the thread that initialized it",
    ),
    "wrong phase of a free stage": (RING, "parity ^ 1", "parity", DEADLOCK),
    "wrong phase of a filled stage": (
        RING,
        "filled()[stage], parity)",
        "filled()[stage], parity ^ 1)",
        f"{UNWRITTEN}|{PENDING}|{UNSYNCHRONIZED}",
    ),
    "stage filled before it is free": (
        MAIN_LOOP,
        "filling.wait_until_free();",
        ";",
        f"{TOO_OFTEN}|{OVERWRITTEN}|{OVERWRITTEN_BY_THREADS}|{BYTES}",
    ),
    "stage freed before it is multiplied": (
        MAIN_LOOP,
        "wgmma_wait<1>();",
        "wgmma_wait<2>();",
        f"{OVERWRITTEN}|{OVERWRITTEN_BY_THREADS}",
    ),
    "last stage of a tile not freed": (MAIN_LOOP, "pin(at[part]);\n        multiplied.say_free();", ";", DEADLOCK),
    "half of the bytes expected": (
        MULTICAST,
        "expect(Tile::BYTES)",
        "expect(Tile::BYTES / CLUSTER)",
        f"{BYTES}|{UNWRITTEN}|{PENDING}|{UNSYNCHRONIZED}",
    ),
    "too many bytes expected": (
        MULTICAST,
        "expect(Tile::BYTES)",
        "expect(Tile::BYTES + 16)",
        f"{DEADLOCK}, which lacks 16 bytes",
    ),
    "bytes expected in one block of two": (
        MULTICAST,
        "expect(Tile::BYTES)",
        "expect(cluster_rank() == 0 ? Tile::BYTES : 0)",
        f"{BYTES}|{UNWRITTEN}|{PENDING}|{UNSYNCHRONIZED}",
    ),
    "bytes reported to another stage": (
        RING,
        "loaded() const { return &filled()[stage]; }",
        "loaded() const { return &filled()[(stage + 1) % STAGES]; }",
        f"{UNSYNCHRONIZED}|{UNWRITTEN}|{PENDING}|{BYTES}",
    ),
    "every copying thread loads": (
        MULTICAST,
        "if (copier() == 0) tensor_load_multicast(to, map, filled, {depth",
        "tensor_load_multicast(to, map, filled, {depth",
        f"{OVERWRITTEN}|{BYTES}|{PENDING}|{UNSYNCHRONIZED}",
    ),
    "every copying thread expects the bytes": (
        MULTICAST,
        "if (copier() == 0) filling",
        "filling",
        f"{TOO_OFTEN}|{BYTES}",
    ),
    "no bytes expected": (MULTICAST, "if (copier() == 0) filling", "if (false) filling", f"{DEADLOCK}|{BYTES}"),
    "both shares written to the first half": (
        MULTICAST,
        "tile + rank * SHARE_BYTES",
        "tile",
        f"{UNWRITTEN}|{OVERWRITTEN}",
    ),
    "filters multicast to the own block alone": (
        MULTICAST,
        "group}, EVERY_BLOCK",
        "group}, 1 << cluster_rank()",
        f"{DEADLOCK}, which lacks 8192 bytes",
    ),
    "filters multicast to the other block alone": (
        MULTICAST,
        "group}, EVERY_BLOCK",
        "group}, 2 >> cluster_rank()",
        f"{DEADLOCK}, which lacks 8192 bytes",
    ),
    "filters multicast to a block outside the cluster": (
        MULTICAST,
        "(1 << CLUSTER) - 1",
        "(2 << CLUSTER) - 1",
        "a multicast to block 2 of a cluster of 2 blocks, at @",
    ),
    "filters of the next stage": (
        MULTICAST,
        "{depth, filter",
        "{depth + STAGE_K, filter",
        "coordinates out of range: the box lies outside the tensor",
    ),
    "first half of the filters in both shares": (MULTICAST, "side + rank * SHARE", "side", VALUES),
    "filters of the first group": (MULTICAST, "filter, group}", "filter, 0}", VALUES),
    "same rows in both blocks": (MULTICAST, "int32(cluster_rank()) * BLOCK_M", "0", OTHER_BLOCK),
    "rows of another cluster": (MULTICAST, "block.row * CLUSTER", "block.row", OTHER_BLOCK),
    "no copies for every second tile": (
        FPROP,
        "tile += clusters) {\n            " + KERNEL_BLOCK,
        "tile += 2 * clusters) {\n            " + KERNEL_BLOCK,
        DEADLOCK,
    ),
}


# dgrad: one cluster computes eight cluster tiles, of two groups, and fills the ring one and a half times for each tile.
CASE_OF_DGRAD = conv(1, 17, 16, 272, 128, 3, padding=1, groups=2)
FAULTS_OF_DGRAD = {
    "half of the depth not loaded": (
        MULTICAST,
        "copier() >= STAGE_K / LINES",
        "copier() >= STAGE_K / LINES / 2",
        f"{DEADLOCK}, which lacks 8192 bytes",
    ),
    "same depth loaded by every copying thread": (MULTICAST, "depth + copier() * LINES", "depth", VALUES),
    "every depth written to the same place": (
        MULTICAST,
        "to + copier() * LINES * WIDTH * 2",
        "to",
        f"{OVERWRITTEN}|{UNWRITTEN}",
    ),
    "depths that overlap in shared memory": (
        MULTICAST,
        "to + copier() * LINES * WIDTH * 2",
        "to + copier() * LINES * WIDTH",
        f"{OVERWRITTEN}|{UNWRITTEN}|does not begin where a swizzled atom does",
    ),
    "taps read with r and s exchanged": (MULTICAST, "filters.tap_index(r, s)", "filters.tap_index(s, r)", VALUES),
    "channels past the last share": (
        MULTICAST,
        "min(channel, last)",
        "channel",
        "coordinates out of range: the box lies outside the tensor",
    ),
    "first channels in both shares": (MULTICAST, "side + rank * SHARE", "side", VALUES),
    "filters of the first group": (MULTICAST, "first_filter + filter}", "filter}", VALUES),
    "filters multicast to the own block alone": (
        MULTICAST,
        "filter},\n                              EVERY_BLOCK",
        "filter},\n 1 << cluster_rank()",
        f"{DEADLOCK}, which lacks 8192 bytes",
    ),
    "no barrier of the cluster at the end": (
        DGRAD,
        "Ring::close();",
        ";",
        f"arrives at {BARRIER} of block (#, 0, 0), and that block has ended: no cluster_sync() before its end",
    ),
}

# wgrad with db: one cluster computes eight cluster tiles, of two groups. The two blocks of a tile lie side by side.
CASE_OF_WGRAD = conv(2, 17, 16, 96, 272, 3, padding=1, groups=2)
OTHER_COLUMNS = "|".join(
    f"race: writes argument '{name}' + # bytes, which thread (#, 0, 0) of block (#, 0, 0) wrote at @ "
    for name in ("dw", "db")
)
FAULTS_OF_WGRAD = {
    "stage freed before its sums": (
        WGRAD,
        "Accumulators::sync();  // before any thread says that the stage is free",
        "",
        "race: a bulk copy writes shared dynamic memory + # bytes of block (#, 0, 0), which thread (#, 0, 0) ",
    ),
    "no sums": (WGRAD, "sums.enabled = gradient.sums();", "sums.enabled = false;", VALUES),
    "sums without the stages at the start of the ring": (
        WGRAD,
        "if (!sums.enabled) return;",
        "if (!sums.enabled || tile_of_dy == shared_memory()) return;",
        VALUES,
    ),
    "products stored over the sums": (
        WGRAD,
        "                Accumulators::sync();\n            }",
        "            }",
        "race: writes shared dynamic memory + # bytes of block (#, 0, 0), which thread (#, 0, 0) |"
        "race: reads shared dynamic memory + # bytes of block (#, 0, 0), which thread (#, 0, 0) ",
    ),
    "sums taken before all are there": (
        "column_sums.cuh",
        "        sync();\n        for (int column",
        "        for (int column",
        "race: reads shared dynamic memory + # bytes of block (#, 0, 0), which thread (#, 0, 0) |"
        "reads shared dynamic memory + # bytes of block (#, 0, 0), which nothing wrote",
    ),
    "same columns in both blocks": (WGRAD, "int32(cluster_rank()) * BLOCK_N", "0", OTHER_COLUMNS),
    "columns of another cluster": (WGRAD, "gradient.block.column * CLUSTER", "gradient.block.column", OTHER_COLUMNS),
    "pixels of the next stage": (MULTICAST, "{first, depth, 0}", "{first, depth + STAGE_K, 0}", VALUES),
    "filters of the first group": (MULTICAST, "min(first_filter + filter", "min(filter", VALUES),
    "filters past the last box": (
        MULTICAST,
        "min(first_filter + filter, all_filters - CHUNK)",
        "first_filter + filter",
        "coordinates out of range: the box lies outside the tensor",
    ),
    "last filters in place of others": (MULTICAST, "all_filters - CHUNK", "all_filters - WIDTH", VALUES),
    "dy multicast to the own block alone": (
        MULTICAST,
        "{first, depth, 0}, EVERY_BLOCK",
        "{first, depth, 0}, 1 << cluster_rank()",
        f"{DEADLOCK}, which lacks 8192 bytes",
    ),
    "first half of the filters in both shares": (MULTICAST, "side + rank * SHARE", "side", VALUES),
    "no barrier of the cluster at the end": (
        WGRAD,
        "Ring::close();",
        ";",
        f"arrives at {BARRIER} of block (#, 0, 0), and that block has ended: no cluster_sync() before its end",
    ),
}
PLANTED = [
    *((FPROP, "conv2d", CASE, name, *fault) for name, fault in FAULTS.items()),
    *((DGRAD, "conv2d_dgrad", CASE_OF_DGRAD, name, *fault) for name, fault in FAULTS_OF_DGRAD.items()),
    *((WGRAD, "conv2d_wgrad", CASE_OF_WGRAD, name, *fault) for name, fault in FAULTS_OF_WGRAD.items()),
]


# Each fault compiles the kernel, so only every fourth is in the tier `kernels`, and the others are in `slow`.
@pytest.mark.parametrize(
    ("kernel_file", "op", "case", "file", "before", "after", "text"),
    [
        pytest.param(kernel_file, op, case, *fault, marks=[pytest.mark.slow] if i % 4 else [], id=f"{op}-{name}")
        for i, (kernel_file, op, case, name, *fault) in enumerate(PLANTED)
    ],
)
def test_a_planted_fault_is_named_or_shows_in_the_values(
    monkeypatch, tmp_path, kernel_file, op, case, file, before, after, text
):
    tile = "wgmma-128x2x192" if op == "conv2d_wgrad" else "wgmma-2x128x128"
    force_algorithm(monkeypatch, find(tile, "bfloat16"), 1, 1)
    with planted(tmp_path, kernel_file, (file, before, after)):
        assert_found(kernel_file, op, case, text, seeds=range(4))
