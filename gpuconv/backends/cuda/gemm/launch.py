"""Runs a product's kernel, and the reduction if there is split-K."""

from __future__ import annotations

from typing import cast

import numpy as np

from gpuconv.algorithms import Algorithm
from gpuconv.backends.cuda.gemm import tuner
from gpuconv.backends.cuda.gemm.compiled import kernel_of
from gpuconv.backends.cuda.gemm.plan import Plan
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.gemm.reduce import reduce_splits
from gpuconv.backends.cuda.runtime.new_arrays import empty, strided
from gpuconv.backends.cuda.runtime.rows import rows_of
from gpuconv.backends.cuda.runtime.tensor_map import tensor_map
from gpuconv.dtypes import accumulation_dtype
from gpuconv.integers import ceil_div
from gpuconv.types import Array, ArrayT

Arrays = tuple[Array | None, ...]


def compute(
    product: Product,
    algo: str,
    out: Array,
    secondary: Arrays,
    inputs: Arrays,
    *,
    bias: Array | None = None,
    accumulate: bool | None = None,
    struct: np.void | None = None,
) -> Array | None:
    """Compute a product with the plan for `algo`. Arguments and result as in `launch`."""

    def trial(plan: Plan) -> None:
        target, others = out, secondary
        if accumulate:
            target, others = _scratch(out), tuple(each if each is None else _scratch(each) for each in secondary)
        launch(product, plan, target, others, inputs, bias=bias, accumulate=accumulate, struct=struct)

    plan = tuner.choose(product, algo, out, trial, accumulate=accumulate)
    return launch(product, plan, out, secondary, inputs, bias=bias, accumulate=accumulate, struct=struct)


def _scratch(array: ArrayT) -> ArrayT:
    """An unwritten array like a product's output, with the same pitch."""
    *outer, length = array.shape
    return empty((*outer, rows_of(array)[1]), array.dtype, like=array)[..., :length]


def launch(
    product: Product,
    plan: Plan,
    out: Array,
    secondary: Arrays,
    inputs: Arrays,
    *,
    bias: Array | None = None,
    accumulate: bool | None = None,
    struct: np.void | None = None,
) -> Array | None:
    """Launch kernel(out, secondary..., partials, inputs..., struct, scheduler[, accumulate][, map]) and, with split-K,
    the reduction. The last launch (the reduction, if there is one) adds the bias, applies the activation and
    accumulates.

    out: may be rows with a pitch (`rows.rows_of`); the struct then holds this pitch. secondary: the kernel's secondary
    outputs; with split-K only the first may be given. bias: must also be the last of inputs. accumulate: None if the
    kernel has no such parameter. struct: replaces the product's. If the product reduces its channels, returns the
    state of each channel in each tile, (tiles, channels, numbers): the kernel's last secondary output. Otherwise
    returns None.
    """
    unsplit = plan.split_k == 1
    partials = states = None
    if product.state_numbers:
        channels = out.shape[-1]
        parts = plan.down * product.n * product.batches // channels  # the tiles down, times the phases of dgrad
        states = empty((parts, channels, product.state_numbers), accumulation_dtype(product.dtype), like=out)
        secondary = (*secondary[:-1], states)
    second = secondary[0] if secondary else None
    if not unsplit:
        pitch = out.size + (0 if second is None else ceil_div(second.size, 4) * 4)  # aligned for wide accesses
        partials = empty((plan.split_k, pitch), accumulation_dtype(product.dtype), like=out)
        inputs = inputs if bias is None else (*inputs[:-1], None)
    last: tuple[object, ...] = () if accumulate is None else (accumulate and unsplit,)
    described = product.struct if struct is None else struct
    algorithm = plan.algorithm
    if algorithm.cluster > 1:
        last = (*last, _map_of_shared_operand(product, algorithm, inputs, described))
    arguments = (rows_of(out)[0], *secondary, partials, *inputs, described, plan.scheduler, *last)
    run = kernel_of(product, plan)
    run((plan.blocks, plan.split_k), algorithm.threads, *arguments, shared=plan.smem_bytes)
    if partials is not None:
        reduce_splits(out, partials, second, bias=bias, activation=product.activation, accumulate=bool(accumulate))
    return states


def _map_of_shared_operand(product: Product, algorithm: Algorithm, inputs: Arrays, described: np.void) -> np.void:
    """The map by which each block of a cluster loads its share of a tile (kernels/multicast_iterator.cuh)."""
    operand, filters = cast(tuple[Array, Array], inputs[:2])
    if product.kernel == "conv2d_wgrad":
        pixels, pitch = product.k, int(described["y_pitch"])
        rows = strided(operand, (1, pixels, product.m * product.batches), (pixels * pitch, pitch, 1))
        return tensor_map(rows, (1, algorithm.block_k, algorithm.block_m // algorithm.cluster), swizzle=128)
    if product.kernel == "conv2d_dgrad":
        k, r, s, c = filters.shape
        return tensor_map(filters.reshape(k, r * s, c), (8, 1, 64), swizzle=128)
    box = (1, algorithm.block_n // algorithm.cluster, algorithm.block_k)
    return tensor_map(filters.reshape(product.batches, product.n, product.k), box, swizzle=128)
