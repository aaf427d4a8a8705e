"""mbarriers, proxies and warpgroups: a ring of stages that is right in every order, and each fault planted in it.

The error names kernel, block, thread and warpgroup, and what waits for what. No GPU has run these kernels.
"""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.backends.cuda.runtime.kernel import load
from tests.kernels.fault_messages import pattern

RING = Path(__file__).with_name("warpgroups.cu")
TILE, TILES, BLOCKS = 512, 8, 2

# What the message of each fault says, in the notation of fault_messages.py. Every run finds the faults in ALWAYS, and
# only a checked run finds those in CHECKED.
ALWAYS = {
    "no_wgmma_fence": "a wgmma at @ with no wgmma_fence() before it",
    "no_release": "deadlock; warpgroup 0: 128 threads, first (0, 0, 0), wait at PRODUCER for the end of phase 0 "
    "(parity 0) of the mbarrier shared empty + 0 bytes, which lacks 1 of 2 arrivals; warpgroup 1: 128 threads, "
    "first (128, 0, 0), wait at CONSUMER for the end of phase 1 (parity 1) of the mbarrier shared full + 0 bytes, "
    "which lacks 128 of 128 arrivals",
    "wrong_parity": "wait at PRODUCER for the end of phase 0 (parity 0) of the mbarrier shared empty + 0 bytes, "
    "which lacks 2 of 2 arrivals",
    "uninitialized": "the mbarrier shared full + 8 bytes, which nothing initialized, at @",
    "initialized_twice": "initializes the mbarrier shared full + 16 bytes, which was initialized at @ and not "
    "invalidated since, at @",
    "stale": "the mbarrier shared full + 16 bytes, which was invalidated at @",
    "overwritten_barrier": "the mbarrier shared full + 8 bytes",
    "no_arrivals": "an mbarrier expects 1 to 1048575 arrivals, received 0, at @",
    "one_lane_less": "warpgroup 1: 127 threads, first (128, 0, 0), wait at @ for all 128 lanes of the warpgroup, of "
    "which 1 never come",
    "two_places": "divergent warpgroup: this thread is at @, other lanes of warpgroup 1 are at @",
    "lane_exited": "takes all 128 lanes of warpgroup 1, and thread (133, 0, 0) has exited",
    "too_many_registers": "wait at @ for 9216 registers (240 a thread in place of 168), and the block has 7168 free",
    "raises_by_lowering": "setmaxnreg cannot lower to 240 registers a thread at @, and warpgroup 0 has 168",
}
CHECKED = {
    "no_wait_for_wgmma": "reads accumulators of a wgmma that was not waited for, issued at @, at @",
    "released_too_early": "race: writes shared stages + # bytes, which a wgmma of warpgroup # read at @ and which is "
    "unfinished",
    "not_committed": "race: writes shared stages + # bytes, which a wgmma of warpgroup # read at @ and which is "
    "unfinished",
    "read_too_early": "thread (133, 0, 0) of warpgroup 1: reads accumulators of a wgmma that was not waited for, "
    "issued at @",
    "written_too_early": "thread (133, 0, 0) of warpgroup 1: writes accumulators of a wgmma that was not waited for",
    "written_after_fence": "thread (133, 0, 0) of warpgroup 1: a wgmma at @ uses accumulators that this thread",
    "no_proxy_fence": "a wgmma of warpgroup # reads shared stages + # bytes, which thread (#, 0, 0) wrote at @ with "
    "no fence_proxy_async() between, at @",
    "proxy_fence_too_early": "wrote at @ with no fence_proxy_async() between",
    "arrives_twice": "race: ",
    "no_barrier_after_init": "which thread (0, 0, 0) initialized at @ with no barrier between, at @",
    "barrier_as_memory": "thread (300, 0, 0) of warpgroup 2: accesses the mbarrier shared full + 8 bytes of @ as if "
    "it were plain memory, at @",
    "no_wait_for_copies": "a wgmma of warpgroup # reads shared stages + # bytes, which an asynchronous copy that was "
    "not waited for has yet to write",
    "no_wait_for_full": "a wgmma of warpgroup 2 reads shared stages",
}


def launch(kernel, tiles=TILES, **settings):
    """The sums of the tiles that go through the ring, by a kernel of warpgroups.cu and by NumPy."""
    x = np.random.default_rng(0).integers(-9, 9, (tiles, TILE)).astype(np.float32)
    y = emulator.empty((BLOCKS, 2, TILE))
    with emulator.configure(**settings):
        load(RING).kernel(kernel)(BLOCKS, 384, y, emulator.asarray(x), tiles)
    return np.asarray(y), np.broadcast_to(x.sum(0), (BLOCKS, 2, TILE))


@pytest.mark.parametrize("sanitize", ["none", "checked"])
def test_a_correct_ring_is_right_in_every_order(sanitize):
    for seed in range(12):
        for tiles in (1, 3, 10):
            np.testing.assert_array_equal(*launch("correct", tiles, seed=seed, sanitize=sanitize))


