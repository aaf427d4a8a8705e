"""Sizes and argument checks: what they give, and the words of every error."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuconv import ops, shapes


def refused(error, words, call, *arguments, **options):
    """`call` raises exactly this type, with these words (taken literally) in its message."""
    with pytest.raises(error, match=re.escape(words)) as raised:
        call(*arguments, **options)
    assert raised.type is error


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "fit", "windows"),
    [
        (32, 3, 1, (1, 1), 1, "floor", 32),
        (227, 11, 4, (0, 0), 1, "exact", 55),
        (7, 3, 2, (0, 0), 1, "floor", 3),
        (8, 3, 2, (0, 0), 1, "floor", 3),
        (8, 3, 2, (0, 0), 1, "cover", 4),
        (7, 3, 2, (0, 0), 1, "cover", 3),
        (7, 2, 5, (0, 0), 1, "floor", 2),
        (10, 3, 1, (0, 0), 4, "floor", 2),
        (5, 2, 3, (1, 0), 1, "exact", None),
        (2, 2, 3, (1, 1), 1, "cover", 1),  # a second window would begin in the padding
        (3, 2, 3, (1, 1), 1, "cover", 2),
    ],
)
def test_output_size_by_hand(size, kernel, stride, padding, dilation, fit, windows):
    if windows is None:
        words = "input sizes that would fit: 4 or 7"
        refused(ValueError, words, shapes.output_size, size, kernel, stride, padding, dilation, fit)
    else:
        assert shapes.output_size(size, kernel, stride, padding, dilation, fit) == windows


AXES = st.tuples(
    st.integers(1, 12), st.integers(1, 5), st.integers(1, 6), st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.integers(1, 3),
)


@given(AXES)
def test_output_size_counts_the_windows(axis):
    size, kernel, stride, (before, after), dilation = axis
    span = dilation * (kernel - 1) + 1
    starts = [start for start in range(0, size + before + after, stride) if start + span <= size + before + after]
    if not starts:
        refused(ValueError, "use a larger input", shapes.output_size, *axis, "floor")
        return
    assert shapes.output_size(*axis, "floor") == len(starts)
    covered = starts[-1] + span == size + before + after
    begins_inside = starts[-1] + stride < size + before
    assert shapes.output_size(*axis, "cover") == len(starts) + (not covered and begins_inside)


@given(AXES)
def test_the_sizes_that_exact_names_do_fit(axis):
    size, *rest = axis
    try:
        shapes.output_size(size, *rest, "floor")
    except ValueError:
        return  # no window fits at all
    try:
        windows = shapes.output_size(size, *rest, "exact")
    except ValueError as error:
        named = [int(word) for word in re.findall(r"\d+", str(error).partition("would fit: ")[2])]
        assert named
        for other in named:
            assert other > 0
            shapes.output_size(other, *rest, "exact")
        between = range(min(named) + 1, max(named))
        assert size in between or len(named) == 1, "the nearest ones on both sides"
    else:
        assert windows == shapes.output_size(size, *rest, "floor") == shapes.output_size(size, *rest, "cover")


def test_a_filter_larger_than_its_input():
    refused(
        ValueError,
        "the filter spans 5 but the padded input only 4 (size 3, padding 1 + 0)",
        shapes.output_size, 3, 3, 1, (1, 0), 2, "floor",
    )


@given(*[st.tuples(st.integers(1, limit), st.integers(1, limit)) for limit in (6, 3)], st.integers(1, 9))
def test_same_padding_keeps_the_size(kernel_size, dilation, size):
    padding = shapes.same_padding(kernel_size, dilation)
    assert shapes.output_hw((size, size + 1), kernel_size, (1, 1), padding, dilation) == (size, size + 1)
    for before, after in padding:
        assert 0 <= after - before <= 1


# --- arguments that are no arrays --------------------------------------------------------------


def test_integer():
    assert shapes.integer("n", np.int8(3), 0) == 3
    assert type(shapes.integer("n", np.int8(3), 0)) is int
    for value in (True, np.True_, 2.0, "2", None, [2]):
        refused(TypeError, f"n must be an integer, received {value!r}", shapes.integer, "n", value, 0)
    refused(ValueError, "n must be at least 1, received 0", shapes.integer, "n", 0, 1)


def test_pair():
    assert shapes.pair("stride", 2, 1) == (2, 2)
    assert shapes.pair("stride", [3, np.int64(4)], 1) == (3, 4)
    refused(
        ValueError, "stride must be an integer or (height, width), received (1, 2, 3)",
        shapes.pair, "stride", (1, 2, 3), 1,
    )
    refused(ValueError, "stride must be at least 1, received 0", shapes.pair, "stride", 0, 1)
    refused(ValueError, "stride[1] must be at least 1, received 0", shapes.pair, "stride", (1, 0), 1)
    refused(TypeError, "stride[0] must be an integer, received True", shapes.pair, "stride", (True, 1), 1)
    refused(TypeError, "stride must be an integer, received 1.5", shapes.pair, "stride", 1.5, 1)


@pytest.mark.parametrize(
    ("padding", "normal"),
    [
        (1, ((1, 1), (1, 1))),
        ((1, 2), ((1, 1), (2, 2))),
        ([[1, 2], [3, 0]], ((1, 2), (3, 0))),
        ("valid", ((0, 0), (0, 0))),
        ("same", ((1, 1), (1, 2))),
        ("SAME", ((1, 1), (1, 2))),
    ],
)
def test_padding(padding, normal):
    assert shapes.padding_pairs(padding, (3, 4), (1, 1)) == normal


@pytest.mark.parametrize(
    ("padding", "error", "words"),
    [
        (-1, ValueError, "padding must be at least 0, received -1"),
        (1.0, TypeError, "padding must be an integer, received 1.0"),
        (True, TypeError, "padding must be an integer, received True"),
        ((1, 2, 3), ValueError, "padding must be an integer or (height, width), received (1, 2, 3)"),
        (((1, 2), 3), ValueError, "padding must be ((top, bottom), (left, right)), received ((1, 2), 3)"),
        (((1, 2), (3, 4), (5, 6)), ValueError, "padding must be ((top, bottom), (left, right))"),
        (((1, 2), (3, -4)), ValueError, "padding[1][1] must be at least 0, received -4"),
        (((1, 2, 3), (3, 4)), ValueError, "padding[0] must be an integer or (height, width), received (1, 2, 3)"),
        ("sane", ValueError, "unknown padding 'sane'; did you mean 'same'? (known: same, valid)"),
        (None, TypeError, "padding must be an integer, received None"),
    ],
)
def test_bad_padding(padding, error, words):
    refused(error, words, shapes.padding_pairs, padding, (3, 4), (1, 1))


def test_same_padding_needs_stride_1():
    refused(
        ValueError, "padding='same' is defined at stride 1, received stride (2, 1)",
        shapes.padding_pairs, "same", (3, 3), (2, 1),
    )


def test_number():
    assert shapes.number("p", np.float32(0.5), 0, 1) == 0.5
    assert shapes.number("p", 1, 0, 1) == 1.0
    assert type(shapes.number("p", 1, 0, 1)) is float
    for value in (-0.1, 1.1, np.nan, np.inf):
        refused(ValueError, f"p must lie in [0, 1], received {value}", shapes.number, "p", value, 0, 1)
    refused(ValueError, "p must lie in [0, 1), received 1", shapes.number, "p", 1, 0, 1, open_high=True)
    refused(ValueError, "lr must lie in [0, inf), received inf", shapes.number, "lr", np.inf, 0)
    refused(ValueError, "s must lie in (-inf, inf), received -inf", shapes.number, "s", -np.inf, -np.inf)
    for value in (True, "1", None, [1], 1j):
        refused(TypeError, f"p must be a number, received {value!r}", shapes.number, "p", value, 0, 1)


def test_step_scalar():
    one = np.array([3.0])
    assert shapes.step_scalar("lr", one) is one
    assert shapes.step_scalar("lr", np.float32(0.5)) == 0.5
    refused(
        ValueError, "lr must be a number or hold one element, received shape (2,)",
        shapes.step_scalar, "lr", np.ones(2),
    )
    refused(TypeError, "lr must be a number, received True", shapes.step_scalar, "lr", True)


def test_step_integer():
    one = np.array([3])
    assert shapes.step_integer("offset", one) is one
    assert shapes.step_integer("offset", 2**60 + 1) == 2**60 + 1
    refused(ValueError, "step must be at least 1, received 0", shapes.step_integer, "step", 0, 1)
    refused(TypeError, "step must be an integer, received 1.5", shapes.step_integer, "step", 1.5, 1)


def test_numbers_of_any_type_are_compared_as_floats():
    for value in (2, 2.0, np.float16(2), np.float32(2), np.int8(2), np.uint64(2)):
        assert type(shapes.number("factor", value, 0, beside=[np.ones(1, np.float32)])) is float
    assert shapes.number("factor", 1e300, 0, beside=[np.ones(1)]) == 1e300
    huge = np.longdouble("1e4000")
    refused(ValueError, f"factor must lie in [0, inf), received {huge}", shapes.number, "factor", huge, 0)


def test_seed():
    assert shapes.seed_value("seed", 2**64 - 1) == 2**64 - 1
    refused(ValueError, "seed must be below 2**64, received 18446744073709551616", shapes.seed_value, "seed", 2**64)
    refused(ValueError, "seed must be at least 0, received -1", shapes.seed_value, "seed", -1)
    refused(TypeError, "seed must be an integer, received 1.0", shapes.seed_value, "seed", 1.0)


@pytest.mark.parametrize(("cells", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")])
def test_argmax_dtype(cells, dtype):
    assert shapes.argmax_dtype((1, cells)) == dtype


def test_activations_named_are_ops():
    for name, suffix in itertools.product(shapes.ACTIVATIONS, ("", "_backward")):
        assert callable(getattr(ops, name + suffix))
