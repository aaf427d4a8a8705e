"""Trains a net with a fused convolution and norm in bfloat16, captured."""

from __future__ import annotations

from ci.gate.experiments import Answer, training


def ask(device: str, small: bool) -> Answer:
    return training.run(device, small, "bfloat16")
