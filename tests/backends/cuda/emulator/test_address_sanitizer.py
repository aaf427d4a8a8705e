"""The emulated device under the compiler's address sanitizer."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load


@pytest.mark.slow
def test_address_sanitizer_names_kernel_block_and_thread():
    planted = Path(__file__).parents[3] / "kernels" / "planted.cu"
    program = f"""
import sys
import numpy as np
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load
x, y = emulator.asarray(np.arange(128, dtype=np.float32)), emulator.empty(128)
load({str(planted)!r}).kernel("correct")(2, 64, y, x)
assert y[0] == 63
load({str(planted)!r}).kernel(sys.argv[1])(2, 64, y, x, shared=256)
"""
    for kernel, kinds in {
        "reads_past_the_end": "use-after-poison",
        "writes_past_shared_memory": "use-after-poison",
        "indexes_past_a_local_array": "past the end of an array",
        "misaligned_vector": "not aligned to the 16 bytes",
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", program, kernel],
            capture_output=True,
            text=True,
            check=False,
            env=emulator.address_environment(),
        )
        assert done.returncode != 0
        assert kinds in done.stderr, done.stderr[-3000:]
        assert re.search(r"planted\.cu:\d+", done.stderr), done.stderr[-3000:]
        assert f"kernel {kernel}, block (1, 0, 0), thread (5, 0, 0)" in done.stderr, done.stderr[-3000:]


def test_address_sanitizer_needs_its_own_process():
    names_both = pytest.raises(
        emulator.EmulatorError, match=r"LD_PRELOAD=\S+ ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0$"
    )
    with emulator.configure(sanitize="address"), names_both:
        load(Path(__file__).with_name("features.cu")).kernel("indices")(1, 1, emulator.empty(4, np.int32))
