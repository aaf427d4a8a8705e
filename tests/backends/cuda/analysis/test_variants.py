"""The list of variants has every kernel file and every variant that the launchers load."""

from __future__ import annotations

import contextlib

import pytest

from gpuconv import ops, verify
from gpuconv.algorithms import UnservedError
from gpuconv.backends.cuda.analysis.variants import MACROS, kernels, variants
from gpuconv.backends.cuda.runtime import kernel, source
from gpuconv.verify.run import to_device


def test_every_file_is_listed():
    assert set(MACROS) == {path.name for path in source.directory().glob("*.cu")}


def test_a_listed_variant_of_every_file_defines_kernels():
    for variant in {v.file: v for v in variants()}.values():
        assert kernels(variant)


def listed_for(file, defines):
    """The macros of the variant in the list that covers the one with `defines`. Of variants that differ little, only
    the one that needs most resources is listed."""
    if defines.get("DTYPE") == "bfloat16" and ("mma" in file or "few_channels" in file):  # float16 stands for both
        defines |= {"DTYPE": "float16"}
    masked = file.startswith("conv2d") and "MASK" in defines
    if masked:  # the mask with most bits
        defines |= {"MASK": "4"}
    if masked and "MOMENTS" not in defines:  # without moments, the mask of a ReLU
        defines |= {"ACTIVATION": "Relu"}
    elif defines.get("ACTIVATION", "Identity") != "Identity":  # the activation with most arithmetic
        defines |= {"ACTIVATION": "Gelu"}
        if file.startswith("conv2d_fprop") and "depthwise" not in file:
            defines |= {"SAVES_INPUT": "1"}  # these kernels also store the activation's input
    if "NORM_SUMS" in defines:  # even if the norm has no activation
        defines |= {"ACTIVATION": "Gelu"}
    if "TF32" in defines and file in ("conv2d_fprop.cu", "conv2d_dgrad.cu", "conv2d_wgrad.cu"):
        plain = {
            name: value
            for name, value in defines.items()
            if name not in ("MASK", "MOMENTS", "NORM_SUMS", "SAVES_INPUT")
        }
        return plain | dict(ACTIVATION="Identity", VECTOR_C="4", VECTOR_K="4")
    has_epilogue = defines.keys() & {"MASK", "MOMENTS"} or defines.get("ACTIVATION") == "Gelu"
    mixes_no_widths = has_epilogue or "mma" in file
    if "VECTOR_C" in defines and mixes_no_widths:  # the listed variant has only wide or only single accesses
        defines |= dict.fromkeys(("VECTOR_C", "VECTOR_K"), max(defines["VECTOR_C"], defines["VECTOR_K"]))
    if file == "conv2d_fprop_few_channels.cu" and has_epilogue:
        defines |= {"VECTOR_C": "1", "VECTOR_K": "8" if "16" in defines["DTYPE"] else "4"}
    return defines


@pytest.mark.kernels
def test_the_launchers_load_only_listed_variants(monkeypatch):
    """The report omits no kernel that runs, except variants that lie between two listed ones."""
    loaded = set()

    def recording(launched, *_, **__):  # nothing has to be compiled or run
        name = launched.module.path.name
        loaded.add((name, frozenset(listed_for(name, dict(launched.module.defines)).items())))

    monkeypatch.setattr(kernel.Kernel, "__call__", recording)
    for case in verify.cases(("tiny", "odd", "real")):
        for dtype in case.dtypes:
            arrays, options = case.arguments(dtype, 0)
            on_device = [to_device(array, "emulated") for array in arrays]
            options = {name: to_device(value, "emulated") for name, value in options.items()}
            getattr(ops, case.op)(*on_device, **options)
            if (
                case.op in ("conv2d", "conv2d_dgrad", "conv2d_wgrad")
                and dtype == "float16"
                and options.get("algo", "auto") == "auto"
            ):
                for algo in ("wgmma-128x128", "wgmma-2x128x128", "wgmma-128x2x192"):  # "auto" chooses none of these
                    with contextlib.suppress(UnservedError):
                        getattr(ops, case.op)(*on_device, **options | {"algo": algo})
    listed = {(variant.file, frozenset(variant.defines)) for variant in variants()}
    assert {file for file, _ in loaded} == set(MACROS)
    assert loaded <= listed, f"not listed: {sorted(map(str, loaded - listed))}"
