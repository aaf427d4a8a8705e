"""Predicted times of convolutions: the model, its counts of instructions, and the table beside measured times."""

from __future__ import annotations

import re

import pytest

from bench import predict as bench_predict
from bench.record import RESULTS, Record
from bench.suite import select
from gpuconv.backends.cuda.analysis import machine_code, predict_conv, predict_time
from gpuconv.backends.cuda.analysis.machine_code import Instruction, MainLoop
from gpuconv.backends.cuda.analysis.predict_time import GPUS, Model, Prediction, Terms
from gpuconv.backends.cuda.analysis.resources import Line
from gpuconv.backends.cuda.analysis.variants import variants
from gpuconv.backends.cuda.runtime import nvrtc

H200 = GPUS["h200"]


def test_memory_limits_a_kernel_whose_bytes_take_longest():
    model = Model("made up", Terms(1000.0, 0.0, 1.0, 0.0, 0.0), 0.0, 0.0, "none", ())
    terms = Terms(1, 1, 1000.0, 0, 0)
    computed = model.predict(terms, H200, moved=0.0)
    assert computed.seconds == pytest.approx(2000 / H200.clock)
    limited_by_bytes = model.predict(terms, H200, moved=1e9)
    assert (limited_by_bytes.seconds, limited_by_bytes.binds) == (pytest.approx(1e9 / H200.copy), "bytes")
    reduced = model.predict(terms, H200, moved=0.0, partials=1e9)
    assert (reduced.seconds, reduced.binds) == (pytest.approx(2000 / H200.clock + 1e9 / H200.copy), "reduction")


@pytest.mark.parametrize(("blocks", "counted_blocks"), [(132, 1), (133, 2), (264, 2), (330, 2.5)])
def test_the_model_counts_the_most_blocks_per_multiprocessor_if_all_are_resident_else_their_mean(
    blocks, counted_blocks
):
    counted = predict_time.terms(
        MainLoop(100, 16), blocks=blocks, tiles_of_depth=3, threads=128, resident=2, reduction=0, multiprocessors=132
    )
    assert counted == Terms(1, counted_blocks, counted_blocks * 300, counted_blocks * 48, 0)


def test_the_main_loop_is_the_one_with_most_products_and_excludes_sums_that_a_branch_skips():
    opcodes = ("LDG.E", "HMMA.16816.F32", "LDSM.16", "BRA", "FADD", "FADD", "HMMA.16816.F32")
    code = [Instruction(opcode, 6 if opcode == "BRA" else None) for opcode in opcodes]  # the branch skips both FADDs
    loop = [*code, Instruction("BRA", 1), Instruction("FFMA", None), Instruction("BRA", 8)]
    assert machine_code.main_loop(loop) == MainLoop(instructions=5, hmma=2)
    shorter = [Instruction("HMMA.16816.F32", None), Instruction("BRA", len(loop))]
    assert machine_code.main_loop([*loop, *shorter]) == MainLoop(instructions=5, hmma=2)
    assert machine_code.main_loop([Instruction("FFMA", None), Instruction("BRA", 0)]) is None


def test_an_unrolled_main_loop_is_divided_among_its_tiles():
    assert MainLoop(instructions=418, hmma=128).share(32) == MainLoop(instructions=104.5, hmma=32)


@pytest.mark.kernels
def test_a_table_marks_the_limiting_part_and_shows_the_measured_time():
    try:
        nvrtc.toolkit(), machine_code.disassembler()
    except nvrtc.CompileError as error:
        pytest.skip(str(error))
    entries = select("ops", "cuda", ["fprop", "backward"], ["128x16x16x128-128x3x3-p1.1.1.1"], ["bfloat16"])
    model, h100 = Model.load(), GPUS["h100"]
    timed = bench_predict.timed_by(model, H200)
    head, line, error, not_served = bench_predict.table(entries, "mma-128x128", model, H200, timed, today=True)
    assert list(bench_predict.table(entries, "mma-128x128", model, H200, timed)) == [head, line, not_served]
    assert head.split()[-2:] == ["measured", "difference"]
    assert line.count("*") == 1
    assert "41.3" in line.split()  # the record's microseconds
    assert re.fullmatch(r"rms error \d\S* % over 1 rows that were measured", error)
    assert not_served.startswith("1 more")
    assert bench_predict.timed_by(model, h100) == {}
    _, unmeasured_line, _ = bench_predict.table(entries, "mma-128x128", model, h100, {})
    assert "%" not in unmeasured_line


