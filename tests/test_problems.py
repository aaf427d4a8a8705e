"""Problems: sharing of equal problems, and derived sizes."""

import copy
import inspect
import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuconv import ops, problems
from gpuconv.activations import ACTIVATIONS
from gpuconv.problems import PLAIN, Conv2dProblem, Epilogue, LinearProblem, Pool2dProblem
from tests.refused import refused

# --- convolutions ------------------------------------------------------------------------------

# Input and filters; window; P and Q; (m, n, k, batches) of each direction, all computed by hand.
CONVOLUTIONS = [
    (
        (2, 32, 32, 3),
        (12, 3, 3, 3),
        dict(padding=1),
        (32, 32),
        dict(fprop=(2048, 12, 27, 1), dgrad=(2048, 3, 108, 1), wgrad=(12, 27, 2048, 1)),
    ),
    (  # two groups of 2 channels and 3 filters; dgrad has two phases of at most 4 rows and ceil(3 / 2) taps
        (2, 7, 9, 4),
        (6, 3, 2, 2),
        dict(stride=(2, 1), padding=((1, 1), (0, 1)), dilation=(1, 2), groups=2),
        (4, 8),
        dict(fprop=(64, 3, 12, 2), dgrad=(72, 2, 12, 4), wgrad=(3, 12, 64, 2)),
    ),
    (  # dilation 2 and stride 2 along the height: every tap reads even rows only
        (1, 8, 8, 3),
        (5, 3, 3, 3),
        dict(stride=2, dilation=(2, 1)),
        (2, 3),
        dict(fprop=(6, 5, 27, 1), dgrad=(16, 3, 30, 4), wgrad=(5, 27, 6, 1)),
    ),
    (
        (3, 6, 6, 8),
        (8, 3, 3, 1),
        dict(padding="same", groups=8),
        (6, 6),
        dict(fprop=(108, 1, 9, 8), dgrad=(108, 1, 9, 8), wgrad=(1, 9, 108, 8)),
    ),
]


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "window", "hw", "products"), CONVOLUTIONS, ids=["padding", "groups", "dilation", "depthwise"]
)
def test_the_sizes_of_a_convolution_equal_those_computed_by_hand(x_shape, w_shape, window, hw, products):
    problem = Conv2dProblem.of(x_shape, w_shape, **window)
    assert (problem.p, problem.q) == hw
    assert problem.x_shape == x_shape
    assert problem.w_shape == w_shape
    assert problem.y_shape == (x_shape[0], *hw, w_shape[0])
    assert problem.kernel_size == w_shape[1:3]
    assert {direction: problem.implicit_gemm(direction) for direction in problems.DIRECTIONS} == products
    assert Conv2dProblem.of(x_shape, w_shape, **problem.window) is problem


def test_a_product_with_a_pool_covers_whole_windows_only():
    problem = Conv2dProblem.of((2, 9, 9, 3), (4, 3, 3, 3))
    assert problem.implicit_gemm("fprop") == (2 * 7 * 7, 4, 27, 1)
    assert problem.implicit_gemm("fprop", pool=2) == (2 * 6 * 6, 4, 27, 1)
    assert problem.implicit_gemm("wgrad", pool=2) == (4, 27, 2 * 6 * 6, 1)
    assert problem.implicit_gemm("dgrad", pool=2) == problem.implicit_gemm("dgrad")


def phases(size, taps, stride, dilation, before):
    """The numbers of pixels and taps in each phase. A phase is a group of pixels along one axis that the same taps
    read."""
    pixels = Counter((pixel + before) % stride for pixel in range(size))
    return [
        (count, sum((phase - tap * dilation) % stride == 0 for tap in range(taps))) for phase, count in pixels.items()
    ]


@given(*[st.integers(1, limit) for limit in (9, 5, 4, 4)], st.integers(0, 3))
def test_dgrads_product_has_the_sizes_found_by_counting(size, taps, stride, dilation, before):
    """Pixels and taps are counted along the height; the width has one column and one tap."""
    padding = ((before, dilation * taps), (0, 0))
    window = dict(stride=(stride, 1), dilation=(dilation, 1), padding=padding)
    m, n, k, batches = Conv2dProblem.of((1, size, 1, 2), (3, taps, 1, 2), **window).implicit_gemm("dgrad")
    counted = phases(size, taps, stride, dilation, before)
    assert (n, batches) == (2, stride)
    assert m == max(pixels for pixels, _ in counted)
    period = stride // math.gcd(stride, dilation)  # at most one in this many taps reads a pixel
    assert k == 3 * math.ceil(taps / period)
    assert k >= 3 * max(reading for _, reading in counted)


