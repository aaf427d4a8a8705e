"""Every default is the documented one: another would change the behavior of users' programs."""

from __future__ import annotations

import math

import pytest

from tests.defaults import IMMUTABLE_VALUE, dataclass_flags, expect_defaults

DEFAULTS = {
    "initializers": {
        "constant": dict(value=0.0),
        "he_normal": dict(fan="in", gain=math.sqrt(2)),
        "he_uniform": dict(fan="in", gain=math.sqrt(2)),
        "xavier_normal": dict(gain=1.0),
        "xavier_uniform": dict(gain=1.0),
    },
    "checks": {
        "gradient_check": dict(training=True, samples=64, tolerance=1e-5, step=1e-6, seed=0),
        "sanity": dict(loss="softmax", optimizer=None, overfit_steps=300),
        "first_loss": dict(loss="softmax"),
        "regularization": dict(loss="softmax", weight_decay=0.01),
        "overfits": dict(loss="softmax", steps=300, lr=0.001),
        "update_ratio": dict(loss="softmax", optimizer=None),
    },
    "summary": {"summary": dict(batch_size=128, device=None), "rows": dict(batch_size=128, device=None)},
    "interop": {
        "from_onnx": dict(input_shape=None, device="numpy", precision=None),
        "to_onnx": dict(layout="NCHW", normalization=False, softmax=False, dtype=None),
        "to_torch": dict(tensors=False),
    },
    "models": {"whiten": dict(eps=5e-4)},
}


def test_every_default_is_the_documented_one():
    expect_defaults(DEFAULTS)


def test_records_are_immutable():
    for name, flags in dataclass_flags(["checks:GradientCheck", "checks:SanityCheck", "summary:Row"]):
        assert flags == IMMUTABLE_VALUE, name


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
