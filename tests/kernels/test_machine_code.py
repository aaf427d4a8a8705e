"""The machine code does what the kernel headers claim. It is compiled by NVRTC, which needs no GPU."""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpuconv.algorithms import FEW_CHANNELS, find, serving
from gpuconv.backends.cuda.analysis.machine_code import listings
from gpuconv.backends.cuda.analysis.variants import MACROS, Variant, representatives, variants
from gpuconv.backends.cuda.runtime import source
from tests.kernels.compiled import compiled, main_loop, nvdisasm, tensor_core_variant

ARCHS = ("sm_80", "sm_90a")
SIZES = {"float32": 4, "float64": 8, "float16": 2}
CONVOLUTIONS = ("conv2d_fprop.cu", "conv2d_dgrad.cu", "conv2d_wgrad.cu")

_LINE = re.compile(r'//## File "([^"]+)", line (\d+)')
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+ )?\s*([A-Z][\w.]*)")


@dataclass(frozen=True)
class Function:
    """A kernel's machine code: for each kind of instruction, how many there are, and their source lines."""

    count: Counter[str]
    lines: dict[str, set[tuple[str, int]]]

    def matching(self, pattern: str) -> int:
        """The number of matching instructions."""
        return sum(n for name, n in self.count.items() if re.fullmatch(pattern, name))


@functools.cache
def disassembled(variant: Variant, arch: str) -> dict[str, Function]:
    """The kernels of a variant by name."""
    nvdisasm()
    return {name: _function(code) for name, code in listings(compiled(variant, arch).path, "-g").items()}


def _function(code: str) -> Function:
    count, lines, at = Counter(), {}, ("", 0)
    for text in code.splitlines():
        if match := _LINE.search(text):
            at = match[1], int(match[2])
        elif match := _INSTRUCTION.search(text):
            count[match[1]] += 1
            lines.setdefault(match[1], set()).add(at)
    return Function(count, lines)


def variant_of(file: str, **expected: object) -> Variant:
    """The first variant of a file with these macros; for convolutions the one with the largest tile."""
    chosen = {name: str(value) for name, value in expected.items()}
    return next(v for v in variants({file: MACROS[file]}) if chosen.items() <= dict(v.defines).items())


def width(dtype: str) -> int:
    """How many numbers 16 bytes hold."""
    return 16 // SIZES[dtype]


# One variant per file and dtype. bfloat16 is left out: its kernels are those of float16 with another conversion.
CHECKED = [v for v in representatives(variants()) if dict(v.defines).get("DTYPE", "float32") in SIZES]


def test_every_kernel_file_is_checked():
    assert {variant.file for variant in CHECKED} == set(MACROS)


@pytest.mark.parametrize(("variant", "arch"), [(v, a) for v in CHECKED for a in ARCHS if v.compiles_for(a)], ids=str)
def test_kernels_use_no_local_memory_and_no_float_atomics(variant, arch):
    for name, function in disassembled(variant, arch).items():
        assert function.matching(r"EXIT|RET\..*"), f"{name}: nothing was disassembled"
        assert not function.matching(r"(LDL|STL)\b.*"), name
        # The only atomics count blocks.
        assert not function.matching(r"(ATOM|ATOMG|ATOMS|RED|REDG|REDAS)\.(?!.*INC).*"), name


# (loads, stores): whether a kernel's loads, and its stores, move 16 bytes at a time where the arrays allow.
WIDE_MOVES = {
    "activation.cu": {".*": (True, True)},
    "arithmetic.cu": {".*": (True, True)},
    "avg_pool2d.cu": {".*": (True, True)},
    "mask_backward.cu": {".*": (True, True)},
    "max_pool2d.cu": {".*": (True, True)},
    "optimizer.cu": {".*": (True, True)},
    "bias_grad.cu": {"bias_grad_sum": (True, False)},
    "batch_norm.cu": {
        "batch_norm_(statistics|backward_sums)": (True, False),
        "batch_norm_(normalize|inference|backward_dx)": (True, True),
    },
}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("file", WIDE_MOVES)
def test_kernels_move_16_bytes_at_a_time(file, dtype, arch):
    wide = {"WIDTH": width(dtype)} if "WIDTH" in MACROS[file] else {}
    functions = disassembled(variant_of(file, DTYPE=dtype, **wide), arch)
    for pattern, (loads, stores) in WIDE_MOVES[file].items():
        names = [name for name in functions if re.fullmatch(pattern, name)]
        assert names
        for name in names:
            assert not loads or functions[name].matching(r"LDG?\.E\.128\b.*"), name
            assert not stores or functions[name].matching(r"STG?\.E\.128\b.*"), name