def test_the_same_sizes_are_the_same_object():
    one = Conv2dProblem.of((2, 8, 8, 4), (6, 3, 3, 4), stride=2, padding=1)
    same_windows = [
        dict(stride=(2, 2), padding=(1, 1)),
        dict(stride=[2, 2], padding=[[1, 1], [1, 1]]),
        dict(stride=np.int64(2), padding=np.int8(1), dilation=1, groups=1, fit="FLOOR"),
    ]
    for window in same_windows:
        assert Conv2dProblem.of([2, 8, 8, 4], [6, 3, 3, 4], **window) is one
    other_windows = [
        dict(stride=2),
        dict(padding=1),
        dict(stride=2, padding=1, fit="cover"),
        dict(stride=(2, 1), padding=1),
    ]
    for window in other_windows:
        assert Conv2dProblem.of((2, 8, 8, 4), (6, 3, 3, 4), **window) != one


def test_a_problem_can_be_a_dictionary_key():
    """Equal problems have equal hashes, even after pickling."""
    one = Conv2dProblem.of((2, 8, 8, 4), (6, 3, 3, 4), padding="same")
    copies = pickle.loads(pickle.dumps(one)), copy.deepcopy(one)
    assert {one: 1}[copies[0]] == {one: 1}[copies[1]] == 1
    assert len({one, *copies, Conv2dProblem.of((2, 8, 8, 4), (6, 3, 3, 4), padding=1)}) == 1
    with pytest.raises(AttributeError):
        one.n = 3


@pytest.mark.parametrize("wrong", [1.0, True, np.float32(1), "1", (1, True), (1.0, 1), [1, 1.0]], ids=repr)
def test_values_that_merely_equal_an_integer_are_refused(wrong):
    """They are refused even if a problem with that integer was created before."""
    x, w = np.zeros((1, 4, 4, 2)), np.zeros((3, 2, 2, 2))
    dy = ops.conv2d(x, w, stride=1, padding=1, dilation=1, groups=1)
    ops.max_pool2d(x, kernel_size=1, stride=1, padding=0)
    for name in ("stride", "dilation", "padding", "groups"):
        for _ in range(2):
            with pytest.raises((TypeError, ValueError), match=name):
                ops.conv2d(x, w, **dict(padding=1) | {name: wrong})
    for call in (
        lambda: ops.max_pool2d(x, kernel_size=wrong),
        lambda: ops.max_pool2d(x, kernel_size=1, stride=wrong),
        lambda: ops.conv2d_wgrad(dy, x, kernel_size=wrong, padding=1),
        lambda: ops.conv2d_dgrad(dy, w, input_shape=(1, 4, 4, wrong), padding=1),
        lambda: ops.conv2d_relu(x, w, padding=1, pool=wrong),
    ):
        with pytest.raises(TypeError, match="must be an integer, received"):
            call()


def test_lists_give_the_same_results_as_tuples():
    x, w = np.ones((1, 6, 6, 2)), np.ones((3, 2, 2, 2))
    dy = ops.conv2d(x, w, stride=[1, 2], padding=[1, 0], dilation=[1, 1])
    np.testing.assert_array_equal(dy, ops.conv2d(x, w, stride=(1, 2), padding=(1, 0)))
    expected = ops.conv2d_wgrad(dy, x, kernel_size=2, stride=(1, 2), padding=(1, 0))
    gradient = ops.conv2d_wgrad(dy, x, kernel_size=[2, 2], stride=[1, 2], padding=[[1, 1], [0, 0]])
    np.testing.assert_array_equal(gradient, expected)
    dx = ops.conv2d_dgrad(dy, w, input_shape=[1, 6, 6, 2], stride=[1, 2], padding=[1, 0])
    np.testing.assert_array_equal(dx, ops.conv2d_dgrad(dy, w, input_shape=x.shape, stride=(1, 2), padding=(1, 0)))
    assert ops.max_pool2d(x, kernel_size=[2, 3])[0].shape == (1, 3, 2, 2)


