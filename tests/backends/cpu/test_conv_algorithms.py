"""The algorithms of the fast convolutions: each agrees with the definition and is chosen where it is faster."""

import tracemalloc

import numpy as np
import pytest

from gpuconv import ops, oracle
from gpuconv.backends.cpu import blas, conv, correlate, parallel, wide_filters
from gpuconv.backends.cpu.im2col import Windows
from gpuconv.verify.conv_problems import ODD, REAL, TINY, random_arrays, reduction
from gpuconv.verify.conv_problems import conv as convolution
from tests.backends.conv_checks import (
    both_gradients,
    check_by_definition,
    check_taps_of_a_nonfinite_input,
    check_windows_of_a_nonfinite_input,
    directions,
)
from tests.backends.cpu.blas_stand_in import Blas
from tests.tolerance import assert_within, sum_bound

ANY, NONE = 10**9, 0
ALGORITHMS = {
    "chosen": {},
    "no wide filters": {"MAX_CHANNELS": NONE},
    "wide filters": {"MAX_WIDTH": 13, "MAX_CHANNELS": ANY},
    "no row reuse": {"MOST_FILTERS": NONE},
    "row reuse": {"MOST_FILTERS": ANY, "MAX_CHANNELS": NONE},
    "row reuse of wide filters": {"MOST_FILTERS": ANY, "MAX_WIDTH": 13, "MAX_CHANNELS": ANY},
    "one copy for both gradients": {"MOST_CELLS": ANY, "MOST_CHANNELS": NONE},
    "a copy for each gradient": {"MOST_CELLS": NONE},
    "small blocks": {"MOST_BLOCK_BYTES": 600, "MOST_FILTERS": NONE},
    "batch in three parts": {"LEAST_BYTES": 1, "libraries": lambda: [Blas()]},
}
MODULE_OF = {
    "MAX_CHANNELS": wide_filters,
    "MAX_WIDTH": wide_filters,
    "MOST_CELLS": conv,
    "MOST_CHANNELS": conv,
    "LEAST_BYTES": parallel,
    "libraries": blas,
}


def force(monkeypatch, algorithm):
    for name, value in ALGORITHMS[algorithm].items():
        monkeypatch.setattr(MODULE_OF.get(name, correlate), name, value)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_agrees_with_the_definition(algorithm, monkeypatch):
    force(monkeypatch, algorithm)
    for case in TINY + ODD:
        check_by_definition(case)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case.c >= 256 else []) for case in REAL]
)
def test_shapes_of_real_nets_in_float32_agree_with_float64(case):
    arrays = random_arrays(case, np.float32)
    wide = [a.astype(np.float64) for a in arrays]
    with oracle():
        expected, magnitude = directions(case, *wide), directions(case, *map(abs, wide))
    for direction, actual in (*directions(case, *arrays).items(), *both_gradients(case, *arrays).items()):
        bound = sum_bound("float32", reduction(case, direction) + 1, magnitude[direction])
        assert_within(actual, expected[direction], bound, direction)


