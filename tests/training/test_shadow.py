"""The shadow oracle keeps its budget, checks every op in turn, and stores a wrong call so that it can be replayed."""

from __future__ import annotations

import re
import time
from collections import Counter

import numpy as np
import pytest

from gpuconv import backends, checkpoint, layers
from gpuconv.layers import Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU
from gpuconv.training import ShadowError, ShadowWarning, Trainer, shadow
from gpuconv.training.shadow import Row, Shadow
from gpuconv.verify.call import Call
from tests import toy_run
from tests.fake_shadow_worker import FakeWorker
from tests.parallel.thread_ranks import messages_alone, on_ranks


class Timer:
    now = 0.0

    def __call__(self):
        return self.now


def net(device="numpy"):
    row = [Conv2D(4, 3, padding=1), ReLU(), MaxPool2D(2), Conv2D(4, 3), ReLU(), Flatten(), Linear(3)]
    return layers.Sequential([Input((8, 8, 1)), *row], seed=1, device=device)


RNG = np.random.default_rng(0)
DATA = RNG.integers(0, 256, (64, 8, 8, 1)).astype(np.uint8), RNG.integers(0, 3, 64)


def watched_steps(device, share, steps, seconds, worker):
    """Runs steps that a fake timer measures. Returns the shadow that watched them, and (seconds spent, seconds allowed)
    up to each step."""
    timer = Timer()
    if worker:
        worker.timer = timer
    watcher = Shadow(share, timer=timer, make=lambda: worker or pytest.fail("a worker was started"))
    run = Trainer(net(device), "sgd", lr=0.01)
    x = backends.asarray(RNG.normal(size=(8, 8, 8, 1)), device, "float32")
    y = backends.asarray(DATA[1][:8], device)
    spent = []
    for step in range(steps):
        timer.now += seconds
        if watcher.due():
            with watcher.checking(step + 1):
                run.step(x, y)
        spent.append((watcher.spent, share * watcher.elapsed))
    watcher.finish()
    watcher.close()
    return watcher, spent


@pytest.mark.parametrize("device", ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)])
def test_the_budget_is_never_exceeded_and_nearly_used_up(device, monkeypatch):
    monkeypatch.setattr(shadow, "LEAST_CHECK_SECONDS", 0.02)
    worker = FakeWorker()
    watcher, spent = watched_steps(device, 0.02, 500, 0.1, worker)
    assert all(used <= allowed for used, allowed in spent)
    assert spent[-1][0] > 0.9 * spent[-1][1]
    checked = Counter({(row.op, row.layer, row.direction): row.checked for row in watcher.report()})
    assert max(checked.values()) - min(checked.values()) <= 1, checked  # the ops take turns
    assert sum(checked.values()) == len(worker.checked) > 30
    assert all(row.worst <= 1 for row in watcher.report())
    assert worker.closed


def test_a_check_that_takes_too_long_delays_the_next_one():
    watcher, spent = watched_steps("numpy", 0.02, 600, 0.5, FakeWorker(cost=0.4))
    over = [number for number, (used, allowed) in enumerate(spent) if used > allowed]
    assert over  # the first checks cost more than expected
    assert max(over) < 100
    assert spent[-1][0] <= spent[-1][1]
    assert sum(row.checked for row in watcher.report()) > 5


def test_the_expected_cost_of_a_check_includes_the_copying():
    class Slow(FakeWorker):
        def submit(self, path):
            self.timer.now += 0.05
            super().submit(path)

    _, spent = watched_steps("numpy", 0.02, 2000, 0.1, Slow(cost=0.002))
    assert all(used <= allowed for used, allowed in spent[1000:])
    assert spent[-1][0] > 0.8 * spent[-1][1]


def test_small_calls_do_not_affect_the_estimated_cost_per_byte():
    watcher, _ = watched_steps("numpy", 0.02, 200, 0.5, FakeWorker())
    watcher._sizes["conv2d", "large", "forward"] = 1 << 22
    # If the fixed cost of small calls were divided by their few bytes, several seconds would be expected here.
    assert watcher._expected(("conv2d", "large", "forward")) < 0.5


def test_a_run_that_is_too_short_starts_no_worker():
    watcher, _ = watched_steps("numpy", 0.02, 10, 0.05, None)
    assert "0 calls checked" in str(watcher)
    assert str(watcher).endswith("; with this share the first check comes after 25.1 s of training")


def fit(run, **options):
    return run.fit(DATA, epochs=options.pop("epochs", 6), batch_size=16, progress=False, **options)


@pytest.fixture
def at_once(monkeypatch):
    """A budget that covers every check from the first step on. The fixture is the list of workers that were started."""
    workers = []
    monkeypatch.setattr(shadow, "START_SECONDS", 0.0)
    monkeypatch.setattr(Shadow, "_seconds_left", lambda self: 1e9)

    def make():
        workers.append(FakeWorker())
        return workers[-1]

    monkeypatch.setattr(shadow.Shadow.__init__, "__kwdefaults__", Shadow.__init__.__kwdefaults__ | {"make": make})
    return workers


