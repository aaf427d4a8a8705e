"""ci/pack_cubins.py packs compiled kernels. The gate unpacks them into its cache, so that it need not compile them."""

from __future__ import annotations

import zipfile
from dataclasses import replace

import pytest

from ci import pack_cubins
from ci.gate import start
from ci.gate.commands import Gate
from ci.gate.hopper_kernels import algorithms, warpgroup
from ci.gate.results import FailedError, NotReachedError
from gpuconv.backends.cuda.gemm.plan import plan, unproved_plans
from gpuconv.backends.cuda.gemm.verdicts import allow_unproved
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.profiling import launches
from gpuconv.verify.algorithm_check import Proof
from gpuconv.verify.algorithm_run import Form, run_on_device

pytest.importorskip("cuda.core", reason="NVRTC is not installed")


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "cubins.zip"
    assert pack_cubins.main(["--file", "step_counter.cu", "--workers", "1", "--out", str(path)]) == 0
    return path


@pytest.fixture
def gate(tmp_path, pack):
    for name in ("out", "home", "logs"):
        (tmp_path / name).mkdir()
    facts = {"arch": "sm_90a", "nvrtc": nvrtc.toolkit()[1], "headers": nvrtc.header_version()}
    return Gate(tmp_path / "out", tmp_path / "home", tmp_path / "logs", cubins=pack, facts=facts)


@pytest.fixture(scope="module")
def kernels_of_the_gate():
    return {*pack_cubins.kernels_of_the_gate()}


def test_packed_kernels_are_found_and_not_compiled(gate, monkeypatch):
    output, manifest = start.cubins(gate, 10)
    jobs = pack_cubins.variants_of("step_counter.cu")
    assert manifest["entries"] == len(jobs)
    assert output == f"{len(jobs)} kernel variants for sm_90a, {nvrtc.version()}, {nvrtc.header_version()}"
    version = nvrtc.version()
    monkeypatch.setattr(nvrtc, "version", lambda: version)
    monkeypatch.setattr(nvrtc, "toolkit", lambda: (None, version))  # without NVRTC nothing can be compiled
    monkeypatch.setenv("GPUCONV_CACHE_DIR", gate.environment["GPUCONV_CACHE_DIR"])
    for job in jobs:
        assert pack_cubins.compile_job(job, "sm_90a").parent == gate.logs.parent / "cache"
    with pytest.raises(nvrtc.CompileError):
        pack_cubins.compile_job(jobs[0], "sm_80")


@pytest.mark.parametrize("fact", ["arch", "nvrtc", "headers"])
def test_a_pack_for_another_machine_is_reported_and_the_cache_is_still_used(gate, fact):
    gate.facts[fact] = "another"
    with pytest.raises(
        FailedError, match=r"the pack has .*, and this machine has another, so kernels are compiled here"
    ):
        start.cubins(gate, 10)
    assert "GPUCONV_CACHE_DIR" in gate.environment


@pytest.mark.parametrize("data", [b"", b"PK", "no manifest"], ids=["empty", "cut off", "no manifest"])
def test_a_file_that_is_not_a_pack_is_reported(gate, tmp_path, data):
    gate.cubins = tmp_path / "broken.zip"
    if isinstance(data, bytes):
        gate.cubins.write_bytes(data)
    else:
        with zipfile.ZipFile(gate.cubins, "w") as archive:
            archive.writestr("a/kernel.cubin", b"")
    with pytest.raises(FailedError, match="is not a pack of kernels"):
        start.cubins(gate, 10)


def test_without_a_pack_the_cache_is_empty(gate):
    gate.cubins = None
    with pytest.raises(NotReachedError, match="no kernels were supplied"):
        start.cubins(gate, 10)
    assert not any((gate.logs.parent / "cache").iterdir())


def test_a_pack_that_is_too_large_is_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pack_cubins, "LARGEST", 1000)
    with pytest.raises(SystemExit):
        pack_cubins.main(["--file", "step_counter.cu", "--workers", "1", "--out", str(tmp_path / "c.zip")])
    assert "and at most 0 are allowed" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_kernel_file_without_a_variant_is_refused(capsys):
    with pytest.raises(SystemExit):
        pack_cubins.main(["--file", "unknown.cu", "--arch", "sm_80"])
    assert "no variant of a kernel file 'unknown.cu' compiles for sm_80" in capsys.readouterr().err


def test_the_kernels_of_all_parts_of_a_nets_training_step_are_packed(kernels_of_the_gate):
    launched = {*pack_cubins.launched_by("vgg-cifar", "bfloat16")}
    assert launched <= kernels_of_the_gate
    files = {file for file, _ in launched}
    assert files >= {"conv2d_fprop_mma.cu", "conv2d_dgrad_mma.cu", "conv2d_wgrad_mma.cu", "batch_norm.cu"}
    assert files >= {"softmax_cross_entropy.cu", "metrics.cu", "optimizer.cu"}


@pytest.mark.parametrize("direction", algorithms.DIRECTIONS)
def test_the_kernels_that_the_hopper_checks_run_are_packed(direction, kernels_of_the_gate):
    """For every epilogue, the checks run the algorithm to be proved and the algorithm that it is compared with."""
    problem = algorithms.problems(small=True)[0]
    for dtype in warpgroup.HALVES:
        for epilogue in algorithms.epilogues(direction, dtype, small=False):
            product = algorithms.product_to_prove(direction, problem, epilogue, dtype)
            reference = plan(product, "auto", 90).algorithm.name
            for candidate in unproved_plans(product, 90):
                question = replace(algorithms.question_of(product, candidate, "emulated"), against=reference)
                with launches.record_launches(execute=False) as launched, allow_unproved():
                    proof = Proof(question)
                    run_on_device(question, question.algorithm, proof._random, Form(), epilogue)
                modules = [launch.kernel.module for launch in launched]
                jobs = {(module.path.name, tuple(module.defines.items())) for module in modules}
                files = {file for file, _ in jobs}
                assert files >= {candidate.algorithm.file(product.kernel), f"conv2d_{direction}_mma.cu"}
                assert jobs <= kernels_of_the_gate
