"""watch_writes: which threads wrote to an array, and what memory they used."""

import numpy as np
import pytest

from gpuconv import asarray, ops
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load


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


def test_a_watch_counts_the_bytes_of_an_asynchronous_copy_once(tmp_path):
    path = tmp_path / "copies.cu"
    path.write_text(
        '#include "async_copy.cuh"\n'
        'extern "C" __global__ void copies(float* y, const float* x) {\n'
        "    __shared__ alignas(16) float tile[4];\n"
        "    copy_async<16>(tile, x);\n"
        "    commit_copies();\n"
        "    wait_for_copies<0>();\n"
        "    y[0] = tile[0];\n"
        "}\n"
    )
    kernel, x, y = load(path).kernel("copies"), asarray(np.ones(4, np.float32), "emulated"), emulator.empty((1,))
    with emulator.watch_writes(y) as writers:
        kernel(1, 1, y, x)
    with emulator.watch_writes(y, writers[0]) as seen:
        kernel(1, 1, y, x)
    assert emulator.Touched("shared tile", 0, 15, 4, 16) in seen


def test_a_watch_reports_every_one_of_thousands_of_writes():
    packs = 4096  # of 4 values, each stored by one thread
    writers = watch_relu(4 * packs)
    assert len({(writer.block, writer.thread) for writer in writers}) == len(writers) == packs
    *again, reads, writes = watch_relu(4 * packs, writers[-1])
    assert again == writers
    assert (reads.read, writes.written) == (16, 16)


def test_a_watch_reports_the_writes_that_precede_a_fault(tmp_path):
    path = tmp_path / "fails.cu"
    path.write_text('extern "C" __global__ void fails(int* y) { y[0] = 1; y[1] = 2; y[2] = 3; }')
    y = emulator.empty((2,), np.int32)
    with emulator.watch_writes(y) as seen, pytest.raises(emulator.EmulatorError, match="out of bounds"):
        load(path).kernel("fails")(1, 1, y)
    assert [writer.kernel for writer in seen] == ["fails", "fails"]


def test_a_watch_refuses_a_second_view_a_strided_view_and_an_unchecked_launch():
    x, y = (emulator.empty((4,), np.float32) for _ in range(2))
    with emulator.watch_writes(y) as seen:
        with pytest.raises(RuntimeError, match="watch one view at a time"), emulator.watch_writes(x):
            pass
        with (
            pytest.raises(ValueError, match=r"a contiguous view, received shape \(2,\)"),
            emulator.watch_writes(x[::2]),
        ):
            pass
        unchecked = pytest.raises(emulator.EmulatorError, match='sanitize="checked", received "none"')
        with unchecked, emulator.configure(sanitize="none"):
            ops.relu(x, out=y)
        ops.relu(x, out=y)
    assert len(seen) == 1


@pytest.mark.parametrize("memory", [np.zeros(4, np.float32), np.float32(0), "y"], ids=["array", "scalar", "text"])
def test_a_watch_refuses_memory_that_is_not_on_the_emulated_device(memory):
    message = f"an array on the emulated device or ArgumentBytes, received {type(memory).__name__}"
    with pytest.raises(TypeError, match=message), emulator.watch_writes(memory):
        pass
