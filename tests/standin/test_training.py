"""Training on a GPU, with and without a graph or a shadow, gives the emulated device's bits."""

from __future__ import annotations

import contextlib
import gc as gc_module
from typing import ClassVar

import numpy as np
import pytest

from gpuconv import backends, checkpoint, ops
from gpuconv.backends.cuda import ops as cuda_ops
from gpuconv.data import Augmentation, Loader, Normalization
from gpuconv.layers import (
    AvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GroupNorm,
    Input,
    LayerNorm,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Upsample,
)
from gpuconv.training import Callback, ShadowError, ShadowWarning, Trainer
from gpuconv.training.shadow import Shadow
from gpuconv.training.step_graphs import Replay
from gpuconv.verify.call import Call
from tests import standin, toy_run
from tests.fake_shadow_worker import FakeWorker
from tests.standin import machine

pytestmark = pytest.mark.usefixtures("untimed")


def norm_sums_and_slices():
    """In this net convolutions compute the sums for the gradients of norms, and branches read and write slices."""
    dense_blocks = (Branches([[], [BatchNorm(), ReLU(), Conv2D(4, 3, padding=1)]]) for _ in range(2))
    branches = Branches([[Conv2D(4, 1), BatchNorm(), ReLU()], [Conv2D(3, 3, padding=1)]])
    first = [Input((6, 5, 1)), Conv2D(4, 3, padding=1), BatchNorm(), Conv2D(8, 3, padding=1)]
    return Sequential([*first, *dense_blocks, branches, Flatten(), Linear(3)], seed=0)


def many_ends():
    """A net whose branches end in layers of many kinds, all of which write slices."""
    ends = [
        [Conv2D(4, 1), MaxPool2D(3, stride=1, padding=1)],
        [Conv2D(4, 1), LayerNorm(), Dropout(0.2)],
        [Upsample(2), Conv2D(4, 3, padding=1), MaxPool2D(2), BatchNorm()],
        [MaxPool2D((6, 5)), ConvTranspose2D(4, (6, 5))],
        [AvgPool2D((6, 5)), Conv2D(4, 1), Upsample((6, 5), "bilinear")],
        [Conv2D(4, 1), Residual([Conv2D(4, 3, padding=1)]), GroupNorm(2)],
    ]
    return Sequential([Input((6, 5, 1)), Branches(ends), Flatten(), Linear(3)], seed=0)


def trained(device, *, graph, optimizer="adam", net=toy_run.net, callbacks=(), **options):
    data = toy_run.images(22)
    normalization = Normalization.from_dataset(data)
    augmentation = Augmentation(shift=1, flip=True)
    loader = Loader(
        data,
        5,
        normalization=normalization,
        augmentation=augmentation,
        seed=3,
        device=device,
        dtype=options.get("precision", "float32"),
    )
    trainer = Trainer(net().to(device), optimizer, lr=0.01, graph=graph, fuse=True, **options)
    trainer.fit(loader, epochs=2, progress=False, metrics_every=3, callbacks=callbacks)
    return trainer.snapshot().tensors


@pytest.mark.kernels
@pytest.mark.parametrize("graph", [False, True], ids=["launches", "graph"])
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_training_gives_the_emulated_devices_bits(schedule, device, graph):
    expected = trained("emulated", graph=False)
    with standin.installed(("90", "90"), schedule=schedule):
        on_gpu = trained(device, graph=graph)
    assert toy_run.same_arrays(on_gpu, expected)


@pytest.mark.kernels
@pytest.mark.parametrize("graph", [False, True], ids=["launches", "graph"])
@pytest.mark.parametrize(
    "options",
    [
        {"shards": 2},
        {"clip": 0.1, "ema": 0.9, "accumulate": 2},
        {"clip": "value:0.01", "optimizer": "lion", "accumulate": 3},
        {"optimizer": "filters -> muon; * -> sgd", "precision": "bfloat16"},
        {"net": norm_sums_and_slices},
        {"net": many_ends},
    ],
    ids=lambda options: options["net"].__name__ if "net" in options else ",".join(options),
)
def test_training_with_further_options_gives_the_emulated_devices_bits(schedule, graph, options):
    expected = trained("emulated", graph=False, **options)
    with standin.installed(("90",), schedule=schedule):
        on_gpu = trained("cuda:0", graph=graph, **options)
    assert toy_run.same_arrays(on_gpu, expected)


