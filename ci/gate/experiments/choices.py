"""Lets the tuner choose the algorithms of some convolutions twice, each time without stored choices."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from ci.gate.experiments import Answer, UnknownError
from gpuconv.types import Record


def ask(device: str, small: bool) -> Answer:
    from gpuconv.backends.cuda.gemm import tuner

    if not tuner.enabled():
        raise UnknownError("the timing of algorithms is switched off (GPUCONV_AUTOTUNE)")
    first, second = make_choices(device, small), make_choices(device, small)
    if not first:
        raise UnknownError("nothing was chosen by timing")
    different = {name: (first.get(name), second.get(name)) for name in first if first.get(name) != second.get(name)}
    seen = f"{len(first) - len(different)} of {len(first)} choices are the same"
    differences = "; ".join(f"{name}: {a} and {b}" for name, (a, b) in list(different.items())[:4])
    return ("no" if different else "yes"), f"{seen}; {differences}" if differences else seen


def make_choices(device: str, small: bool) -> Record:
    """Chooses anew for some convolutions; returns the algorithms by the names of their entries in the cache.

    Compiled kernels and proofs are taken from the present cache, so that only the choices start from nothing.
    """
    import numpy as np

    import gpuconv as gc
    from gpuconv import ops
    from gpuconv.backends.cuda import cache
    from gpuconv.backends.cuda.gemm import tuner

    tuner.known_choices.clear()
    before = os.environ.get("GPUCONV_CACHE_DIR")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        if cache.directory().is_dir():  # copied, because a cache does not follow links
            shutil.copytree(cache.directory(), folder, ignore=shutil.ignore_patterns("choice-*"), dirs_exist_ok=True)
        os.environ["GPUCONV_CACHE_DIR"] = folder
        try:
            for size, channels, filters in ((8, 1, 4),) if small else ((32, 64, 64), (16, 128, 128), (8, 256, 256)):
                n = 2 if small else 128
                x, w = (
                    gc.asarray(rng.standard_normal(shape, dtype=np.float32), device, dtype="float32")
                    for shape in ((n, size, size, channels), (filters, 3, 3, channels))
                )
                dtypes = ("float32",) if small else ("float32", "bfloat16")
                for dtype in dtypes:
                    y = ops.conv2d(gc.asarray(x, dtype=dtype), gc.asarray(w, dtype=dtype), padding=1)
                    gc.to_numpy(y)
            return {
                path.parent.name: json.loads(path.read_text(encoding="utf-8"))["algorithm"]
                for path in Path(folder).glob("choice-*/choice.json")
            }
        finally:
            if before is None:
                del os.environ["GPUCONV_CACHE_DIR"]
            else:
                os.environ["GPUCONV_CACHE_DIR"] = before
