"""Choosing an algorithm by timing, on a stand-in GPU: the emulated device computes, and a table gives the times."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.algorithms import serving
from gpuconv.backends.cuda.gemm import launch, plan, tuner
from tests.backends.cuda.gemm.stand_in_gpu import CONV2D, NAMES, StandInGpu, W, X, choices, durations, run_op


@pytest.mark.slow
@pytest.mark.parametrize("fastest", NAMES)
def test_the_fastest_algorithm_is_chosen_and_gives_the_same_bits_as_when_named(use_gpu, fastest):
    gpu = use_gpu(StandInGpu(durations(fastest)))
    launched, result = run_op()
    assert launched[-1] == fastest
    assert set(gpu.timed) == set(NAMES)
    launched_again, second_result = run_op()
    assert launched_again == [fastest]
    pinned, expected = run_op(algo=fastest)
    assert pinned == [fastest]
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(second_result, expected)


def test_among_equally_fast_algorithms_the_cost_models_choice_wins(use_gpu):
    gpu = use_gpu(StandInGpu(dict.fromkeys(NAMES, 1e-5)))
    assert run_op()[0][-1] == gpu.timed[0] == plan.plan(CONV2D).algorithm.name


@pytest.mark.parametrize("fails", [[NAMES[-1]], NAMES[:-1]], ids=["one", "all-but-one"])
def test_candidates_that_fail_while_they_are_timed_are_left_out(use_gpu, monkeypatch, tmp_path, fails):
    """The error of a failed launch may appear only at the next synchronization. The choice is not stored."""
    gpu = use_gpu(StandInGpu(durations(NAMES[-1])))
    seconds = gpu.seconds

    def failing(run, count):
        took = seconds(run, count)
        if gpu.timed[-1] in fails:
            raise RuntimeError("cudaErrorLaunchFailure")
        return took

    monkeypatch.setattr(gpu, "seconds", failing)
    with pytest.warns(tuner.FailedCandidateWarning, match="RuntimeError: cudaErrorLaunchFailure") as warned:
        launched, result = run_op()
    assert sorted(str(warning.message).split()[0] for warning in warned) == sorted(fails)
    assert launched[-1] not in fails
    np.testing.assert_allclose(result, ops.conv2d(X, W), rtol=1e-5, atol=1e-5)
    timed = len(gpu.timed)
    assert run_op()[0] == [launched[-1]]
    assert len(gpu.timed) == timed
    assert choices(tmp_path) == []
    recovered = use_gpu(StandInGpu(durations(fails[0])), forget=True)
    assert run_op()[0][-1] == fails[0]
    assert set(recovered.timed) == set(NAMES)
    assert len(choices(tmp_path)) == 1


@pytest.mark.kernels
def test_tf32_chooses_among_the_tf32_algorithms(use_gpu):
    only = [algorithm.name for algorithm in serving("tf32")]
    gpu = use_gpu(StandInGpu(dict.fromkeys(only, 1e-5)))
    assert run_op(tf32=True)[0][-1] in only
    assert bool(gpu.timed) == (len(only) > 1)


def test_nothing_is_timed_during_a_capture(use_gpu, tmp_path):
    captured = use_gpu(StandInGpu(durations("simt-64x64"), capture=True))
    modeled = plan.plan(CONV2D).algorithm.name
    assert run_op()[0] == [modeled]
    assert captured.timed == choices(tmp_path) == []
    assert modeled != "simt-64x64"
    afterwards = use_gpu(StandInGpu(durations("simt-64x64")))
    assert run_op()[0][-1] == "simt-64x64"
    assert afterwards.timed, "the choice during the capture must not be stored"
    for forget in (False, True):
        captured = use_gpu(StandInGpu(durations("simt-32x32"), capture=True), forget)
        assert run_op()[0] == ["simt-64x64"]
        assert captured.timed == []


def test_timing_stays_within_its_limit(use_gpu):
    """If a candidate uses up the limit, the others are not timed. Slow ones run once, fast ones several times."""
    first = plan.plan(CONV2D).algorithm.name
    slow = use_gpu(StandInGpu(dict.fromkeys(NAMES, 2 * tuner.SECONDS)))
    run_op()
    assert slow.timed == [first]
    hopeless = use_gpu(StandInGpu(durations(first, 1e-5, 1e-3), model="2"))
    run_op()
    assert [hopeless.timed.count(name) for name in NAMES if name != first] == [1] * (len(NAMES) - 1)
    assert hopeless.timed.count(first) > 1
    for seconds in (1e-6, 1e-4, 3e-3, 1.3e-2, 2e-2, 3e-2):
        gpu = use_gpu(StandInGpu(dict.fromkeys(NAMES, seconds), model=str(seconds)))
        run_op()
        assert gpu.spent <= tuner.SECONDS + seconds
        assert len(set(gpu.timed)) == min(len(NAMES), math.ceil(tuner.SECONDS / seconds))
        assert (len(gpu.timed) > len(NAMES)) == (seconds < tuner.SECONDS / len(NAMES) / 2)


@pytest.mark.kernels
def test_accumulation_adds_once_although_all_candidates_are_timed(use_gpu):
    gpu = use_gpu(StandInGpu(durations("simt-64x64")))
    dy = np.random.default_rng(1).standard_normal((2, 4, 5, 12)).astype(np.float32)
    before = np.random.default_rng(2).standard_normal(W.shape).astype(np.float32)
    results = []
    for algo in ("auto", "simt-64x64"):
        dw = asarray(before.copy(), "emulated")
        ops.conv2d_wgrad(*[asarray(a, "emulated") for a in (dy, X)], kernel_size=3, out=dw, accumulate=True, algo=algo)
        results.append(to_numpy(dw))
    assert set(gpu.timed) == set(NAMES)
    np.testing.assert_array_equal(*results)


@pytest.mark.kernels
def test_accumulation_into_a_slice_adds_once_although_all_candidates_are_timed(use_gpu):
    gpu = use_gpu(StandInGpu(durations("simt-64x64")))
    dy = np.random.default_rng(1).standard_normal((2, 4, 5, 12)).astype(np.float32)
    before = np.random.default_rng(2).standard_normal((*X.shape[:-1], X.shape[-1] + 8)).astype(np.float32)
    results = []
    for algo in ("auto", "simt-64x64"):
        volume = asarray(before.copy(), "emulated")
        options = dict(input_shape=X.shape, out=volume[..., 4:-4], accumulate=True, algo=algo)
        ops.conv2d_dgrad(asarray(dy, "emulated"), asarray(W, "emulated"), **options)
        results.append(to_numpy(volume))
    assert set(gpu.timed) == set(NAMES)
    np.testing.assert_array_equal(*results)
    assert not np.array_equal(results[0], before)


@pytest.mark.kernels
@pytest.mark.parametrize("accumulate", [False, True])
def test_nothing_is_allocated_beyond_the_workspace(use_gpu, monkeypatch, accumulate):
    """A scratch array is used only when accumulating. If this array and the partial sums would exceed the workspace,
    the cost model chooses."""
    gpu = use_gpu(StandInGpu(durations("simt-64x64")))
    for module in (plan, tuner):
        monkeypatch.setattr(module, "LARGEST_WORKSPACE", W.nbytes)
    plan.plan.cache_clear()
    plan.candidates.cache_clear()
    shapes, empty = [], launch.empty

    def noted(shape, dtype, like):
        shapes.append(shape)
        return empty(shape, dtype, like=like)

    monkeypatch.setattr(launch, "empty", noted)
    dy, dw = np.ones((2, 4, 5, 12), np.float32), asarray(np.zeros(W.shape, np.float32), "emulated")
    ops.conv2d_wgrad(
        *[asarray(a, "emulated") for a in (dy, X)], kernel_size=3, out=dw, accumulate=accumulate, algo="auto"
    )
    assert bool(gpu.timed) == (not accumulate)
    assert W.shape not in shapes
    plan.plan.cache_clear()
    plan.candidates.cache_clear()


def test_tuning_can_be_switched_off(use_gpu, monkeypatch, tmp_path):
    gpu = use_gpu(StandInGpu(durations("simt-128x64")))
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    launched, _ = run_op()
    assert launched == [plan.plan(CONV2D).algorithm.name] != ["simt-128x64"]
    assert gpu.timed == choices(tmp_path) == []
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "yes")
    assert run_op()[0][-1] == "simt-128x64"
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "2")
    assert run_op()[0] == ["simt-128x64"]  # measured and stored
    with pytest.raises(ValueError, match="GPUCONV_AUTOTUNE: expected 1 or 0, received '2'"):
        run_op(padding=1)


def test_the_emulated_device_uses_the_cost_models_choice(monkeypatch):
    monkeypatch.setattr(tuner, "candidates", None)
    x = asarray(X, "emulated")
    assert tuner.gpu_of(x) is None
    assert tuner.gpu_named("emulated") is None
    assert run_op()[0] == [plan.plan(CONV2D).algorithm.name]


def test_stored_keys_keep_their_name_for_precisions():
    key = tuner._key(CONV2D, [plan.plan(CONV2D)], SimpleNamespace(model="a GPU"))
    assert any("arithmetics=('float32'" in part for part in key)