def test_a_convolution_is_written_with_its_options_other_than_the_defaults():
    for window, text in (
        (dict(), ""),
        (dict(stride=(2, 1)), "-s2.1"),
        (dict(padding=((1, 2), (0, 3))), "-p1.2.0.3"),
        (dict(stride=2, padding=1, dilation=(1, 2), groups=2, fit="cover"), "-s2.2-p1.1.1.1-d1.2-g2-cover"),
    ):
        problem = Conv2dProblem.of((2, 8, 9, 4), (6, 3, 2, 4 // window.get("groups", 1)), **window)
        assert str(problem) == f"2x8x9x4-6x3x2{text}"


def test_shapes_of_pools_and_masks_equal_those_computed_by_hand():
    problem = Conv2dProblem.of((2, 9, 8, 4), (6, 3, 3, 2), groups=2)
    assert problem.y_shape == (2, 7, 6, 6)
    assert problem.pooled_shape(1) == (2, 7, 6, 6)
    assert problem.pooled_shape(2) == (2, 3, 3, 6)
    assert problem.mask_shape(1) == (2, 7, 6, 2)  # 3 bits a group
    assert problem.mask_shape(2) == (2, 3, 3, 4)  # 12 bits a group


def test_few_channels_and_depthwise_convolutions_are_recognized():
    def conv(c, k, taps, groups=1):
        return Conv2dProblem.of((1, 5, 5, c), (k, taps, taps, c // groups), groups=groups)

    assert [conv(c, 8, 3).few_channels for c in (1, 3, 4, 5)] == [True, True, True, False]
    assert not conv(3, 8, 1).few_channels
    assert Conv2dProblem.of((1, 5, 5, 3), (8, 1, 2, 3)).few_channels
    assert not conv(4, 8, 3, groups=2).few_channels
    assert not conv(0, 8, 3).few_channels
    assert [conv(4, 8, 3, groups).depthwise for groups in (1, 2, 4)] == [False, False, True]
    assert not conv(1, 8, 3).depthwise


def test_impossible_convolutions_are_refused():
    x, w = (2, 8, 8, 4), (6, 3, 3, 4)
    refused(
        ValueError,
        "groups must divide the channels and the filters, received 4 groups, 4 channels, 6 filters",
        Conv2dProblem.of,
        x,
        w,
        groups=4,
    )
    refused(
        ValueError,
        "the filters read 4 channels in each of 2 group(s), so the input must have 8 channels, received 4",
        Conv2dProblem.of,
        x,
        w,
        groups=2,
    )
    refused(ValueError, "kernel_size[1] must be at least 1, received 0", Conv2dProblem.of, x, (6, 3, 0, 4))
    refused(ValueError, "unknown fit 'exakt'; did you mean 'exact'?", Conv2dProblem.of, x, w, fit="exakt")
    refused(ValueError, "the output must fit into memory", Conv2dProblem.of, x, w, padding=2**31 - 1)
    for _ in range(2):  # the same problem is refused again
        refused(ValueError, "input sizes that would fit: 7 or 9", Conv2dProblem.of, x, w, stride=2, fit="exact")


def test_the_layout_is_not_blamed_if_the_channels_fit():
    with pytest.raises(ValueError, match=r"received 4 groups, 4 channels, 6 filters$"):
        Conv2dProblem.of((2, 4, 4, 4), (6, 3, 3, 1), groups=4)


# --- pools, linear layers, epilogues -----------------------------------------------------------


def test_the_sizes_of_a_pool_equal_those_computed_by_hand():
    problem = Pool2dProblem.of((2, 7, 9, 5), (2, 3), padding=((1, 0), (0, 2)))
    assert (problem.r, problem.s) == problem.kernel_size == problem.stride == (2, 3)
    assert problem.x_shape == (2, 7, 9, 5)
    assert problem.y_shape == (2, 4, 3, 5)
    assert problem.dilation == (1, 1)
    assert Pool2dProblem.of([2, 7, 9, 5], [2, 3], stride=[2, 3], padding=[[1, 0], [0, 2]], fit="Floor") is problem
    assert Pool2dProblem.of((2, 7, 9, 5), (2, 3), stride=1) != problem
    refused(
        ValueError,
        "a pool's padding must be smaller than its kernel_size (2, 2)",
        Pool2dProblem.of,
        (1, 4, 4, 1),
        2,
        padding=2,
    )
    refused(ValueError, "a pool needs maps of at least one pixel", Pool2dProblem.of, (1, 0, 4, 1), 2)


@pytest.mark.parametrize(("cells", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")])
def test_argmax_has_the_smallest_dtype_that_holds_every_cell(cells, dtype):
    assert Pool2dProblem.of((1, 1, cells, 1), (1, cells)).argmax_dtype == dtype


def test_a_linear_layer_is_a_convolution_of_maps_of_one_pixel():
    problem = LinearProblem.of((5, 3), (4, 3))
    assert (problem.x_shape, problem.w_shape, problem.y_shape) == ((5, 3), (4, 3), (5, 4))
    assert LinearProblem.of([5, 3], [4, 3]) is problem
    assert problem.convolution is Conv2dProblem.of((5, 1, 1, 3), (4, 1, 1, 3))
    assert problem.convolution.implicit_gemm("fprop") == (5, 4, 3, 1)
    assert problem.convolution.implicit_gemm("dgrad") == (5, 3, 4, 1)
    assert problem.convolution.implicit_gemm("wgrad") == (4, 3, 5, 1)


def test_the_same_flags_are_the_same_epilogue():
    assert Epilogue.of("relu", 2, True) is Epilogue.of(activation="relu", pool=2, masked=True, moments=False)
    assert Epilogue.of() is Epilogue.of(None) is PLAIN
    assert Epilogue() == PLAIN
    assert Epilogue.of("relu") != Epilogue.of("gelu")
    assert len({Epilogue.of("relu"), Epilogue("relu"), Epilogue.of(moments=True)}) == 2


def test_named_activations_are_ops():
    for name, suffix in itertools.product(ACTIVATIONS, ("", "_backward")):
        assert callable(getattr(ops, name + suffix))


def test_activations_know_the_defaults_of_their_ops():
    for name, activation in ACTIVATIONS.items():
        for op in (name, f"{name}_backward"):
            parameters = inspect.signature(getattr(ops, op)).parameters.values()
            defaults = {each.name: each.default for each in parameters if each.default not in (each.empty, None)}
            assert defaults == activation.options, op
