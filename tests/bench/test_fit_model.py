"""The fit of the performance model to the GPU records, and what the stored model holds."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from bench import cli, fit_model
from bench.record import RESULTS, Record, fastest_side
from gpuconv.backends.cuda.analysis import machine_code, predict_time
from gpuconv.backends.cuda.analysis.predict_time import GPUS, TERMS, Model, Terms
from gpuconv.backends.cuda.gemm import plan
from gpuconv.backends.cuda.runtime import nvrtc

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


def test_every_timed_mma_convolution_of_the_h200_records_is_in_the_model():
    timed = set()
    for path in RESULTS.glob("nvidia-h200/*.json"):
        record = Record.load(path).data
        for entry in record["entries"]:
            side = fastest_side(entry, "ours")
            if side and entry["kind"] == "convolution" and "_mma" in side["kernels"]["kernels"][0]["kernel"]:
                timed.add(f"{record['hardware']} {record['commit']} {entry['key']}")
    assert timed
    assert timed <= {row["row"] for row in Model.load().rows}


def test_the_instructions_of_rows_that_the_model_has_are_not_counted_again():
    (path,) = RESULTS.glob("nvidia-h200/2026-11-26-*.json")
    known = {row["row"]: row | {"seconds": 1.0} for row in Model.load().rows}  # no record has this time
    assert list(fit_model.rows_of(Record.load(path).data, H200, known)) == list(known.values())


@pytest.fixture
def new_record(monkeypatch, tmp_path):
    """A folder of results with the stored record and a new record of one convolution, which the model predicts badly.
    The model is written into a file in this folder."""
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


def test_after_load_nvrtc_the_version_is_that_of_the_loaded_library(monkeypatch):
    if nvrtc._packaged_version() is None:
        pytest.skip("NVRTC is not installed as a package")
    nvrtc.toolkit.cache_clear()
    monkeypatch.setattr(nvrtc, "_packaged_version", lambda: "NVRTC 12.0")
    assert nvrtc.version() == "NVRTC 12.0"
    fit_model.load_nvrtc(Path(nvrtc.headers()).parent)
    assert nvrtc.version() == nvrtc.toolkit()[1] != "NVRTC 12.0"