@pytest.mark.parametrize("arch", ARCHS)
def test_dropout_moves_four_numbers_at_a_time(arch):
    wide = disassembled(variant_of("dropout.cu", DTYPE="float32", VECTOR=4), arch)["dropout_forward"]
    # One loop is for rows with gaps, the other for rows without.
    assert wide.matching(r"LDG\.E\.128.*") == wide.matching(r"STG\.E\.128.*") == 2
    half = disassembled(variant_of("dropout.cu", DTYPE="float16", VECTOR=4), arch)["dropout_forward"]
    assert half.matching(r"STG\.E\.64.*") == 2


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_split_k_sums_are_read_16_bytes_at_a_time(dtype, arch):
    (function,) = disassembled(variant_of("gemm_reduce.cu", DTYPE=dtype, ACTIVATION="Identity", WIDTH=4), arch).values()
    assert function.matching(r"LDG?\.E\.128\b.*") >= 4  # at least four splits under way
    assert function.matching(r"STG?\.E\.128\b.*" if dtype == "float32" else r"STG?\.E\.64\b.*")


@pytest.mark.parametrize("arch", ARCHS)
def test_unaligned_arrays_are_moved_element_by_element(arch):
    for function in disassembled(variant_of("activation.cu", DTYPE="float32", WIDTH=1), arch).values():
        assert function.matching(r"LDG\.E\b.*")
        assert not function.matching(r"(LDG?|STG?)\.E\.(64|128).*")


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("file", CONVOLUTIONS)
def test_the_main_loop_has_one_fma_per_product_and_wide_loads(file, dtype, arch):
    """One FMA per product; shared memory is read 16 bytes at a time and no more often than needed."""
    algorithm = next(a for a in serving(dtype) if a.family == "simt")
    wide = dict(VECTOR_C=width(dtype), VECTOR_K=width(dtype))
    variant = variant_of(file, ACTIVATION="Identity", **wide, **algorithm.defines(dtype))
    (function,) = disassembled(variant, arch).values()
    thread_m, thread_n = algorithm.macros["THREAD_M"], algorithm.macros["THREAD_N"]
    depth, size = (16 if dtype == "float16" else 8), (8 if dtype == "float64" else 4)
    fused = "DFMA" if dtype == "float64" else "FFMA"
    in_loop = {line for name, lines in function.lines.items() if name.startswith(fused) for line in lines}
    assert function.matching(rf"{fused}\b.*") == depth * thread_m * thread_n
    assert {Path(file).name for file, _ in in_loop} == {"gemm_simt.cuh"}
    assert function.matching(r"LDS\.128") == depth * (thread_m + thread_n) * size // 16
    narrow = {line for name, lines in function.lines.items() if re.match(r"LDS(?!\.128)", name) for line in lines}
    text = (source.directory() / "gemm_simt.cuh").read_text().splitlines()
    assert all("rows[row][side]" in text[line - 1] for _, line in narrow)  # the columns' sums, after the loop
    if dtype == "float32":
        (resources,) = compiled(variant, arch).resources.values()
        assert resources.registers <= 168  # three blocks fit on a multiprocessor
        assert function.matching(r"LDG\.E\.128.*") >= 6  # three before the loop, and three in each step
    assert function.matching(r"LDG\.E\.128.*")
    assert function.matching(r"STG\.E\.128.*")


