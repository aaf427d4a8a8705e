"""Trains on batches that are PyTorch's tensors. PyTorch's caching allocator gives the memory of a freed tensor to the
next tensor, in the order of PyTorch's stream, so a captured step must have read a batch before the memory of the
batch is given away."""

from __future__ import annotations

from ci.gate.experiments import Answer, UnknownError


class Batches:
    """The same batches in every run, each moved to the device on request."""

    def __init__(self, to_device, count: int) -> None:
        import numpy as np

        rng = np.random.default_rng(0)
        self._batches = [
            (rng.standard_normal((16, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 16)) for _ in range(count)
        ]
        self._to_device = to_device

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, epoch: int = 0, start_batch: int = 0):
        for x, y in self._batches[start_batch:]:
            yield self._to_device(x), self._to_device(y)


def ask(device: str, small: bool) -> Answer:
    try:
        import torch
    except ImportError:
        raise UnknownError("PyTorch is not installed") from None
    if not torch.cuda.is_available():
        raise UnknownError("PyTorch sees no GPU")
    import gpuconv as gc
    from gpuconv.layers import Conv2D, Flatten, Input, Linear, ReLU, Sequential
    from gpuconv.training import Trainer

    def loss(to_device, graph: bool | None) -> float:
        net = Sequential([Input((8, 8, 1)), Conv2D(8, 3), ReLU(), Flatten(), Linear(10)], seed=0).to(device)
        trainer = Trainer(net, "sgd", lr=0.01, graph=graph)
        trainer.fit(Batches(to_device, 8 if small else 64), epochs=2, progress=False, metrics_every=1000)
        return float(trainer.records[-1]["train_loss"])

    def foreign(host):
        return gc.asarray(torch.from_numpy(host).to(device))

    losses = {
        "own arrays, launches": loss(lambda host: gc.asarray(host, device), False),
        "PyTorch's, launches": loss(foreign, False),
        "PyTorch's, default": loss(foreign, None),
    }
    seen = ", ".join(f"{name}: {value!r}" for name, value in losses.items())
    return ("yes" if len(set(losses.values())) == 1 else "no"), seen
