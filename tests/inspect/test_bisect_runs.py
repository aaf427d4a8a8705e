"""Digests show where two runs first differ: in any bit on one machine, by more than the bound on two machines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpuconv.inspect.bisect_runs import Element, compare
from gpuconv.layers import BatchNorm, Conv2D, Dropout, Flatten, Input, Linear, MaxPool2D, ReLU, Sequential
from gpuconv.training import Digests, LossScale, Trainer
from gpuconv.training.tensor_digests import Digest, Step, read


def steps_of(path, device="numpy", lr=0.01, precision="float32"):
    row = [Conv2D(4, 3, padding=1), BatchNorm(), ReLU(), MaxPool2D(2), Conv2D(4, 3), ReLU(), Flatten(), Dropout(0.2)]
    net = Sequential([Input((8, 8, 1)), *row, Linear(3)], seed=1, device=device)
    scale = LossScale(start=256.0) if precision == "float16" else None  # with the default, the first step overflows
    run = Trainer(net, "adam", lr=lr, precision=precision, loss_scale=scale)
    data = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1)).astype(np.uint8), np.arange(32) % 3
    run.fit(data, epochs=2, batch_size=8, progress=False, callbacks=[Digests(path)])
    return read(path)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The recorded steps of one run, which the tests compare with the steps of other runs."""
    return steps_of(tmp_path_factory.mktemp("digests") / "one.jsonl")


def on_another_machine(steps):
    return [replace(step, on="another machine") for step in steps]


def sparse(steps, every):
    """The steps, with outputs and input gradients only in the first step and in every n-th. `Digests(every=n)` also
    records them in each of the first n steps."""
    inside = ("forward", "backward")
    return [
        replace(step, tensors=[tensor for tensor in step.tensors if tensor.direction not in inside])
        if step.step > 1 and step.step % every
        else step
        for step in steps
    ]


def changed(steps, number, direction, name, factor):
    """The steps with one tensor, and all tensors after it, multiplied by a factor."""
    changed_steps, reached = [], False
    for step in steps:
        tensors = []
        for digest in step.tensors:
            reached |= (step.step, digest.direction, digest.name) == (number, direction, name)
            if reached and digest.dtype != "int64":
                digest = replace(digest, hash="xxh3:0", sum=digest.sum * factor, norm=digest.norm * factor)
            tensors.append(digest)
        changed_steps.append(Step(step.step, step.on, tensors))
    return changed_steps


FIRST_DIFFERENCES = [
    (1, "forward", "conv1"),
    (3, "backward", "relu2"),
    (2, "gradient", "conv2.weight"),
    (5, "update", "fc1.bias"),
]


@pytest.mark.parametrize(("number", "direction", "name"), FIRST_DIFFERENCES)
def test_the_named_difference_is_the_first_in_the_order_of_execution(recorded, number, direction, name):
    first = number, direction, name
    for factor, beyond in ((1 + 1e-9, False), (3.0, True)):
        other = changed(recorded, *first, factor)
        for comparison in (compare(recorded, other), compare(recorded, on_another_machine(other))):
            assert comparison.bits is not None
            assert (comparison.bits.step, comparison.bits.a.direction, comparison.bits.a.name) == first
            assert (comparison.beyond is not None) == beyond
            assert (comparison.found is not None) == (comparison.one_machine or beyond)
    assert f"differ first at step {number}" in str(comparison)
    assert comparison.beyond.a == comparison.bits.a


def test_a_difference_in_an_unrecorded_output_is_seen_in_the_gradients_of_its_step(recorded):
    other = changed(recorded, 3, "forward", "conv2", 3.0)
    for a, b in ((recorded, sparse(other, 4)), (sparse(recorded, 4), other), (sparse(recorded, 4), sparse(other, 2))):
        difference = compare(a, on_another_machine(b)).found
        assert (difference.step, difference.a.direction, difference.a.name) == (3, "gradient", "conv1.weight")
        assert difference.earlier == 0
        reason = "earlier tensors of the net were not recorded here; --digests-every 1 records them at every step"
        assert reason in str(difference)
    assert "not recorded" not in str(compare(recorded, other))


