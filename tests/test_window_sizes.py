"""How many windows fit along an axis, and padding in every form that ops take."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuconv import window_sizes
from tests.refused import refused


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
        (5, 2, 3, (1, 0), 1, "exact", None),  # windows never end exactly at the border
        (2, 2, 3, (1, 1), 1, "cover", 1),  # a second window would begin in the padding
        (3, 2, 3, (1, 1), 1, "cover", 2),
    ],
)
def test_output_sizes_equal_those_computed_by_hand(size, kernel, stride, padding, dilation, fit, windows):
    if windows is None:
        words = "input sizes that would fit: 4 or 7"
        refused(ValueError, words, window_sizes.output_size, size, kernel, stride, padding, dilation, fit)
    else:
        assert window_sizes.output_size(size, kernel, stride, padding, dilation, fit) == windows


AXES = st.tuples(
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 6),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.integers(1, 3),
)


@given(AXES)
def test_output_size_counts_the_windows(axis):
    size, kernel, stride, (before, after), dilation = axis
    span = dilation * (kernel - 1) + 1
    padded = before + size + after
    starts = [start for start in range(0, padded, stride) if start + span <= padded]
    if not starts:
        refused(ValueError, "use a larger input", window_sizes.output_size, *axis, "floor")
        return
    assert window_sizes.output_size(*axis, "floor") == len(starts)
    covered = starts[-1] + span == padded
    begins_inside = starts[-1] + stride < before + size
    assert window_sizes.output_size(*axis, "cover") == len(starts) + (not covered and begins_inside)


@given(AXES)
def test_the_error_of_an_exact_fit_names_input_sizes_that_fit(axis):
    size, *rest = axis
    try:
        window_sizes.output_size(size, *rest, "floor")
    except ValueError:
        return  # no window fits at all
    try:
        windows = window_sizes.output_size(size, *rest, "exact")
    except ValueError as error:
        named = [int(word) for word in re.findall(r"\d+", str(error).partition("would fit: ")[2])]
        assert named
        for other in named:
            assert other > 0
            window_sizes.output_size(other, *rest, "exact")
        assert min(named) < size < max(named) or len(named) == 1
        for between in range(min(*named, size), max(*named, size) + 1):
            if between not in named:  # the sizes named are the nearest ones
                with pytest.raises(ValueError, match=r"would fit|use a larger input"):
                    window_sizes.output_size(between, *rest, "exact")
    else:
        assert (
            windows == window_sizes.output_size(size, *rest, "floor") == window_sizes.output_size(size, *rest, "cover")
        )


def test_a_filter_larger_than_its_input_is_refused():
    refused(
        ValueError,
        "a window spans 5 but the padded input only 4 (size 3, padding 1 + 0)",
        window_sizes.output_size,
        3,
        3,
        1,
        (1, 0),
        2,
        "floor",
    )


@given(*[st.tuples(st.integers(1, limit), st.integers(1, limit)) for limit in (6, 3)], st.integers(1, 9))
def test_same_padding_keeps_the_size(kernel_size, dilation, size):
    padding = window_sizes.same_padding(kernel_size, dilation)
    assert window_sizes.output_hw((size, size + 1), kernel_size, (1, 1), padding, dilation) == (size, size + 1)
    for before, after in padding:
        assert 0 <= after - before <= 1


@pytest.mark.parametrize(
    ("padding", "pairs"),
    [
        (1, ((1, 1), (1, 1))),
        ((1, 2), ((1, 1), (2, 2))),
        ([[1, 2], [3, 0]], ((1, 2), (3, 0))),
        ("valid", ((0, 0), (0, 0))),
        ("same", ((1, 1), (1, 2))),
        ("SAME", ((1, 1), (1, 2))),
    ],
)
def test_every_form_of_padding_becomes_pairs(padding, pairs):
    assert window_sizes.padding_pairs(padding, (3, 4), (1, 1)) == pairs


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
def test_bad_padding_is_refused(padding, error, words):
    refused(error, words, window_sizes.padding_pairs, padding, (3, 4), (1, 1))


def test_same_padding_needs_stride_1():
    refused(
        ValueError,
        "padding='same' is defined at stride 1, received stride (2, 1)",
        window_sizes.padding_pairs,
        "same",
        (3, 3),
        (2, 1),
    )
