"""Guards: they report writes out of bounds, and arrays begin as NaN."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.verify import algorithm_check
from gpuconv.verify.guards import ZONE, Guards
from tests import standin


@pytest.mark.parametrize("schedule", ["early", "late"])
def test_guards_report_writes_out_of_bounds_and_arrays_begin_as_nans(schedule):
    with standin.installed(schedule=schedule):
        import cupy

        guards = Guards()
        x, y = cupy.empty((5,), np.float32), cupy.empty((3, 100), np.float32)
        assert np.isnan(y.get()).all()
        assert guards.damage() == ""
        mark = guards.mark()
        z = cupy.empty((2,), np.float64)
        for array, offset, text in (
            (x, -8, "wrote 4 bytes out of bounds, 5 bytes before an array of 20 bytes"),
            (y, 1200 + ZONE - 4, f"wrote 4 bytes out of bounds, {ZONE - 3} bytes after an array of 1200 bytes"),
            (z, 16, "wrote 4 bytes out of bounds, 1 bytes after an array of 16 bytes"),
        ):
            beyond = cupy.cuda.MemoryPointer(array.data.mem, ZONE + offset)
            word = cupy.ndarray((1,), np.uint32, beyond)
            before = int(word.get()[0])
            word.fill(7)
            assert guards.damage() == text
            word.fill(before)
            assert guards.damage() == ""
        word.fill(7)
        guards.release(mark)
        assert guards.damage() == ""
        cupy.cuda.set_allocator(None)


def test_one_object_guards_the_arrays_of_all_gpus_in_any_order_of_questions():
    with standin.installed(("90", "90")):
        import cupy

        for index in (0, 1, 0):
            guards = algorithm_check._guards(f"cuda:{index}")
            with cupy.cuda.Device(index):
                guards.release()
                x = cupy.empty((5,), np.float32)
                cupy.ndarray((1,), np.uint32, cupy.cuda.MemoryPointer(x.data.mem, ZONE + 20)).fill(7)
                assert guards.damage() == "wrote 4 bytes out of bounds, 1 bytes after an array of 20 bytes"
        guards.release()
        cupy.cuda.set_allocator(None)
