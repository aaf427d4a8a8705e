"""Convolution: launchers of kernels/conv2d_fprop.cu, conv2d_dgrad.cu and conv2d_wgrad.cu, of their variants for
tensor cores and for few channels, of mask_backward.cu and bias_grad.cu. `depthwise` launches depthwise convolutions."""

from __future__ import annotations

import functools
import math

import numpy as np

from gpuconv.algorithms import AUTO, DEPTHWISE, Choice, for_convolution
from gpuconv.backends.cuda.gemm.launch import compute
from gpuconv.backends.cuda.gemm.plan import Plan
from gpuconv.backends.cuda.gemm.product import ACTIVATIONS, Product
from gpuconv.backends.cuda.gemm.tuner import plan_of_name, plan_without_timing
from gpuconv.backends.cuda.ops import depthwise
from gpuconv.backends.cuda.ops.arithmetic import copy
from gpuconv.backends.cuda.ops.column_reduce import distribute, finish_grid, partials, width_of
from gpuconv.backends.cuda.ops.conv_struct import expect_within_limits, fits_tap_table, packed
from gpuconv.backends.cuda.ops.pool import launch_over_packs
from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.backends.cuda.runtime.outputs import buffer, contiguous, contiguous_copy, pack_width, pitch_of, store
from gpuconv.backends.cuda.runtime.rows import rows_of
from gpuconv.dtypes import precision_of
from gpuconv.few_channels import few_channels_smem_bytes
from gpuconv.problems import DIRECTIONS, PLAIN, Conv2dProblem, Epilogue, Pool2dProblem
from gpuconv.types import Array, ArrayT

_NO_NORM = (None,) * 5  # in place of a norm's arrays, for a dgrad that computes no norm's sums


def conv2d(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None,
    problem: Conv2dProblem,
    epilogue: Epilogue,
    *,
    algo: str,
    tf32: bool,
    out: ArrayT | None,
) -> ArrayT:
    return _fprop(x, w, bias, problem, epilogue, algo=algo, tf32=tf32, out=out)[0]


def conv2d_relu(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None,
    problem: Conv2dProblem,
    epilogue: Epilogue,
    *,
    algo: str,
    tf32: bool,
    out: ArrayT | None,
) -> tuple[ArrayT, Array]:
    saved = empty(problem.y_shape, x.dtype, like=x) if epilogue.saves_input else _mask(problem, epilogue, x)
    return _fprop(x, w, bias, problem, epilogue, algo=algo, tf32=tf32, out=out, saved=saved)[0], saved


def conv2d_moments(
    x: ArrayT, w: ArrayT, bias: ArrayT | None, problem: Conv2dProblem, epilogue: Epilogue, *, algo: str, tf32: bool
) -> tuple[ArrayT, Array | None, Array | None]:
    """Returns y, the moments and the mask. The moments, (parts, K, 3), are a `struct Moments` for each filter and each
    part of y's pixels, or None if y is empty. The mask is None if the epilogue has none."""
    mask = _mask(problem, epilogue, x) if epilogue.masked else None
    return *_fprop(x, w, bias, problem, epilogue, algo=algo, tf32=tf32, saved=mask), mask


def _mask(problem: Conv2dProblem, epilogue: Epilogue, like: Array) -> Array:
    return empty(problem.mask_shape(epilogue.pool), np.uint8, like=like)


