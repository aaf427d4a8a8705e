"""The table of a net's layers."""

import pytest

from gpuconv import models
from gpuconv.layers import Branches, Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU, Residual, Sequential
from gpuconv.summary import rows, summary, total


@pytest.mark.parametrize(("side", "weights"), [(32, 3072), (200, 120_000)])
def test_one_fully_connected_neuron_has_one_weight_per_value(side, weights):
    net = Sequential([Input((side, side, 3)), Flatten(), Linear(1)])
    assert rows(net)[-1].weights == weights
    assert rows(net)[-1].parameters == weights + 1
    assert f"{weights:,}" in summary(net)


def test_vgg16_has_the_published_counts_without_allocating_weights():
    net = models.vgg16(initialize=False)
    end = total(rows(net))
    assert end.weights == 138_344_128
    assert end.parameters == 138_357_544
    assert end.activations == 15_237_608
    assert end.mult_adds == 15_470_264_320
    assert not any(layer.arrays for layer in net.walk())
    text = summary(net)
    assert "138,344,128" in text
    assert "15,237,608" in text
    by_name = {row.name: row for row in rows(net)}
    assert by_name["conv1"].weights == 1728
    assert by_name["fc1"].weights == 102_760_448
    assert by_name["conv2"].activations == 3_211_264


def test_rows_equal_those_computed_by_hand():
    net = Sequential([Input((7, 5, 4)), Conv2D(6, (3, 2), stride=2, groups=2, bias=False), ReLU()], dtype="float16")
    source, conv, relu = rows(net)
    assert (source.name, source.activations, source.parameters) == ("input", 140, 0)
    assert (conv.kind, conv.input_shape, conv.output_shape) == ("Conv2D", (7, 5, 4), (3, 2, 6))
    assert (conv.parameters, conv.mult_adds, conv.activations) == (6 * 3 * 2 * 2, 36 * 12, 36)
    assert (relu.activations, relu.mult_adds) == (0, 0)
    text = summary(net)
    assert "memory in float16: parameters 0.1 KiB, activations 0.3 KiB" in text
    assert "3x2x6" in text


def test_a_residual_block_has_a_row_for_its_sum_and_for_each_layer():
    net = Sequential([Input((4, 4, 2)), Residual([Conv2D(3, 1)], [Conv2D(3, 1, bias=False)])])
    table = rows(net)
    assert [row.name for row in table] == ["input", "residual1", "residual1.conv1", "residual1.shortcut.conv1"]
    assert [row.activations for row in table] == [32, 48, 48, 48]
    assert total(table).parameters == net.parameter_count == 15


def test_the_branches_that_are_copied_are_named():
    class OwnReLU(ReLU, op="relu"):
        pass

    def block():
        return Branches([[], [Conv2D(2, 1)], [Conv2D(2, 1), OwnReLU()], [MaxPool2D(3, stride=1, padding=1)]])

    added = Branches([[], [Conv2D(22, 1)]], "add")
    net = Sequential([Input((4, 4, 2)), block(), Branches([[Conv2D(2, 1)], [block()]]), added])
    copies = "copied forward branch1, branch3; copied backward branch3"
    assert summary(net).splitlines()[-2:] == [
        f"concatenated in branches1 and 1 more: in place branch2, branch4; {copies}",
        "concatenated in branches2: in place branch1, branch2",
    ]


def test_a_batch_has_at_least_one_image():
    net = Sequential([Input((4, 4, 1)), Conv2D(2, 3)])
    for table in (rows, summary):
        with pytest.raises(ValueError, match="batch_size must be at least 1, received 0"):
            table(net, batch_size=0)
        with pytest.raises(TypeError, match="batch_size must be an integer, received 'all'"):
            table(net, batch_size="all")


def test_a_net_that_was_not_built_has_no_rows():
    with pytest.raises(RuntimeError, match="no shapes yet"):
        rows(Sequential([Linear(3)]))


def test_algorithms_are_shown_where_there_are_kernels():
    net = Sequential([Input((8, 8, 3)), Conv2D(16, 3, algo="simt-64x64"), ReLU(), Flatten(), Linear(5)])
    assert "simt" not in summary(net)
    text = summary(net, device="emulated", batch_size=32).splitlines()
    assert text[0].endswith("fprop, dgrad, wgrad")
    assert next(line for line in text if line.startswith("conv1")).endswith("  simt-64x64 simt-64x64 simt-64x64")
    assert next(line for line in text if line.startswith("fc1")).count("simt-") == 3
    assert text[-1] == "algorithms on emulated for batches of 32"
    assert rows(net, 32, "emulated")[2].algorithms == {}
