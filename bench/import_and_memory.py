"""Measurements of gpuconv only: its import time, and the memory of a training step."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tracemalloc

from bench.machine import ROOT
from bench.steps import Step, sides
from bench.suite import Entry
from gpuconv.summary import rows, total
from gpuconv.types import Record

_IMPORT = "import time; start = time.perf_counter(); import gpuconv; print(time.perf_counter() - start)"


def import_time() -> Record:
    """Milliseconds of `import gpuconv`, the median over 11 new processes."""
    samples = [
        1e3 * float(subprocess.run([sys.executable, "-c", _IMPORT], cwd=ROOT, capture_output=True, check=True).stdout)
        for _ in range(11)
    ]
    return {"name": "import gpuconv", "unit": "ms", "value": statistics.median(samples), "samples": samples}


def step_memory(entry: Entry) -> Record:
    """NumPy's peak allocation in a step, divided by the memory of the step's activations. The activations are the
    outputs, for the whole batch, of all layers that allocate an output."""
    step = Step(entry)
    call = sides(step, "numpy")[0].prepare().call
    call(0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    call(0)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    activations = total(rows(step.net())).activations * step.size * 4
    return {
        "name": f"memory of {entry.shape}",
        "unit": "x its activations",
        "value": peak / activations,
        "samples": [peak, activations],
    }
