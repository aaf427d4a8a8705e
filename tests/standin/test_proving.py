"""On the stand-in, an algorithm that no GPU has run is chosen only after it was proved there. A proof that fails or
crashes does no harm to the process that asked for it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import ops
from gpuconv.algorithms import algorithm_of_launch
from gpuconv.backends.cuda import cache
from gpuconv.backends.cuda.gemm import prover, tuner, verdicts
from gpuconv.backends.cuda.gemm.gpu import Gpu
from gpuconv.backends.cuda.gemm.verdicts import UnprovedError, UnprovedWarning
from gpuconv.profiling import launches
from gpuconv.summary import rows, summary
from tests import standin
from tests.standin import proving
from tests.standin.proving import NAME, command, new_family

X, W, B = (np.random.default_rng(3).standard_normal(s).astype(np.float32) for s in ((2, 6, 7, 8), (12, 3, 3, 8), (12,)))
DY = np.random.default_rng(4).standard_normal((2, 4, 5, 12)).astype(np.float32)


@pytest.fixture
def on_gpu(monkeypatch, tmp_path):
    """on_gpu(schedule, fault) provides a GPU on which the new algorithm is the fastest. The algorithm has the fault
    only in the prover's process."""
    stored = cache.Cache(tmp_path / "cache")
    for module in (tuner, verdicts):
        monkeypatch.setattr(module, "cache", SimpleNamespace(default=lambda: stored))
    monkeypatch.delenv("GPUCONV_AUTOTUNE", raising=False)
    monkeypatch.setattr(tuner, "known_choices", {})
    monkeypatch.setattr(prover, "LIMIT", 3.0)
    monkeypatch.setattr(Gpu, "seconds", _seconds)
    monkeypatch.setattr(prover, "_prover", prover.Prover())
    contexts = []

    def enter(schedule="late", fault="none"):
        monkeypatch.setattr(prover, "command", command("90", schedule, fault))
        machine, family = standin.installed(["90"], schedule=schedule), new_family()
        contexts.append((machine, family))
        return machine.__enter__(), family.__enter__()

    yield enter
    prover.close()
    for machine, family in reversed(contexts):
        family.__exit__(None, None, None)
        machine.__exit__(None, None, None)


def _seconds(self, run, count):
    """Times under which the new algorithm is the fastest."""
    with launches.record_launches() as launched:
        run()
    names = [algorithm_of_launch(launch.kernel.name, launch.kernel.module.defines) for launch in launched]
    return 1e-6 if NAME in names else 1e-3


def run_op(op, arrays, **options):
    """Runs an op and returns its last launch, as a row of `launches.table`, and the op's result."""
    on_device = [gc.asarray(array, "cuda") for array in arrays]
    with launches.record_launches() as launched:
        result = gc.to_numpy(getattr(ops, op)(*on_device, **options))
    return launches.table(launched)[-1], result


def stored_verdicts(tmp_path):
    return [json.loads((entry / "verdict.json").read_text()) for entry in (tmp_path / "cache").glob("proof-*")]


