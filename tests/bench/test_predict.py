"""The performance model: its fit, the measured rows that it is checked against, and its instruction counts."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from bench import cli, fit_model, predict_steps
from bench import predict as bench_predict
from bench.record import RESULTS, Record, fastest_side
from bench.suite import select
from gpuconv.backends.cuda.analysis import machine_code, predict_conv, predict_time
from gpuconv.backends.cuda.analysis.machine_code import Instruction, MainLoop
from gpuconv.backends.cuda.analysis.predict_time import GPUS, TERMS, Model, Prediction, Terms
from gpuconv.backends.cuda.analysis.resources import Line
from gpuconv.backends.cuda.analysis.variants import variants
from gpuconv.backends.cuda.gemm import plan
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.layers import BatchNorm, Branches, Conv2D, Upsample

H200 = GPUS["h200"]
MODEL = predict_time.FILE.read_text()


def made_up(rates: Terms, count: int, seed: int = 0) -> list[dict]:
    """Rows that a machine with these rates would produce."""
    rng = np.random.default_rng(seed)
    limits = (100, 10**6, 10**5, 10**4)
    rows = []
    for number in range(count):
        terms = Terms(1, *(float(rng.integers(1, limit)) for limit in limits))
        seconds = sum(vars(terms * rates).values()) / H200.clock
        row = {"row": str(number), "algorithm": "mma-128x128", "terms": vars(terms), "seconds": seconds}
        rows.append(row)
    return rows


def test_a_fit_recovers_the_rates_behind_the_times():
    rates = Terms(17000.0, 1500.0, 1.5, 4.0, 1.6)
    fitted, errors, left_out = fit_model.fit(made_up(rates, 12), H200)
    for name in TERMS:
        assert getattr(fitted, name) == pytest.approx(getattr(rates, name), rel=1e-6)
    assert max(abs(errors)) < 1e-9
    assert max(abs(left_out)) < 1e-6


def test_a_row_has_a_larger_error_when_it_is_left_out_of_the_fit():
    rows = made_up(Terms(17000.0, 1500.0, 1.5, 4.0, 1.6), 12)
    rows[0]["seconds"] *= 2
    _, errors, left_out = fit_model.fit(rows, H200)
    assert abs(left_out[0]) > abs(errors[0])


def test_the_stored_model_is_the_fit_of_its_rows():
    model = Model.load()
    rates, errors, left_out = fit_model.fit(model.rows, H200)
    for name in TERMS:
        assert getattr(model.rates, name) == pytest.approx(getattr(rates, name), rel=1e-3)
    assert model.rms == pytest.approx(math.sqrt(np.mean(errors**2)), rel=1e-2)
    assert model.left_out == pytest.approx(math.sqrt(np.mean(left_out**2)), rel=1e-2)
    assert model.left_out <= 0.15


def test_every_tensor_core_row_of_the_records_is_in_the_model():
    timed = set()
    for path in RESULTS.glob("nvidia-h200/*.json"):
        record = Record.load(path).data
        for entry in record["entries"]:
            side = fastest_side(entry, "ours")
            if side and entry["kind"] == "convolution" and "_mma" in side["kernels"]["kernels"][0]["kernel"]:
                timed.add(f"{record['hardware']} {record['commit']} {entry['key']}")
    assert timed
    assert timed <= {row["row"] for row in Model.load().rows}


def test_rows_of_a_record_that_the_model_knows_are_not_counted_anew():
    (path,) = RESULTS.glob("nvidia-h200/2026-11-26-*.json")
    known = {row["row"]: row for row in Model.load().rows}
    assert list(fit_model.rows_of(Record.load(path).data, H200, known)) == list(Model.load().rows)


@pytest.fixture
def new_record(monkeypatch, tmp_path):
    """A folder with the stored record, a new record of one convolution that the model predicts badly, and the file into
    which the model is written."""
    (path,) = RESULTS.glob("nvidia-h200/2026-11-26-*.json")
    old, folder = Record.load(path).data, tmp_path / "nvidia-h200"
    entry = next(entry for entry in old["entries"] if entry["key"] == "fprop 128x16x16x128-128x3x3-p1.1.1.1 bfloat16")
    folder.mkdir()
    (folder / path.name).write_text(path.read_text())
    (folder / "2027-01-01-0123456789.json").write_text(
        json.dumps(old | {"commit": "0123456789", "entries": [slower(entry)]})
    )
    monkeypatch.setattr(predict_time, "FILE", tmp_path / "predict_time.json")
    return tmp_path


def slower(entry):
    """The entry with only its first side, whose medians are twice as long."""
    side = entry["sides"][0]
    medians = {kind: 2 * seconds for kind, seconds in side["medians"].items()}
    return entry | {"sides": [side | {"medians": medians}]}


def stored_with(version, folder):
    stored = asdict(Model.of(json.loads(MODEL))) | {"nvrtc": version}
    (folder / "predict_time.json").write_text(json.dumps(stored))


def test_a_fit_refuses_to_mix_rows_counted_with_different_versions_of_nvrtc(new_record, capsys):
    stored_with("NVRTC 11.8", new_record)
    assert cli.main(["fit", "--results", str(new_record)]) == 2
    assert re.search(r"counted with NVRTC 11\.8, received NVRTC [^,]*,.* --nvrtc DIR", capsys.readouterr().err)
    assert Model.load().nvrtc == "NVRTC 11.8"
    (new_record / "nvidia-h200" / "2027-01-01-0123456789.json").unlink()
    assert cli.main(["fit", "--results", str(new_record)]) == 0  # without a new row, no instructions are counted
    assert f"fitted to {len(Model.load().rows)} convolutions" in capsys.readouterr().out
    assert Model.load().nvrtc == "NVRTC 11.8"


@pytest.mark.kernels
def test_fit_adds_the_rows_of_a_new_record_and_stores_the_model(new_record, capsys):
    try:
        nvrtc.toolkit(), machine_code.disassembler()
    except nvrtc.CompileError as error:
        pytest.skip(str(error))
    stored_with(nvrtc.version(), new_record)
    before = Model.load()
    assert cli.main(["fit", "--results", str(new_record)]) == 0
    after = Model.load()
    assert str(after) in capsys.readouterr().out
    assert after.rows[: len(before.rows)] == before.rows
    (added,) = after.rows[len(before.rows) :]
    assert added["row"] == "nvidia-h200 0123456789 fprop 128x16x16x128-128x3x3-p1.1.1.1 bfloat16"
    assert added["terms"]["instruction"] > added["terms"]["hmma"] > 0
    assert after.left_out > before.left_out  # the error includes the badly predicted convolution


def test_the_cost_model_of_the_launchers_has_the_rates_of_the_stored_model():
    rates = Model.load().rates
    launcher_rates = (plan._BLOCK_CLOCKS, plan._INSTRUCTION_CLOCKS, plan._HMMA_CLOCKS)
    assert launcher_rates == pytest.approx((rates.block, rates.instruction, rates.hmma), rel=1e-3)
    assert plan._BYTES_PER_CLOCK * H200.clock * H200.multiprocessors == pytest.approx(H200.copy)


def test_memory_limits_a_kernel_whose_bytes_take_longest():
    model = Model("made up", Terms(1000.0, 0.0, 1.0, 0.0, 0.0), 0.0, 0.0, "none", ())
    terms = Terms(1, 1, 1000.0, 0, 0)
    computed = model.predict(terms, H200, moved=0.0)
    assert computed.seconds == pytest.approx(2000 / H200.clock)
    limited_by_bytes = model.predict(terms, H200, moved=1e9)
    assert (limited_by_bytes.seconds, limited_by_bytes.binds) == (pytest.approx(1e9 / H200.copy), "bytes")
    reduced = model.predict(terms, H200, moved=0.0, partials=1e9)
    assert (reduced.seconds, reduced.binds) == (pytest.approx(2000 / H200.clock + 1e9 / H200.copy), "reduction")


@pytest.mark.parametrize(("blocks", "busiest"), [(132, 1), (133, 2), (264, 2), (1320, 10)])
def test_the_busiest_multiprocessor_sets_the_time(blocks, busiest):
    counted = predict_time.terms(
        MainLoop(100, 16), blocks=blocks, tiles_of_depth=3, threads=128, resident=2, reduction=0, multiprocessors=132
    )
    assert (counted.block, counted.instruction, counted.hmma) == (busiest, busiest * 300, busiest * 48)


def test_the_main_loop_is_the_longest_tensor_core_loop_without_skipped_code():
    opcodes = ("LDG.E", "HMMA.16816.F32", "LDSM.16", "BRA", "FADD", "FADD", "HMMA.16816.F32")
    code = [Instruction(opcode, 6 if opcode == "BRA" else None) for opcode in opcodes]  # the branch skips both FADDs
    loop = [*code, Instruction("BRA", 1), Instruction("FFMA", None), Instruction("BRA", 8)]
    assert machine_code.main_loop(loop) == MainLoop(instructions=5, hmma=2)
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
    assert times.items() >= bench_predict.timed_by(Model.load(), H200).items()
    assert bench_predict.timed_in([record], GPUS["h100"]) == {}


def test_a_named_nvrtc_is_used_instead_of_the_installed_package(monkeypatch):
    if nvrtc._packaged_version() is None:
        pytest.skip("NVRTC is not installed as a package")
    nvrtc.toolkit.cache_clear()
    monkeypatch.setattr(nvrtc, "_packaged_version", lambda: "NVRTC 12.0")
    assert nvrtc.version() == "NVRTC 12.0"
    fit_model.load_nvrtc(Path(nvrtc.headers()).parent)
    assert nvrtc.version() == nvrtc.toolkit()[1] != "NVRTC 12.0"


# --- whole steps ---------------------------------------------------------------------------------


def test_the_launches_of_a_step_are_counted_at_its_batch_size():
    """With a large batch, batch norm has so many partial moments that one more launch merges them."""
    few_images, many_images = (predict_steps.count_step("airbench94", size) for size in (4, 2000))
    assert many_images.launches - many_images.reductions > few_images.launches - few_images.reductions
    assert many_images.bytes > 50 * few_images.bytes


def test_a_step_has_only_the_gradients_that_are_needed():
    listed = [(entry.workload.c, entry.op) for entry in predict_steps.convolutions("airbench94", 2000)]
    assert listed[:4] == [(3, "fprop"), (24, "fprop"), (24, "dgrad"), (24, "wgrad")]  # the first filters are frozen
    assert len(listed) == 1 + 6 * 3
    assert len(predict_steps.convolutions("vgg-cifar", 128)) == 8 * 3 - 1


def test_the_bytes_of_a_sum_of_branches_include_the_gradient_that_dgrad_reads_and_adds_to():
    volume = 4 * 60 * 60 * 8 * 2
    branches = [[Conv2D(8, 1, bias=False)], [Conv2D(8, 1, bias=False)]]
    prediction = predict_steps.of_layer(Branches(branches, "add"), (4, 60, 60, 8), H200)
    for direction, volumes in (("forward", 3), ("backward", 1)):
        assert prediction[direction].counts.bytes == pytest.approx(volumes * volume, rel=0.01)


def test_the_bytes_of_a_slice_exclude_the_other_channels():
    volume = 4 * 6 * 6 * 8 * 2
    prediction = predict_steps.of_layer(Branches([[BatchNorm()], []]), (4, 6, 6, 8), H200)
    for direction, launches, volumes in (("forward", 3, 1 + 2 + 2), ("backward", 3, 2 + 3 + 3)):
        assert prediction[direction].counts.launches == launches
        assert prediction[direction].counts.bytes == pytest.approx(volumes * volume, abs=1000)


def test_a_bilinear_upsampling_is_the_sum_of_its_launches():
    nearest, bilinear = (
        predict_steps.of_layer(Upsample(2, mode), (4, 6, 6, 8), H200) for mode in ("nearest", "bilinear")
    )
    small, large, padded = (4 * side**2 * 8 * 2 for side in (6, 12, 13))
    for direction in ("forward", "backward"):
        for prediction, launches, moved in (
            (nearest[direction], 1, small + large),
            (bilinear[direction], 3, small + large + large + padded + padded + large),
        ):
            assert prediction.counts.launches == launches
            # The difference is the filter and the structs of the launches.
            assert prediction.counts.bytes == pytest.approx(moved, abs=1000)
            assert prediction.total == prediction.counts.bytes / H200.copy + (launches - 1) * predict_steps.LAUNCH
    lines = [*predict_steps.layers_table(H200)]
    assert len(lines) == 1 + 2 * len(predict_steps.LAYERS)
    assert "Upsample bilinear 128x16x16x64 by 2" in lines[3]


def test_depthwise_convolutions_are_left_to_the_prediction_by_bytes():
    assert predict_steps.convolutions("mobilenet-v2", 1)[0].workload.groups == 1
    assert all(not entry.workload.depthwise for entry in predict_steps.convolutions("mobilenet-v2", 1))


def test_predicted_steps_are_labeled_and_shown_next_to_measured_ones(monkeypatch):
    counts = predict_steps.Counts(92, 12, 1e9)
    prediction = predict_steps.StepPrediction(counts, 19, 1, {"convolutions": 4e-3, "bytes": 9e-4, "launches": 1e-4})
    monkeypatch.setattr(predict_steps, "predict", lambda *_: prediction)
    ours = {"role": "ours", "name": "gpuconv graph", "status": "timed", "median": 4e-3}
    peer = {"role": "peer", "name": "graph", "status": "timed", "median": 7e-3}
    records = [
        {
            "entries": [
                {"key": "step airbench94-n2000 bfloat16", "sides": [ours, peer]},
                {"key": "step vgg-cifar-n128 bfloat16", "sides": [peer]},
            ]
        }
    ]
    head, airbench94, vgg, resnet18, note = predict_steps.table(Model.load(), H200, records)
    assert "predicted" in head
    assert airbench94.split()[-9:-4] == ["5.00", "4.00", "+25.0%;", "1", "of"]
    assert "none (PyTorch graph: 7.00)" in vgg
    assert "none;" in resnet18
    assert "is assumed" in note


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