def wrong_conv(monkeypatch):
    from gpuconv.backends import cpu

    original = cpu.conv.conv2d

    def wrong(x, w, *rest, **options):
        y = original(x, w, *rest, **options)
        if w.shape[3] == 4:  # only conv2
            y[1, 0, 1, 0] += 0.125
        return y

    monkeypatch.setattr(cpu.conv, "conv2d", wrong)


def test_a_wrong_op_stops_the_run_and_stores_a_file_that_replays_it(at_once, monkeypatch, tmp_path):
    wrong_conv(monkeypatch)
    with pytest.raises(ShadowError, match=r"conv2d of conv2 is beyond its bound: result\[1, 0, 1, 0\] is") as message:
        fit(Trainer(net(), "sgd", lr=0.01, shadow=0.5), run_dir=tmp_path / "run")
    (file,) = (tmp_path / "run").glob("shadow-conv2d-conv2-step*.safetensors")
    assert f"gpuconv shadow replay {file}" in str(message.value)
    stored = checkpoint.load(file)
    call = Call.read(file, stored)
    assert (stored.state["layer"], stored.state["direction"]) == ("conv2", "forward")
    assert call.compare().wrong
    assert call.on("numpy").compare().wrong
    monkeypatch.undo()
    assert not call.on("numpy").compare().wrong
    assert at_once[0].closed


def test_with_violation_warn_the_run_continues(at_once, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    wrong_conv(monkeypatch)
    run = Trainer(net(), "sgd", lr=0.01, shadow=0.5, violation="warn")
    with pytest.warns(ShadowWarning, match="conv2d of conv2 is beyond its bound"):
        fit(run)
    assert run.steps == 24
    (row,) = [row for row in run.shadowed.report() if row.worst > 1]
    assert (row.op, row.layer) == ("conv2d", "conv2")
    assert list(tmp_path.glob("shadow-conv2d-conv2-step*.safetensors"))


def test_checking_changes_no_bit_and_reports_the_worst_call(at_once):
    plain, watched = Trainer(net(), "adam", lr=0.01), Trainer(net(), "adam", lr=0.01, shadow=0.5)
    fit(plain)
    fit(watched)
    assert toy_run.bits(watched) == toy_run.bits(plain)
    assert sum(row.checked for row in watched.shadowed.report()) > 50
    most = max(watched.shadowed.report(), key=lambda row: row.worst)
    last_line = str(watched.shadowed).splitlines()[-1]
    assert last_line.endswith(f"{most.op} of {most.layer} at step {most.step}: {most.where}")
    assert re.match(r"\w+\[[\d, ]+\] is ", most.where)
    pytest.importorskip("matplotlib")
    shown = [text.get_text() for text in watched.shadowed.picture().axes[0].texts]
    names = [f"{row.op}{f' of {row.layer}' if row.layer else ''} ({row.checked})" for row in watched.shadowed.report()]
    assert shown == [*names, "the bound"]


def test_violations_of_an_op_forward_and_backward_in_one_step_are_kept_in_two_files(tmp_path):
    """The message of each violation names its direction too."""
    watcher = Shadow(0.5, "warn", tmp_path)
    call = tmp_path / "call.safetensors"
    checkpoint.save(call, checkpoint.Checkpoint({"x": np.ones(3)}))
    rows = [Row("add", "residual1", direction) for direction in ("forward", "backward")]
    watcher.rows = {(row.op, row.layer, row.direction): row for row in rows}
    for row in rows:
        with pytest.warns(ShadowWarning, match=f"step 7: add of residual1, {row.direction} is beyond its bound"):
            watcher._report_violation(call, row, 7, {"text": "wrong"})
        assert (tmp_path / f"shadow-add-residual1-{row.direction}-step7.safetensors").exists()
    watcher.close()


def test_a_violation_in_a_layer_whose_name_has_a_slash_is_kept_in_one_file(at_once, monkeypatch, tmp_path):
    wrong_conv(monkeypatch)
    row = [Conv2D(4, 3, name="block/conv") if layer.name == "conv2" else layer for layer in net()]
    with pytest.raises(ShadowError, match="conv2d of block/conv is beyond its bound"):
        fit(Trainer(layers.Sequential(row), "sgd", lr=0.01, shadow=0.5), run_dir=tmp_path / "run")
    assert len([*(tmp_path / "run").glob("shadow-conv2d-block_conv-step*.safetensors")]) == 1


def test_an_op_that_runs_forward_and_backward_has_two_bars_and_two_lines():
    pytest.importorskip("matplotlib")
    watcher = Shadow(0.5)
    for direction in ("forward", "backward"):
        watcher.rows["add", "residual1", direction] = Row("add", "residual1", direction, checked=1, worst=0.5)
    shown = [text.get_text() for text in watcher.picture().axes[0].texts]
    watcher.close()
    assert [line.split()[:3] for line in str(watcher).splitlines()[2:4]] == [
        ["residual1", "add,", "backward"],
        ["residual1", "add,", "forward"],
    ]
    assert shown == ["add of residual1, backward (1)", "add of residual1, forward (1)", "the bound"]


@pytest.mark.kernels
def test_checked_steps_have_the_bits_of_captured_ones(at_once):
    plain, watched = (Trainer(net("emulated"), "adam", lr=0.01, graph=True, shadow=share) for share in (None, 0.5))
    fit(plain, epochs=8)
    fit(watched, epochs=8)
    assert toy_run.bits(watched) == toy_run.bits(plain)
    assert {row.op for row in watched.shadowed.report()} >= {
        "conv2d_relu",
        "load_batch",
        "adam_step",
        "advance_step_counter",
    }
    assert all(row.worst <= 1 and row.checked for row in watched.shadowed.report())


@pytest.mark.slow
@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_the_real_worker_keeps_the_budget(device):
    run = Trainer(net(device), "sgd", lr=0.01, shadow=0.2)

    class StopAfterFiveSeconds:
        def on_start(self, trainer):
            self.end = time.perf_counter() + 5

        def on_step(self, trainer, record):
            if time.perf_counter() > self.end:
                trainer.stop("enough")

    fit(run, epochs=100000, callbacks=[StopAfterFiveSeconds()])
    assert sum(row.checked for row in run.shadowed.report()) > 5
    assert all(row.worst <= 1 for row in run.shadowed.report())
    assert 0.5 * 0.2 < run.shadowed.spent / run.shadowed.elapsed <= 0.2


def test_a_worker_that_dies_is_reported_and_training_continues(at_once, monkeypatch):
    monkeypatch.setattr(FakeWorker, "answer", lambda self, patience=0.0: {"ended": -9})
    run = Trainer(net(), "sgd", lr=0.01, shadow=0.5)
    with pytest.warns(ShadowWarning, match="training continues without it: its process ended with status -9"):
        fit(run)
    assert run.steps == 24


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"failed": "ValueError: out of memory", "seconds": 1.0}, "could not be checked: ValueError: out of memory"),
        ({"garbled": '{"failed": "Val'}, "its process gave an answer that is not a JSON object"),
    ],
)
def test_a_check_that_fails_before_other_answers_is_reported_and_training_continues(
    at_once, monkeypatch, answer, message
):
    def fail_all(self, patience=0.0):
        found = self.answers.pop(0) if self.answers else None
        return found if found is None or isinstance(found, dict) else answer

    monkeypatch.setattr(FakeWorker, "answer", fail_all)
    run = Trainer(net(), "sgd", lr=0.01, shadow=0.5)
    with pytest.warns(ShadowWarning, match=f"training continues without it: .*{message}") as warned:
        fit(run)
    assert (run.steps, len(warned)) == (24, 1)
    assert str(run.shadowed).startswith("shadow oracle: 0 calls checked")
    assert "the first check comes after" not in str(run.shadowed)


