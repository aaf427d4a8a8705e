"""The machine code of convolutions by wgmma for sm_90a: products, spills, registers and copies."""

from __future__ import annotations

import math

import pytest

from gpuconv.algorithms import Algorithm, find
from gpuconv.backends.cuda.analysis import machine_code
from gpuconv.backends.cuda.analysis.predict_time import resident_blocks
from gpuconv.backends.cuda.analysis.variants import Variant
from gpuconv.backends.cuda.runtime import nvrtc
from tests.kernels.compiled import assert_no_spills, compiled, nvdisasm, tensor_core_variant
from tests.kernels.wgmma_tiers import OPS, TILES_OF

# The most registers of a thread, and the most instructions of a warp in the main loop for each HGMMA: the first pair
# for NVRTC from 13.5 on, the second for earlier versions. ci/oldest_nvrtc.sh compiles with 12.0 and 13.0.
PINNED = {
    "wgmma-256x128": ((168, 13), (168, 14)),
    "wgmma-128x256": ((168, 21), (168, 22)),
    "wgmma-128x128": ((144, 22), (148, 22)),
    "wgmma-256x64": ((160, 13), (168, 14)),
    "wgmma-128x192": ((140, 19), (144, 21)),
    "wgmma-64x192": ((140, 19), (144, 21)),
    "wgmma-128x64": ((128, 14), (128, 15)),
    "wgmma-2x128x128": ((112, 21), (104, 22)),
    "wgmma-128x2x192": ((144, 20), (144, 25)),  # older compilers compute the address of the summed tile in every stage
}
EPILOGUES = {
    "plain": {},
    "gelu": dict(ACTIVATION="Gelu", SAVES_INPUT=1),
    "pool": dict(ACTIVATION="Relu", MASK=4),
    "moments": dict(MOMENTS=1),
    "single numbers": dict(VECTOR_C=1, VECTOR_K=1),
    "many taps": dict(TAP_TABLE=0),
    "norm sums": dict(ACTIVATION="Gelu", NORM_SUMS=1),
    "norm sums, silu": dict(ACTIVATION="Silu", NORM_SUMS=1),
}
EPILOGUES_OF = {
    "conv2d": ("plain", "gelu", "pool", "moments", "single numbers", "many taps"),
    "conv2d_dgrad": ("plain", "norm sums", "norm sums, silu", "single numbers", "many taps"),
    "conv2d_wgrad": ("plain", "single numbers"),
}


def copies_of(side):
    """How many copies each of 128 threads makes to fill an operand's tile of 64 lines of `side` numbers.

    A thread copies 8 numbers in each pass, and a pass fills a number of lines that is a power of two."""
    lines_a_pass = 2 ** int(math.log2(128 // (side // 8)))
    return 64 // lines_a_pass


def variant_of(op: str, algorithm: Algorithm, epilogue: str) -> Variant:
    direction = OPS[op].removeprefix("conv2d_")
    return tensor_core_variant(direction, algorithm, "bfloat16", **EPILOGUES[epilogue])


def instructions_of(binary: nvrtc.Binary) -> list[machine_code.Instruction]:
    nvdisasm()
    (code,) = machine_code.disassemble(binary.path).values()
    return code


@pytest.mark.parametrize(
    ("op", "algo", "epilogue"),
    [
        (op, algo, epilogue)
        for op, epilogues in EPILOGUES_OF.items()
        for algo in TILES_OF[op]
        for epilogue in epilogues
        if epilogue != "single numbers" or find(algo, "bfloat16").cluster == 1  # clusters move only 16 bytes at once
    ],
)
def test_one_hgmma_per_product_without_spills(op, algo, epilogue):
    """There is an HGMMA for each 64 rows and 16 numbers of the depth."""
    algorithm = find(algo, "bfloat16")
    binary = compiled(variant_of(op, algorithm, epilogue), "sm_90a")
    assert_no_spills(binary)
    code = instructions_of(binary)
    rows_per_warpgroup = algorithm.block_m // (algorithm.threads // 128 - 1)
    hgmmas = sum(instruction.opcode.startswith("HGMMA") for instruction in code)
    assert machine_code.main_loop(code).hmma == rows_per_warpgroup // 64 * 4 == hgmmas


every_tile = pytest.mark.parametrize(("op", "algo"), [(op, algo) for op in EPILOGUES_OF for algo in TILES_OF[op]])


@every_tile
def test_registers_and_instructions_stay_within_their_limits(op, algo):
    """At least as many blocks are resident on a multiprocessor as the cost model assumes."""
    algorithm = find(algo, "bfloat16")
    binary = compiled(variant_of(op, algorithm, "plain"), "sm_90a")
    version = tuple(map(int, nvrtc.toolkit()[1].removeprefix("NVRTC ").split(".")))
    by_newest, by_older = PINNED[algo]
    most_registers, most_instructions = by_newest if version >= (13, 5) else by_older
    (resources,) = binary.resources.values()
    assert resources.registers <= most_registers
    shared = resources.static_shared + algorithm.smem_bytes
    assert resident_blocks("sm_90a", resources.registers, shared, algorithm.threads) >= algorithm.resident
    loop = machine_code.main_loop(instructions_of(binary))
    assert loop.instructions / loop.hmma <= most_instructions


@every_tile
def test_operands_are_copied_16_bytes_at_a_time_or_loaded_as_boxes(op, algo):
    """In a cluster, boxes take the place of the copies of the operand that its blocks share."""
    algorithm = find(algo, "bfloat16")
    opcodes = [each.opcode for each in instructions_of(compiled(variant_of(op, algorithm, "plain"), "sm_90a"))]
    copied_sides = [
        *([algorithm.block_m] if algorithm.cluster_across == 1 else []),
        *([algorithm.block_n] if algorithm.cluster_down == 1 else []),
    ]
    copies = [opcode for opcode in opcodes if opcode.startswith("LDGSTS")]
    assert len(copies) == sum(map(copies_of, copied_sides))
    assert all(".128" in opcode for opcode in copies)
    boxes = [opcode for opcode in opcodes if "UTMALDG" in opcode]
    assert boxes == (["UTMALDG.3D.MULTICAST"] if algorithm.cluster > 1 else [])
