"""Clusters, whose blocks copy into each other's shared memory: the results are right in every order, and each planted
fault is named. No GPU has run these kernels."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.analysis import machine_code
from gpuconv.backends.cuda.emulator.tensor_map import tensor_map
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.backends.cuda.runtime.kernel import load
from tests.kernels.compiled import nvdisasm
from tests.kernels.fault_messages import pattern

FILE = Path(__file__).with_name("clusters.cu")
PAIRS, TILES = 2, 5

# What the message of each fault says, in the notation of fault_messages.py. Every run finds the faults in ALWAYS; a
# checked run also finds those in CHECKED. If a fault is in both, CHECKED has its message in a checked run.
STAGE = "shared stages + # bytes of block ~"
ALWAYS = {
    "one_sync_missing": "deadlock; block ~, warpgroup 0: 96 threads, first (0, 0, 0), wait at END at a cluster_sync(), "
    "which lacks 96 of 192 threads; block ~, warpgroup 0: 96 threads, first (0, 0, 0), have exited | "
    "arrives at the mbarrier shared freed + # bytes of block ~, and that block has ended: no cluster_sync() before "
    "its end, at @",
    "no_init_fence": "loads for the mbarrier shared full + 0 bytes of block ~ of @, which the async proxy does not "
    "see: no fence_mbarrier_init() by the thread that initialized it, at @ | loads for the mbarrier shared full + 0 "
    "bytes of @, which the async proxy does not see",
    "arrives_outside": "arrives in block 2 of a cluster of 2 blocks, at @",
    "arrives_nowhere": "deadlock; block ~, warpgroup 0: 1 thread, (0, 0, 0), wait at COPIER for the end of phase 0 "
    "(parity 0) of the mbarrier shared freed + 8 bytes, which lacks 2 of 4 arrivals",
    "loads_outside": "a multicast to block 2 of a cluster of 2 blocks, at @",
    "loads_nowhere": "a multicast to no block, at @",
    "expects_less": "wrong byte count: ",
    "expects_more": "; block ~, warpgroup 0: 64 threads, first (32, 0, 0), wait at ADDER for the end of phase 0 "
    "(parity 0) of the mbarrier shared full + 0 bytes, which lacks 16 bytes",
    "peer_exits": "block ~, and that block has ended: no cluster_sync() before its end, at @ | a bulk copy arrives in "
    "block ~, which has ended without waiting for it, at @",
}
CHECKED = {
    "arrives_twice": "race: | wrong byte count: | more often than phase",
    "expects_less": f"wrong byte count: | reads {STAGE}, which ",
    "no_sync_at_begin": "loads for the mbarrier shared full + # bytes of block ~, which ",
    "no_sync_at_end": "arrives at the mbarrier shared freed + # bytes of block ~, which may have ended before: no "
    "cluster_sync() between, at @ | of block ~, and that block has ended: no cluster_sync() before its end, at @",
    "wrong_place": "arrives at the mbarrier shared full + # bytes of block ~ more often than phase | race: | deadlock "
    f"| reads {STAGE}, which an asynchronous copy that was not waited for has yet to write",
    "waits_only_for_itself": f"race: a bulk copy writes {STAGE}, which thread (#, 0, 0) of block ~ read at @ with no "
    "barrier between, at @ | which a bulk copy to the mbarrier shared full + # bytes of block ~ wrote at @ and "
    "whose end this thread does not know of, at @ | wrong byte count: a bulk copy of 128 bytes that began in phase #",
    "frees_peer_too_early": f"race: a bulk copy writes {STAGE}, which thread (#, 0, 0) of block ~ read at @ with no "
    f"barrier between, at @ | race: reads {STAGE}",
    "no_proxy_fence": f"a bulk copy writes {STAGE}, which thread (37, 0, 0) of block ~ wrote at @ with no "
    "fence_proxy_async() between, at @",
    "load_not_waited_for": "the block ended before a bulk copy arrived that no thread waited for, at @",
    "overlaps": f"race: a bulk copy writes {STAGE}, which a bulk copy to the mbarrier shared full + # bytes of block "
    f"~ wrote at @ and which is unfinished, at @ | reads {STAGE}, which nothing wrote",
}


def launch(kernel, tiles=TILES, **settings):
    """The sums of the tiles that each pair of blocks loads, by a kernel of clusters.cu and by NumPy."""
    x = np.random.default_rng(0).integers(-9, 9, (2 * PAIRS * tiles, 32)).astype(np.float32)
    y, on_device = emulator.empty((2 * PAIRS, 64)), emulator.asarray(x)
    with emulator.configure(**settings):
        load(FILE, {"SIZE": 2}).kernel(kernel)(2 * PAIRS, 96, y, tensor_map(on_device, (1, 32)), tiles)
    return np.asarray(y), x.reshape(PAIRS, tiles, 64).sum(1).repeat(2, axis=0)


@pytest.mark.parametrize("kernel", ["correct", "correct_with_writes"])
@pytest.mark.parametrize("sanitize", ["none", "checked"])
def test_a_pair_shares_its_loads_in_every_order(kernel, sanitize):
    for seed in range(12):
        for tiles in (1, 2, 7):
            np.testing.assert_array_equal(*launch(kernel, tiles, seed=seed, sanitize=sanitize))


@pytest.mark.parametrize(
    ("kernel", "sanitize"),
    [(kernel, "none") for kernel in ALWAYS] + [(kernel, "checked") for kernel in ALWAYS | CHECKED],
    ids=lambda value: value,
)
def test_the_message_names_the_fault(kernel, sanitize):
    expected = pattern((ALWAYS | CHECKED if sanitize == "checked" else ALWAYS)[kernel], FILE)
    for seed in range(8):
        begin = time.process_time()
        with pytest.raises(emulator.EmulatorError) as caught:
            launch(kernel, seed=seed, sanitize=sanitize)
        message = str(caught.value)
        start = rf"kernel {kernel}, block \([0123], 0, 0\), thread \(\d+, 0, 0\) of warpgroup 0: "
        assert re.match(start, message), message
        assert re.search(expected, message), f"seed {seed}: {message}"
        if seed > 0:  # the first run may compile
            assert time.process_time() - begin < 1, "a deadlock must be noticed at once"


def test_a_report_of_a_deadlock_names_twelve_ways_to_wait_in_each_block():
    with pytest.raises(emulator.EmulatorError) as caught:
        load(FILE, {"SIZE": 2}).kernel("waits_in_many_ways")(2, 14, emulator.empty(14))
    _, *reasons = str(caught.value).split("; ")
    for block, named in enumerate((reasons[:13], reasons[13:])):
        assert all(reason.startswith(f"block ({block}, 0, 0), warpgroup 0: 1 thread, (") for reason in named[:-1])
        assert len(named) == 13
        assert named[-1] == "and 2 more"


def test_every_planted_fault_has_a_message():
    text = FILE.read_text(encoding="utf-8")
    instances = dict(re.findall(r" (\w+)\(float\* y, [^{]*\{\s*sums<(\w+)>", text))
    faults = {kernel: kernel.upper() for kernel in ALWAYS | CHECKED}
    assert instances == {"correct": "NONE", "correct_with_writes": "WRITES_AND_FENCES", **faults}
    (enumerators,) = re.findall(r"enum Fault \{(.*?)\}", text, re.S)
    assert sorted(instances.values()) == sorted(re.findall(r"\w+", enumerators))


def summed_by_warpgroups(kernel, tiles=TILES, **settings):
    """As `launch`, for a kernel whose warpgroups add up the tiles."""
    x = np.random.default_rng(0).integers(-9, 9, (16 * PAIRS * tiles, 32)).astype(np.float32)
    y, on_device = emulator.empty((2 * PAIRS, 512)), emulator.asarray(x)
    with emulator.configure(**settings):
        load(FILE, {"SIZE": 2}).kernel(kernel)(2 * PAIRS, 256, y, tensor_map(on_device, (8, 32)), tiles)
    return np.asarray(y), x.reshape(PAIRS, tiles, 512).sum(1).repeat(2, axis=0)


@pytest.mark.parametrize("sanitize", ["none", "checked"])
def test_warpgroups_read_what_both_blocks_loaded(sanitize):
    for seed in range(6):
        np.testing.assert_array_equal(*summed_by_warpgroups("correct_wgmma", seed=seed, sanitize=sanitize))


def test_a_copy_to_a_stage_that_a_wgmma_of_the_other_block_still_reads_is_a_race():
    fault = pattern(
        f"race: a bulk copy writes {STAGE}, which a wgmma of warpgroup 1 of block ~ read at @ and which is unfinished, "
        "at @ | and whose end this thread does not know of"
    )
    for seed in range(6):
        with pytest.raises(emulator.EmulatorError, match=fault):
            summed_by_warpgroups("freed_before_wgmma_ends", seed=seed, sanitize="checked")


def test_an_arrival_before_the_other_block_initialized_its_mbarrier_is_reported():
    fault = pattern(
        "arrives at the mbarrier shared begun + 0 bytes of block ~, which nothing initialized, at @ | "
        "which thread (0, 0, 0) initialized at @ with no cluster_sync() between, at @"
    )
    for seed in range(6):
        with (
            emulator.configure(sanitize="checked", seed=seed),
            pytest.raises(emulator.EmulatorError, match=rf"kernel arrives_at_begin, block \([01], 0, 0\).*({fault})"),
        ):
            load(FILE, {"SIZE": 2}).kernel("arrives_at_begin")(2, 32, emulator.empty(64))


def exchanged(kernel, size, grid, threads, **settings):
    """What the blocks of clusters of `size` compute from the numbers that other blocks wrote, and the right result."""
    blocks = grid[0] * grid[1]
    x = np.random.default_rng(0).standard_normal((blocks, threads)).astype(np.float32)
    y = emulator.empty((blocks, threads))
    with emulator.configure(**settings):
        load(FILE, {"SIZE": size}).kernel(kernel)(grid, threads, y, emulator.asarray(x))
    return np.asarray(y), 2 * x


@pytest.mark.parametrize(
    ("size", "grid", "threads"), [(1, (3, 2), 32), (2, (6, 3), 40), (3, (6, 1), 100), (8, (16, 1), 1)]
)
def test_blocks_see_what_others_wrote_before_a_cluster_sync(size, grid, threads):
    for settings in (
        {"workers": 3},
        {"seed": 1, "workers": 2},
        {"sanitize": "checked"},
        {"sanitize": "checked", "seed": 5},
    ):
        np.testing.assert_array_equal(*exchanged("exchanged", size, grid, threads, **settings))


def test_reading_what_another_block_wrote_without_a_cluster_sync_is_a_race():
    fault = (
        r"race: (reads|writes) argument 'y' \+ \d+ bytes, which thread \(\d+, 0, 0\) of block \([01], 0, 0\) wrote at"
    )
    for seed in range(6):
        with pytest.raises(emulator.EmulatorError, match=rf"block \([01], 0, 0\), thread \(\d+, 0, 0\) .*{fault}"):
            exchanged("exchanged_without_sync", 2, (2, 1), 32, sanitize="checked", seed=seed)


def test_an_arrival_does_not_publish_writes():
    kernel = load(FILE, {"SIZE": 2}).kernel("published_by_arrival")
    fault = r"race: reads argument 'y' \+ 0 bytes, which thread \(0, 0, 0\) of block \(0, 0, 0\) wrote at"
    with emulator.configure(sanitize="checked"), pytest.raises(emulator.EmulatorError, match=rf"block \(1, .*{fault}"):
        kernel(2, 32, emulator.empty(2))


def test_shared_variables_have_the_same_addresses_in_all_blocks():
    for seed in range(6):
        for sanitize in ("none", "checked"):
            y = emulator.empty((2, 32))
            with emulator.configure(seed=seed, sanitize=sanitize):
                load(FILE, {"SIZE": 2}).kernel("different_orders")(2, 32, y, shared=128)
            np.testing.assert_array_equal(np.asarray(y), np.broadcast_to([[4], [5]], (2, 32)))


def ranks_in_order(seed):
    """The ranks of a cluster's eight blocks in the order in which they ran."""
    order = emulator.empty(8, np.int32)
    with emulator.configure(seed=seed):
        load(FILE, {"SIZE": 2}).kernel("ranks_in_order")(8, 1, order, emulator.zeros(1, np.int32))
    return tuple(np.asarray(order).tolist())


