"""Gradients that are exchanged in buckets during backward: the same bits, in the same order on every rank."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.data import Loader
from gpuconv.parallel import NCCL, ParallelError, Ranks
from gpuconv.training import Trainer, flat_sums
from tests import standin, toy_run
from tests.parallel.runs import BYTES_PER_STEP
from tests.parallel.thread_ranks import ThreadRanks, on_ranks
from tests.standin.nccl import counterpart

RANDOM = np.random.default_rng(0)
LABELS = np.arange(12) % 3
IMAGES = RANDOM.normal(size=(12, 6, 5, 1)).astype(np.float32)


@pytest.fixture(autouse=True)
def _several_buckets(monkeypatch):
    monkeypatch.setattr(flat_sums, "BUCKET", 100)
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")


class RecordedRanks(ThreadRanks):
    """Records when sums begin and end."""

    def start(self, flat, fixed, number):
        self.events.append(f"start {number}")
        self.sum(flat, fixed)
        return lambda: self.events.append(f"finish {number}")


def recorded(messages):
    messages.__class__, messages.events = RecordedRanks, []
    return messages


def bits(net):
    return {name: np.array(gc.to_numpy(array)) for name, array in net.state_dict().items()}


def stepped(ranks=None, fuse=False, freeze=()):
    """The weights after two steps, and the order in which sums and the backward passes of layers happened."""
    net = toy_run.net().to("emulated")
    for name in freeze:
        net[name].freeze()
    trainer = Trainer(net, "sgd", lr=0.05, shards=4, parallel=ranks, graph=False, fuse=fuse)
    first, end = trainer.sharding.range_of_rank(len(LABELS))
    x, y = (gc.asarray(array[first:end], "emulated") for array in (IMAGES, LABELS))
    events = [] if ranks is None else ranks.events
    for layer in () if fuse else ("fc1", "conv1"):
        net[layer].register_backward_hook(lambda layer, dx, dy: events.append(layer.name))
    for _ in range(2):
        trainer.optimizer.advance()
        trainer.step(x, y, batch=len(LABELS))
    return bits(net), events


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("freeze", [(), ("norm1",), ("conv1", "norm1")])
def test_the_bits_are_those_of_one_process(fuse, freeze):
    alone, _ = stepped(None, fuse, freeze)
    assert (alone["fc1.weight"] != toy_run.net()["fc1.weight"]).any()
    for size in (2, 4):
        results = on_ranks(size, lambda ranks: stepped(ranks, fuse, freeze), recorded)
        for weights, events in results:
            assert toy_run.same_arrays(weights, alone)
            assert events == results[0][1]
            assert "start 0" in events


def test_the_gradients_of_the_last_layers_are_exchanged_before_the_backward_of_the_first():
    """Each rank has two shards, so gradients are final only after the second one. Bucket 0 holds the parameters of fc1,
    bucket 1 those of conv1 and norm1. The statistics and the totals are sent after the backward pass."""
    for _, events in on_ranks(2, stepped, recorded):
        assert events == ["fc1", "conv1", "fc1", "start 0", "conv1", "start 1", "finish 0", "finish 1"] * 2


def test_buckets_have_every_element_once():
    arrays = [np.zeros(size, dtype) for size, dtype in ((3, "f4"), (4, "f8"), (30, "f4"), (1, "f4"), (70, "f4"))]
    sums = flat_sums.Sums([flat_sums.Term(array) for array in arrays], "numpy")
    # Each bucket: the number of its flat array, its first element, its end, and the numbers of its terms.
    assert sums.buckets == [(0, 34, 104, (4,)), (0, 3, 34, (2, 3)), (1, 0, 4, (1,)), (0, 0, 3, (0,))]
    assert [sums.part(bucket).size for bucket in sums.buckets] == [70, 31, 4, 3]


def test_buckets_of_several_dtypes_are_in_the_order_in_which_backward_completes_them():
    arrays = [np.zeros(size, dtype) for size, dtype in ((2, "f8"), (40, "f4"), (2, "f8"), (40, "f4"))]
    sums = flat_sums.Sums([flat_sums.Term(array) for array in arrays], "numpy")
    assert [bucket.terms for bucket in sums.buckets] == [(3,), (1,), (0, 2)]


def trained(ranks, shards, graph):
    device = ranks.own_device("cuda")
    data = toy_run.images(24)
    trainer = Trainer(toy_run.net().to(device), "sgd", lr=0.05, shards=shards, parallel=ranks, graph=graph)
    loader = Loader(data, 8, normalization=toy_run.loader(data).normalization, device=device, seed=3)
    trainer.fit(loader, epochs=2, progress=False)
    return bits(trainer.net), trainer.ranks.sent


@pytest.mark.parametrize("schedule", ["early", "late"])
@pytest.mark.parametrize("graph", [False, True])
def test_gpus_that_exchange_in_buckets_have_the_bits_of_one_gpu(schedule, graph):
    with standin.installed(("90", "90"), schedule=schedule) as machine:
        expect_the_bits_of_one_gpu(graph)
        calls = machine.nccl_worlds[0].calls
    assert [call.words for call in calls[1]] == [counterpart(call.words) for call in calls[0]]
    assert sum(call.captured for call in calls[0]) == (2 * 4 if graph else 0)


def expect_the_bits_of_one_gpu(graph):
    alone, _ = trained(NCCL(messages=Ranks()), 2, graph)
    for weights, sent in on_ranks(2, lambda ranks: trained(ranks, 2, graph)):
        assert toy_run.same_arrays(weights, alone)
        assert sent == 6 * BYTES_PER_STEP


def without_waiting(patch):
    start = NCCL.start

    def start_only(*arguments):
        start(*arguments)
        return lambda: None

    patch.setattr(NCCL, "start", start_only)


def test_reading_sums_before_they_are_complete_is_found(monkeypatch):
    without_waiting(monkeypatch)
    with (
        standin.installed(("90", "90"), schedule="late"),
        pytest.raises((AssertionError, ArithmeticError, ValueError, ParallelError)),
    ):
        expect_the_bits_of_one_gpu(graph=False)
