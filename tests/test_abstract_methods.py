"""Methods that a subclass has to define raise NotImplementedError in the base class."""

from __future__ import annotations

import pytest


def test_a_missing_method_of_a_subclass_is_an_error():
    """A method that did nothing would return None, which fails somewhere else."""
    from gpuconv.data import Samples
    from gpuconv.layers import Layer
    from gpuconv.layers.fused import Fused
    from gpuconv.training import Optimizer, callbacks, schedules

    class Own(Optimizer):
        name = "own"

    samples = Samples(name="own", image_shape=(1, 1, 1), dtype="uint8")
    for call in (
        lambda: Layer().forward(0),
        lambda: Layer().backward(0),
        lambda: Fused.fits([]),
        lambda: schedules.Schedule()(0, 1),
        lambda: len(samples),
        lambda: samples.read([0]),
        lambda: callbacks.Log("x").lines({}, True),
        lambda: Own(lr=1)._launch([], [], masters=None, scaling=None, averages=None, ema=1.0),
    ):
        with pytest.raises(NotImplementedError):
            call()