def _fprop(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None,
    problem: Conv2dProblem,
    epilogue: Epilogue,
    *,
    algo: str,
    tf32: bool,
    out: ArrayT | None = None,
    saved: Array | None = None,
) -> tuple[ArrayT, Array | None]:
    """y, and the moments if the epilogue computes them. saved: receives the mask, or the activation's input."""
    expect_within_limits(problem)
    # The kernels for few channels read whole rows of pixels at once, so x must be contiguous.
    x, x_pitch = (*contiguous(x), problem.c) if problem.few_channels else _rows_with_tap_table(x, problem, problem.c)
    w, bias = contiguous(w, bias)
    vector_c = pack_width(x.dtype, x, w, count=math.gcd(problem.c // problem.groups, x_pitch))
    y = buffer(out, problem.pooled_shape(epilogue.pool), x.dtype, like=x, pitched=True)
    moments = None
    if algo == DEPTHWISE:
        depthwise.fprop(y, x, x_pitch, w, bias, problem, epilogue, tf32=tf32)
    elif y.size:
        flat, pitch = rows_of(y)
        vector_k = pack_width(x.dtype, flat, count=math.gcd(problem.k // problem.groups, pitch))
        product = product_of("fprop", problem, epilogue, x.dtype, tf32, vector_c, vector_k)
        mask_and_input = (None, saved) if epilogue.saves_input else (saved, None)
        struct = packed(problem, epilogue.pool, pitch, x_pitch)
        moments = compute(product, algo, y, (*mask_and_input, None), (x, w, bias), bias=bias, struct=struct)
    return store(y, out), moments


def conv2d_dgrad(
    dy: ArrayT,
    w: ArrayT,
    problem: Conv2dProblem,
    epilogue: Epilogue,
    *,
    mask: Array | None,
    algo: str,
    tf32: bool,
    out: ArrayT | None,
    accumulate: bool,
) -> ArrayT:
    expect_within_limits(problem)
    dy, pitch = _rows_with_tap_table(_gradient_before_mask(dy, mask, problem, epilogue), problem, problem.k)
    (w,) = contiguous(w)
    dx = buffer(out, problem.x_shape, dy.dtype, like=dy, keep=accumulate, pitched=True)
    if algo == DEPTHWISE:
        depthwise.dgrad(dx, dy, pitch, w, problem, tf32=tf32, accumulate=accumulate)
    elif dx.size:
        flat, x_pitch = rows_of(dx)
        product = _dgrad_product(dy, pitch, w, flat, x_pitch, problem, tf32)
        struct = packed(problem, 1, pitch, x_pitch)
        compute(product, algo, dx, (None,), (dy, w, *_NO_NORM), accumulate=accumulate, struct=struct)
    return store(dx, out)


def _dgrad_product(
    dy: Array, pitch: int, w: Array, dx: Array | None, x_pitch: int, problem: Conv2dProblem, tf32: bool
) -> Product:
    """The matrix product of dgrad; dy and dx are rows with a pitch. dx: None for a new array, which is aligned."""
    vector_c = pack_width(w.dtype, w, dx, count=math.gcd(problem.c // problem.groups, x_pitch))
    vector_k = pack_width(w.dtype, dy, count=math.gcd(problem.k // problem.groups, pitch))
    return product_of("dgrad", problem, PLAIN, dy.dtype, tf32, vector_c, vector_k)


def conv2d_dgrad_sums(
    dy: ArrayT,
    w: ArrayT,
    norm: tuple[Array | None, ...],
    problem: Conv2dProblem,
    epilogue: Epilogue,
    algo: str,
    tf32: bool,
) -> tuple[ArrayT, Array | None]:
    """Returns dx and the sums for the backward pass of the batch norm that computed the convolution's input. The sums,
    (parts, C, 2), are a `struct Sums` for each part of dx's pixels and each channel, or None if dx is empty.

    epilogue: has the activation that followed the norm. norm: the norm's x and mean and, with an activation, its gamma,
    beta and inv_std (else None); these and w are contiguous."""
    expect_within_limits(problem)
    dy, pitch = _rows_with_tap_table(dy, problem, problem.k)
    dx = empty(problem.x_shape, dy.dtype, like=dy)
    if not dx.size:
        return dx, None
    vector_c = pack_width(w.dtype, w, norm[0], count=problem.c // problem.groups)  # a new dx is aligned
    vector_k = pack_width(w.dtype, dy, count=math.gcd(problem.k // problem.groups, pitch))
    product = product_of("dgrad", problem, epilogue, dy.dtype, tf32, vector_c, vector_k)
    struct = packed(problem, 1, pitch)
    return dx, compute(product, algo, dx, (None,), (dy, w, *norm), accumulate=False, struct=struct)


def conv2d_wgrad(
    dy: ArrayT,
    x: ArrayT,
    problem: Conv2dProblem,
    epilogue: Epilogue,
    *,
    mask: Array | None,
    algo: str,
    tf32: bool,
    out: ArrayT | None,
    db: ArrayT | None,
    accumulate: bool,
) -> ArrayT:
    expect_within_limits(problem)
    dz = _gradient_before_mask(dy, mask, problem, epilogue)
    dy, pitch = _rows_with_tap_table(dz, problem, problem.k)
    x, x_pitch = _rows_with_tap_table(x, problem, problem.c)
    dw = buffer(out, problem.w_shape, x.dtype, like=x, keep=accumulate)
    if algo == DEPTHWISE:
        if db is not None:
            bias_grad(dz, None, activation=None, out=db, accumulate=accumulate)
        depthwise.wgrad(dw, dy, pitch, x, x_pitch, problem, tf32=tf32, accumulate=accumulate)
    elif dw.size:
        vector_c = pack_width(x.dtype, x, dw, count=math.gcd(problem.c // problem.groups, x_pitch))
        vector_k = pack_width(x.dtype, dy, count=math.gcd(problem.k // problem.groups, pitch))
        product = product_of("wgrad", problem, PLAIN, x.dtype, tf32, vector_c, vector_k)
        sums = None if db is None else buffer(db, db.shape, db.dtype, like=db, keep=accumulate)
        struct = packed(problem, 1, pitch, x_pitch)
        compute(product, algo, dw, (sums,), (dy, x), accumulate=accumulate, struct=struct)
        if sums is not None:
            store(sums, db)
    return store(dw, out)


def conv2d_backward(
    dy: ArrayT,
    x: ArrayT,
    w: ArrayT,
    problem: Conv2dProblem,
    epilogue: Epilogue,
    *,
    mask: Array | None,
    algos: tuple[str, str],
    tf32: bool,
    out: ArrayT | None,
    accumulate_dx: bool,
    dw: ArrayT | None,
    db: ArrayT | None,
    accumulate: bool,
) -> tuple[ArrayT, ArrayT]:
    dy, (dgrad, wgrad) = _gradient_before_mask(dy, mask, problem, epilogue), algos
    if dgrad not in (AUTO, DEPTHWISE) and x.size:  # refuse a wrong dgrad algorithm before dw changes
        (w,), (rows, pitch) = contiguous(w), _rows_with_tap_table(dy, problem, problem.k)
        dx_rows, x_pitch = (None, problem.c) if out is None or pitch_of(out) is None else rows_of(out)
        plan_of_name(_dgrad_product(rows, pitch, w, dx_rows, x_pitch, problem, tf32), dgrad, dy)
    dw = conv2d_wgrad(dy, x, problem, PLAIN, mask=None, algo=wgrad, tf32=tf32, out=dw, db=db, accumulate=accumulate)
    dx = conv2d_dgrad(dy, w, problem, PLAIN, mask=None, algo=dgrad, tf32=tf32, out=out, accumulate=accumulate_dx)
    return dx, dw


def _gradient_before_mask(dy: ArrayT, mask: Array | None, problem: Conv2dProblem, epilogue: Epilogue) -> ArrayT:
    """The gradient of the convolution's own output, from dy, the gradient of conv2d_relu's output."""
    if pitch_of(dy) is None:
        dy = contiguous_copy(dy)
    if mask is None:
        return dy
    (mask,) = contiguous(mask)
    dz, pooled = empty(problem.y_shape, dy.dtype, like=dy), Pool2dProblem.of(problem.y_shape, epilogue.pool)
    macros, group = {"SIDE": epilogue.pool}, problem.k // problem.groups
    launch_over_packs("mask_backward.cu", "mask_backward", macros, pooled, (dz, dy), x=dz, y=dy, mask=mask, group=group)
    return dz


def rows_to_sum(array: ArrayT, count: int = 0) -> tuple[ArrayT, int]:
    """Like `rows_of`, for a kernel whose order of sums depends on the pack width: a slice is copied if only the copy
    allows wide packs, so that it gives the same bits as a contiguous array. count: the channels of a group, or 0; wide
    packs are used only if their width divides it too."""
    flat, pitch = rows_of(array)
    dense = array.shape[-1]
    if pitch == dense:
        return flat, pitch
    wide = 16 // array.itemsize
    copy_is_wide = dense % wide == 0 and count % wide == 0
    if copy_is_wide and pack_width(flat.dtype, flat, count=pitch) == 1:
        return copy(array, out=None), dense
    return flat, pitch


def _rows_with_tap_table(array: ArrayT, problem: Conv2dProblem, channels: int) -> tuple[ArrayT, int]:
    """The result of `rows_to_sum`, or a contiguous copy if the array's pitch is too large for the kernels' tap table.

    array: x, or the gradient of the convolution's own output. channels: C or K."""
    flat, pitch = rows_to_sum(array, channels // problem.groups)
    if pitch > channels and fits_tap_table(problem, 1) and not fits_tap_table(problem, 1, pitch):
        return copy(array, out=None), channels
    return flat, pitch


@functools.lru_cache(maxsize=4096)
def product_of(
    direction: str,
    problem: Conv2dProblem,
    epilogue: Epilogue,
    dtype: np.dtype,
    tf32: bool,
    vector_c: int,
    vector_k: int,
) -> Product:
    """The matrix product of a direction.

    epilogue: the convolution's for fprop. For a gradient it is PLAIN, because dy is the gradient of the convolution's
    own output; for dgrad it may also be one that computes the sums for the norm before the convolution. vector_c,
    vector_k: how many channels and filters move at once."""
    forward, pool, precision = direction == "fprop", epilogue.pool, precision_of(dtype, tf32)
    macros = {"VECTOR_C": vector_c, "VECTOR_K": vector_k}
    macros |= {} if fits_tap_table(problem, pool) else {"TAP_TABLE": 0}
    macros |= {"MASK": pool**2} if epilogue.masked else {}
    macros |= {"MOMENTS": 1} if epilogue.moments else {}
    macros |= {"SAVES_INPUT": 1} if epilogue.saves_input else {}
    macros |= {"NORM_SUMS": 1} if epilogue.norm_sums else {}
    return Product(
        f"conv2d_{direction}",
        *problem.implicit_gemm(direction, pool),
        dtype,
        tf32,
        split_k=epilogue.plain_store,
        few_channels_smem_bytes=few_channels_smem_bytes(problem, pool, precision) if forward else 0,
        struct=packed(problem, pool),
        macros=macros,
        activation=epilogue.activation,
        problem=problem,
        epilogue=epilogue,
    )


def plans(
    device: str, problem: Conv2dProblem, epilogue: Epilogue, dtype: np.dtype, *, algo: str = "auto", tf32: bool = False
) -> dict[str, Plan] | None:
    """The plan of each direction of a convolution on a device, for aligned arrays. None for the algorithm "depthwise",
    which has no plans.

    On a GPU, "auto" is the measured choice, or the cost model's if nothing was measured yet.
    """
    precision, found = precision_of(dtype, tf32), {}
    vectors = [pack_width(dtype, count=count // problem.groups) for count in (problem.c, problem.k)]
    for direction in DIRECTIONS:
        name = for_convolution(algo, problem, epilogue, precision, direction)
        if name == DEPTHWISE:
            return None
        applied = epilogue if direction == "fprop" else PLAIN
        product = product_of(direction, problem, applied, dtype, tf32, *vectors)
        found[direction] = plan_without_timing(product, name, device)
    return found


def chosen_algorithms(
    device: str, problem: Conv2dProblem, epilogue: Epilogue, dtype: np.dtype, *, algo: str = "auto", tf32: bool = False
) -> dict[str, str]:
    """The algorithm of each direction, as a `Choice`; arguments as in `plans`."""
    found = plans(device, problem, epilogue, dtype, algo=algo, tf32=tf32)
    if not found:
        return dict.fromkeys(DIRECTIONS, Choice(DEPTHWISE))
    return {direction: Choice(each.algorithm.name, each.proof) for direction, each in found.items()}


def bias_grad(
    dy: ArrayT, saved: ArrayT | None, *, activation: str | None, out: ArrayT | None, accumulate: bool
) -> ArrayT:
    *leading, channels = dy.shape
    (dy, pitch), (saved,) = rows_to_sum(dy), contiguous(saved)
    db = buffer(out, (channels,), dy.dtype, like=dy, keep=accumulate)
    if channels:
        width = width_of(channels, dy, saved, pitches=(pitch,))
        columns = distribute(math.prod(leading), channels, width, None)
        sums = partials(columns, 1, dy.dtype, dy)
        module = load("bias_grad.cu", {"DTYPE": dy.dtype, "WIDTH": width, "ACTIVATION": ACTIVATIONS[activation]})
        module.kernel("bias_grad_sum")(
            columns.grid, columns.threads, db, sums, dy, saved, accumulate, columns.struct, pitch
        )
        if sums is not None:
            finish = module.kernel("bias_grad_finish")
            finish(finish_grid(channels), THREADS, db, sums, accumulate, columns.chunks, channels)
    return store(db, out)
