"""Kernels compiled by NVRTC, which needs no GPU."""

from __future__ import annotations

import functools

import pytest

from gpuconv.algorithms import Algorithm
from gpuconv.backends.cuda.analysis import machine_code
from gpuconv.backends.cuda.analysis.variants import Variant
from gpuconv.backends.cuda.runtime import nvrtc, source


@functools.cache
def nvdisasm() -> str:
    """The path of nvdisasm. Skips the test if there is none."""
    try:
        return machine_code.disassembler()
    except nvrtc.CompileError as error:
        pytest.skip(str(error))


def compiled(variant: Variant, arch: str) -> nvrtc.Binary:
    """A variant compiled for an architecture. Skips the test if NVRTC is not installed."""
    path = source.resolve(variant.file)
    try:
        nvrtc.toolkit()
    except nvrtc.CompileError as error:
        pytest.skip(str(error))
    return nvrtc.compile_cubin(path.stem, source.flatten(path), dict(variant.defines), arch)


def tensor_core_variant(direction: str, algorithm: Algorithm, precision: str, **more: object) -> Variant:
    """The kernel of one direction of a convolution, whose arrays are all moved 16 bytes at a time. more: macros."""
    wide = 4 if precision == "tf32" else 8
    macros = algorithm.defines(precision) | dict(ACTIVATION="Identity", MASK=0, VECTOR_C=wide, VECTOR_K=wide) | more
    return Variant(algorithm.file(f"conv2d_{direction}"), tuple((name, str(v)) for name, v in macros.items()))


def main_loop(variant: Variant) -> machine_code.MainLoop:
    """The main loop of a variant's only kernel, compiled for sm_90a. Skips the test if nvdisasm is not installed."""
    nvdisasm()
    (code,) = machine_code.disassemble(compiled(variant, "sm_90a").path).values()
    return machine_code.main_loop(code)


def assert_no_spills(binary: nvrtc.Binary) -> None:
    """No kernel of a binary spills registers or has a stack, and ptxas does not warn (C75xx) that it serialized
    wgmma."""
    for name, resources in binary.resources.items():
        assert (resources.stack, resources.spill_stores, resources.spill_loads) == (0, 0, 0), name
    assert "C75" not in binary.path.with_name("log.txt").read_text(encoding="utf-8")
