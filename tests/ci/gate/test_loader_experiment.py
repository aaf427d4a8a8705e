"""The gate's experiment on batches of PyTorch tensors, with a fake PyTorch whose GPU is the emulated device."""

import sys
from types import SimpleNamespace

import gpuconv as gc
from ci.gate.experiments import loader


def test_the_experiment_trains_in_three_ways_and_answers_yes(monkeypatch):
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: True),
        from_numpy=lambda host: SimpleNamespace(to=lambda device: gc.asarray(host, device)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    answer, seen = loader.ask("emulated", small=True)
    assert answer == "yes"
    assert seen.count(": ") == 3
