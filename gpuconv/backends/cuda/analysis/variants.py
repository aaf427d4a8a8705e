"""Every kernel file with its macros: what ``gpuconv kernels`` lists and the report compiles."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpuconv.algorithms import ALGORITHMS, FEW_CHANNELS, Algorithm, macros_of
from gpuconv.backends.cuda.runtime import source
from gpuconv.dtypes import FLOAT_NAMES, PRECISIONS, as_dtype

WIDE = "16 bytes"  # represents the number of values in 16 bytes
WIDE_SUMS = "16 bytes of sums"  # likewise, for accumulators
LONGEST = "32 (float64 and soft labels: 16)"  # represents the most scores that a lane keeps in registers
LABEL_DTYPES = ("int64", "uint8")  # the label dtypes that are compiled ahead; any integer dtype works
SOFT_LABEL = "float32 (float64: float64)"  # labels with a number for each class; any float dtype works
VECTORS: dict[str, tuple[Any, ...]] = dict(VECTOR_C=(1, WIDE), VECTOR_K=(1, WIDE))
MOVES = (1, WIDE)  # VECTOR_C and VECTOR_K are equal; kernels with unequal ones need no more resources
ACTIVATIONS = ("Identity", "Gelu")  # none, and the one with the most arithmetic; others are compiled when used
MASKED = dict(MASK=4)  # the mask with the most bits; the other one is compiled when used
NO_TAP_TABLE = dict(TAP_TABLE=0)  # for filters whose taps do not fit in the tile iterators' table
FPROP_EPILOGUES: tuple[Mapping[str, Any], ...] = (
    dict(ACTIVATION="Identity"),
    dict(ACTIVATION="Gelu", SAVES_INPUT=1),  # needs more resources than an activation whose input is not stored
    dict(ACTIVATION="Relu") | MASKED,
    dict(ACTIVATION="Identity", MOMENTS=1),
    dict(ACTIVATION="Identity", MOMENTS=1) | MASKED,
)
DGRAD_EPILOGUES: tuple[Mapping[str, Any], ...] = (
    dict(ACTIVATION="Identity"),
    dict(ACTIVATION="Gelu", NORM_SUMS=1),  # needs more resources than the sums of a norm without an activation
)


@dataclass(frozen=True)
class AlgorithmVariant:
    """An algorithm in one of its precisions: determines DTYPE and the algorithm's own macros."""

    algorithm: Algorithm
    precision: str

    def __str__(self) -> str:
        return f"{self.algorithm.name} {self.precision}"


def algorithm_variants(family: str, precisions: tuple[str, ...] = PRECISIONS) -> tuple[AlgorithmVariant, ...]:
    listed = (*FEW_CHANNELS, *ALGORITHMS)
    return tuple(
        AlgorithmVariant(a, precision)
        for a in listed
        if a.family == family
        for precision in a.precisions
        if precision in precisions
    )


# bfloat16 is left out: its code differs from that of float16 only in the name of an instruction.
DISTINCT_PRECISIONS = tuple(precision for precision in PRECISIONS if precision != "bfloat16")
SIMT, MMA, WGMMA, WGMMA_CLUSTER, OF_FEW_CHANNELS = (
    algorithm_variants(family, DISTINCT_PRECISIONS)
    for family in ("simt", "mma", "wgmma", "wgmma_cluster", "few_channels")
)
# The dtype of parameters and state, and the dtype of gradients: equal, or float32 masters with 16-bit gradients.
STEP_DTYPES = (*((name, name) for name in FLOAT_NAMES), ("float32", "float16"), ("float32", "bfloat16"))
# `STEP_DTYPES`, each with every dtype of the factors of Muon's products: the accumulation dtype and, if that is
# float32, bfloat16.
MUON_STEP_DTYPES = tuple(
    (*step, factor)
    for step in STEP_DTYPES
    for factor in (("float64",) if step[0] == "float64" else ("float32", "bfloat16"))
)

