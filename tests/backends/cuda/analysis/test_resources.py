"""The report on compiled kernels: occupancy, the limits of chips, and which variants it covers."""

from __future__ import annotations

import itertools
import subprocess

import pytest

from gpuconv.backends.cuda.analysis import resources
from gpuconv.backends.cuda.analysis.resources import CHIPS, Line, chip_of, occupancy, resident_blocks
from gpuconv.backends.cuda.analysis.variants import Variant, representatives, variants
from gpuconv.backends.cuda.emulator import EmulatorError, cxx
from gpuconv.backends.cuda.runtime import nvrtc


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "threads", "share"),
    [
        ("sm_90a", 32, 0, 256, 1.0),  # 8 blocks of 8 warps: all 64
        ("sm_90a", 33, 0, 256, 0.75),  # 40 registers per thread: 12 warps per scheduler
        ("sm_90a", 128, 0, 256, 0.25),
        ("sm_90a", 200, 0, 64, 0.125),  # 2 warps per scheduler, although 10 would fit on the multiprocessor
        ("sm_90a", 32, 100 * 1024, 256, 0.25),  # 2 blocks by shared memory
        ("sm_90a", 32, 0, 32, 0.5),  # at most 32 blocks
        ("sm_86", 32, 0, 1024, 2 / 3),  # 48 warps hold one block of 32
        ("sm_80", 255, 0, 1024, 0.0),  # does not fit
        ("sm_75", 32, 16 * 1024, 256, 1.0),  # 4 blocks by shared memory, of which the system reserves none
    ],
)
def test_the_occupancy_equals_that_computed_by_hand(arch, registers, shared, threads, share):
    assert occupancy(arch, registers, shared, threads) == share


PROGRAM = """
#include <climits>
#include <cstdio>
#include "cuda_occupancy.h"
int main() {
    int major, minor, warps, registers, threads;
    size_t shared, reserved, all;
    while (scanf("%d%d%d%zu%zu%d%zu%d", &major, &minor, &warps, &all, &reserved, &registers, &shared, &threads)
           == 8) {
        cudaOccDeviceProp chip = {};
        chip.computeMajor = major, chip.computeMinor = minor;
        chip.maxThreadsPerBlock = 1024, chip.maxThreadsPerMultiprocessor = warps * 32, chip.warpSize = 32;
        chip.regsPerBlock = chip.regsPerMultiprocessor = 65536, chip.numSms = 1;
        chip.sharedMemPerBlock = 49152, chip.sharedMemPerBlockOptin = all - reserved;
        chip.sharedMemPerMultiprocessor = all, chip.reservedSharedMemPerBlock = reserved;
        cudaOccFuncAttributes kernel = {};
        kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers, kernel.sharedSizeBytes = shared;
        kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, kernel.maxDynamicSharedSizeBytes = all - reserved;
        cudaOccDeviceState state;
        state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
        cudaOccResult result;
        int error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &chip, &kernel, &state, threads, 0);
        printf("%d\\n", error ? -error : result.activeBlocksPerMultiprocessor);
    }
}
"""


def test_occupancy_agrees_with_nvidias_header(tmp_path):
    """The header is cuda_occupancy.h of the CUDA runtime. The results are compared for every chip."""
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="cuda-core is not installed", exc_type=ImportError)
    folder = pathfinder.find_nvidia_header_directory("cudart") or pytest.skip("no CUDA headers")
    try:
        command = cxx.find()
    except EmulatorError as error:
        pytest.skip(str(error))
    (tmp_path / "occupancy.cpp").write_text(PROGRAM)
    subprocess.run([*command, f"-I{folder}", "occupancy.cpp", "-o", "occupancy"], cwd=tmp_path, check=True)
    problems = [
        (arch, registers, shared, threads)
        for arch in (f"sm_{number}" for number in CHIPS)
        for registers, shared, threads in itertools.product(
            (16, 32, 40, 65, 96, 128, 168, 200, 255), (0, 33, 1024, 16384, 40000), (32, 64, 96, 128, 160, 256)
        )
    ]
    lines = "".join(
        f"{int(arch[3:]) // 10} {int(arch[3:]) % 10} {chip_of(arch).warps} {chip_of(arch).shared}"
        f" {chip_of(arch).reserved} {registers} {shared} {threads}\n"
        for arch, registers, shared, threads in problems
    )
    answered = subprocess.run([tmp_path / "occupancy"], input=lines, capture_output=True, text=True, check=True).stdout
    expected = [int(line) for line in answered.split()]
    blocks = [resident_blocks(*problem) for problem in problems]
    assert len(expected) == len(problems)
    assert dict(zip(problems, blocks)) == dict(zip(problems, expected))


def test_every_architecture_has_chip_limits():
    assert all(map(chip_of, (*nvrtc.ARCHITECTURES, "sm_87", "sm_103a", "sm_103f", "sm_121")))
    assert chip_of("sm_90") == chip_of("sm_90a")
    assert chip_of("sm_999") is None
    assert occupancy("sm_999", 32, 0, 128) is resident_blocks("sm_999", 32, 0, 128) is None


def test_ptxas_output_is_parsed():
    log = """ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers
"""
    first, second = nvrtc.parse_resources(log).values()
    assert first == nvrtc.Resources(registers=40, stack=8, spill_stores=4, spill_loads=12, static_shared=2048)
    assert second == nvrtc.Resources(registers=10, stack=0, spill_stores=0, spill_loads=0, static_shared=0)
    variant = Variant("x.cu", ())
    assert not Line(variant, "sm_80", "first", 256, first, 1.0).clean
    assert Line(variant, "sm_80", "second", 256, second, 1.0).clean


def test_the_report_lists_a_kernel_that_does_not_compile(monkeypatch):
    def fails(name, text, defines, arch):
        raise nvrtc.CompileError(f"{name}.cu does not compile for {arch}")

    monkeypatch.setattr(nvrtc, "compile_cubin", fails)
    ((line,),) = resources.report([(next(variants()), "sm_80")])
    assert isinstance(line, nvrtc.CompileError)
    assert "activation.cu" in str(line)


def test_the_report_covers_all_variants_on_the_main_architectures():
    chosen = list(variants())
    few = representatives(chosen)  # without TAP_TABLE 0, for example, which is for taps that do not fit in a table
    listed_few, listed_all = ({(v.file, dict(v.defines).get("DTYPE")) for v in some} for some in (few, chosen))
    assert listed_few == listed_all
    listed = resources.jobs(chosen, nvrtc.ARCHITECTURES, False)
    for arch in nvrtc.ARCHITECTURES:
        expected = chosen if arch in resources.THOROUGH else few
        if arch != "sm_90a":
            expected = [variant for variant in expected if "wgmma" not in variant.file]
        assert [variant for variant, listed_arch in listed if listed_arch == arch] == expected
    assert len(resources.jobs(chosen, ["sm_90a"], True)) == len(chosen)
    # Continuous integration compiles all listed pairs on one core, about three per second.
    assert len(listed) <= 2300, "the report must cover at most 2300 pairs of a variant and an architecture"


def test_several_processes_give_the_same_report_as_one(monkeypatch, tmp_path):
    pytest.importorskip("cuda.core", reason="NVRTC is not installed")
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path))
    listed = [(v, "sm_80") for v in variants() if v.file == "metrics.cu"]
    in_parallel = list(resources.report(listed, 2))
    assert len(in_parallel) == len(listed) == len(list(tmp_path.iterdir())) > 1  # the second report finds these entries
    assert in_parallel == list(resources.report(listed))