@pytest.mark.parametrize(
    ("kernel", "sanitize"),
    [(kernel, sanitize) for kernel in ALWAYS for sanitize in ("none", "checked")]
    + [(kernel, "checked") for kernel in CHECKED],
    ids=lambda value: value,
)
def test_a_planted_fault_is_named(kernel, sanitize):
    expected = pattern((ALWAYS | CHECKED)[kernel], RING)
    for seed in range(6):
        begin = time.process_time()
        with pytest.raises(emulator.EmulatorError) as caught:
            launch(kernel, seed=seed, sanitize=sanitize)
        message = str(caught.value)
        assert re.match(
            rf"kernel {kernel}, block \([01], 0, 0\), thread \(\d+, 0, 0\) of warpgroup [012]: ", message
        ), message
        assert re.search(expected, message), message
        assert seed == 0 or time.process_time() - begin < 1  # a deadlock ends at once; the first run may compile


def test_unfinished_accumulators_are_nan_in_an_unchecked_run():
    for kernel in ("no_wait_for_wgmma", "not_committed"):
        assert np.isnan(launch(kernel, sanitize="none")[0]).all()


def launch_exchange(kernel, size, **settings):
    x, y = np.random.default_rng(0).integers(-9, 9, 2048).astype(np.float32), emulator.empty((BLOCKS, size))
    with emulator.configure(**settings):
        load(RING).kernel(kernel)(BLOCKS, 256, y, emulator.asarray(x))
    return x, np.asarray(y)


@pytest.mark.parametrize("sanitize", ["none", "checked"])
def test_arriving_copies_and_named_barriers_are_right_in_every_order(sanitize):
    for seed in range(12):
        x, y = launch_exchange("copies_arrive_correctly", 128, seed=seed, sanitize=sanitize)
        np.testing.assert_array_equal(y, np.broadcast_to(x.reshape(4, 128, 4).sum((0, 2)), y.shape))
        x, y = launch_exchange("exchanged", 512, seed=seed, sanitize=sanitize)
        reversed_halves = x[:256].reshape(2, 128)[:, ::-1].ravel()
        np.testing.assert_array_equal(
            y, np.broadcast_to(np.concatenate([reversed_halves, reversed_halves + 1]), y.shape)
        )


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        (
            "copies_without_fence",
            r"a wgmma of warpgroup 1 reads shared stages .* with no fence_proxy_async\(\) between",
        ),
        (
            "copies_arrive_too_often",
            r"race: |asynchronous copy that was not waited for|more often than phase|nothing wrote",
        ),
        ("exchanged_without_barrier", r"race: \w+ shared tile|reads shared tile .*, which nothing wrote"),
        ("exchanged_without_a_thread", r"deadlock.*at named barrier 2, which lacks 1 of 128 threads"),
    ],
)
def test_faults_of_arriving_copies_and_named_barriers_are_named(kernel, fault):
    sanitize = "none" if "deadlock" in fault else "checked"
    for seed in range(6):
        with pytest.raises(emulator.EmulatorError, match=rf"kernel {kernel}, block .* of warpgroup \d: .*({fault})"):
            launch_exchange(kernel, 512, seed=seed, sanitize=sanitize)


def test_a_try_to_wait_returns_before_the_phase_ends():
    ended = emulator.asarray(np.full(2, 7, np.int32))
    load(RING).kernel("tries_twice")(1, 32, ended)
    np.testing.assert_array_equal(np.asarray(ended), [0, 1])


@pytest.mark.parametrize("call", ["give_registers<44>", "take_registers<264>"])
def test_a_number_of_registers_that_no_thread_can_have_does_not_compile(tmp_path, call):
    file = tmp_path / "registers.cu"
    file.write_text(f'#include "warpgroup.cuh"\nextern "C" __global__ void transfer(int32* x) {{ {call}(); }}')
    with pytest.raises(emulator.EmulatorError, match=r"(?s)does not compile.*24 to 256, a multiple of 8"):
        load(file).kernel("transfer")(1, 128, emulator.empty(1, np.int32))


def test_every_fault_has_a_kernel():
    assert {"correct", *ALWAYS, *CHECKED} <= set(load(RING).signatures)


def test_the_ring_compiles_for_sm_90a_and_not_for_other_architectures():
    pytest.importorskip("cuda.core", reason="NVRTC is not installed")
    module = load(RING)
    binary = nvrtc.compile_cubin(RING.stem, module.text, module.defines, "sm_90a")
    assert binary.resources["correct"].spill_stores == 0
    assert "C7508" not in binary.path.with_name("log.txt").read_text()  # the remark that setmaxnreg is ignored
    for arch in ("sm_80", "sm_90", "sm_100a"):
        with pytest.raises(nvrtc.CompileError, match=r"need a GPU of compute capability 9\.0|need sm_90a"):
            nvrtc.compile_cubin(RING.stem, module.text, module.defines, arch)