def test_the_report_counts_the_calls_that_were_skipped(at_once, monkeypatch):
    def skip_all(self, patience=0.0):
        found = self.answers.pop(0) if self.answers else None
        return found if found is None or isinstance(found, dict) else {"skipped": "not finite", "seconds": 1.0}

    monkeypatch.setattr(FakeWorker, "answer", skip_all)
    run = Trainer(net(), "sgd", lr=0.01, shadow=0.5)
    fit(run)
    skipped = sum(row.skipped for row in run.shadowed.report())
    assert skipped > 0
    assert str(run.shadowed).endswith(f"; {skipped} calls skipped, because an input was not finite")


def test_invalid_settings_are_refused():
    for share in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="shadow"):
            Trainer(net(), shadow=share)
    with pytest.raises(TypeError, match="shadow"):
        Trainer(net(), shadow="2%")
    with pytest.raises(ValueError, match="unknown violation 'stopp'; did you mean 'stop'"):
        Trainer(net(), shadow=0.1, violation="stopp")


def test_every_rank_keeps_its_wrong_calls_in_the_folder_of_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr(Shadow, "due", lambda self: False)  # only one of these threads could watch the ops

    def work(ranks):
        run = Trainer(net(), "sgd", lr=0.01, shadow=0.5, parallel=ranks)
        fit(run, epochs=1, run_dir=tmp_path / "run")
        return run.shadowed.folder, run.shadowed.rank

    assert on_ranks(2, work, messages_alone) == [(tmp_path / "run", 0), (tmp_path / "run", 1)]


def test_files_of_ranks_do_not_replace_each_other(tmp_path):
    call = tmp_path / "call.safetensors"
    checkpoint.save(call, checkpoint.Checkpoint({"x": np.ones(3)}))
    for rank in (0, 1):
        watcher = Shadow(0.5, "warn", tmp_path / "run", rank=rank)
        with pytest.warns(ShadowWarning, match="add of residual1 is beyond its bound"):
            watcher._report_violation(call, Row("add", "residual1", "forward"), 7, {"text": "wrong"})
        watcher.close()
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [f"shadow-add-residual1{rank}-step7.safetensors" for rank in ("-rank1", "")]