MACROS: dict[str, dict[str, tuple[Any, ...]]] = {
    "activation.cu": dict(DTYPE=FLOAT_NAMES, WIDTH=(1, WIDE)),
    "arithmetic.cu": dict(DTYPE=FLOAT_NAMES, WIDTH=(1, WIDE)),
    "avg_pool2d.cu": dict(DTYPE=FLOAT_NAMES, WIDTH=(1, WIDE), INCLUDE_PAD=(0, 1)),
    "batch_norm.cu": dict(DTYPE=FLOAT_NAMES, ACTIVATION=ACTIVATIONS, WIDTH=(1, WIDE), MASK=(0, 4)),
    "bias_grad.cu": dict(DTYPE=FLOAT_NAMES, ACTIVATION=ACTIVATIONS, WIDTH=(1, WIDE)),
    "clip.cu": {},
    "conv2d_dgrad.cu": dict(ALGORITHM=SIMT, EPILOGUE=DGRAD_EPILOGUES, **VECTORS),
    "conv2d_dgrad_depthwise.cu": dict(ARITHMETIC=PRECISIONS, WIDTH=(1, WIDE)),
    "conv2d_dgrad_mma.cu": dict(
        ALGORITHM=MMA, EPILOGUE=(*DGRAD_EPILOGUES, dict(ACTIVATION="Identity") | NO_TAP_TABLE), MOVE=MOVES
    ),
    "conv2d_dgrad_wgmma.cu": dict(
        ALGORITHM=WGMMA,
        EPILOGUE=(*DGRAD_EPILOGUES, dict(ACTIVATION="Silu", NORM_SUMS=1), dict(ACTIVATION="Identity") | NO_TAP_TABLE),
        MOVE=MOVES,
    ),
    "conv2d_dgrad_wgmma_cluster.cu": dict(
        ALGORITHM=WGMMA_CLUSTER, EPILOGUE=(*DGRAD_EPILOGUES, dict(ACTIVATION="Identity") | NO_TAP_TABLE), MOVE=(WIDE,)
    ),
    "conv2d_fprop.cu": dict(ALGORITHM=SIMT, EPILOGUE=FPROP_EPILOGUES, **VECTORS),
    "conv2d_fprop_depthwise.cu": dict(ARITHMETIC=PRECISIONS, ACTIVATION=ACTIVATIONS, WIDTH=(1, WIDE)),
    "conv2d_fprop_few_channels.cu": dict(ALGORITHM=OF_FEW_CHANNELS, EPILOGUE=FPROP_EPILOGUES, VECTOR_K=(1, WIDE)),
    "conv2d_fprop_mma.cu": dict(
        ALGORITHM=MMA, EPILOGUE=(*FPROP_EPILOGUES, dict(ACTIVATION="Identity") | NO_TAP_TABLE), MOVE=MOVES
    ),
    "conv2d_fprop_wgmma.cu": dict(
        ALGORITHM=WGMMA, EPILOGUE=(*FPROP_EPILOGUES, dict(ACTIVATION="Identity") | NO_TAP_TABLE), MOVE=MOVES
    ),
    "conv2d_fprop_wgmma_cluster.cu": dict(
        ALGORITHM=WGMMA_CLUSTER,
        # Without the last epilogue: moments with a mask need no more resources than without one.
        EPILOGUE=(*FPROP_EPILOGUES[:4], dict(ACTIVATION="Identity") | NO_TAP_TABLE),
        MOVE=(WIDE,),
    ),
    "conv2d_wgrad.cu": dict(ALGORITHM=SIMT, ACTIVATION=("Identity",), **VECTORS),
    "conv2d_wgrad_depthwise.cu": dict(ARITHMETIC=PRECISIONS, WIDTH=(1, WIDE)),
    "conv2d_wgrad_mma.cu": dict(ALGORITHM=MMA, ACTIVATION=("Identity",), MOVE=MOVES),
    "conv2d_wgrad_wgmma.cu": dict(ALGORITHM=WGMMA, ACTIVATION=("Identity",), MOVE=MOVES),
    "conv2d_wgrad_wgmma_cluster.cu": dict(ALGORITHM=WGMMA_CLUSTER, ACTIVATION=("Identity",), MOVE=(WIDE,)),
    "digest.cu": {},
    "dropout.cu": dict(DTYPE=FLOAT_NAMES, VECTOR=(1, 4)),
    "gemm_reduce.cu": dict(DTYPE=FLOAT_NAMES, ACTIVATION=ACTIVATIONS, WIDTH=(1, WIDE_SUMS)),
    "elementwise_loss.cu": dict(DTYPE=FLOAT_NAMES, LABEL=(SOFT_LABEL,)),
    "global_avg_pool2d.cu": dict(DTYPE=FLOAT_NAMES, COLUMNS=(1, 2, 4, 8, 16, 32)),
    "group_norm.cu": dict(DTYPE=FLOAT_NAMES, WIDTH=(1, WIDE)),
    "load_batch.cu": dict(DTYPE=FLOAT_NAMES, FULL=(0, 1)),
    "mask_backward.cu": dict(DTYPE=FLOAT_NAMES, SIDE=(1, 2), WIDTH=(1, WIDE)),
    "matmul.cu": dict(ALGORITHM=SIMT, ACTIVATION=("Identity",), DEPTH_FIRST=(0, 1), WIDTH=(1, WIDE)),
    "matmul_mma.cu": dict(ALGORITHM=MMA, ACTIVATION=("Identity",), DEPTH_FIRST=(0, 1), WIDTH=(1, WIDE)),
    "max_pool2d.cu": dict(DTYPE=FLOAT_NAMES, WIDTH=(1, WIDE), ARGMAX=("uint8", "uint16", "uint32")),
    "metrics.cu": dict(DTYPE=FLOAT_NAMES, LABEL=("int64", SOFT_LABEL)),
    "loss_scale.cu": {},
    "mix_batch.cu": dict(DTYPE=FLOAT_NAMES),
    "muon.cu": dict(STEP=MUON_STEP_DTYPES),
    "optimizer.cu": dict(STEP=STEP_DTYPES),
    "random_fill.cu": dict(DTYPE=FLOAT_NAMES),
    "softmax.cu": dict(DTYPE=FLOAT_NAMES, PER_LANE=(1, 4, LONGEST)),
    "softmax_cross_entropy.cu": dict(DTYPE=FLOAT_NAMES, PER_LANE=(1, 4, LONGEST), LABEL=(*LABEL_DTYPES, SOFT_LABEL)),
    "step_counter.cu": dict(DTYPE=("float32", "float64")),
    "svm_hinge.cu": dict(DTYPE=FLOAT_NAMES, PER_LANE=(1, 4, LONGEST), LABEL=LABEL_DTYPES),
}


