"""Digests of a run: every tensor of every step, the same bits without and with them, and files that go on."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from gpuconv import backends, models
from gpuconv.checkpoint import CheckpointError
from gpuconv.layers import Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU, Sequential
from gpuconv.training import Digests, Trainer
from gpuconv.training.tensor_digests import Digest, read
from tests import standin
from tests.training import small


class Stop:
    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, record):
        if trainer.steps == self.step:
            raise KeyboardInterrupt


def test_every_tensor_of_a_step_in_the_order_of_its_work(tmp_path):
    run = small.trainer()
    small.fit(run, run_dir=tmp_path / "run", callbacks=[Digests(every=1)])
    steps = read(tmp_path / "run" / "digests.jsonl")
    assert [step.step for step in steps] == [*range(1, 16)]  # three epochs, and nothing of the validation between them
    for step in steps:
        assert [(each.direction, each.name) for each in step.tensors] == [
            *(("forward", name) for name, layer in run.net.children()),
            *(("backward", name) for name, layer in reversed(run.net.children()) if name not in ("input", "conv1")),
            *(("gradient", name) for name in run.net.grads()),
            *(("update", name) for name in run.net.state_dict()),
            ("loss", "loss"),
        ]
    last = {(each.direction, each.name): each for each in steps[-1].tensors}
    for name, value in run.net.state_dict().items():
        assert last["update", name] == replace(Digest.of("update", name, value), moved=last["update", name].moved), name
    assert last["update", "conv1.weight"].moved > 0
    assert last["forward", "conv1"].products == 3 * 3 * 1
    assert last["gradient", "conv1.weight"].products == 2 * 6 * 5  # of two images, the last batch
    assert last["forward", run.net.children()[-1][0]].size == 2 * 3


def test_inner_tensors_are_recorded_in_the_first_steps_and_then_every_nth(tmp_path):
    for every in (1, 4, 10, 99):
        small.fit(small.trainer(), callbacks=[Digests(tmp_path / f"{every}.jsonl", every)])
    full = read(tmp_path / "1.jsonl")
    for every, inside in {4: {1, 2, 3, 4, 8, 12}, 10: {*range(1, 11)}, 99: {*range(1, 16)}}.items():
        for step, of_all in zip(read(tmp_path / f"{every}.jsonl"), full, strict=True):
            outside = [each for each in of_all.tensors if each.direction in ("gradient", "update", "loss")]
            assert step.tensors == (of_all.tensors if step.step in inside else outside), (every, step.step)


def test_the_first_step_of_a_file_is_recorded_whole(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small.fit(small.trainer(), run_dir=tmp_path / "run", callbacks=[Stop(7)])
    small.fit(small.trainer(), run_dir=tmp_path / "run", callbacks=[Digests(every=4)], resume=True)
    steps = read(tmp_path / "run" / "digests.jsonl")
    assert [step.step for step in steps if step.tensors[0].direction == "forward"] == [6, 8, 12]
    assert [step.step for step in steps] == [*range(6, 16)]  # after the last checkpoint


@pytest.mark.slow
def test_the_digests_of_a_run_cost_less_than_a_tenth_of_its_time(tmp_path):
    """In processor time, of one run after another: the least of several pairs."""
    images = np.random.default_rng(0).integers(0, 256, (640, 8, 8, 1)).astype(np.uint8), np.arange(640) % 10

    def seconds(*callbacks):
        run = Trainer(models.build("digits-net", input_shape=(8, 8, 1), classes=10), "adam", lr=0.001)
        run.fit(images, epochs=2, batch_size=64, progress=False, callbacks=callbacks)  # steps recorded whole
        begin = time.process_time()
        run.fit(images, epochs=12, batch_size=64, progress=False, callbacks=callbacks)
        assert run.steps == 120
        return time.process_time() - begin

    costs = [seconds(Digests(tmp_path / "digests.jsonl")) / seconds() for _ in range(5)]
    assert min(costs) < 1.1, costs


def test_sum_norm_and_hash_of_each_dtype():
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        values = backends.asarray(np.array([[3.0, -4.0], [0.0, 12.0]]), dtype=dtype)
        found = Digest.of("forward", "x", values)
        assert (found.sum, found.norm, found.size, found.dtype) == (11.0, 13.0, 4, dtype)
        assert found.hash != Digest.of("forward", "x", -values).hash
        assert Digest.of("forward", "x", values * np.nan).norm is None
    moved = Digest.of("update", "x", np.array([3.0, 4.0], np.float32), before=np.array([0.0, 0.0], np.float32))
    assert moved.moved == 5.0
    assert Digest.of("forward", "x", np.full(4, 1e30, np.float32)).norm == pytest.approx(2e30)  # beyond float32


def test_large_tensors_are_summed_as_a_whole():
    values, before = np.random.default_rng(0).normal(size=(2, 20_001, 1)).astype(np.float32)
    found = Digest.of("update", "x", values, before=before)
    exact, moved = values.astype(np.float64), values.astype(np.float64) - before
    assert found.sum == pytest.approx(exact.sum(), rel=1e-12)
    assert (found.norm, found.moved) == pytest.approx((np.linalg.norm(exact), np.linalg.norm(moved)), rel=1e-12)


WAYS = [("numpy", "float32"), ("numpy", "float16")]
WAYS += [pytest.param(*way, marks=pytest.mark.kernels) for way in product(["emulated"], ["float32", "float16"])]
WAYS += [pytest.param("cuda", "float32", marks=pytest.mark.kernels)]  # on the stand-in for CuPy


@pytest.fixture
def device(request):
    with standin.installed(["90"]) if request.param == "cuda" else contextlib.nullcontext():
        yield request.param


@pytest.mark.parametrize(("device", "precision"), WAYS, indirect=["device"])
def test_recording_changes_no_bit(device, precision, tmp_path):
    def trained(callbacks):
        row = [Conv2D(4, 3, padding=1), ReLU(), MaxPool2D(2), Flatten(), Linear(3)]
        net = Sequential([Input((6, 6, 1)), *row], seed=1, device=device)
        run = Trainer(net, "adam", lr=0.01, precision=precision, graph=device != "numpy" or None)
        data = np.random.default_rng(0).integers(0, 256, (16, 6, 6, 1)).astype(np.uint8), np.arange(16) % 3
        run.fit(data, epochs=6, batch_size=8, progress=False, callbacks=callbacks)
        return run

    plain, watched = trained([]), trained([Digests(tmp_path / "digests.jsonl", every=1)])
    assert small.bits(plain) == small.bits(watched)
    steps = read(tmp_path / "digests.jsonl")
    assert len(steps) == 12
    names = {(each.direction, each.name) for each in steps[-1].tensors}
    assert ("forward", "pool1") in names  # of the fused layers too
    hashes = {
        each.hash for step in steps for each in step.tensors if (each.direction, each.name) == ("forward", "pool1")
    }
    assert len(hashes) == 12


def test_a_resumed_run_writes_the_same_file(tmp_path):
    small.fit(small.trainer(), run_dir=tmp_path / "straight", callbacks=[Digests()])

    with pytest.raises(KeyboardInterrupt):
        small.fit(small.trainer(), run_dir=tmp_path / "run", callbacks=[Digests(), Stop(7)])
    with open(tmp_path / "run" / "digests.jsonl", "a") as file:
        file.write('{"step": 8, "on": "nu')  # killed in the middle of a line
    small.fit(small.trainer(), run_dir=tmp_path / "run", callbacks=[Digests()], resume=True)
    straight, run = ((tmp_path / name / "digests.jsonl").read_bytes() for name in ("straight", "run"))
    assert run == straight


def test_shards_are_listed_one_by_one(tmp_path):
    small.fit(small.trainer(shards=2), epochs=1, callbacks=[Digests(tmp_path / "digests.jsonl")])
    names = [(each.direction, each.name) for each in read(tmp_path / "digests.jsonl")[0].tensors]
    assert names.count(("forward", "conv1")) == 2
    assert names.count(("gradient", "conv1.weight")) == 1


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"Digests\(\) writes into the run directory, and the run has none"):
        small.fit(small.trainer(), callbacks=[Digests()])
    for every in (0, -1, 2.5, "10", True):
        with pytest.raises((ValueError, TypeError), match="every"):
            Digests(every=every)
    with pytest.raises(CheckpointError, match="cannot read the digests"):
        read(tmp_path / "none.jsonl")
    tensor = ["forward", "conv1", "float32", 8, 9, "00000000", 1.0, 2.0, 0.0]
    wrong = [
        [1],
        ["forward", *tensor],
        *(
            [*tensor[:at], value, *tensor[at + 1 :]]
            for at in (2, 3, 4, 6, 7, 8)
            for value in ("x", 10**400, float("nan"))
        ),
    ]
    lines = [json.dumps({"step": 1, "on": "a", "tensors": [each]}) for each in wrong]
    for number, line in enumerate(["x", "3", "{}", *lines, "[" * 100000]):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps({"step": 1, "on": "a", "tensors": []}) + f"\n{line}\n")
        with pytest.raises(CheckpointError, match=f"{number}.jsonl, line 2, is no line of digests"):
            read(path)
