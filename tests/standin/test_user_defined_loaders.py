"""User-defined loaders: batches that another library, or another thread, puts on the device."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.data import Normalization
from gpuconv.training import Trainer
from tests import standin, toy_run

pytestmark = pytest.mark.usefixtures("untimed")


class ForeignTensor:
    """A tensor of a library whose allocator gives the block of a deleted tensor to the next tensor.

    The library writes the next tensor on the legacy stream. The write does not wait for non-blocking streams, even if
    work that reads the deleted tensor is still queued there."""

    _free: dict = {}  # noqa: RUF012 - the blocks of deleted tensors, by shape and dtype

    def __init__(self, host):
        import cupy

        self._key = (host.shape, host.dtype)
        blocks = self._free.setdefault(self._key, [])
        self._array = blocks.pop() if blocks else cupy.empty(host.shape, host.dtype)
        with cupy.cuda.Stream(null=True) as stream:
            self._array[...] = cupy.asarray(host)
            self._written = stream.record()
            stream.synchronize()

    def __dlpack_device__(self):
        return 2, 0  # kDLCUDA, GPU 0

    def standin_dlpack(self, stream):
        stream.wait_event(self._written)
        array = self._array[:]
        array.owner = self
        return array

    def __del__(self):
        self._free[self._key].append(self._array)


class UserLoader:
    """Batches in order, converted by `to_device`."""

    def __init__(self, to_device):
        self._data, self._to_device = toy_run.images(20), to_device
        self._normalization = Normalization.from_dataset(self._data)

    def __len__(self):
        return 4

    def epoch(self, epoch=0, start_batch=0):
        for at in range(5 * start_batch, 20, 5):
            x = self._normalization(self._data.images[at : at + 5]).astype(np.float32)
            yield self._to_device(x), self._to_device(self._data.labels[at : at + 5].astype(np.int64))


def loss_with_loader(to_device, device, **options):
    """The last training loss with batches that `to_device` puts onto the device."""
    trainer = Trainer(toy_run.net().to(device), "sgd", lr=0.01, fuse=True, **options)
    trainer.fit(UserLoader(to_device), epochs=2, progress=False, metrics_every=100)
    return trainer.records[-1]["train_loss"]


def in_another_thread(make):
    """A function that runs `make` in a thread with its own current stream."""

    def made_in_thread(host):
        results = []
        thread = threading.Thread(target=lambda: results.append(make(host)))
        thread.start()
        thread.join()
        return results[0]

    return made_in_thread


@pytest.mark.filterwarnings("ignore::gpuconv.training.UncapturedWarning")
@pytest.mark.parametrize("graph", [None, pytest.param(False, marks=pytest.mark.slow)], ids=["default", "launches"])
@pytest.mark.parametrize("maker", ["another library", "another thread"])
def test_training_sees_exactly_the_batches_of_a_user_defined_loader(schedule, maker, graph):
    expected = loss_with_loader(lambda host: gc.asarray(host, "emulated"), "emulated", graph=False)
    makers = {
        "another library": lambda host: gc.asarray(ForeignTensor(host)),
        "another thread": in_another_thread(lambda host: gc.asarray(host, "cuda:0")),
    }
    ForeignTensor._free.clear()
    with standin.installed(("90", "90"), schedule=schedule):
        assert loss_with_loader(makers[maker], "cuda:0", graph=graph) == expected
