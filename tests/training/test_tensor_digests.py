"""Digests of a run: by default they cover every tensor of every step, they change no bit, and a resumed run continues
their file."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from gpuconv import initializers, models
from gpuconv.checkpoint import CheckpointError
from gpuconv.layers import (
    BatchNorm,
    Conv2D,
    Flatten,
    Input,
    Layer,
    Linear,
    MaxPool2D,
    NormChain,
    ReLU,
    Residual,
    Sequential,
    Variable,
)
from gpuconv.training import Digests, Trainer
from gpuconv.training.tensor_digests import Digest, read
from tests import standin, toy_run


class Interrupt:
    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, record):
        if trainer.steps == self.step:
            raise KeyboardInterrupt


def test_digests_do_not_replace_another_file_of_the_run(tmp_path):
    path = tmp_path / "run" / "run.json"
    with pytest.raises(ValueError, match=r"path .*run.json is another file of the run; give the digests another name"):
        toy_run.fit(toy_run.trainer(), epochs=1, run_dir=path.parent, callbacks=[Digests(path)])
    assert json.loads(path.read_text())["settings"]


def test_digests_list_every_tensor_of_each_step_in_the_order_of_the_work(tmp_path):
    run = toy_run.trainer()
    toy_run.fit(run, run_dir=tmp_path / "run", callbacks=[Digests()])
    steps = read(tmp_path / "run" / "digests.jsonl")
    assert [step.step for step in steps] == [*range(1, 16)]  # three epochs, without the validation between them
    for step in steps:
        assert [(digest.direction, digest.name) for digest in step.tensors] == [
            *(("forward", name) for name, layer in run.net.children()),
            *(("backward", name) for name, layer in reversed(run.net.children()) if name not in ("input", "conv1")),
            *(("gradient", name) for name in run.net.grads()),
            *(("update", name) for name in run.net.state_dict()),
            ("loss", "loss"),
        ]
    last = {(digest.direction, digest.name): digest for digest in steps[-1].tensors}
    for name, value in run.net.state_dict().items():
        assert last["update", name] == replace(Digest.of("update", name, value), moved=last["update", name].moved), name
    assert last["update", "conv1.weight"].moved > 0
    assert last["forward", "conv1"].products == 3 * 3 * 1
    assert last["gradient", "conv1.weight"].products == 2 * 6 * 5  # the last batch has two images
    assert last["forward", run.net.children()[-1][0]].size == 2 * 3


def test_inner_tensors_are_recorded_in_the_first_steps_and_then_every_nth(tmp_path):
    for every in (1, 4, 10, 99):
        toy_run.fit(toy_run.trainer(), callbacks=[Digests(tmp_path / f"{every}.jsonl", every)])
    full = read(tmp_path / "1.jsonl")
    for every, inside in {4: {1, 2, 3, 4, 8, 12}, 10: {*range(1, 11)}, 99: {*range(1, 16)}}.items():
        for step, complete in zip(read(tmp_path / f"{every}.jsonl"), full, strict=True):
            outside = [digest for digest in complete.tensors if digest.direction in ("gradient", "update", "loss")]
            assert step.tensors == (complete.tensors if step.step in inside else outside), (every, step.step)


def test_the_first_step_of_a_file_has_all_tensors(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[Interrupt(7)])
    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[Digests(every=4)], resume=True)
    steps = read(tmp_path / "run" / "digests.jsonl")
    assert [step.step for step in steps if step.tensors[0].direction == "forward"] == [6, 8, 12]
    assert [step.step for step in steps] == [*range(6, 16)]  # from the last checkpoint on


@pytest.mark.slow
def test_digests_add_less_than_15_percent_to_the_time_of_a_run(tmp_path):
    """The processor times of two runs are compared; of several such pairs, the lowest ratio counts."""
    images = np.random.default_rng(0).integers(0, 256, (640, 8, 8, 1)).astype(np.uint8), np.arange(640) % 10

    def seconds(*callbacks):
        run = Trainer(models.build("digits-net", input_shape=(8, 8, 1), classes=10), "adam", lr=0.001)
        run.fit(images, epochs=2, batch_size=64, progress=False, callbacks=callbacks)
        begin = time.process_time()
        run.fit(images, epochs=12, batch_size=64, progress=False, callbacks=callbacks)
        assert run.steps == 120
        return time.process_time() - begin

    costs = [seconds(Digests(tmp_path / "digests.jsonl")) / seconds() for _ in range(5)]
    assert min(costs) < 1.15, costs


def test_files_of_the_first_format_are_read(tmp_path):
    """Their hashes are CRC-32 without a prefix."""
    old = ["forward", "conv1", "float32", 65536, 9, "5f1c02aa", 12.5, 80.1, 0]
    (tmp_path / "old.jsonl").write_text(json.dumps({"step": 1, "on": "numpy", "tensors": [old]}) + "\n")
    (step,) = read(tmp_path / "old.jsonl")
    assert (step.tensors[0].hash, step.tensors[0].kind, step.tensors[0].norm) == ("crc32:5f1c02aa", "crc32", 80.1)
    for number in (3, "2", None):
        (tmp_path / "new.jsonl").write_text(json.dumps({"format": number, "step": 1, "on": "", "tensors": []}) + "\n")
        with pytest.raises(CheckpointError, match="line 1, is not a line of digests: its format is"):
            read(tmp_path / "new.jsonl")


DEVICES_AND_PRECISIONS = [("numpy", "float32"), ("numpy", "float16")]
DEVICES_AND_PRECISIONS += [
    pytest.param("emulated", "float32", marks=pytest.mark.kernels),
    pytest.param("emulated", "float16", marks=pytest.mark.kernels),
    pytest.param("cuda", "float32", marks=pytest.mark.kernels),  # the first GPU of the stand-in for CuPy
    pytest.param("cuda:1", "float32", marks=pytest.mark.kernels),  # its second GPU, which is not the current one
]


@pytest.fixture
def device(request):
    with standin.installed(["90", "90"]) if "cuda" in request.param else contextlib.nullcontext():
        yield request.param


@pytest.mark.parametrize(("device", "precision"), DEVICES_AND_PRECISIONS, indirect=["device"])
def test_recording_digests_changes_no_bit(device, precision, tmp_path):
    def trained(callbacks):
        row = [Conv2D(4, 3, padding=1), ReLU(), MaxPool2D(2)]
        row += [Residual([Conv2D(4, 3, padding=1), BatchNorm()], [Conv2D(4, 1)]), ReLU()]
        row += [Residual([Conv2D(4, 3, padding=1), ReLU(), Conv2D(4, 1), BatchNorm()]), ReLU(), Flatten(), Linear(3)]
        net = Sequential([Input((6, 6, 1)), *row], seed=1, device=device)
        run = Trainer(net, "adam", lr=0.01, precision=precision, graph=device != "numpy" or None)
        data = np.random.default_rng(0).integers(0, 256, (16, 6, 6, 1)).astype(np.uint8), np.arange(16) % 3
        run.fit(data, epochs=6, batch_size=8, progress=False, callbacks=callbacks)
        return run

    plain, recorded = trained([]), trained([Digests(tmp_path / "digests.jsonl", every=1)])
    assert toy_run.bits(plain) == toy_run.bits(recorded)
    steps = read(tmp_path / "digests.jsonl")
    assert len(steps) == 12
    names = {(digest.direction, digest.name) for digest in steps[-1].tensors}
    assert ("forward", "pool1") in names  # on a device with kernels, pool1 is the end of a fused layer
    hashes = {
        digest.hash
        for step in steps
        for digest in step.tensors
        if (digest.direction, digest.name) == ("forward", "pool1")
    }
    assert len(hashes) == 12


def test_a_chain_of_fused_layers_is_named_after_its_ends(tmp_path):
    row = [Conv2D(2, 1), ReLU(), Conv2D(4, 1), BatchNorm(), Conv2D(4, 1), BatchNorm(), ReLU(), Flatten(), Linear(3)]
    run = Trainer(Sequential([Input((2, 2, 1)), *row], seed=1), "sgd", lr=0.01)
    run.trained = run.net.fuse()
    assert any(type(layer) is NormChain for layer in run.trained)
    data = np.zeros((8, 2, 2, 1), np.float32), np.arange(8) % 3
    run.fit(data, epochs=1, batch_size=8, progress=False, callbacks=[Digests(tmp_path / "digests.jsonl")])
    (step,) = read(tmp_path / "digests.jsonl")
    names = {
        direction: [digest.name for digest in step.tensors if digest.direction == direction]
        for direction in ("forward", "backward")
    }
    assert names["forward"] == ["input", "relu1", "relu2", "flatten1", "fc1"]
    assert names["backward"] == ["fc1", "flatten1", "conv2"]


@pytest.mark.parametrize("activations", [[], [ReLU]], ids=["plain", "relu"])
def test_tensors_of_a_fused_residual_block_are_those_of_the_unfused_block(activations, tmp_path):
    def tensors(fuse):
        body = [Conv2D(2, 1), BatchNorm(), ReLU(), Conv2D(2, 1), BatchNorm()]
        row = [Residual(body, [Conv2D(2, 1)]), *[activation() for activation in activations], Flatten(), Linear(3)]
        net = Sequential([Input((2, 2, 1)), Conv2D(2, 1), *row], seed=1)
        run = Trainer(net, "sgd", lr=0.01, fuse=fuse)
        data = np.random.default_rng(0).standard_normal((8, 2, 2, 1)).astype(np.float32), np.arange(8) % 3
        path = tmp_path / f"{fuse}.jsonl"
        run.fit(data, epochs=1, batch_size=8, progress=False, callbacks=[Digests(path)])
        (step,) = read(path)
        hashes = {(digest.direction, digest.name): digest.hash for digest in step.tensors}
        assert len(hashes) == len(step.tensors)  # each tensor is named once
        return hashes

    separate, fused = tensors(False), tensors(True)
    assert {("forward", "relu1" if activations else "residual1"), ("backward", "residual1")} <= fused.keys()
    assert fused == {tensor: separate[tensor] for tensor in fused}


def test_a_resumed_run_writes_the_same_file(tmp_path):
    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "uninterrupted", callbacks=[Digests()])

    with pytest.raises(KeyboardInterrupt):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[Digests(), Interrupt(7)])
    with open(tmp_path / "run" / "digests.jsonl", "a") as file:
        file.write('{"step": 8, "on": "nu')  # killed in the middle of a line
    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[Digests()], resume=True)
    uninterrupted, run = ((tmp_path / name / "digests.jsonl").read_bytes() for name in ("uninterrupted", "run"))
    assert run == uninterrupted


def test_a_resumed_run_keeps_the_lines_of_an_older_version(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[Interrupt(7)])
    path = tmp_path / "run" / "digests.jsonl"
    old = ["forward", "conv1", "float32", 65536, 9, "5f1c02aa", 12.5, 80.123456789012, 0]
    lines = [json.dumps({"step": step, "on": "numpy", "tensors": [old]}) for step in range(1, 8)]
    path.write_text("\n".join(lines) + "\n")
    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[Digests()], resume=True)
    assert path.read_text().split("\n")[:5] == lines[:5]  # up to the checkpoint
    assert [step.step for step in read(path)] == [*range(1, 16)]


def test_outputs_of_shards_are_listed_one_by_one(tmp_path):
    toy_run.fit(toy_run.trainer(shards=2), epochs=1, callbacks=[Digests(tmp_path / "digests.jsonl")])
    names = [(digest.direction, digest.name) for digest in read(tmp_path / "digests.jsonl")[0].tensors]
    assert names.count(("forward", "conv1")) == 2
    assert names.count(("gradient", "conv1.weight")) == 1


@dataclass(eq=False, repr=False)
class Gain(Layer):
    """Multiplies by a single number, a parameter without axes."""

    def plan(self, input_shape):
        self.variables = {"gain": Variable((), initializers.ones)}
        return input_shape

    def forward(self, x, training=False):
        self.stash(x)
        return x * self["gain"]

    def backward(self, dy, *, input_grad=True):
        (x,) = self.unstash()
        self.gradient("gain")[...] += (dy * x).sum()
        return dy * self["gain"] if input_grad else None


def test_the_gradient_of_a_parameter_without_axes_is_recorded(tmp_path):
    net = Sequential([*toy_run.net(), Gain(name="gain")])
    toy_run.fit(Trainer(net, "sgd", lr=0.01), epochs=1, callbacks=[Digests(tmp_path / "digests.jsonl")])
    first = read(tmp_path / "digests.jsonl")[0].tensors
    (found,) = [digest for digest in first if (digest.direction, digest.name) == ("gradient", "gain.gain")]
    assert found.products == toy_run.loader().batch_size * net.output_shape[0]


def test_invalid_arguments_and_lines_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Digests\(\) writes into the run directory, and the run has none"):
        toy_run.fit(toy_run.trainer(), callbacks=[Digests()])
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
    lines = [json.dumps({"step": 1, "on": "a", "tensors": [tensor]}) for tensor in wrong]
    for number, line in enumerate(["x", "3", "{}", *lines, "[" * 100000]):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps({"step": 1, "on": "a", "tensors": []}) + f"\n{line}\n")
        with pytest.raises(CheckpointError, match=f"{number}.jsonl, line 2, is not a line of digests"):
            read(path)
    with pytest.raises(CheckpointError, match="is not a line of digests: it has no entry 'tensors'"):
        read(tmp_path / "2.jsonl")