class EveryThird(Shadow):
    """A shadow that works in this process. Once it knows the sizes of the calls, it checks all calls of every third
    step.

    launched: for each step that it checked, the number of kernels that were launched one by one.
    """

    instances: ClassVar[list[EveryThird]] = []

    def __init__(self, share, violation, folder, **options):
        super().__init__(share, violation, folder, **options, make=FakeWorker)
        self.steps_asked_about, self.launched = 0, {}
        self.instances.append(self)

    def _seconds_left(self):
        return 1e9

    def due(self):
        self.steps_asked_about += 1
        return super().due() and self.steps_asked_about % 3 == 0

    def _draw_sites(self):
        return set(self._sizes)

    @contextlib.contextmanager
    def checking(self, step):
        before = len(machine.current().launches)
        with super().checking(step):
            yield
        self.launched[step] = len(machine.current().launches) - before


@pytest.fixture
def every_third(monkeypatch):
    monkeypatch.setattr("gpuconv.training.trainer.Shadow", EveryThird)
    monkeypatch.setattr(EveryThird, "instances", [])
    return EveryThird.instances


@pytest.mark.kernels
def test_a_shadowed_run_with_a_graph_has_the_same_bits(schedule, every_third, monkeypatch):
    replayed = []
    run = Replay.run

    def recorded(self, work, steps, shape, same):
        replayed.append(steps)
        return run(self, work, steps, shape, same)

    monkeypatch.setattr(Replay, "run", recorded)
    with standin.installed(("90",), schedule=schedule):
        expected = trained("cuda:0", graph=True)
        assert sum(replayed) == 10
        replayed.clear()
        shadowed = trained("cuda:0", graph=True, shadow=0.5)
    assert toy_run.same_arrays(shadowed, expected)
    (shadow,) = every_third
    assert len(shadow.launched) >= 2
    assert all(count > 5 for count in shadow.launched.values())  # one by one, not as a graph
    assert sum(replayed) == 10 - len(shadow.launched) > 0  # all other steps as graphs
    rows = {row.op: row for row in shadow.report()}
    assert {"load_batch", "adam_step", "advance_step_counter"} <= rows.keys()
    assert all(row.checked and row.worst <= 1 for row in rows.values())


@pytest.mark.kernels
@pytest.mark.parametrize("violation", ["stop", "warn"])
def test_a_wrong_result_between_replays_of_a_graph_is_found(schedule, every_third, monkeypatch, tmp_path, violation):
    correct = cuda_ops.linear.linear

    def wrong(*arrays, **options):
        y = correct(*arrays, **options)
        return cuda_ops.arithmetic.add(y, y, out=y)

    monkeypatch.setattr(cuda_ops.linear, "linear", wrong)
    monkeypatch.chdir(tmp_path)
    kind = {"stop": ShadowError, "warn": ShadowWarning}[violation]
    expects = pytest.raises if violation == "stop" else pytest.warns
    with standin.installed(("90",), schedule=schedule), expects(kind, match="linear of fc1 is beyond its bound"):
        trained("cuda:0", graph=True, shadow=0.5, violation=violation)
    file = next(iter(tmp_path.glob("shadow-linear-fc1-step*.safetensors")))
    call = Call.read(file, checkpoint.load(file))
    assert call.compare().wrong
    assert not call.on("numpy").compare().wrong


@pytest.mark.kernels
def test_arrays_may_be_replaced_by_views_between_the_steps_of_a_graph(schedule):
    """The addresses stay, but what was kept for the old arrays is freed with them."""

    class Replace(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 5:
                for layer in trainer.net.walk():
                    layer.arrays.update({name: array[...] for name, array in layer.arrays.items() if array.ndim})
                gc_module.collect()
                backends.recorder(trainer.net.device).prepare(lambda: self.fill_what_is_free(trainer.net.device))

        def fill_what_is_free(self, device):
            self.others = [backends.asarray(np.full(size, 7), device) for size in (64, 128, 256) for _ in range(8)]

    expected = trained("emulated", graph=False, callbacks=[Replace()])
    with standin.installed(("90",), schedule=schedule):
        on_gpu = trained("cuda:0", graph=True, callbacks=[Replace()])
    assert toy_run.same_arrays(on_gpu, expected)


@pytest.mark.slow
def test_repeated_runs_need_no_more_memory_or_streams(schedule):
    with standin.installed(("90",), schedule=schedule) as machine:
        used = []
        for _ in range(3):
            trained("cuda:0", graph=True)
            gc_module.collect()
            used.append((len(machine.queues), machine.allocated))
        assert used[1] == used[2]


def test_clipping_of_empty_gradients_never_reads_freed_memory():
    with standin.installed(("90",)):
        grads, clipped = [backends.zeros((0, 2), np.float32, "cuda:0")], backends.zeros((4,), np.float64, "cuda:0")
        for _ in range(4):
            ops.clip_norm(clipped, grads, max_norm=1.0)
            assert backends.to_numpy(clipped).tolist() == [1, 1, 0, 0]
            reused = [backends.asarray(np.full(1, np.nan, np.float32), "cuda:0") for _ in range(8)]
            assert all(map(np.isnan, map(backends.to_numpy, reused)))
