"""Runs independent pieces of device work on parallel streams."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpuconv.types import Array

if TYPE_CHECKING:
    import cupy


def run_parallel(works: Sequence[Callable[[], None]], *, like: Array) -> None:
    """Run pieces of device work, none of which reads what another one writes, on the device of `like`.

    On a GPU the first runs on the current stream and each other one on a stream of its own. All wait for the current
    stream's earlier work, and its later work waits for all of them. A capture makes them branches of the graph. An
    array that a piece creates must not be used after it, because its memory belongs to the piece's stream. The emulated
    device runs one piece after another.
    """
    if isinstance(like, np.ndarray) or len(works) < 2:
        for work in works:
            work()
        return
    current = sys.modules["cupy"].cuda.get_current_stream()
    begin, thread = current.record(), threading.get_ident()
    others = [_stream(like.data.device_id, thread, number) for number in range(1, len(works))]
    for stream in others:
        stream.wait_event(begin)
    try:
        for stream, work in zip((current, *others), works):
            with stream:
                work()
    finally:  # also after an error: later work on the current stream may reuse the memory of the pieces
        for stream in others:
            current.wait_event(stream.record())


@functools.cache
def _stream(device: int, thread: int, number: int) -> cupy.cuda.Stream:
    """A stream, the same for all calls of a thread on a device, because CuPy keeps freed memory for each stream."""
    return sys.modules["cupy"].cuda.Stream(non_blocking=True)
