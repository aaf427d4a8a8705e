"""Proofs made in this process instead of a child: right kernels are proved, kernels with a planted fault are
refuted."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.backends.cuda.emulator import EmulatorError
from gpuconv.backends.cuda.emulator.cxx import HostCompilerError
from gpuconv.backends.cuda.gemm import launch, tuner, verdicts
from gpuconv.backends.cuda.gemm.plan import plan
from gpuconv.backends.cuda.gemm.prover import PROVED, REFUTED, UNABLE
from gpuconv.backends.cuda.ops.conv import product_of
from gpuconv.backends.cuda.runtime.capability import capability_named
from gpuconv.problems import PLAIN, Conv2dProblem, Epilogue
from gpuconv.verify.prover_child import answer_about
from tests import standin
from tests.standin import proving
from tests.standin.errors import CUDADriverError, CUDARuntimeError

FLOAT32 = np.dtype(np.float32)
PROBLEM = Conv2dProblem.of((2, 6, 7, 8), (12, 3, 3, 8))


def proved(
    direction, epilogue=PLAIN, algorithm="simt-32x32", dtype=FLOAT32, vectors=(4, 4), tf32=False, device="emulated"
):
    subject = product_of(direction, PROBLEM, epilogue, dtype, tf32, *vectors)
    gpu, answers = tuner.gpu_or_emulated(device), []
    candidate = plan(subject, algorithm, capability_named(device))
    reference = verdicts._reference(subject, candidate, gpu)
    answer_about(
        json.loads(json.dumps(verdicts._question(subject, PROBLEM, candidate, reference, gpu))), answers.append
    )
    *before, answer = answers
    assert before == [{"prepared": True}]
    assert answer["of"] == verdicts.fingerprint_of(subject, candidate, gpu)
    return answer


@pytest.mark.slow
def test_right_algorithms_are_proved_in_every_direction_unaligned_and_with_several_epilogues():
    for direction in ("fprop", "dgrad", "wgrad"):
        assert proved(direction)["status"] == PROVED, direction
        assert proved(direction, vectors=(1, 1))["status"] == PROVED, f"unaligned {direction}"
    epilogues = [
        Epilogue.of("relu", 2, True),
        Epilogue.of("relu", 1, True),
        Epilogue.of("gelu"),
        Epilogue.of("gelu", saves_input=True),
        Epilogue.of(moments=True),
        Epilogue.of(None, 2, True, True),
    ]
    for epilogue in epilogues:
        assert proved("fprop", epilogue)["status"] == PROVED, epilogue
    assert proved("wgrad", algorithm="mma-64x64", tf32=True)["status"] == PROVED
    assert (
        proved("dgrad", algorithm="mma-64x64", dtype=gc.dtypes.as_dtype("bfloat16"), vectors=(8, 1))["status"] == PROVED
    )


@pytest.mark.kernels
def test_a_small_problem_takes_at_most_0_3_seconds_once_kernels_are_compiled():
    for direction in ("fprop", "dgrad", "wgrad"):
        assert min(proved(direction)["seconds"] for _ in range(4)) <= 0.3


@pytest.mark.kernels
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize(
    "fault",
    ["a wrong value", "a slightly wrong value", "an unwritten value", "other bits", "a changed input", "raises"],
)
def test_the_proof_refutes_a_kernel_with_a_fault(fault, direction):
    with proving.planted(fault, "simt-32x32"):
        answer = proved(direction)
    assert answer["status"] == REFUTED
    assert proving.FAULTS[fault] in answer["reason"]


@pytest.mark.kernels
@pytest.mark.parametrize("direction", ["fprop", "dgrad"])
def test_a_fault_in_slices_alone_is_refuted(direction):
    with proving.planted("a wrong value in a slice", "simt-32x32"):
        answer = proved(direction)
    assert answer["status"] == REFUTED
    assert "is 1000" in answer["reason"]


@pytest.mark.kernels
def test_a_lack_of_memory_refutes_nothing():
    with proving.planted("lacks memory", "simt-32x32"):
        answer = proved("fprop")
    assert (answer["status"], answer["reason"]) == (UNABLE, "MemoryError: Out of memory allocating 3 GB")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EmulatorError("conv2d_fprop_simt: block 0 reads past the end of x"), REFUTED),
        (CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered"), REFUTED),
        (CUDADriverError("CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"), REFUTED),
        (CUDADriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), UNABLE),
        (HostCompilerError("there is no C++ compiler"), UNABLE),
        (TypeError("all arrays of a launch must be on one device"), UNABLE),
        (ValueError("operands could not be broadcast together"), UNABLE),
        (RuntimeError("dictionary changed size during iteration"), UNABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_of_the_candidates_errors_only_a_kernels_fault_refutes_it(monkeypatch, error, status):
    def launched(product, plan, *_, **__):
        if plan.algorithm.name == "simt-32x32":
            raise error

    monkeypatch.setattr(launch, "launch", launched)
    answer = proved("fprop")
    assert (answer["status"], answer["reason"]) == (status, f"{type(error).__name__}: {error}")


def test_an_error_of_the_proved_algorithm_refutes_nothing(monkeypatch):
    names = []

    def launched(product, plan, *_, **__):
        names.append(plan.algorithm.name)
        if "simt-32x32" in names and names[-1] != "simt-32x32":
            raise EmulatorError("a fault")

    monkeypatch.setattr(launch, "launch", launched)
    answer = proved("fprop")
    assert (answer["status"], answer["reason"]) == (UNABLE, "EmulatorError: a fault")


@pytest.mark.parametrize("schedule", ["early", "late"])
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_a_question_about_any_gpu_allocates_and_launches_there(monkeypatch, device, schedule):
    devices = set()

    def launched(product, plan, out, secondary, inputs, **_):
        arrays = [each for each in (out, *secondary, *inputs) if each is not None]
        devices.update(map(gc.device_of, arrays))
        devices.add(f"cuda:{sys.modules['cupy'].cuda.runtime.getDevice()}")

    monkeypatch.setattr(launch, "launch", launched)
    with standin.installed(("90", "90"), schedule=schedule):
        answer = proved("fprop", Epilogue.of("relu", 2, True), device=device)
        assert sys.modules["cupy"].cuda.runtime.getDevice() == 0
    assert answer["status"] == PROVED
    assert devices == {device}
