"""The optimizer's state split among the ranks, which are threads here: the same bits as without the split."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.backends.cpu import parallel as cpu
from gpuconv.data import Loader
from gpuconv.parallel import NCCL, Ranks
from gpuconv.training import LossScale, Trainer
from gpuconv.training.optimizer_shards import OptimizerShards
from tests import standin, toy_run
from tests.parallel.runs import files
from tests.parallel.thread_ranks import messages_alone, on_ranks

RANDOM = np.random.default_rng(0)
LABELS = np.arange(12) % 3
IMAGES = RANDOM.normal(size=(12, 6, 5, 1)).astype(np.float32)
OPTIMIZERS = ["sgd:momentum=0.9", "adagrad", "rmsprop", "adam", "adamw", "lion", "sgd"]
GROUPS = "filters -> muon:lr=0.02; norm1.weight -> sgd:lr=0.1,momentum=0.9; * -> adam:lr=0.01"


def bits(trainer):
    arrays = trainer.net.state_dict()
    return {name: np.array(gc.to_numpy(array)) for name, array in arrays.items()}


class Stepped(NamedTuple):
    """The weights, their averages, the tensors of the checkpoint, and the bytes of optimizer state on this rank."""

    weights: dict[str, np.ndarray]
    averages: dict[str, np.ndarray]
    checkpoint: dict[str, np.ndarray]
    state_bytes: int


def stepped(ranks=None, optimizer="adam", *, device="numpy", dtype="float32", shard=True, **options):
    """The results of three steps."""
    cpu._fixed_cores.set(1)  # without it, ops of a rank's thread would wait until the context in `on_one_and_all` ends
    net = toy_run.net().to(device, precision=dtype)
    scale = {"loss_scale": LossScale(start=2.0**8, interval=2)} if dtype == "float16" else {}
    options = {"shards": 4, "graph": False, "weight_decay": 0.01} | scale | options
    if "->" in optimizer:
        del options["weight_decay"]
    trainer = Trainer(net, optimizer, parallel=ranks, shard_optimizer=shard, **options)
    first, end = trainer.sharding.range_of_rank(len(LABELS))
    x, y = (gc.asarray(array[first:end], device) for array in (IMAGES.astype(net.dtype), LABELS))
    for _ in range(3):
        trainer.optimizer.advance()
        trainer.step(x, y, batch=len(LABELS))
    state_bytes = sum(array.nbytes for part in trainer.optimizer.walk() for array in part._named().values())
    trainer.gather_averages()
    with trainer.averaged():
        averages = bits(trainer)
    return Stepped(bits(trainer), averages, trainer.snapshot().tensors, state_bytes)


def assert_same_arrays(result, expected):
    assert toy_run.same_arrays(result.weights, expected.weights)
    assert toy_run.same_arrays(result.averages, expected.averages)
    assert toy_run.same_arrays(result.checkpoint, expected.checkpoint)


def on_one_and_all(size, *arguments, **options):
    """The result of `stepped` on one process, and its results on `size` ranks."""
    with cpu.fixed_parts():
        alone = stepped(None, *arguments, shard=False, **options)
        return alone, on_ranks(size, lambda ranks: stepped(ranks, *arguments, **options), messages_alone)


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, GROUPS])
def test_every_optimizer_has_the_bits_of_one_process(optimizer):
    for size in (2, 4):
        alone, results = on_one_and_all(size, optimizer)
        for result in results:
            assert_same_arrays(result, alone)
        assert sum(result.state_bytes for result in results) == alone.state_bytes


@pytest.mark.parametrize(("device", "dtype"), [("numpy", "float16"), ("numpy", "bfloat16"), ("emulated", "float32")])
def test_masters_averages_and_clipping_have_the_bits_of_one_process(device, dtype):
    alone, results = on_one_and_all(2, "adam", device=device, dtype=dtype, ema=0.9, clip=0.5)
    for result in results:
        assert_same_arrays(result, alone)
        assert result.state_bytes < alone.state_bytes


def test_ranks_below_the_largest_power_of_two_keep_about_equal_shares_and_the_others_keep_nothing():
    class RankOf(Ranks):
        def __init__(self, rank, size):
            self.rank, self.size = rank, size

    net = gc.models.build("resnet20")
    sizes = [param.nbytes for _, param in net.named_parameters()]
    for size in (1, 2, 3, 4, 6):
        names_of_ranks = [OptimizerShards(net, RankOf(rank, size)).own for rank in range(size)]
        assert sorted(name for names in names_of_ranks for name in names) == sorted(
            name for name, _ in net.named_parameters()
        )
        power = 1 << (size.bit_length() - 1)  # the largest power of two that is at most the number of ranks
        for names in names_of_ranks[:power]:
            assert sum(net[name].nbytes for name in names) <= sum(sizes) / power + max(sizes)
        assert not any(names_of_ranks[power:])


class FreezeForTwoSteps:
    def on_step(self, trainer, record):
        if trainer.steps in (3, 5):
            layer = trainer.net["conv1"]
            if trainer.steps == 3:
                layer.freeze()
            else:
                layer.unfreeze()


def trained(ranks=None, folder=None, *, stop=0, resume=False, shard=True):
    trainer = Trainer(
        toy_run.net().to("emulated"), "adam", lr=0.01, shards=4, parallel=ranks, shard_optimizer=shard, ema=0.9
    )
    data = toy_run.images(20)
    loader = Loader(data, 8, normalization=toy_run.loader(data).normalization, device="emulated", seed=3)
    held_out = Loader(
        toy_run.images(9, seed=5), 4, normalization=loader.normalization, shuffle=False, device="emulated"
    )
    callbacks = [FreezeForTwoSteps(), *([toy_run.StopAt(stop)] if stop else [])]
    options = dict(metrics_every=2, checkpoint_every=2, progress=False, resume=resume, callbacks=callbacks)
    trainer.fit(loader, epochs=3, validation=held_out, run_dir=folder, **options)
    return bits(trainer)


def test_checkpoints_are_complete_and_resume_on_any_number_of_ranks(tmp_path):
    uninterrupted = trained(None, tmp_path / "uninterrupted", shard=False)
    for before, after in ((1, 4), (4, 2)):  # numbers of ranks
        folder = tmp_path / f"{before}-{after}"
        on_ranks(before, partial(trained, folder=folder, stop=4), messages_alone)
        for weights in on_ranks(after, partial(trained, folder=folder, resume=True), messages_alone):
            assert toy_run.same_arrays(weights, uninterrupted)
        assert files(folder) == files(tmp_path / "uninterrupted")


@pytest.mark.parametrize("schedule", ["early", "late"])
def test_gpus_exchange_parameters_as_a_part_of_their_graphs(monkeypatch, schedule):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")

    def run(ranks):
        device = ranks.own_device("cuda")
        trainer = Trainer(toy_run.net().to(device), "adam", lr=0.01, shards=2, parallel=ranks, shard_optimizer=True)
        data = toy_run.images(16)
        loader = Loader(data, 8, normalization=toy_run.loader(data).normalization, device=device, seed=3)
        trainer.fit(loader, epochs=2, progress=False)
        return bits(trainer)

    with standin.installed(("90", "90"), schedule=schedule) as machine:
        alone = run(NCCL(messages=Ranks()))
        for weights in on_ranks(2, run):
            assert toy_run.same_arrays(weights, alone)
        calls = machine.nccl_worlds[0].calls
    assert [call.captured for call in calls[0]] == [call.captured for call in calls[1]]
    assert sum(call.captured for call in calls[0]) == 5  # sums in two dtypes, up the tree and back; then the parameters
    parameters = calls[0][-1].words
    sent, received = (sum(int(text.split()[-2]) for text in parameters if kind in text) for kind in ("send", "recv"))
    assert sent + received == 4 * 411


def test_other_optimizers_and_values_are_refused():
    class UserOptimizer:
        def step(self, params, grads):
            pass

    with pytest.raises(
        ValueError, match=r"shard_optimizer needs one of gpuconv's optimizers.*; UserOptimizer keeps its own"
    ):
        Trainer(toy_run.net(), UserOptimizer(), shard_optimizer=True)
    with pytest.raises(TypeError, match="shard_optimizer must be True or False, received 'all'"):
        Trainer(toy_run.net(), shard_optimizer="all")
