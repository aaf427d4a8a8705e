"""Refused calls of Muon, and their errors."""

import numpy as np

from gpuconv import ops
from tests.ops.refusals.arrays import PARAMS, zeros

REFUSALS = [
    (ops.muon_step, [PARAMS, PARAMS, PARAMS], {"lr": 1}, ValueError, "rank 2 or more, received params[1] of (5,)"),
    (ops.muon_step, [[zeros(2, 3)]] * 3, {"lr": 1, "nesterov": True}, ValueError, "nesterov=True needs a momentum"),
    (ops.muon_step, [[zeros(2, 3)]] * 3, {"lr": 1, "steps": -1}, ValueError, "steps must"),
    (ops.muon_step, [[zeros(2, 3)]] * 3, {"lr": 1, "tf32": 1}, TypeError, "tf32 must be True or False, received 1"),
    (ops.muon_step, [[np.zeros((2, 3))]] * 3, {"lr": 1, "tf32": True}, TypeError, "float32 arrays, received float64"),
    (ops.muon_step, [[np.zeros((2, 3))]] * 3, {"lr": 1, "precision": "tf32"}, TypeError, "received float64 parameters"),
    (ops.muon_step, [[zeros(2, 3)]] * 3, {"lr": 1, "precision": "fp8"}, ValueError, "known: full, tf32, bfloat16"),
    (ops.muon_step, [[zeros(2, 3)]] * 3, {"lr": 1, "precision": "bfloat16", "tf32": True}, ValueError, "give one of"),
    (
        ops.muon_step,
        [[zeros(2, 3)]] * 3,
        {"lr": 1, "steps": 10**20},
        ValueError,
        "steps must be at most 100, received 100000000000000000000",
    ),
]
