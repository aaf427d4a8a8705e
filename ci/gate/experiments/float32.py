"""Trains a net in float32, captured."""

from __future__ import annotations

from ci.gate.experiments import Answer, training


def ask(device: str, small: bool) -> Answer:
    return training.run(device, small, "float32")
