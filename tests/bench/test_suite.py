"""The entries of the suite, and their FLOPs and bytes as counted by hand."""

from __future__ import annotations

import pytest

from bench import suite
from gpuconv.profiling.work import Ceilings, Work


def entry(kind, key):
    return next(entry for entry in suite.suite(kind) if entry.key == key)


@pytest.mark.parametrize("kind", ["ops", "steps"])
def test_entries_are_unique_and_the_important_ones_come_first(kind):
    listed = suite.suite(kind)
    assert len({entry.key for entry in listed}) == len(listed)
    assert [entry.importance for entry in listed] == sorted(entry.importance for entry in listed)
    assert listed[0].importance == 0


@pytest.mark.parametrize(
    ("key", "microseconds"),
    [
        ("fprop 2000x32x32x3-24x2x2 bfloat16", 24),
        ("fprop 2000x31x31x24-64x3x3-p1.1.1.1 bfloat16", 79),
        ("wgrad 2000x15x15x64-64x3x3-p1.1.1.1 bfloat16", 42),
        ("dgrad 2000x15x15x64-256x3x3-p1.1.1.1 bfloat16", 168),
        ("fprop 2000x7x7x256-256x3x3-p1.1.1.1 bfloat16", 147),
        ("fprop 2000x3x3x256-256x3x3-p1.1.1.1 bfloat16", 27),
        ("fprop 128x8x8x256-256x3x3-p1.1.1.1 bfloat16", 12.3),
    ],
)
def test_floors_on_an_h200_equal_those_calculated_independently(key, microseconds):
    """Microseconds at 788 TFLOP/s and 4.3 TB/s."""
    ceilings = Ceilings(4.3e12, {"bfloat16": 788e12})
    assert 1e6 * entry("ops", key).work.floor(ceilings, "bfloat16") == pytest.approx(microseconds, rel=0.03)


def test_the_floor_of_a_step_follows_from_its_flops():
    work = entry("steps", "step airbench94-n2000 bfloat16").work
    assert work.flops == pytest.approx(1.42e12, rel=0.01)
    assert work.floor(Ceilings(1, {"bfloat16": 788e12}), "bfloat16") == pytest.approx(1.80e-3, rel=0.01)


@pytest.mark.parametrize(
    ("op", "bytes_per_value"),
    [("relu", 4), ("relu_backward", 4.125), ("max_pool2d", 10.25 / 4), ("bias_grad", 2), ("sgd_master", 20)],
)
def test_bytes_of_memory_bound_ops_equal_those_counted_by_hand(op, bytes_per_value):
    listed = entry("ops", f"{op} 961x32x32x64 bfloat16")
    assert listed.work.bytes / (961 * 32 * 32 * 64) == bytes_per_value
    assert listed.workload[0] * 32 * 32 * 64 * 2 == pytest.approx(126e6, rel=0.01)


def test_backward_counts_both_gradients_and_reads_dy_once():
    shape = "64x8x8x10-10x3x3-p1.1.1.1 float32"
    dgrad, backward = entry("ops", f"dgrad {shape}").work, entry("ops", f"backward {shape}").work
    volume = 64 * 8 * 8 * 10
    assert dgrad == Work(2.0 * volume * 90, 4.0 * (2 * volume + 900))
    assert backward == Work(2 * dgrad.flops + volume, 4.0 * (3 * volume + 2 * 900 + 10))


def test_entries_are_selected_by_device_op_shape_and_dtype():
    def selected(**filters):
        return suite.select("ops", "cuda:0", **filters)

    assert {e.group for e in suite.select("ops", "numpy")} == {"cpu", "memory-25mb"}
    assert "cpu" not in {e.group for e in selected()}
    assert {e.op for e in selected(ops=["FPROP", "relu"])} == {"fprop", "relu"}
    assert {(e.group, e.dtype) for e in selected(shapes=["vgg"], dtypes=["fp16"])} == {("vgg", "float16")}
    assert {e.shape for e in selected(shapes=["64x8x8x10-10x3x3-p1.1.1.1"])} == {"64x8x8x10-10x3x3-p1.1.1.1"}


@pytest.mark.parametrize(
    ("filters", "nearest"),
    [
        (dict(ops=["fprob"]), "did you mean 'fprop'"),
        (dict(shapes=["resnet21"]), "did you mean 'resnet20'"),
        (dict(shapes=["64x8x8x10-10x3x3-p1.1.1.2"]), "did you mean '64x8x8x10-10x3x3-p1.1.1.1'"),
        (dict(dtypes=["bfloat"]), "did you mean 'bfloat16'"),
    ],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(filters, nearest):
    with pytest.raises(ValueError, match=nearest):
        suite.select("ops", "numpy", **filters)
