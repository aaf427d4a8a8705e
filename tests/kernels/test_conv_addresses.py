"""Addresses past 2^31 in the matrices of a convolution, and problems too large for 32-bit indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpuconv import asarray, to_numpy
from gpuconv.algorithms import serving
from gpuconv.backends.cuda.ops.conv_struct import expect_within_limits, packed
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.integers import ceil_div
from gpuconv.verify.conv_problems import conv
from tests.kernels.agreement import varied

# 11.8e9 elements in, 2.9e9 out
LARGE = conv(700, 1400, 2000, 6, 9, (3, 4), stride=(2, 3), padding=((1, 2), (3, 0)), dilation=(3, 2))
MANY_FILTERS = conv(1, 9, 9, 70_000, 40_000, (1, 3))  # 8.4e9 weights


def address_kernel(name):
    """A kernel of addresses.cu."""
    macros = serving("float32")[-1].defines("float32") | dict(ACTIVATION="Identity", VECTOR_C=1, VECTOR_K=1)
    return load(Path(__file__).with_name("addresses.cu"), macros).kernel(name)


def offsets(device, kernel, case, lines, columns, *phase):
    """The tensor offset that a matrix of conv2d_matrices.cuh gives at each (line, column); -1 outside of the tensor.

    phase: row and column of the phase, for the matrices of dgrad."""
    run = address_kernel(kernel)
    results, tensor = asarray(np.zeros(len(lines), np.int64), device), asarray(np.zeros(1, np.float32), device)
    indices = [asarray(i.astype(np.int32), device) for i in (lines, columns)]
    run(1, 64, results, tensor, *indices, len(lines), packed(case, 1), *phase)
    return to_numpy(results)


def sample_indices(rng, size, count=400):
    """Indices over the whole range, at its ends and past it."""
    return np.concatenate([rng.integers(0, size, count), [0, 1, size - 1, size, size + 100]])


def coordinates(index, *sizes):
    """The coordinates of a flat index, last axis innermost.

    sizes: of all axes but the first, whose coordinate has no upper limit."""
    inner = []
    for size in reversed(sizes):
        index, remainder = index // size, index % size
        inner.append(remainder)
    return [index, *reversed(inner)]


def test_addresses_past_2_to_the_31_in_the_input_are_right(device, rng):
    case = LARGE
    (r, s), (sh, sw), (dh, dw), ((top, _), (left, _)) = case.kernel_size, case.stride, case.dilation, case.padding
    _, p_size, q_size, _ = case.y_shape
    pixels, taps = sample_indices(rng, case.n * p_size * q_size), rng.permutation(sample_indices(rng, r * s * case.c))
    n, p, q = coordinates(pixels, p_size, q_size)
    r_at, s_at, c = coordinates(taps, s, case.c)
    h, w = p * sh + r_at * dh - top, q * sw + s_at * dw - left
    inside = (n < case.n) & (r_at < r) & (h >= 0) & (h < case.h) & (w >= 0) & (w < case.w)
    expected = np.where(inside, ((n * case.h + h) * case.w + w) * case.c + c, -1)
    assert expected.max() > 2**33
    np.testing.assert_array_equal(offsets(device, "input_windows", case, pixels, taps), expected)


def phases(case):
    """Each phase (row, column) of a stride and the taps r and s that read its pixels."""
    axes = list(zip(case.padding, case.kernel_size, case.stride, case.dilation))
    for phase in np.ndindex(case.stride):
        rs, ss = (taps_that_read(coordinate, *axis) for coordinate, axis in zip(phase, axes))
        yield phase, rs, ss


def taps_that_read(coordinate, padding, size, stride, dilation):
    """Along one axis: the taps that read the pixels whose coordinate is `coordinate` modulo the stride."""
    before, _ = padding
    return np.array([tap for tap in range(size) if (coordinate + before - tap * dilation) % stride == 0], int)


def tap_of(index, rs, ss, filters):
    """r, s and k at flat indices of a phase's taps and filters, and which of these taps exist.

    rs, ss: each r and each s of the phase."""
    tap, k = coordinates(index, filters)
    row, column = tap // max(1, ss.size), tap % max(1, ss.size)
    exists = tap < rs.size * ss.size
    row, column = np.minimum(row, rs.size), np.minimum(column, ss.size)  # past the end: the appended 0
    return np.append(rs, 0)[row], np.append(ss, 0)[column], k, exists


# Strides and dilations with and without a common factor. A row is read by no tap, one, two or all three.
PHASED = [
    LARGE,
    varied(LARGE, stride=(2, 2), dilation=(2, 1)),
    varied(LARGE, k=27, stride=(4, 3), dilation=(2, 3)),
    varied(LARGE, stride=(1, 5), dilation=(1, 1)),
]


@pytest.mark.parametrize("case", PHASED, ids=lambda case: f"{case.stride}-{case.dilation}")
def test_addresses_past_2_to_the_31_in_the_gradient_are_right(device, rng, case):
    (sh, sw), (dh, dw), ((top, _), (left, _)) = case.stride, case.dilation, case.padding
    _, p_size, q_size, _ = case.y_shape
    furthest = -1
    for phase, rs, ss in phases(case):
        across, down = ceil_div(case.w, sw), ceil_div(case.h, sh)
        pixels = sample_indices(rng, case.n * down * across)
        taps = rng.permutation(sample_indices(rng, max(1, rs.size * ss.size * case.k)))
        n, i, j = coordinates(pixels, down, across)
        h, w = phase[0] + i * sh, phase[1] + j * sw
        r, s, k, inside = tap_of(taps, rs, ss, case.k)
        p, q = (h + top - r * dh) // sh, (w + left - s * dw) // sw
        inside &= (n < case.n) & (p >= 0) & (p < p_size) & (q >= 0) & (q < q_size)
        expected = np.where(inside, ((n * p_size + p) * q_size + q) * case.k + k, -1)
        furthest = max(furthest, expected.max())
        np.testing.assert_array_equal(offsets(device, "gradient_windows", case, pixels, taps, *phase), expected)
    assert furthest > 2**31


@pytest.mark.parametrize("stride", [(1, 1), (1, 2), (3, 4)])
def test_addresses_past_2_to_the_31_in_the_filters_are_right(device, rng, stride):
    case = varied(MANY_FILTERS, stride=stride)
    r, s = case.kernel_size
    k, taps = sample_indices(rng, case.k), rng.permutation(sample_indices(rng, r * s * case.c))
    expected = np.where((k < case.k) & (taps < r * s * case.c), k * (r * s * case.c) + taps, -1)
    assert expected.max() > 2**32
    np.testing.assert_array_equal(offsets(device, "plain_filters", case, k, taps), expected)

    furthest = -1
    for phase, rs, ss in phases(case):
        taps, c = sample_indices(rng, max(1, rs.size * ss.size * case.k)), rng.permutation(sample_indices(rng, case.c))
        r_at, s_at, k, exists = tap_of(taps, rs, ss, case.k)
        expected = np.where(exists & (c < case.c), (k * (r * s) + r_at * s + s_at) * case.c + c, -1)
        furthest = max(furthest, expected.max())
        np.testing.assert_array_equal(offsets(device, "transposed_filters", case, taps, c, *phase), expected)
    assert furthest > 2**32


def test_addresses_past_2_to_the_31_in_the_output_are_right(device):
    out, partial = (asarray(np.zeros(1, np.float32), device) for _ in range(2))
    pitch, row, column = 2**20 + 1, 2**25 + 3, 2**19 + 5
    # The kernel takes `out` for the element at (row, column) of an output that begins over 2^45 elements before it. It
    # computes the element's address from the beginning, and stores 1 there.
    address_kernel("output_address")(1, 32, out, partial, pitch, row, column)
    assert (to_numpy(out), to_numpy(partial)) == (1, 1)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (conv(2**15, 256, 256, 1, 1, (1, 1)), "input pixels"),
        (conv(1, 1, 1, 2**30, 1, (1, 2), padding=((0, 0), (0, 1))), "the taps of a filter, times the channels"),
        (conv(1, 1, 1, 1, 1, (1, 1), padding=((2**30, 0), (0, 0)), stride=(2**20, 1)), "sides"),
    ],
)
def test_problems_too_large_for_32_bit_indices_are_refused(case, message):
    with pytest.raises(ValueError, match=message):
        expect_within_limits(case)