@pytest.mark.parametrize("algorithm", ["row reuse", "no wide filters"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_nonfinite_input_affects_only_the_windows_that_read_it(value, algorithm, monkeypatch):
    force(monkeypatch, algorithm)
    check_windows_of_a_nonfinite_input(value)


@pytest.mark.parametrize("algorithm", ["one copy for both gradients", "a copy for each gradient"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_nonfinite_input_affects_only_the_taps_that_read_it(value, padding, algorithm, monkeypatch):
    force(monkeypatch, algorithm)
    check_taps_of_a_nonfinite_input(value, padding)


def test_wide_filters_are_chosen_for_few_channels():
    windows = Windows((8, 12), (3, 3), (1, 1), (1, 1), (0, 0))
    assert wide_filters.group_width(windows, 3, 10, groups=1) == 4
    assert wide_filters.group_width(windows, 10, 10, groups=1) == 3
    assert wide_filters.group_width(windows, 64, 64, groups=1) == 1
    assert wide_filters.group_width(windows, 3, 10, groups=2) == 1
    assert wide_filters.group_width(Windows((8, 31), (3, 3), (1, 1), (1, 1), (0, 0)), 3, 10, groups=1) == 1


@pytest.fixture
def row_reuse_blocks(monkeypatch):
    """The number of images in each block that reused rows."""
    images, multiply = [], correlate.RowReuse.multiply

    def counted(self, view, weights, y):
        images.append(len(y))
        multiply(self, view, weights, y)

    monkeypatch.setattr(correlate.RowReuse, "multiply", counted)
    return images


def test_row_reuse_blocks_hold_as_many_whole_images_as_fit(row_reuse_blocks, monkeypatch):
    case = convolution(5, 7, 6, 32, 40, (3, 2), padding=((1, 0), (2, 1)), dilation=(2, 1))
    image_bytes = 8 * 7 * case.y_shape[2] * 2 * 32  # 7 rows of float64 windows, each of two taps and 32 channels
    monkeypatch.setattr(correlate, "ROW_REUSE_BYTES", image_bytes * 5 // 2)
    check_by_definition(case)
    assert row_reuse_blocks[:3] == [2, 2, 1]
    row_reuse_blocks.clear()
    monkeypatch.setattr(correlate, "ROW_REUSE_BYTES", image_bytes - 1)
    ops.conv2d(*random_arrays(case)[:3], **case.window)
    assert not row_reuse_blocks


def test_row_reuse_splits_the_batch_as_im2col_does(row_reuse_blocks, monkeypatch):
    force(monkeypatch, "batch in three parts")
    x, w = np.ones((6, 4, 4, 64)), np.ones((64, 3, 3, 64))
    monkeypatch.setattr(parallel, "LEAST_BYTES", 6 * 2 * 2 * 9 * 64 * 8 // 3)
    ops.conv2d(x, w)
    assert row_reuse_blocks == [2, 2, 2]


def test_dgrad_gives_all_rows_of_a_dx_larger_than_dy_if_an_image_just_fits_in_a_block(row_reuse_blocks, monkeypatch):
    case = convolution(2, 5, 5, 32, 32, 3)  # dx has 5 rows, dy has 3
    monkeypatch.setattr(correlate, "ROW_REUSE_BYTES", 8 * 3 * 5 * 3 * 32)
    check_by_definition(case)
    assert row_reuse_blocks == [1] * 6  # fprop, dgrad, and dgrad in the call for both gradients


@pytest.mark.parametrize(
    ("reuses_rows", "r", "channels", "k", "options"),
    [
        (True, 3, 64, 64, {}),
        (True, 2, 64, 96, {}),
        (True, 3, 64, 4, {}),  # 8 wide filters, for groups of two outputs
        (True, 3, 64, 64, {"stride": (1, 2), "dilation": 2}),
        (False, 1, 64, 64, {}),
        (False, 3, 64, 97, {}),
        (False, 3, 10, 10, {}),  # 30 wide filters, for groups of three outputs
        (False, 3, 64, 64, {"stride": (2, 1)}),
        (False, 3, 64, 128, {"groups": 2}),
    ],
)
def test_row_reuse_is_chosen_for_few_filters_relative_to_channels(
    reuses_rows, r, channels, k, options, row_reuse_blocks
):
    w = np.ones((k, r, 3, channels // options.get("groups", 1)))
    ops.conv2d(np.ones((1, 8, 8, channels)), w, **options)
    assert bool(row_reuse_blocks) is reuses_rows


@pytest.mark.parametrize(
    ("shared", "channels", "k", "options"),
    [
        (True, 8, 16, {}),
        (True, 8, 23, {}),
        (False, 8, 24, {}),
        (True, 8, 24, {"groups": 2}),
        (False, 8, 16, {"padding": 0}),
        (False, 8, 16, {"stride": 2}),
    ],
)
def test_both_gradients_share_one_copy_given_padding_and_stride_1_and_few_filters_relative_to_channels(
    shared, channels, k, options, monkeypatch
):
    calls, correlate_both = [], conv.correlate_both
    monkeypatch.setattr(conv, "correlate_both", lambda *args: calls.append(1) or correlate_both(*args))
    x, w = np.ones((1, 8, 8, channels)), np.ones((k, 3, 3, channels // options.get("groups", 1)))
    options = {"padding": 1, **options}
    ops.conv2d_backward(ops.conv2d(x, w, **options), x, w, **options)
    assert bool(calls) is shared


def test_a_gradient_that_shares_the_wide_filter_copy_is_not_recomputed(monkeypatch):
    force(monkeypatch, "wide filters")
    force(monkeypatch, "one copy for both gradients")
    folded, fold = [], correlate.fold_filters
    monkeypatch.setattr(correlate, "fold_filters", lambda *args: folded.append(1) or fold(*args))
    monkeypatch.setattr(conv, "correlate_gradient", None)
    x, w = np.ones((1, 8, 8, 3)), np.ones((4, 3, 3, 3))
    ops.conv2d_backward(np.ones((1, 8, 8, 4)), x, w, padding=1)
    assert folded


def test_the_workspace_stays_within_the_bytes_of_two_blocks():
    case = convolution(16, 32, 32, 32, 32, 3, padding=1)
    arrays = random_arrays(case, np.float32)
    tracemalloc.start()
    directions(case, *arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    both_gradients(case, *arrays)
    peak_of_both = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    results = 2 * arrays[0].nbytes + arrays[1].nbytes
    # the whole im2col view would take 9 times the input
    assert max(peak, peak_of_both) - results < 2 * correlate.MOST_BLOCK_BYTES < 9 * arrays[0].nbytes
