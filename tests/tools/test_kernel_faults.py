"""A mutation run of the kernels starts pytest in a process that has run kernels already."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import pytest
from gpuconv.backends.cuda.emulator import native
native.runtime()
raise SystemExit(pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", "tests/tools/test_python_faults.py"]))
"""


def test_tests_are_collected_where_the_emulated_device_was_used_before():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