@pytest.mark.parametrize("arch", [*ARCHS, "sm_100a"])
@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
def test_the_main_loop_on_tensor_cores_has_the_needed_products_and_wide_loads(direction, precision, arch):
    """One HMMA for 16 x 8 outputs and 32 bytes of depth. cp.async copies operands to shared memory, 16 bytes at a time.
    ldmatrix loads them into registers. Where 32-bit numbers are transposed, 16 bytes are loaded at a time instead.

    The loop is unrolled over the stages."""
    algorithm, *_ = serving(precision)
    (function,) = disassembled(tensor_core_variant(direction, algorithm, precision), arch).values()
    warp_m, warp_n = algorithm.macros["THREAD_M"] * 8, algorithm.macros["THREAD_N"] * 4
    stages = algorithm.macros["STAGES"]
    steps = 2 * stages
    assert function.matching(r"HMMA\..*") == steps * (warp_m // 16) * (warp_n // 8)
    transposed = {"fprop": (), "dgrad": (warp_n,), "wgrad": (warp_m, warp_n)}[direction] if precision == "tf32" else ()
    assert function.matching(r"LDSM\..*") == steps * (warp_m + warp_n - sum(transposed)) // 16
    assert function.matching(r"LDS\.128") >= steps * sum(transposed) // 16  # more, since tables are read too
    chunks = (algorithm.block_m + algorithm.block_n) * 4 // algorithm.threads
    assert function.matching(r"LDGSTS\..*128.*") == chunks * (stages - 1 + stages)  # before the loop and in it
    assert function.matching(r"STG\.E\.128.*")
    assert not function.matching(r"(LDL|STL)\b.*")


# The most instructions that a warp issues in the main loop for each HMMA. These limits hold for NVRTC 13.0.88, which
# compiled the kernels of the GPU record, and for 13.5.37. docs/kernels/implicit_gemm.md has the numbers of 13.0.88
# and says by how much those of 13.5.37 differ.
ISSUED = {
    ("fprop", "bfloat16"): {"mma-128x128": 3.0, "mma-128x64": 3.2},
    ("dgrad", "bfloat16"): {"mma-128x128": 3.6, "mma-128x64": 3.9},
    ("wgrad", "bfloat16"): {"mma-128x128": 4.0, "mma-128x64": 4.4},
    ("fprop", "tf32"): {"mma-128x128": 5.9, "mma-128x64": 6.2},
    ("dgrad", "tf32"): {"mma-128x128": 6.5, "mma-128x64": 6.8},
    ("wgrad", "tf32"): {"mma-128x128": 6.8, "mma-128x64": 7.2},
}


@pytest.mark.parametrize("algorithm", ["mma-128x128", "mma-128x64"])
@pytest.mark.parametrize(("direction", "precision"), ISSUED)
def test_the_main_loop_issues_few_instructions_per_hmma(direction, precision, algorithm):
    variant = tensor_core_variant(direction, find(algorithm, precision), precision)
    loop = main_loop(variant)
    assert loop.hmma == 128
    assert loop.instructions / loop.hmma <= ISSUED[direction, precision][algorithm]


@pytest.mark.parametrize("depth_first", [0, 1])
@pytest.mark.parametrize(("precision", "issued"), [("bfloat16", 2.8), ("tf32", 5.8)])
def test_the_matrix_products_of_muon_issue_few_instructions_per_hmma(precision, issued, depth_first):
    for name in ("mma-128x128", "mma-128x64"):
        algorithm, wide = find(name, precision), 4 if precision == "tf32" else 8
        macros = dict(ACTIVATION="Identity", DEPTH_FIRST=depth_first, WIDTH=wide) | algorithm.defines(precision)
        variant = Variant(algorithm.file("matmul"), tuple((macro, str(value)) for macro, value in macros.items()))
        loop = main_loop(variant)
        assert loop.hmma == 128
        assert loop.instructions / loop.hmma <= issued


@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_the_cost_model_has_the_counts_of_the_machine_code(direction, precision):
    """The counts may differ by 10 %, since another NVRTC may emit more or fewer instructions."""
    for algorithm in serving(precision):
        if algorithm.family != "mma" or f"conv2d_{direction}" not in algorithm.kernels:
            continue
        variant = tensor_core_variant(direction, algorithm, precision)
        loop = main_loop(variant)
        counted = loop.instructions / loop.hmma
        assert algorithm.issued[f"conv2d_{direction}"] == pytest.approx(counted, rel=0.1), algorithm.name


@pytest.mark.parametrize("arch", [*ARCHS, "sm_100a"])
@pytest.mark.parametrize("algorithm", FEW_CHANNELS, ids=lambda each: f"{each.name} {each.precisions[0]}")
def test_the_main_loop_for_few_channels_multiplies_and_loads_no_more_than_needed(algorithm, arch):
    """One HMMA for 16 pixels, 8 filters and 32 bytes of depth, or one FMA per product. Copies of x have 16 bytes."""
    precision, filters = algorithm.precisions[0], algorithm.block_n
    wide = 8 if precision == "float16" else 4
    macros = algorithm.defines(precision) | dict(ACTIVATION="Identity", VECTOR_K=wide)
    variant = Variant("conv2d_fprop_few_channels.cu", tuple((name, str(value)) for name, value in macros.items()))
    (function,) = disassembled(variant, arch).values()
    if precision == "float32":
        assert function.matching(r"FFMA\b.*") == 4 * filters // 4
        assert function.matching(r"LDS\.128") == filters // 16
    else:
        assert function.matching(r"HMMA\..*") == 2 * filters // 8
        assert function.matching(r"LDSM\..*") == filters // 16
    assert function.matching(r"LDGSTS\..*128.*") == 2  # of a block's first tile, and of the next
    assert function.matching(r"STG\.E\.128.*") == 4 * filters // 4 // wide
    assert not function.matching(r"(LDL|STL|LD|ST)\b.*")


@pytest.mark.parametrize("arch", ARCHS)
def test_line_numbers_refer_to_the_shipped_files(arch):
    (function,) = disassembled(variant_of("conv2d_fprop.cu", DTYPE="float32", ACTIVATION="Gelu"), arch).values()
    places = {place for lines in function.lines.values() for place in lines} - {("", 0)}
    files = {"/".join(Path(file).parts[-3:]) for file, _ in places}
    assert {"gpuconv/kernels/conv2d_fprop.cu", "gpuconv/kernels/gemm_simt.cuh"} <= files
    multiply = {line for name, lines in function.lines.items() if name.startswith("FFMA") for _, line in lines}
    text = (source.directory() / "gemm_simt.cuh").read_text().splitlines()
    assert any("rows[i] * columns[j]" in text[line - 1] for line in multiply)
