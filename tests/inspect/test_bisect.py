"""Two sides train one net: they agree, or the first wrong call is named, be it forward, backward or an update."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gpuconv import lab
from gpuconv.backends import cpu
from gpuconv.dtypes import PRECISIONS
from gpuconv.inspect import bisect
from gpuconv.inspect.bisect import Bisection, Side
from gpuconv.layers import BatchNorm, Conv2D, Dropout, Flatten, Input, Linear, MaxPool2D, ReLU, Sequential
from gpuconv.training import Trainer
from tests import standin

GROUPS = "filters -> muon:lr=0.02; *.bias -> adam:lr=0.01; * -> sgd:lr=0.05,momentum=0.9"


def trainer(device="numpy", optimizer="adam", precision="float32", filters=4, fuse=None):
    row = [Conv2D(filters, 3, padding=1), BatchNorm(), ReLU(), MaxPool2D(2), Conv2D(5, 3), ReLU(), Flatten()]
    net = Sequential([Input((8, 8, 2)), *row, Dropout(0.2), Linear(3)], seed=1, device=device)
    return Trainer(net, optimizer, precision=precision, seed=4, fuse=fuse)


RANDOM = np.random.default_rng(0)
DATA = RANDOM.integers(0, 256, (32, 8, 8, 2)).astype(np.uint8), np.arange(32) % 3


def test_all_precisions_agree_with_float32():
    """Each call is checked on its own, so the two sides may even have different optimizers."""
    for precision in PRECISIONS:
        outcome = bisect(trainer(), trainer(precision=precision, optimizer=GROUPS), DATA, steps=3, batch_size=8)
        assert outcome.violation is None, outcome
        assert all(count > 60 for count in outcome.calls)
    assert str(outcome).startswith("agree over 3 steps: ")


def test_trainers_that_have_trained_before_are_compared_for_the_given_number_of_further_steps(monkeypatch):
    a, b = trainer(), trainer()
    a.fit(DATA, epochs=3, batch_size=8, progress=False)
    fresh, trained = (bisect(each, trainer(), DATA, steps=2, batch_size=8).calls[0] for each in (trainer(), a))
    assert fresh == trained
    assert a.steps == 3 * 4 + 2
    correct = cpu.conv.conv2d

    def wrong(*arrays, **options):
        result = correct(*arrays, **options)
        return result + np.float32(0.125) if b.steps == 1 else result

    monkeypatch.setattr(cpu.conv, "conv2d", wrong)
    violation = bisect(a, b, DATA, steps=3, batch_size=8).violation
    assert (violation.side, violation.step, violation.op) == (1, 2, "conv2d")


def test_a_missing_kernel_file_is_refused_before_a_side_trains(tmp_path):
    a, b = trainer(), trainer()
    with pytest.raises(ValueError, match=r"there is no kernel file .*mine\.cu"):
        bisect(a, b, DATA, kernels={"activation.cu": tmp_path / "mine.cu"}, batch_size=8)
    assert (a.steps, b.steps) == (0, 0)


@pytest.mark.kernels
def test_numpy_and_emulated_agree_although_the_emulated_side_is_fused():
    outcome = bisect(trainer(), trainer("emulated"), DATA, steps=2, batch_size=8)
    assert outcome.violation is None, outcome
    assert outcome.calls[0] > outcome.calls[1] > 30


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_wrong_call_is_named_with_its_element(direction, monkeypatch):
    module, name, at, layer = {
        "forward": (cpu.conv, "conv2d", (1, 0, 1, 3), "conv2"),
        "backward": (cpu.pool, "max_pool2d_backward", (2, 7, 0, 1), "pool1"),
    }[direction]
    correct, a, b = getattr(module, name), trainer(), trainer()

    def wrong(*arrays, **options):
        result = correct(*arrays, **options)
        if b.steps == 1 and (direction == "backward" or result.shape[-1] == 5):
            result[at] += 0.125
        return result

    monkeypatch.setattr(module, name, wrong)
    violation = bisect(a, b, DATA, steps=3, batch_size=8).violation
    assert (violation.side, violation.step, violation.layer, violation.direction, violation.op) == (
        1,
        2,
        layer,
        direction,
        name,
    )
    assert (violation.worst.result, violation.worst.at) == ("result", at)
    assert violation.worst.given - violation.worst.expected == pytest.approx(0.125, rel=1e-3)
    assert violation.other_share > 1  # the other side runs the same wrong function


@pytest.mark.parametrize("name", ["conv2.weight", "norm1.bias", "norm1.weight"])
def test_a_wrong_update_names_the_parameter(name, monkeypatch):
    b = trainer(optimizer=GROUPS)
    op = {"conv2.weight": "muon_step", "norm1.bias": "adam_step", "norm1.weight": "sgd_step"}[name]
    module = cpu.muon if op == "muon_step" else cpu.optim
    correct, param = getattr(module, op), b.net.params()[name]

    def wrong(params, *arrays, **options):
        correct(params, *arrays, **options)
        if any(array is param for array in params):
            param.flat[1] += 0.5

    monkeypatch.setattr(module, op, wrong)
    outcome = bisect(trainer(optimizer=GROUPS), b, DATA, batch_size=8)
    violation = outcome.violation
    assert (violation.side, violation.step, violation.direction, violation.op, violation.parameter) == (
        1,
        1,
        "update",
        op,
        name,
    )
    assert np.ravel_multi_index(violation.worst.at, param.shape) == 1
    assert violation.other_share <= 1
    assert f"differ first at step 1: {op} of {name}, update, on B" in str(outcome)


PLANTED = {  # by op: a line of its .cu, the line that replaces it, and what must be named
    "relu": (
        "map(y, x, n, rows, Relu<Real>{});",
        "map(y, x, n, rows, Relu<Real>{}); if (global_thread() == 0) y[3] = DTYPE(9);",
        ("relu1", "forward", "relu", "", (0, 0, 0, 3)),
    ),
    "max_pool2d_backward": (
        "result.at[j] = round_to<DTYPE>(sum[j]);",
        "result.at[j] = round_to<DTYPE>(sum[j] + Real(i == 2 && j == 1 ? 0.5 : 0));",
        ("pool1", "backward", "max_pool2d_backward", "", (0, 0, 2, 1)),
    ),
    "adam_step": (
        "copy.at[j] = round_to<GRAD>(values[0]);",
        "if (blockIdx.x == 2 && i == 0 && j == 3) numbers[0].at[j] += DTYPE(0.5);",
        ("", "update", "adam_step", "norm1.weight", (3,)),
    ),
}


@pytest.mark.kernels
@pytest.mark.parametrize("op", PLANTED)
def test_a_wrong_kernel_in_a_users_file_is_named(op, tmp_path):
    line, planted, named = PLANTED[op]
    file, text = tmp_path / "planted.cu", lab.template(op)
    assert line in text
    file.write_text(text.replace(line, planted, 1))
    kernels = {lab.shipped_file(op): file}
    for a in ("numpy", "emulated"):
        outcome = bisect(trainer(a, fuse=False), trainer("emulated", fuse=False), DATA, kernels=kernels, batch_size=8)
        violation = outcome.violation
        assert (violation.side, violation.step) == (1, 1)
        assert (violation.layer, violation.direction, violation.op, violation.parameter, violation.worst.at) == named
        assert violation.other_share <= 1  # the other side runs the shipped kernel on the same arrays


@pytest.mark.kernels
@pytest.mark.parametrize("schedule", ["late", "early"])
def test_a_cuda_device_agrees_with_numpy_and_a_wrong_kernel_on_it_is_named(schedule, tmp_path):
    """The CUDA device is a stand-in, which runs the work of a stream as late or as early as CUDA allows."""
    with standin.installed(["90"], schedule=schedule):
        outcome = bisect(trainer(), trainer("cuda"), DATA, steps=2, batch_size=8)
        assert outcome.violation is None, outcome
        assert outcome.calls[0] > outcome.calls[1] > 30  # the CUDA side is fused
        for op, (line, planted, named) in PLANTED.items():
            file = tmp_path / "planted.cu"
            file.write_text(lab.template(op).replace(line, planted, 1))
            sides = trainer("cuda", fuse=False), trainer("cuda", fuse=False)
            violation = bisect(*sides, DATA, kernels={lab.shipped_file(op): file}, batch_size=8).violation
            assert (violation.side, violation.step) == (1, 1)
            assert (
                violation.layer,
                violation.direction,
                violation.op,
                violation.parameter,
                violation.worst.at,
            ) == named
            assert violation.other_share <= 1  # the other side runs the shipped kernel on the same arrays


def test_the_parts_of_a_side_are_written_in_any_order():
    assert Side.parse("emulated") == Side("emulated")
    assert Side.parse("emulated,bf16") == Side("emulated", "bfloat16")
    assert Side.parse("tf32,cuda:1") == Side("cuda:1", "tf32")
    assert Side.parse("simt-64x64, float16") == Side(None, "float16", "simt-64x64")
    assert Side.parse("CPU,fp32,SIMT_64x64") == Side("numpy", "float32", "simt-64x64")
    assert Side.parse("cuda:01") == Side("cuda:1")
    assert Side.parse("cuda") == Side("cuda")  # the first GPU that works
    for text, message in {
        "emulatd": "did you mean 'emulated'",
        "numpy,cpu": "names two of a kind, numpy and cpu; give one",
        "": "unknown device, precision, algorithm or run ''",
    }.items():
        with pytest.raises(ValueError, match=message):
            Side.parse(text)


def test_two_different_nets_are_refused():
    with pytest.raises(ValueError, match="the two nets have different layers"):
        bisect(trainer(), trainer(filters=8), DATA)


def test_skipped_calls_are_not_reported_as_within_their_bounds():
    found = Bisection(2, (3, 4), (1, 0))
    agreed = "agree over 2 steps: 3 calls of A and 4 of B checked, each within its bound"
    assert str(found) == f"{agreed}; 1 more had NaN or infinity"
    assert str(dataclasses.replace(found, skipped=(0, 0))) == agreed
