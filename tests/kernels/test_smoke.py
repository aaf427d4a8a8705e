"""A quick check of the kernels among the everyday tests: every op, and every GEMM family but wgmma. One kernel of wgmma
is compiled and not run. The rest is in the tier `kernels`."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gpuconv import ops, verify
from gpuconv.algorithms import find
from gpuconv.profiling.launches import record_launches
from gpuconv.verify.conv_problems import conv
from gpuconv.verify.oracle import expected_results
from tests.kernels.agreement import on_device
from tests.kernels.compiled import assert_no_spills, compiled, tensor_core_variant
from tests.kernels.convolutions import arguments
from tests.tolerance import assert_within

ODD = conv(2, 5, 7, 3, 6, (3, 2), padding=((1, 1), (0, 1)))
DEPTHWISE = conv(2, 5, 7, 4, 4, (3, 2), groups=4)
DEEP = conv(1, 5, 7, 600, 3, (1, 1))
FAMILIES = {  # the problem, dtype and options, and the kernels that must run
    "conv2d": (ODD, "float32", {}, ["conv2d_fprop_simt"]),
    "conv2d few channels": (ODD, "float32", {"algo": "few_channels-256x64"}, ["conv2d_fprop_few_channels"]),
    "conv2d mma": (ODD, "bfloat16", {"algo": "mma-64x64"}, ["conv2d_fprop_mma"]),
    "conv2d depthwise": (DEPTHWISE, "float32", {}, ["conv2d_fprop_depthwise"]),
    "conv2d split": (DEEP, "float32", {}, ["conv2d_fprop_simt", "gemm_reduce_splits"]),
    "conv2d_dgrad": (ODD, "float32", {}, ["conv2d_dgrad_simt"]),
    "conv2d_dgrad mma": (ODD, "bfloat16", {"algo": "mma-64x64"}, ["conv2d_dgrad_mma"]),
    "conv2d_dgrad depthwise": (DEPTHWISE, "float32", {}, ["conv2d_dgrad_depthwise"]),
    "conv2d_wgrad": (ODD, "float32", {}, ["conv2d_wgrad_simt"]),
    "conv2d_wgrad mma": (ODD, "bfloat16", {"algo": "mma-64x64"}, ["conv2d_wgrad_mma"]),
    "conv2d_wgrad depthwise": (DEPTHWISE, "float32", {}, ["conv2d_wgrad_depthwise", "gemm_reduce_splits"]),
}


def size(argument) -> int:
    return sum(map(size, argument)) if isinstance(argument, list) else np.size(argument)


def largest_tiny(op: str) -> verify.Case:
    """The largest tiny case of an op, of those that neither name an algorithm nor use TF32."""
    cases = (case for case in verify.cases(("tiny",)) if case.op == op)
    plain = [case for case in cases if not re.search("few channels|tf32", case.name)]
    return max(plain, key=lambda case: size(case.arguments("float32")[0]))


@pytest.mark.parametrize("op", ops.__all__)
def test_op_agrees_with_the_oracle(device, op):
    outcome = verify.run_case(largest_tiny(op), "float32", device)
    assert outcome.passed, f"{outcome.case.name}: {outcome.failure}"


@pytest.mark.parametrize("name", FAMILIES)
def test_gemm_family_agrees_with_the_oracle(device, monkeypatch, name):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    op = name.split()[0]
    problem, dtype, options, kernels = FAMILIES[name]
    arrays, sizes = arguments(op, problem, dtype)
    options = options | sizes
    (expected,) = expected_results(op, arrays, options)
    with record_launches() as launches:
        assert_within(on_device(op, device, *arrays, **options), expected.value, expected.bound)
    assert [launch.kernel.name for launch in launches] == kernels


def test_a_kernel_of_wgmma_compiles_for_hopper_without_a_spill():
    """test_wgmma_machine_code.py compiles the other kernels of wgmma."""
    variant = tensor_core_variant("fprop", find("wgmma-128x128", "bfloat16"), "bfloat16")
    assert_no_spills(compiled(variant, "sm_90a"))
