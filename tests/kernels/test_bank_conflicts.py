"""How the emulated device counts bank conflicts of shared memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpuconv import asarray
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load


@pytest.mark.parametrize(("stride", "conflicts"), [(1, 0), (2, 2), (8, 14), (32, 62), (33, 0)])
def test_planted_bank_conflicts_are_counted(stride, conflicts):
    """A warp stores and loads a word per lane, `stride` words apart. Each turn of an access after the first is a
    conflict."""
    kernel = load(Path(__file__).with_name("fragments.cu"), {"DTYPE": "float16"}).kernel("strided")
    result = asarray(np.zeros(32, np.float32), "emulated")
    with emulator.bank_conflicts() as counts:
        kernel(1, 32, result, stride)
    assert counts("strided") == (2, conflicts)
    assert counts("product") == (0, 0)


def test_a_count_inside_another_is_refused_and_leaves_the_outer_one():
    kernel = load(Path(__file__).with_name("fragments.cu"), {"DTYPE": "float16"}).kernel("strided")
    result = asarray(np.zeros(32, np.float32), "emulated")
    with emulator.bank_conflicts() as counts:
        with pytest.raises(RuntimeError, match="counted already"), emulator.bank_conflicts():
            pass
        kernel(1, 32, result, 32)
    assert counts("strided") == (2, 62)
