"""Defaults are pinned in a table, because a changed default would change the behavior of users' programs."""

from __future__ import annotations

import math

from tests.defaults import IMMUTABLE_VALUE, dataclass_flags, expect_defaults

DEFAULTS = {
    "initializers": {
        "constant": dict(value=0.0, seed=0, substream=0, groups=1),
        "he_normal": dict(fan="in", gain=math.sqrt(2), substream=0, groups=1),
        "he_uniform": dict(fan="in", gain=math.sqrt(2), substream=0, groups=1),
        "xavier_normal": dict(gain=1.0, substream=0, groups=1),
        "xavier_uniform": dict(gain=1.0, substream=0, groups=1),
    },
    "checks": {
        "gradient_check": dict(x=None, input_shape=None, training=True, samples=64, tolerance=1e-5, step=1e-6, seed=0),
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
        "to_torch": dict(like=None, tensors=False),
    },
    "models": {"whiten": dict(eps=5e-4)},
}


def test_the_defaults_are_those_of_the_table():
    expect_defaults(DEFAULTS)


def test_records_are_immutable():
    for name, flags in dataclass_flags(["checks:GradientCheck", "checks:SanityCheck", "summary:Row"]):
        assert flags == IMMUTABLE_VALUE, name