@pytest.mark.kernels
def test_a_proved_algorithm_is_chosen_and_its_proof_is_reported_and_stored(on_gpu, tmp_path, monkeypatch):
    on_gpu()
    row, result = run_op("conv2d", [X, W, B])
    np.testing.assert_allclose(result, ops.conv2d(X, W, B), rtol=1e-4, atol=1e-4)
    assert row["algorithm"] == NAME
    assert row["proof"].startswith("proved 20")
    assert "3 runs with the same bits" in row["proof"]
    (verdict,) = stored_verdicts(tmp_path)
    assert verdict["proved"]
    assert verdict["lasting"]
    net = gc.Sequential([gc.layers.Input((6, 7, 8)), gc.layers.Conv2D(12, 3)])
    text = summary(net, batch_size=2, device="cuda")
    assert f" {NAME}* simt-" in text
    assert text.endswith(f"\n* conv1 fprop {NAME}: {row['proof']}")
    assert rows(net, 2, "cuda")[-1].proofs == {"fprop": row["proof"]}
    monkeypatch.setattr(prover, "command", ["/no/such/program"])
    prover.close()
    tuner.known_choices.clear()  # as in a new process
    verdicts._verdict_holder.cache_clear()
    assert run_op("conv2d", [X, W, B])[0]["algorithm"] == NAME
    assert run_op("conv2d", [X, W, B], algo=NAME)[0]["proof"] == row["proof"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", proving.FAULTS)
def test_an_algorithm_with_a_fault_is_not_chosen_and_does_no_harm_to_this_process(on_gpu, tmp_path, fault, schedule):
    on_gpu(schedule, fault)
    calls = [
        ("conv2d", [X, W, B], {}),
        ("conv2d_dgrad", [DY, W], dict(input_shape=X.shape)),
        ("conv2d_wgrad", [DY, X], dict(kernel_size=3)),
    ]
    # A call that hangs takes seconds, so only one is made. The fault in a slice needs an output that is a slice of
    # channels, which the gradient of filters never is.
    for op, arrays, options in calls[: {"hangs": 1, "a wrong value in a slice": 2}.get(fault, 3)]:
        with pytest.warns(UnprovedWarning, match=f"{NAME} is not proved for conv2d_.*") as warned:
            row, result = run_op(op, arrays, **options)
        assert proving.FAULTS[fault] in str(warned[0].message)
        assert row["algorithm"] not in (None, NAME)
        assert "proof" not in row
        np.testing.assert_allclose(result, getattr(ops, op)(*arrays, **options), rtol=1e-4, atol=1e-3)
    with pytest.raises(UnprovedError, match=f"Stand-in 90 has not proved it for this one: .*{proving.FAULTS[fault]}"):
        run_op("conv2d", [X, W, B], algo=NAME)
    stored = stored_verdicts(tmp_path)
    assert bool(stored) == (fault in proving.LASTING)
    assert not any(verdict["proved"] for verdict in stored)


@pytest.mark.slow
def test_all_directions_and_several_epilogues_and_outputs_are_proved(on_gpu, schedule):
    on_gpu(schedule)
    for op, arrays, options in (
        ("conv2d", [X, W, B], dict(padding=1)),
        ("conv2d", [X, W], dict(activation="gelu")),
        ("conv2d_relu", [X, W, B], dict(pool=2)),
        ("conv2d_dgrad", [DY, W], dict(input_shape=X.shape)),
        ("conv2d_wgrad", [DY, X], dict(kernel_size=3)),
        ("linear", [X.reshape(84, 8), W.reshape(108, 8)], {}),
    ):
        assert last_algorithm(op, arrays, **options) == NAME, op
    x, dw = gc.asarray(X, "cuda"), gc.asarray(W, "cuda")
    assert NAME in str(
        algorithms_of(lambda: ops.conv2d_wgrad(gc.asarray(DY, "cuda"), x, kernel_size=3, out=dw, accumulate=True))
    )


def algorithms_of(run):
    with launches.record_launches() as launched:
        run()
    return [row["algorithm"] for row in launches.table(launched)]


def last_algorithm(op, arrays, **options):
    on_device = [gc.asarray(array, "cuda") for array in arrays]
    names = algorithms_of(lambda: getattr(ops, op)(*on_device, **options))
    return [name for name in names if name is not None][-1]


def test_no_proof_is_made_where_nothing_may_be_timed(on_gpu, monkeypatch):
    """This is so within `same_bits`, with tuning switched off, during a capture, and for `Conv2D.algorithms`."""
    on_gpu()
    monkeypatch.setattr(prover, "command", ["/no/such/program"])
    monkeypatch.setattr(prover, "ask", None)
    x, w, y = gc.asarray(X, "cuda"), gc.asarray(W, "cuda"), gc.asarray(DY, "cuda")
    with gc.backends.same_bits("cuda"):
        assert NAME not in algorithms_of(lambda: ops.conv2d(x, w))
    recorder = gc.backends.recorder("cuda")
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    assert NAME not in algorithms_of(lambda: ops.conv2d(x, w))
    with pytest.raises(UnprovedError, match="`gpuconv prove` makes one"):
        ops.conv2d(x, w, algo=NAME)
    recorder.prepare(lambda: ops.conv2d(x, w, out=y))
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "1")
    assert NAME not in algorithms_of(lambda: recorder.capture(lambda: ops.conv2d(x, w, out=y)))
    layer = gc.layers.Conv2D(12, 3)
    layer.build((6, 7, 8), device="cuda")
    assert NAME not in layer.algorithms(2).values()
