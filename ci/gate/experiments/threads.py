"""Captures in one thread while another uses the GPU."""

from __future__ import annotations

import threading

from ci.gate.experiments import Answer, discard


def ask(device: str, small: bool) -> Answer:
    """One thread repeatedly captures and replays, while the other computes, copies, and synchronizes."""
    import numpy as np

    import gpuconv as gc
    from gpuconv import backends, ops

    host = np.arange(-64, 64, dtype=np.float32)
    rounds, failures, done = (3 if small else 200), list[str](), threading.Event()
    expected = np.maximum(host, 0)
    gc.to_numpy(ops.relu(gc.asarray(host, device)))

    def check(who: str, found: np.ndarray) -> None:
        if not np.array_equal(found, expected):
            failures.append(f"{who}: wrong numbers")

    def work() -> None:
        try:
            while not done.is_set():
                check("the other thread", gc.to_numpy(ops.relu(gc.asarray(host, device))))
                backends.synchronize(device)
        except Exception as error:
            failures.append(f"the other thread: {type(error).__name__}: {error}")

    other = threading.Thread(target=work)
    other.start()
    try:
        for _ in range(rounds):
            x, y = gc.asarray(host, device), gc.asarray(np.zeros_like(host), device)
            recorder = backends.recorder(device)
            recorder.prepare(lambda x=x, y=y: discard(ops.relu(x, out=y)))
            replay = recorder.capture(lambda x=x, y=y: discard(ops.relu(x, out=y)))
            replay()
            check("the capturing thread", gc.to_numpy(y))
            recorder.release()
    except Exception as error:
        failures.append(f"the capturing thread: {type(error).__name__}: {error}")
    done.set()
    other.join(60)
    return ("no", "; ".join(failures[:3])) if failures else ("yes", f"{rounds} captures while another thread worked")
