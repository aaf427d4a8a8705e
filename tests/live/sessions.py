"""What the tests of sessions share: nets, requests, and the contents of a run's checkpoint."""

from __future__ import annotations

import json
import time

from gpuconv import checkpoint
from gpuconv.layers import BatchNorm, Conv2D, Dropout, Flatten, Input, Linear, MaxPool2D, ReLU, Sequential
from gpuconv.training import RunDirectory, optimizers
from gpuconv.training.run_schemas import state

LINEAR = [Flatten(), Linear(10)]
CONV = [Conv2D(3, 3, padding=1), BatchNorm(), ReLU(), MaxPool2D(2), Flatten(), Dropout(0.5), Linear(10)]


def recipe_of(layers, **changes):
    """The settings from which a session builds its run."""
    net = Sequential([Input((8, 8, 1)), *layers], initialize=False)
    return {
        "net": net.config(),
        "precision": "float32",
        "optimizer": optimizers.get("sgd", lr=0.05, momentum=0.9).config(),
        "loss": "SoftmaxCrossEntropy(label_smoothing=0.0)",
        "schedule": "constant",
        "seed": 0,
        "epochs": 2000,
        "train": {"batch_size": 40, "augmentation": "none"},
    } | changes


def do(session, name, **arguments):
    """Sends a request to the session and returns the answer."""
    return session.ask(name, **arguments).result(30)


def wait_for(session, condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, (session.phase, session.message)
        time.sleep(0.005)
    do(session, "greet")  # is answered after the pending work


def checkpoint_arrays_of(session):
    """The bytes of every array in the run's last checkpoint."""
    found = checkpoint.load(RunDirectory(session.run_dir).last)
    return {name: array.tobytes() for name, array in found.tensors.items()}


def records_of(run_dir):
    return state(checkpoint.load(RunDirectory(run_dir).last).state, run_dir)["records"]


def unpack(frame):
    """A frame's header, which is JSON, and the bytes after it."""
    end = 4 + int.from_bytes(frame[:4], "little")
    return json.loads(frame[4:end]), frame[end:]


class HubWithClient:
    """A hub with a client that never reads. put_names: the names of all messages for it."""

    clients = 1

    def __init__(self):
        self.put_names = set()

    def put(self, name, message):
        self.put_names.add(name)