@pytest.mark.parametrize(
    ("today", "algorithm"), [(True, "wgmma-256x64"), (False, "auto")], ids=["today", "older kernels"]
)
def test_auto_is_the_measured_algorithm_only_for_a_record_of_todays_kernels(today, algorithm, monkeypatch):
    (entry,) = select("ops", "cuda", ["fprop"], ["128x16x16x128-128x3x3-p1.1.1.1"], ["bfloat16"])
    parts = dict.fromkeys((*bench_predict.WGMMA, "bytes", "ceiling"), 1e-6)
    monkeypatch.setattr(
        bench_predict, "predict_entry", lambda entry, algo, model, gpu: (algo, Prediction(2e-6, parts, "l2"))
    )
    timed = {(entry.key, "wgmma-256x64"): 1e-6}
    _, line, *_ = bench_predict.table([entry], "auto", Model.load(), H200, timed, today=today)
    assert line.removeprefix(entry.key).split()[0] == algorithm


def test_a_measured_time_is_found_under_the_algorithm_that_ran():
    path = next(RESULTS.glob("nvidia-h200/*.json"))
    record = Record.load(path).data
    times = bench_predict.timed_in([record], H200)
    of_model = bench_predict.timed_by(Model.load(), H200)
    assert of_model
    assert times.items() >= of_model.items()
    assert bench_predict.timed_in([record], GPUS["h100"]) == {}


def test_the_newest_time_of_an_entry_comes_last_whatever_its_algorithm():
    def record(algorithm, seconds):
        kernels = {"kernels": [{"algorithm": algorithm}]}
        side = {"role": "ours", "name": "gpuconv", "status": "timed", "median": seconds, "kernels": kernels}
        entry = {"key": "fprop x bfloat16", "op": "fprop", "sides": [side | {"medians": {"cold": seconds}}]}
        return {"hardware": "nvidia-h200", "entries": [entry]}

    records = [record("mma-128x64", 3.0), record("mma-64x64", 2.0), record("mma-128x64", 1.0)]
    times = bench_predict.timed_in(records, H200)
    assert dict(times.keys()) == {"fprop x bfloat16": "mma-128x64"}
    assert times["fprop x bfloat16", "mma-128x64"] == 1.0


@pytest.mark.kernels
def test_the_report_predicts_only_for_tensor_cores_on_the_modeled_chip():
    try:
        nvrtc.toolkit(), machine_code.disassembler()
    except nvrtc.CompileError as error:
        pytest.skip(str(error))
    resources = nvrtc.Resources(128, 0, 0, 0, 0)
    times = {}
    for variant in variants():
        if variant.file in ("conv2d_fprop_mma.cu", "conv2d_fprop.cu") and variant.smem_bytes:
            kernel = variant.file.removesuffix(".cu") + ("" if "mma" in variant.file else "_simt")
            for arch in ("sm_80", "sm_90a"):
                defines = dict(variant.defines)
                key = kernel, arch, defines.get("BLOCK_M"), defines["DTYPE"]
                if key not in times:
                    times[key] = predict_conv.of_line(Line(variant, arch, kernel, 128, resources, 0.5))
    predicted = {key for key, seconds in times.items() if seconds is not None}
    assert predicted
    assert {(kernel, arch, dtype) for kernel, arch, _, dtype in predicted} == {
        ("conv2d_fprop_mma", "sm_90a", "float16")
    }
    assert all(2e-5 < times[key] < 3e-4 for key in predicted)  # the lower bound by arithmetic is 14 us
