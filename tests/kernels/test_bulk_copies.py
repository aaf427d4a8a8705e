"""Bulk copies: the results are right in every order, and each planted fault is named. No GPU has run these kernels."""

import re
from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.emulator.tensor_map import tensor_map
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.backends.cuda.runtime.kernel import load
from tests.kernels.fault_messages import pattern

FILE = Path(__file__).with_name("bulk_copies.cu")
BLOCKS, N = 2, 2 * 4 * 128

# What the message of each fault says, in the notation of fault_messages.py. Every run finds the faults in ALWAYS; a
# checked run also finds those in CHECKED. If a fault is in both, CHECKED has its message in a checked run.
ALWAYS = {
    "expects_less": "wrong byte count: phase 0 of the mbarrier shared full + # bytes received 256 bytes more than it "
    "expects",
    "expects_less_of_two": "wrong byte count: ",
    "expects_more": "deadlock; warpgroup 0: 128 threads, first (0, 0, 0), wait at @ for the end of phase 0 (parity "
    "0) of the mbarrier shared full + # bytes, which lacks 16 bytes",
    "each_warp_loads": "wrong byte count: ",
    "no_init_fence": "loads for the mbarrier shared full + 0 bytes of @, which the async proxy does not see: no "
    "fence_mbarrier_init() by the thread that initialized it, at @",
    "ends_too_early": "the block ended before a bulk store was waited for",
    "load_not_waited_for": "the block ended before a bulk copy arrived that no thread waited for, at @",
    "misaligned_source": "a bulk copy moves a multiple of 16 bytes between addresses aligned to 16, at @",
}
CHECKED = {
    "each_warp_loads": "race: a bulk copy writes shared in | wrong byte count: ",
    "expects_less_of_two": "race: a bulk copy writes shared out | wrong byte count: ",
    "load_not_waited_for": "the block ended before a bulk copy arrived | race: a bulk copy writes shared in",
    "reads_too_early": "reads shared in + # bytes, which ",
    "no_proxy_fence": "a bulk store reads shared out + 20 bytes, which thread (5, 0, 0) wrote at @ with no "
    "fence_proxy_async() between, at @",
    "overwrites_source": "race: writes shared out + # bytes, which a bulk store of thread (0, 0, 0) read at @ and "
    "which is unfinished",
    "past_the_array": "out of bounds: reads ",
}


def launch(kernel, **settings):
    """What a kernel of bulk_copies.cu computes, and the right result."""
    x = np.arange(N, dtype=np.float32)
    y = emulator.empty(N)
    with emulator.configure(**settings):
        load(FILE).kernel(kernel)(BLOCKS, 128, y, emulator.asarray(x))
    return np.asarray(y), 2 * x


@pytest.mark.parametrize("sanitize", ["none", "checked"])
def test_loads_and_stores_are_right_in_every_order_of_threads(sanitize):
    for seed in range(12):
        np.testing.assert_array_equal(*launch("correct", seed=seed, sanitize=sanitize))


@pytest.mark.parametrize(
    ("kernel", "sanitize"),
    [(kernel, "none") for kernel in ALWAYS] + [(kernel, "checked") for kernel in ALWAYS | CHECKED],
    ids=lambda value: value,
)
def test_a_planted_fault_is_named(kernel, sanitize):
    text = (ALWAYS | CHECKED if sanitize == "checked" else ALWAYS)[kernel]
    expected = pattern(text)
    for seed in range(6):
        with pytest.raises(emulator.EmulatorError) as caught:
            launch(kernel, seed=seed, sanitize=sanitize)
        message = str(caught.value)
        assert re.match(rf"kernel {kernel}, block \([01], 0, 0\), thread \(\d+, 0, 0\) of warpgroup 0: ", message), (
            message
        )
        assert re.search(expected, message), message


def test_a_copy_that_fails_halfway_leaves_nothing_for_the_next_launch():
    shape, most = (5, 6, 40), 227 * 1024
    x = emulator.asarray(np.zeros(shape, np.uint16))
    with pytest.raises(emulator.EmulatorError, match="out of bounds: an access to shared memory at address"):
        load(FILE).kernel("past_shared_memory")(1, 32, x, tensor_map(x, shape), most, shared=most)
    np.testing.assert_array_equal(*launch("correct"))


def test_the_wrappers_compile_for_hopper_and_blackwell_but_not_for_ampere():
    pytest.importorskip("cuda.core", reason="NVRTC is not installed")
    module = load(FILE)
    for arch in ("sm_90", "sm_90a", "sm_100a", "sm_120"):
        resources = nvrtc.compile_cubin(FILE.stem, module.text, module.defines, arch).resources
        assert resources["boxes"].spill_stores == resources["correct"].spill_stores == 0
    with pytest.raises(nvrtc.CompileError, match=r"compute capability 9\.0"):
        nvrtc.compile_cubin(FILE.stem, module.text, module.defines, "sm_80")