def test_every_difference_is_kept_as_a_share_of_what_rounding_explains(recorded):
    pytest.importorskip("matplotlib")
    comparison = compare(recorded, on_another_machine(changed(recorded, 3, "gradient", "conv2.weight", 3.0)))
    assert [*comparison.shares] == [(digest.direction, digest.name) for digest in recorded[0].tensors]
    for (direction, name), shares in comparison.shares.items():
        assert [*shares] == [*range(1, 9)]
        assert {shares[1], shares[2]} == {0.0}, name
        if (direction, name) == ("gradient", "conv2.weight"):
            assert shares[3] > 1
    figure = comparison.picture()
    assert "differ first at step 3: the gradient of conv2.weight, backward" in [
        text.get_text() for text in figure.texts
    ]


def test_the_element_that_differs_most_is_found():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for index, value in (((1, 2, 0), 7.0), ((0, 0, 3), np.nan), ((1, 0, 0), np.inf)):
        other = array.copy()
        other[0, 1, 1] += 0.5
        other[index] = value
        element = Element.of(array, other)
        assert (element.at, element.a, element.differing, element.size) == (index, array[index], 2, 24)
        assert element.b == value or np.isnan(element.b)
    assert Element.of(array, array) is None
    assert Element.of(array, array.reshape(6, 4)) is None
    assert Element.of(np.full(3, np.nan), np.full(3, np.nan)) is None
    assert Element.of(np.zeros(3), -np.zeros(3)) is None


def test_runs_with_two_kinds_of_hashes_are_compared_by_sums_and_norms(recorded):
    def hashed(steps):
        return [replace(step, tensors=[replace(tensor, hash="crc32:0") for tensor in step.tensors]) for step in steps]

    comparison = compare(recorded, hashed(recorded))
    assert (comparison.found, comparison.bits, comparison.one_machine, comparison.hashes) == (
        None,
        None,
        False,
        ["crc32", "xxh3"],
    )
    assert str(comparison).endswith("different bits: unknown, as the hashes are of two kinds, crc32 and xxh3")
    difference = compare(recorded, hashed(changed(recorded, 3, "forward", "conv2", 3.0))).found
    assert (difference.step, difference.a.direction, difference.a.name) == (3, "forward", "conv2")


def test_a_difference_within_the_error_of_the_digests_is_not_beyond_the_bound():
    values = np.random.default_rng(0).uniform(size=100_000).astype(np.float32)
    digest = Digest.of("forward", "input", values, 1)
    for times, beyond in ((1, False), (3, True)):
        off = replace(digest, hash="xxh3:0", norm=digest.norm + times * 2 * digest.error)
        comparison = compare([Step(1, "here", [digest])], [Step(1, "there", [off])])
        assert (comparison.beyond is not None) == beyond, times


def test_zeros_of_either_sign_differ_in_bits_but_not_beyond_the_bound():
    zeros, negative = (Digest.of("forward", "conv1", np.full(4, zero, np.float32), 9) for zero in (0.0, -0.0))
    comparison = compare([Step(1, "here", [zeros])], [Step(1, "there", [negative])])
    assert comparison.bits is not None
    assert comparison.found is None
    assert comparison.shares == {("forward", "conv1"): {1: 0.0}}


@pytest.mark.parametrize(("shift", "beyond"), [(0.002, False), (0.5, True)], ids=["of rounding", "of a fault"])
def test_a_shift_of_a_running_mean_is_compared_with_the_deviation_of_the_input(recorded, shift, beyond):
    """Adam moves the bias of conv1 by its rate, 0.01, in a direction that is only rounding error, and norm1 subtracts
    the bias again. So after two steps the running means of two runs, which are about 0.02, may differ by 0.002. The
    deviation of the input of norm1 is about 1."""
    other = [
        replace(
            step,
            tensors=[
                replace(tensor, hash="xxh3:0", sum=tensor.sum + shift, norm=tensor.norm + shift)
                if tensor.name == "norm1.running_mean" and step.step > 1
                else tensor
                for tensor in step.tensors
            ],
        )
        for step in recorded
    ]
    comparison = compare(recorded, on_another_machine(other))
    assert (comparison.beyond is not None) == beyond


