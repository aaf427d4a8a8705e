"""Profiling a step: the time, launches and work of each layer, and the contents of the trace."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gpuconv.inspect import profile as profile_module
from gpuconv.inspect.profile import profile
from gpuconv.layers import BatchNorm, Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU, Residual, Sequential
from gpuconv.profiling import work
from gpuconv.profiling.work import Work


def small_net(device="numpy", dtype="float32"):
    body = [Conv2D(4, 3, padding=1, bias=False), BatchNorm()]
    return Sequential(
        [Input((4, 6, 3)), Conv2D(4, 3, padding=1), ReLU(), Residual(body), MaxPool2D(2), Flatten(), Linear(5)],
        device=device,
        dtype=dtype,
    )


def names(report):
    return [f"{row.name} {row.direction}".strip() for row in report.rows]


STEP = [
    "conv1 forward",
    "relu1 forward",
    "residual1 forward",
    "residual1.conv1 forward",
    "residual1.norm1 forward",
    "pool1 forward",
    "fc1 forward",
    "loss",
    "metrics",
    "fc1 backward",
    "pool1 backward",
    "residual1 backward",
    "residual1.norm1 backward",
    "residual1.conv1 backward",
    "relu1 backward",
    "conv1 backward",
    "sgd",
]


def test_there_is_a_row_for_each_layer_with_work_and_each_direction_in_order():
    report = profile(small_net(), 2, steps=2)
    assert names(report) == STEP
    assert all(row.seconds > 0 and row.launches == [] for row in report.rows)
    assert (report.arch, report.unknown) == (None, None)


class Ticks:
    """A timer that advances by one at each mark: the length of a span is the number of marks after its first one."""

    def __init__(self):
        self.now, self.hold_seconds = 0, []

    def hold(self, seconds):
        self.hold_seconds.append(seconds)

    def mark(self):
        self.now += 1
        return self.now

    def seconds(self, marks):
        return [float(mark - marks[0]) for mark in marks]


def test_a_layers_time_excludes_the_layers_inside_it(monkeypatch):
    ticks = Ticks()
    monkeypatch.setattr(profile_module, "open_timer", lambda device: ticks)
    report = profile(small_net(), 2, steps=3)
    seconds = dict(zip(names(report), [row.seconds for row in report.rows]))
    assert seconds["conv1 forward"] == 1
    assert seconds["residual1 forward"] == 3  # five ticks, less one for each of the two layers inside
    assert ticks.hold_seconds[0] == 0
    assert len(ticks.hold_seconds) == 4
    assert min(ticks.hold_seconds[1:]) > 0
    assert report.total.seconds == sum(seconds.values())


def test_rows_are_medians_over_steps_and_the_timeline_is_the_middle_step(monkeypatch):
    ticks, calls = Ticks(), []
    step_lengths = [0, 10, 70, 20]  # the first step is not counted

    def seconds(marks):
        calls.append(marks)
        return [step_lengths[len(calls) - 1] * float(mark - marks[0]) for mark in marks]

    monkeypatch.setattr(ticks, "seconds", seconds)
    monkeypatch.setattr(profile_module, "open_timer", lambda device: ticks)
    report = profile(small_net(), 2, steps=3)
    assert report.rows[0].seconds == 20
    name, direction, begin, end = report.timeline[0]
    assert (name, direction, begin) == ("step", "", 0)
    marks = 2 * len(report.timeline)  # the begin and the end of each span; the step's span has the first and the last
    assert end == 20 * (marks - 1)


def test_the_trace_is_one_step_nested_as_the_layers_are():
    report = profile(small_net(), 2, steps=1)
    machine, step, *events = json.loads(report.trace())["traceEvents"]
    assert machine["args"]["name"] == "gpuconv on numpy"
    assert (step["name"], step["ts"]) == ("step", 0)
    by_name = {event["name"]: event for event in events}
    assert {"conv1.forward", "residual1.conv1.backward", "loss", "sgd"} <= set(by_name)
    for event in events:
        assert event["ph"] == "X"
        assert 0 <= event["ts"] <= event["ts"] + event["dur"] <= step["dur"] + 0.01
    outer, inner = by_name["residual1.forward"], by_name["residual1.conv1.forward"]
    assert outer["ts"] <= inner["ts"] <= inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 0.01
    assert inner["args"]["flops"] == 2 * 2 * 4 * 6 * 4 * 9 * 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_work_of_each_layer_equals_that_counted_by_hand(dtype):
    """The batch has 2 images; s is the size of a number in bytes."""
    report = profile(small_net(dtype=dtype), 2, steps=1)
    rows, s = dict(zip(names(report), [row.work for row in report.rows])), np.dtype(dtype).itemsize
    images, maps, pooled = 2 * 4 * 6 * 3, 2 * 4 * 6 * 4, 2 * 2 * 3 * 4
    conv1, conv2, fc, norm = 4 * 9 * 3 + 4, 4 * 9 * 4, 5 * 24 + 5, 8
    assert rows["conv1 forward"] == Work(2 * maps * 27, s * (images + conv1 + maps))
    # The images need no gradient: there is only the product for dw, which moves dy, x and dw.
    assert rows["conv1 backward"] == Work(2 * maps * 27, s * (maps + images + conv1))
    assert rows["relu1 forward"] == Work(0, 2 * s * maps)
    assert rows["relu1 backward"] == Work(0, 3 * s * maps)
    assert rows["residual1 forward"] == rows["residual1 backward"] == Work(0, 3 * s * maps)
    assert rows["residual1.conv1 backward"] == Work(4 * maps * 36, s * (2 * maps + 2 * conv2 + maps))
    assert rows["residual1.norm1 forward"] == Work(0, s * (2 * maps + norm))
    assert rows["residual1.norm1 backward"] == Work(0, s * (3 * maps + 2 * norm + 8))  # mean and inv_std: 8
    assert rows["pool1 forward"] == Work(0, s * (maps + pooled))
    assert rows["fc1 forward"] == Work(2 * 2 * 5 * 24, s * (pooled + fc + 10))
    assert rows["loss"] == Work(0, 2 * 10 * s + 2 * 8)
    parameters = conv1 + conv2 + fc + norm
    assert rows["sgd"] == Work(0, 5 * s * parameters)
    assert rows["metrics"] == Work(0, 10 * s + 2 * 8 + 2 * 4 * 8)
    assert report.total.work.flops == sum(row.flops for row in rows.values())


@pytest.mark.parametrize(("precision", "scans"), [("bfloat16", 0), ("float16", 1)])
def test_the_update_of_a_16_bit_net_moves_float32_masters_and_velocities(precision, scans):
    """The parameters of a norm are float32 already. scans: how often `update_loss_scale` reads each gradient."""
    report = profile(small_net().to(precision=precision), 2, steps=1)
    parameters, norm_parameters = 4 * 9 * 3 + 4 + 4 * 9 * 4 + 5 * 24 + 5, 8
    updated = {name: row.work for name, row in zip(names(report), report.rows)}["sgd"]
    # Bytes: the gradient is read, and scanned; the parameter is written; master and velocity are read and written.
    assert updated == Work(0, (2 + 2 * scans + 2 + 2 * 4 + 2 * 4) * parameters + (5 + scans) * 4 * norm_parameters)


@pytest.mark.kernels
def test_the_profiled_step_is_that_of_the_trainer(monkeypatch):
    """It is fused, as in training on a device with kernels, and has the loss scale of float16."""
    report = profile(small_net("emulated").to(precision="float16"), 2)
    assert names(report)[0] == "conv1+relu1 forward"
    kernels = {name: [kernel["kernel"] for kernel in row.launches] for name, row in zip(names(report), report.rows)}
    assert kernels["sgd"] == ["loss_scale_update", "sgd_step"]
    assert kernels["metrics"] == ["metrics_add"]
    steps = []
    step_of = profile_module.Trainer.step
    monkeypatch.setattr(profile_module.Trainer, "step", lambda *arguments: steps.append(step_of(*arguments)))
    profile(small_net(), 2, steps=3)
    assert len(steps) == 5  # the times of the first two do not count


def test_a_fused_layer_does_the_products_of_its_layers_and_moves_less():
    net = Sequential([Input((4, 6, 3)), Conv2D(4, 3, padding=1), ReLU(), MaxPool2D(2), Flatten(), Linear(5)])
    separate, fused = (profile(net, 2, steps=1, fuse=fuse) for fuse in (False, True))
    assert names(fused)[0] == "conv1+relu1+pool1 forward"
    assert fused.total.work.flops == separate.total.work.flops
    assert fused.rows[0].work == Work(2 * 2 * 24 * 4 * 27, 4 * (2 * 24 * 3 + 4 * 27 + 4 + 2 * 6 * 4))
    assert fused.total.work.bytes < separate.total.work.bytes


def test_a_chain_of_fused_layers_has_the_work_of_its_layers():
    row = [Conv2D(4, 1), BatchNorm(), Conv2D(4, 1), BatchNorm(), Conv2D(2, 1), Flatten(), Linear(3)]
    net = Sequential([Input((4, 4, 2)), *row], seed=1)
    chained, separate = (profile(net, 2, steps=1, fuse=fuse) for fuse in (True, False))
    assert names(chained)[0] == "conv1+norm1+conv2+norm2+conv3 forward"
    assert chained.total.work.flops == separate.total.work.flops
    layers = [layer for layer in net.fuse(norm_sums=False) if "conv" in layer.path]
    volume, vector = 4 * 2 * 16 * 4, 4 * 4  # bytes of a volume of four channels, and of one number for each channel
    forward, backward = (row.work for row in chained.rows if "norm1" in row.name)
    assert forward.bytes == sum(work.of_layer(layer, "forward", 2).bytes for layer in layers)
    conv_inputs, norm_inputs, statistics = volume // 2 + 2 * volume, 2 * volume, 2 * 2 * vector
    least = sum(work.of_layer(layer, "backward", 2, input_grad=layer is not layers[0]).bytes for layer in layers)
    assert backward.bytes == least + conv_inputs + norm_inputs + statistics


@pytest.mark.kernels
def test_on_the_emulated_device_launches_are_listed_without_running(monkeypatch):
    monkeypatch.setattr(profile_module, "open_timer", lambda device: pytest.fail("no timer must be opened"))
    report = profile(small_net("emulated"), 2, fuse=False)
    assert names(report) == STEP
    kernels = {name: [kernel["kernel"] for kernel in row.launches] for name, row in zip(names(report), report.rows)}
    assert kernels["conv1 forward"] == ["conv2d_fprop_simt"]
    assert kernels["relu1 backward"] == ["relu_backward"]
    assert kernels["residual1 forward"] == ["add_forward"]  # without the launches of its layers
    assert "conv2d_dgrad_simt" in kernels["residual1.conv1 backward"]
    assert not any("dgrad" in kernel for kernel in kernels["conv1 backward"])
    assert kernels["sgd"] == ["sgd_step"]
    assert report.timeline == []
    assert {row.seconds for row in report.rows} == {None}
    assert report.total.seconds is None


def test_registers_and_occupancy_are_shown_where_kernels_can_be_compiled():
    pytest.importorskip("cuda.core")
    net = Sequential([Input((4,)), Linear(3)], device="emulated")
    report = profile(net, 2, arch="sm_80")
    assert report.arch == "sm_80"
    kernels = [kernel for row in report.rows for kernel in row.launches]
    assert kernels
    for kernel in kernels:
        assert 0 < kernel["registers"] <= 255
        assert 0 < kernel["occupancy"] <= 1


def test_a_missing_kernel_compiler_is_reported(monkeypatch):
    from gpuconv.backends.cuda.runtime import nvrtc

    def missing():
        raise nvrtc.CompileError("NVRTC cannot be loaded")

    monkeypatch.setattr(nvrtc, "toolkit", missing)
    report = profile(small_net("emulated"), 2)
    assert (report.arch, report.unknown) == (None, "NVRTC cannot be loaded")
    assert "registers" not in report.rows[0].launches[0]


@pytest.mark.parametrize("device", ["numpy", "emulated"])
@pytest.mark.parametrize(("options", "message"), [({"batch_size": 0}, "batch_size"), ({"steps": 0}, "steps")])
def test_batch_sizes_and_steps_below_one_are_refused(options, message, device):
    with pytest.raises(ValueError, match=f"{message} must be at least 1, received 0"):
        profile(small_net(device), **options)


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_an_unknown_architecture_is_refused(device):
    with pytest.raises(ValueError, match="unknown architecture 'sm_1'"):
        profile(small_net(device), arch="sm_1")
