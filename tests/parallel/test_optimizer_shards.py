"""The optimizer's state split among the ranks, which are threads here: the same bits as without the split."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.backends.cpu import parallel as cpu
from gpuconv.data import Loader
from gpuconv.parallel import NCCL, Ranks
from gpuconv.training import LossScale, Trainer
from gpuconv.training.optimizer_shards import OptimizerShards
from tests import standin
from tests.parallel.test_nccl import direct, on_ranks
from tests.training import small

DRAW = np.random.default_rng(0)
LABELS = np.arange(12) % 3
IMAGES = DRAW.normal(size=(12, 6, 5, 1)).astype(np.float32)
OPTIMIZERS = ["sgd:momentum=0.9", "adagrad", "rmsprop", "adam", "adamw", "lion", "sgd"]
GROUPS = "filters -> muon:lr=0.02; norm1.weight -> sgd:lr=0.1,momentum=0.9; * -> adam:lr=0.01"


def bits(trainer):
    arrays = trainer.net.state_dict()
    return {name: np.array(gc.to_numpy(each)) for name, each in arrays.items()}


def stepped(ranks=None, optimizer="adam", *, device="numpy", dtype="float32", shard=True, **options):
    """The weights after three steps, the whole checkpoint, and the bytes of state here."""
    cpu._fixed.set(1)  # as within the context of `everyone`; threads would wait for it otherwise
    made = small.net().to(device, precision=dtype)
    scale = {"loss_scale": LossScale(start=2.0**8, interval=2)} if dtype == "float16" else {}
    options = {"shards": 4, "graph": False, "weight_decay": 0.01} | scale | options
    if "->" in optimizer:
        del options["weight_decay"]
    trainer = Trainer(made, optimizer, parallel=ranks, shard_optimizer=shard, **options)
    first, end = trainer.sharding.place(len(LABELS))
    x, y = (gc.asarray(each[first:end], device) for each in (IMAGES.astype(made.dtype), LABELS))
    for _ in range(3):
        trainer.optimizer.advance()
        trainer.step(x, y, batch=len(LABELS))
    state = [*trainer.optimizer.walk()]
    held = sum(array.nbytes for each in state for array in each._named().values())
    trainer.gather_averages()
    with trainer.averaged():
        averages = bits(trainer)
    return bits(trainer), averages, trainer.snapshot().tensors, held


def everyone(size, *arguments, **options):
    with cpu.fixed_parts():
        alone = stepped(None, *arguments, shard=False, **options)
        return alone, on_ranks(size, lambda ranks: stepped(ranks, *arguments, **options), direct)


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, GROUPS])
def test_every_optimizer_has_the_bits_of_one_process(optimizer):
    for size in (2, 4):
        alone, found = everyone(size, optimizer)
        for each in found:
            for ours, expected in zip(each[:3], alone[:3]):
                assert small.same_arrays(ours, expected)
        assert sum(held for *_, held in found) == alone[3]


@pytest.mark.parametrize(("device", "dtype"), [("numpy", "float16"), ("numpy", "bfloat16"), ("emulated", "float32")])
def test_masters_averages_and_clipping_have_the_bits_of_one_process(device, dtype):
    alone, found = everyone(2, "adam", device=device, dtype=dtype, ema=0.9, clip=0.5)
    for each in found:
        for ours, expected in zip(each[:3], alone[:3]):
            assert small.same_arrays(ours, expected)
        assert each[3] < alone[3]


def test_each_rank_keeps_about_the_same_share():
    class Two(Ranks):
        def __init__(self, rank, size):
            self.rank, self.size = rank, size

    net = gc.models.build("vgg-cifar", (32, 32, 3), 10)
    whole = sum(param.nbytes for _, param in net.named_parameters())
    for size in (1, 2, 3, 4, 6):
        kept = [OptimizerShards(net, Two(rank, size)).own for rank in range(size)]
        assert sorted(name for own in kept for name in own) == sorted(name for name, _ in net.named_parameters())
        power = 1 << (size.bit_length() - 1)
        for own in kept[:power]:
            assert sum(net[name].nbytes for name in own) <= whole / power + max(
                p.nbytes for _, p in net.named_parameters()
            )
        assert not any(kept[power:])


class Freeze:
    def on_step(self, trainer, record):
        if trainer.steps in (3, 5):
            layer = trainer.net["conv1"]
            layer.freeze() if trainer.steps == 3 else layer.unfreeze()


def trained(ranks=None, folder=None, *, stop=0, resume=False, shard=True):
    made = Trainer(
        small.net().to("emulated"), "adam", lr=0.01, shards=4, parallel=ranks, shard_optimizer=shard, ema=0.9
    )
    data = small.images(20)
    loader = Loader(data, 8, normalization=small.loader(data).normalization, device="emulated", seed=3)
    held_out = Loader(small.images(9, seed=5), 4, normalization=loader.normalization, shuffle=False, device="emulated")
    callbacks = [Freeze(), *([small.StopAt(stop)] if stop else [])]
    options = dict(metrics_every=2, checkpoint_every=2, progress=False, resume=resume, callbacks=callbacks)
    made.fit(loader, epochs=3, validation=held_out, run_dir=folder, **options)
    return bits(made)


def files(folder):
    return [(folder / name).read_bytes() for name in ("last.safetensors", "best.safetensors", "metrics.jsonl")]


def test_checkpoints_are_whole_and_resume_on_any_number_of_ranks(tmp_path):
    whole = trained(None, tmp_path / "whole", shard=False)
    for stops, goes_on in ((1, 4), (4, 2)):
        folder = tmp_path / f"{stops}-{goes_on}"
        on_ranks(stops, partial(trained, folder=folder, stop=4), direct)
        for found in on_ranks(goes_on, partial(trained, folder=folder, resume=True), direct):
            assert small.same_arrays(found, whole)
        assert files(folder) == files(tmp_path / "whole")


@pytest.mark.parametrize("schedule", ["early", "late"])
def test_gpus_exchange_parameters_as_a_part_of_their_graphs(monkeypatch, schedule):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")

    def run(ranks):
        device = ranks.own("cuda")
        made = Trainer(small.net().to(device), "adam", lr=0.01, shards=2, parallel=ranks, shard_optimizer=True)
        data = small.images(16)
        loader = Loader(data, 8, normalization=small.loader(data).normalization, device=device, seed=3)
        made.fit(loader, epochs=2, progress=False)
        return bits(made)

    with standin.installed(("90", "90"), schedule=schedule) as machine:
        alone = run(NCCL(messages=Ranks()))
        for found in on_ranks(2, run):
            assert small.same_arrays(found, alone)
        ours, theirs = (machine.nccl_worlds[0].calls[rank] for rank in range(2))
    assert [call.captured for call in ours] == [call.captured for call in theirs]
    assert sum(call.captured for call in ours) == 5  # sums in two dtypes, there and back, then the parameters
    mine, other = (sum(int(word.split()[-2]) for word in ours[-1].words if kind in word) for kind in ("send", "recv"))
    assert mine + other == 4 * 411


def test_other_optimizers_and_values_are_refused():
    class Own:
        def step(self, params, grads):
            pass

    with pytest.raises(ValueError, match=r"shard_optimizer needs one of gpuconv's optimizers.*; Own keeps its own"):
        Trainer(small.net(), Own(), shard_optimizer=True)
    with pytest.raises(TypeError, match="shard_optimizer must be True or False, received 'all'"):
        Trainer(small.net(), shard_optimizer="all")