def test_a_layer_that_does_not_move_adds_nothing_to_the_bound(recorded):
    frozen = Digest.of("update", "frozen.weight", np.full(4, 0.01, np.float32), 1)
    with_frozen = [replace(step, tensors=[*step.tensors, frozen]) for step in recorded]
    bounds = [
        compare(steps, on_another_machine(changed(steps, 7, "update", "fc1.bias", 3.0))).found.rounding
        for steps in (recorded, with_frozen)
    ]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-2)


def test_unrecorded_tensors_add_their_rounding_to_the_bound(recorded):
    other = on_another_machine(changed(recorded, 7, "update", "fc1.bias", 3.0))
    with_all_tensors = compare(recorded, other).found
    for every in (2, 4, 99):
        difference = compare(sparse(recorded, every), sparse(other, every)).found
        assert (difference.step, difference.a) == (7, with_all_tensors.a)
        assert difference.rounding == pytest.approx(with_all_tensors.rounding, rel=1e-9)


def test_two_identical_runs_agree(recorded, tmp_path):
    comparison = compare(recorded, steps_of(tmp_path / "other.jsonl"))
    assert (comparison.found, comparison.one_machine, comparison.steps) == (None, True, 8)
    assert "agree over 8 steps" in str(comparison)


def test_only_common_steps_are_compared(recorded):
    assert compare(recorded, recorded[2:5]).steps == 3
    assert compare(recorded, recorded[2:5]).lengths == (8, 3)


@pytest.mark.kernels
def test_numpy_and_emulated_agree_within_the_bound_although_one_is_fused(recorded, tmp_path):
    comparison = compare(recorded, steps_of(tmp_path / "other.jsonl", "emulated"))
    assert not comparison.one_machine
    assert comparison.bits is not None
    assert comparison.beyond is None, comparison
    comparison = compare(sparse(recorded, 3), sparse(read(tmp_path / "other.jsonl"), 3))
    assert comparison.beyond is None, comparison


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precisions_agree_within_the_wider_bound(recorded, tmp_path, precision):
    """Digests divide the sums and norms of float16 gradients by the loss scale."""
    comparison = compare(recorded[:1], steps_of(tmp_path / "other.jsonl", precision=precision)[:1])
    assert not comparison.one_machine
    assert comparison.beyond is None, comparison


def test_another_learning_rate_is_seen_at_the_first_update(recorded, tmp_path):
    for other in (
        steps_of(tmp_path / "other.jsonl", lr=0.02),
        on_another_machine(steps_of(tmp_path / "more.jsonl", lr=0.02)),
    ):
        comparison = compare(recorded, other)
        assert (comparison.found.step, comparison.found.a.direction) == (1, "update")


def test_nonfinite_numbers_differ_from_finite_ones(recorded):
    last = recorded[-1]
    tensors = [replace(digest, sum=None, norm=None, hash="xxh3:0") for digest in last.tensors]
    comparison = compare(recorded, on_another_machine([*recorded[:-1], Step(last.step, last.on, tensors)]))
    assert (comparison.beyond.step, comparison.beyond.earlier) == (8, 0)
    assert "not finite" in str(comparison)


def test_runs_of_different_nets_are_refused(recorded):
    renamed = [replace(digest, name=f"{digest.name}x") for digest in recorded[0].tensors]
    with pytest.raises(ValueError, match="no tensor in common at step 1: their nets differ"):
        compare(recorded, [Step(1, "x", renamed)])
