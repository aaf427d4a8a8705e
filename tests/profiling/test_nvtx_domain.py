"""The NVTX ranges of layers and steps."""

import timeit

import numpy as np
import pytest

from gpuconv import models, profiling
from gpuconv.profiling import nvtx_domain
from gpuconv.training import Trainer


class Recorder:
    """Stands in for the NVTX domain. events: what was pushed and popped, in order."""

    def __init__(self):
        self.events = []

    def get_event_attributes(self, message, category):
        return message, category

    def push_range(self, attributes):
        self.events.append(attributes)

    def pop_range(self):
        self.events.append("end")


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(nvtx_domain, "_domain", lambda: recorder)
    nvtx_domain.span.cache_clear()
    yield recorder
    nvtx_domain.span.cache_clear()


def test_each_layer_and_direction_is_a_range(recorder):
    net = models.build("seed-net")
    with profiling.ranges():
        net.backward(net.forward(np.zeros((1, 32, 32, 3), np.float32)))
    names = [event[0] for event in recorder.events if event != "end"]
    layers = [layer.name for layer in net]
    assert [n for n in names if n.endswith("forward")] == [f"{name}.forward" for name in layers]
    backward = [n for n in names if n.endswith("backward")]
    assert backward == [f"{name}.backward" for name in reversed(layers)][: len(backward)]
    assert {"conv1.backward", "fc1.backward"} <= set(backward)
    assert recorder.events.count("end") == len(names)


def test_the_range_of_a_fused_layer_has_no_plus_in_its_name(recorder):
    """In the filter --nvtx-include of Nsight Compute a plus is an operator."""
    with profiling.ranges():
        models.build("seed-net").fuse().forward(np.zeros((1, 32, 32, 3), np.float32))
    assert recorder.events[0] == ("input.forward", "forward")
    assert ("conv1-relu1-pool1.forward", "forward") in recorder.events


def test_there_are_no_ranges_outside_the_context(recorder):
    models.build("seed-net").forward(np.zeros((1, 32, 32, 3), np.float32))
    assert recorder.events == []


def test_a_training_step_is_a_range_around_its_layers(recorder):
    trainer = Trainer(models.build("seed-net"), "sgd", lr=0.1)
    trainer.optimizer.advance()
    trainer.step(np.zeros((2, 32, 32, 3), np.float32), np.array([0, 1]))
    assert recorder.events[0] == ("step", "step")
    assert recorder.events[-1] == "end"


def test_a_range_ends_when_its_layer_raises(recorder):
    with pytest.raises(RuntimeError, match="forward before it"), profiling.ranges():
        models.build("seed-net").backward(np.zeros((1, 10), np.float32))
    assert recorder.events[0] == ("fc1.backward", "backward")
    assert len(recorder.events) == 2 * recorder.events.count("end")


def test_without_a_profiler_a_range_takes_less_than_20_microseconds():
    """The range is in the real domain. It took half a microsecond when it was measured, so only a range that is far
    slower exceeds the bound."""

    def use():
        with profiling.span("conv1.forward", "forward"):
            pass

    assert min(timeit.repeat(use, number=1000, repeat=5)) / 1000 < 20e-6
