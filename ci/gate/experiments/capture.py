"""Launches a kernel for the first time within a capture."""

from __future__ import annotations

from ci.gate.experiments import Answer, discard


def ask(device: str, small: bool) -> Answer:
    import numpy as np

    import gpuconv as gc
    from gpuconv import backends, ops

    host = np.arange(-64, 64, dtype=np.float32)
    x, y = gc.asarray(host, device), gc.asarray(np.zeros_like(host), device)
    recorder = backends.recorder(device)
    try:
        replay = recorder.capture(lambda: discard(ops.relu(x, out=y)))  # no kernel of this process was loaded before
        replay()
        found = gc.to_numpy(y)
    except Exception as error:
        return "no", f"{type(error).__name__}: {error}"
    if not np.array_equal(found, np.maximum(host, 0)):
        return "no", "the replay gave wrong numbers"
    return "yes", "a kernel loaded in a capture gave the right numbers when it was replayed"