@dataclass(frozen=True)
class Variant:
    """One .cu file with one choice of macros. smem_bytes: dynamic shared memory of its blocks; 0 for few channels,
    where it depends on the shape. arch: the only architecture that it compiles for; "" if there are more.
    """

    file: str
    defines: tuple[tuple[str, str], ...]
    smem_bytes: int = 0
    arch: str = ""

    def compiles_for(self, arch: str) -> bool:
        return self.arch in ("", arch)

    def __str__(self) -> str:
        return " ".join([self.file, *(f"{name}={value}" for name, value in self.defines)])


def variants(macros: Mapping[str, Mapping[str, tuple[Any, ...]]] = MACROS) -> Iterator[Variant]:
    """Every variant of every file that is compiled ahead."""
    for file, choices in macros.items():
        for values in itertools.product(*choices.values()):
            chosen = dict(zip(choices, values))
            product = chosen.pop("ALGORITHM", None)
            if product and file not in map(product.algorithm.file, product.algorithm.kernels):
                continue
            if product:
                chosen |= product.algorithm.defines(product.precision)
            if precision := chosen.pop("ARITHMETIC", None):
                chosen |= macros_of(precision)
            if step := chosen.pop("STEP", None):
                chosen |= dict(zip(("DTYPE", "GRAD", "FACTOR"), step))
            chosen |= chosen.pop("EPILOGUE", {})
            if move := chosen.pop("MOVE", None):
                chosen["VECTOR_C"] = chosen["VECTOR_K"] = move
            if product and _covered_by_another(product, chosen):
                continue
            size = as_dtype(chosen.get("DTYPE", "float32")).itemsize
            wide = size == 8 or chosen.get("LABEL") == SOFT_LABEL
            stands_for: dict[str, object] = {
                WIDE: 16 // size,
                WIDE_SUMS: 16 // max(size, 4),
                LONGEST: 16 if wide else 32,
            }
            stands_for |= {SOFT_LABEL: "float64" if size == 8 else "float32"}
            defines = {name: stands_for.get(value, value) for name, value in chosen.items()}
            smem_bytes = product.algorithm.smem_bytes if product else 0
            arch = f"sm_{product.algorithm.capability}a" if product and product.algorithm.one_chip else ""
            yield Variant(file, tuple((name, str(value)) for name, value in defines.items()), smem_bytes, arch)


def _covered_by_another(product: AlgorithmVariant, defines: Mapping[str, object]) -> bool:
    """Whether a variant is not compiled ahead, because another one needs at least as many resources."""
    family, moves = product.algorithm.family, {defines[name] for name in VECTORS if name in defines}
    if "TAP_TABLE" in defines and moves == {1}:
        return True  # kernels that move single numbers never use the table: the code is the same
    if family == "few_channels":
        # Variants that store single numbers differ only in these stores.
        return not _has_plain_epilogue(defines) and defines["VECTOR_K"] != WIDE
    if family == "simt" and product.precision == "tf32":
        # The same code as in float32, except that numbers are rounded on their way into shared memory.
        return not _has_plain_epilogue(defines) or moves != {WIDE}
    return not _has_plain_epilogue(defines) and len(moves) > 1  # mixed moves need no more resources than equal ones


def _has_plain_epilogue(defines: Mapping[str, object]) -> bool:
    """Whether the epilogue only stores the product, and the taps fit in the table."""
    finished = defines.get("ACTIVATION", "Identity") != "Identity" or str(defines.get("MASK", 0)) != "0"
    return not finished and not defines.keys() & {"MOMENTS", "NORM_SUMS", "SAVES_INPUT", "TAP_TABLE"}


def representatives(chosen: Iterable[Variant]) -> list[Variant]:
    """One variant of each file and precision: the one with a plain epilogue, the widest moves and the largest tile."""
    groups: dict[tuple[str | None, ...], list[Variant]] = {}
    for variant in chosen:
        defines = dict(variant.defines)
        if _has_plain_epilogue(defines):
            precision = [defines.get(name) for name in ("DTYPE", "GRAD", "FACTOR", "TF32")]
            groups.setdefault((variant.file, *precision), []).append(variant)
    return [max(found, key=_tile_size) for found in groups.values()]


def _tile_size(variant: Variant) -> list[int]:
    names = ("WIDTH", "VECTOR", "VECTOR_C", "VECTOR_K", "PER_LANE", "COLUMNS", "BLOCK_M", "BLOCK_N")
    return [int(dict(variant.defines).get(name, 0)) for name in names]


def kernels(variant: Variant) -> dict[str, source.Signature]:
    """The kernels of a variant by name, with their parameters."""
    return source.signatures(source.flatten(source.resolve(variant.file)), dict(variant.defines))
