"""Named ranges in Nsight: one NVTX domain, "gpuconv", with a range for each layer and direction, for each step, and for
the step's loss, update and metrics.

    with profiling.ranges():
        net.forward(x)                      # conv1.forward, relu1.forward, ...
        with profiling.span("my part"):
            ...

`Trainer.fit` runs inside `ranges()`. A range costs well under a microsecond while no profiler listens.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

from gpuconv.layers.base import Layer
from gpuconv.layers.layer_call import listen


@functools.cache
def _domain() -> Any:  # noqa: ANN401 - nvtx has no annotations
    import nvtx

    return nvtx.get_domain("gpuconv")


class _Span:
    """A range that can be entered repeatedly."""

    __slots__ = ("attributes", "domain")

    def __init__(self, message: str, category: str | None) -> None:
        self.domain = _domain()
        self.attributes = self.domain.get_event_attributes(message=message, category=category)

    def __enter__(self) -> None:
        self.domain.push_range(self.attributes)

    def __exit__(self, *exception: object) -> None:
        self.domain.pop_range()


@functools.lru_cache(maxsize=4096)
def span(message: str, category: str | None = None) -> AbstractContextManager[None]:
    """A context that is a named range of the domain. The same arguments give the same object."""
    return _Span(message, category)


def part(message: str) -> AbstractContextManager[None]:
    """A `span` named `message` for a training step or for a part of it outside the layers."""
    return span(message, "step")


def _of_layer(layer: Layer, direction: str) -> AbstractContextManager[None]:
    name = layer.path.replace("+", "-")  # a plus is an operator in Nsight Compute's filters
    return span(f"{name}.{direction}", direction)


def ranges() -> AbstractContextManager[None]:
    """A context in which every run of a layer is a range, "conv1.forward" or "conv1.backward"."""
    return listen(_of_layer)