def test_a_seed_shuffles_the_blocks_of_a_cluster():
    assert ranks_in_order(0) == tuple(range(8))
    orders = [ranks_in_order(seed) for seed in range(1, 9)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len(set(orders)) == len(orders)
    assert orders == [ranks_in_order(seed) for seed in range(1, 9)]


def test_a_watch_names_the_writing_block():
    x, y = emulator.asarray(np.ones((4, 32), np.float32)), emulator.zeros((4, 32))
    kernel = load(FILE, {"SIZE": 2}).kernel("exchanged")
    with emulator.watch_writes(emulator.ArgumentBytes("y", 2 * 128 + 5 * 4, 4)) as seen:
        kernel(4, 32, y, x)
    assert [(writer.block, writer.thread) for writer in seen] == [((2, 0, 0), (5, 0, 0)), ((3, 0, 0), (26, 0, 0))]


def test_the_wrappers_compile_for_hopper():
    pytest.importorskip("cuda.core", reason="NVRTC is not installed")
    module = load(FILE, {"SIZE": 2})
    resources = nvrtc.compile_cubin(FILE.stem, module.text, module.defines, "sm_90a").resources
    assert resources.keys() == module.signatures.keys()
    assert not any(resource.spill_stores for resource in resources.values())


def test_only_cluster_syncs_have_a_memory_barrier_in_the_machine_code():
    pytest.importorskip("cuda.core", reason="NVRTC is not installed")
    nvdisasm()
    module = load(FILE, {"SIZE": 2})
    binary = nvrtc.compile_cubin(FILE.stem, module.text, module.defines, "sm_90a")
    opcodes = [instruction.opcode for instruction in machine_code.disassemble(binary.path)["correct"]]
    assert opcodes.count("UTMALDG.2D.MULTICAST") == 1
    assert opcodes.count("UCGABAR_ARV") == opcodes.count("UCGABAR_WAIT") == 2
    assert opcodes.count("MEMBAR.ALL.GPU") == 2  # each cluster_sync() has one
