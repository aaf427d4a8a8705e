"""Choosing an algorithm by timing, on a stand-in GPU: the emulated device computes, a table gives the times."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from contextvars import ContextVar
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.algorithms import serving
from gpuconv.backends.cuda.cache import Cache
from gpuconv.backends.cuda.gemm import launch, plan, tuner
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.runtime import kernel, source
from gpuconv.layers import Conv2D, Linear, MaxPool2D, ReLU
from gpuconv.layers.fused import ConvReLU
from gpuconv.profiling import launches
from gpuconv.system import locks

NAMES = [algorithm.name for algorithm in serving("float32")]
CONV2D = Product("conv2d_fprop", 2 * 4 * 5, 12, 72, 1, np.dtype(np.float32))  # of X and W
X, W = (np.random.default_rng(7).standard_normal(s).astype(np.float32) for s in ((2, 6, 7, 8), (12, 3, 3, 8)))


class StandInGpu:
    """A GPU on which each algorithm takes a given time; it records which are timed."""

    def __init__(self, seconds, model="Make-Believe", capture=False):
        self.speeds, self.model, self.capture = seconds, model, capture
        self.timed, self.spent = [], 0.0

    def capturing(self):
        return self.capture

    def seconds(self, run, count):
        with launches.record_launches() as launched:
            for _ in range(count):
                run()
        names = {row["algorithm"] for row in launches.table(launched)} - {None}
        (name,) = names
        self.timed.append(name)
        self.spent += count * self.speeds[name]
        return count * self.speeds[name]


def speeds(fastest, fast=1e-5, slow=3e-5):
    return {name: fast if name == fastest else slow for name in NAMES}


@pytest.fixture
def use_gpu(monkeypatch, tmp_path):
    """Treats emulated arrays as those of the stand-in; the disk cache and the choices in memory start empty."""
    monkeypatch.setattr(tuner, "cache", SimpleNamespace(default=lambda: Cache(tmp_path / "cache")))
    monkeypatch.delenv("GPUCONV_AUTOTUNE", raising=False)
    monkeypatch.setattr(tuner, "known_choices", {})

    def use(gpu, forget=False):
        monkeypatch.setattr(tuner, "gpu_of", lambda array: gpu)
        monkeypatch.setattr(tuner, "gpu_named", lambda device: gpu)
        if forget:
            tuner.known_choices.clear()  # the state of a new process
        return gpu

    return use


def choices(tmp_path):
    return sorted((tmp_path / "cache").glob("choice-*"))


def run_op(op="conv2d", arrays=(X, W), **options):
    """The algorithms that an op launched, in order, and the op's result."""
    moved = [asarray(a, "emulated") for a in arrays]
    with launches.record_launches() as launched:
        result = to_numpy(getattr(ops, op)(*moved, **options))
    return [row["algorithm"] for launch in launched for row in launches.table([launch]) if row["algorithm"]], result


@pytest.mark.slow
@pytest.mark.parametrize("fastest", NAMES)
def test_the_fastest_algorithm_is_chosen_and_gives_the_same_bits_as_when_named(use_gpu, fastest):
    gpu = use_gpu(StandInGpu(speeds(fastest)))
    launched, result = run_op()
    assert launched[-1] == fastest
    assert set(gpu.timed) == set(NAMES)
    launched_again, second_result = run_op()
    assert launched_again == [fastest]
    pinned, expected = run_op(algo=fastest)
    assert pinned == [fastest]
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(second_result, expected)


def test_among_equally_fast_ones_the_cost_models_choice_wins(use_gpu):
    gpu = use_gpu(StandInGpu(dict.fromkeys(NAMES, 1e-5)))
    assert run_op()[0][-1] == gpu.timed[0] == plan.plan(CONV2D).algorithm.name


def test_the_choice_is_stored_on_disk(use_gpu, tmp_path):
    use_gpu(StandInGpu(speeds("simt-64x64")))
    run_op()
    (entry,) = choices(tmp_path)
    result = json.loads((entry / "choice.json").read_text())
    assert (result["algorithm"], result["device"], set(result["seconds"])) == ("simt-64x64", "Make-Believe", set(NAMES))
    later = use_gpu(StandInGpu(speeds("simt-32x32")), forget=True)
    assert run_op()[0] == ["simt-64x64"]
    assert later.timed == []


def chosen_without_kernels(fastest):
    """A choice made without running kernels, and the plans that were timed for it."""
    product, run = Product("conv2d_fprop", 100, 100, 100, 1, np.dtype(np.float32)), []

    def seconds(call, count):
        call()
        return 1e-5 if run[-1].algorithm.name == fastest else 3e-5

    gpu = StandInGpu({})
    gpu.seconds = seconds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "gpu_of", lambda array: gpu)
        patch.setattr(tuner, "capability_of", lambda array: plan.NEWEST)
        return tuner.choose(product, "auto", None, run.append).algorithm.name, len(run)


IN_ANOTHER_PROCESS = """
import sys
from tests.backends.cuda.test_tuner import chosen_without_kernels
print("ready", flush=True)
sys.stdin.readline()
print(*chosen_without_kernels(sys.argv[1]))
"""


def test_concurrent_processes_agree_on_one_choice(use_gpu, tmp_path):
    """Processes that choose at the same time use the result of the first one, as does a later process."""
    environment = os.environ | {"GPUCONV_CACHE_DIR": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", IN_ANOTHER_PROCESS, fastest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for fastest in ("simt-32x32", "simt-64x64")
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=60)[0].split()[0] for process in processes}
    assert len(answers) == len(choices(tmp_path)) == 1
    assert chosen_without_kernels("simt-128x64") == (*answers, 0)


def test_a_process_does_not_time_while_another_one_does(use_gpu, tmp_path):
    gpu, answers = use_gpu(StandInGpu({})), []
    gpu.seconds = lambda call, count: gpu.timed.append(count) or 1e-5
    (tmp_path / "cache").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "capability_of", lambda array: plan.NEWEST)
        thread = threading.Thread(
            target=lambda: answers.append(
                tuner.choose(CONV2D, "auto", None, lambda candidate: gpu.timed.append(candidate))
            )
        )
        with locks.hold(tmp_path / "cache"):
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
            assert gpu.timed == []
        thread.join(10)
    assert gpu.timed
    assert answers


@pytest.mark.parametrize("fails", [[NAMES[-1]], NAMES[:-1]], ids=["one", "all-but-one"])
def test_candidates_that_fail_while_they_are_timed_are_left_out(use_gpu, monkeypatch, fails):
    """The error of such a launch may appear only at the next synchronization."""
    gpu = use_gpu(StandInGpu(speeds(NAMES[-1])))
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


def test_each_problem_and_each_gpu_model_has_its_own_choice(use_gpu, tmp_path):
    use_gpu(StandInGpu(speeds("simt-64x64")))
    run_op()
    for number, options in enumerate((dict(padding=1), dict(stride=2), dict(dilation=2)), 2):
        use_gpu(StandInGpu(speeds("simt-32x32")))
        assert run_op(**options)[0][-1] == "simt-32x32"
        assert len(choices(tmp_path)) == number
    other = use_gpu(StandInGpu(speeds("simt-64x32"), model="Fancy"))
    assert run_op()[0][-1] == "simt-64x32"
    assert set(other.timed) == set(NAMES)
    use_gpu(StandInGpu(speeds("simt-32x32")))
    assert run_op()[0] == ["simt-64x64"]


@pytest.mark.kernels
def test_tf32_chooses_among_the_tf32_algorithms(use_gpu, tmp_path):
    only = [algorithm.name for algorithm in serving("tf32")]
    gpu = use_gpu(StandInGpu(dict.fromkeys(only, 1e-5)))
    assert run_op(tf32=True)[0][-1] in only
    assert bool(gpu.timed) == (len(only) > 1)


@pytest.mark.kernels
def test_an_edited_kernel_is_timed_again(use_gpu, tmp_path):
    use_gpu(StandInGpu(speeds("simt-64x64")))
    run_op()
    edited = tmp_path / "conv2d_fprop.cu"
    edited.write_text(source.resolve("conv2d_fprop.cu").read_text() + "\n// edited\n")
    with kernel.replace_files({"conv2d_fprop.cu": edited}):
        later = use_gpu(StandInGpu(speeds("simt-32x32")), forget=True)
        assert run_op()[0][-1] == "simt-32x32"
        assert set(later.timed) == set(NAMES)
    assert len(choices(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["cut", "other", "gone", "no digest"])
def test_a_damaged_entry_is_timed_again(use_gpu, tmp_path, damage):
    use_gpu(StandInGpu(speeds("simt-64x64")))
    run_op()
    (entry,) = choices(tmp_path)
    file = entry / "choice.json"
    if damage == "cut":
        file.write_text(file.read_text()[:20])
    elif damage == "other":
        file.write_text(file.read_text().replace("simt-64x64", "simt-64x32"))
    else:
        (file if damage == "gone" else entry / "digest").unlink()
    later = use_gpu(StandInGpu(speeds("simt-32x32")), forget=True)
    assert run_op()[0][-1] == "simt-32x32"
    assert later.timed
    assert len(choices(tmp_path)) == 1


def test_nothing_is_timed_during_a_capture(use_gpu, tmp_path):
    captured = use_gpu(StandInGpu(speeds("simt-64x64"), capture=True))
    modeled = plan.plan(CONV2D).algorithm.name
    assert run_op()[0] == [modeled]
    assert captured.timed == choices(tmp_path) == []
    assert modeled != "simt-64x64"
    afterwards = use_gpu(StandInGpu(speeds("simt-64x64")))
    assert run_op()[0][-1] == "simt-64x64"
    assert afterwards.timed, "the choice during the capture was not stored"
    for forget in (False, True):
        captured = use_gpu(StandInGpu(speeds("simt-32x32"), capture=True), forget)
        assert run_op()[0] == ["simt-64x64"]
        assert captured.timed == []


def test_timing_stays_within_its_limit(use_gpu):
    """If a candidate uses up the limit, the others are not timed. Slow ones run once, fast ones several times."""
    first = plan.plan(CONV2D).algorithm.name
    slow = use_gpu(StandInGpu(dict.fromkeys(NAMES, 2 * tuner.SECONDS)))
    run_op()
    assert slow.timed == [first]
    hopeless = use_gpu(StandInGpu(speeds(first, 1e-5, 1e-3), model="2"))
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
def test_accumulation_adds_once(use_gpu):
    gpu = use_gpu(StandInGpu(speeds("simt-64x64")))
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
def test_accumulation_into_a_slice_adds_once(use_gpu):
    gpu = use_gpu(StandInGpu(speeds("simt-64x64")))
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
    """A scratch array is used only when accumulating; if it would not fit in memory, the cost model chooses."""
    gpu = use_gpu(StandInGpu(speeds("simt-64x64")))
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
    gpu = use_gpu(StandInGpu(speeds("simt-128x64")))
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    launched, _ = run_op()
    assert launched == [plan.plan(CONV2D).algorithm.name] != ["simt-128x64"]
    assert gpu.timed == choices(tmp_path) == []
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "1")
    assert run_op()[0][-1] == "simt-128x64"
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "yes")
    assert run_op()[0] == ["simt-128x64"]  # measured and stored
    with pytest.raises(ValueError, match="unknown value of GPUCONV_AUTOTUNE 'yes'"):
        run_op(padding=1)


def test_the_emulated_device_uses_the_cost_models_choice(tmp_path, monkeypatch):
    monkeypatch.setattr(tuner, "candidates", None)
    x = asarray(X, "emulated")
    assert tuner.gpu_of(x) is None
    assert tuner.gpu_named("emulated") is None
    assert run_op()[0] == [plan.plan(CONV2D).algorithm.name]


def test_a_layer_reports_what_runs_without_tuning_and_within_same_bits(use_gpu, monkeypatch):
    fastest = next(name for name in NAMES if name != plan.plan(CONV2D).algorithm.name)
    use_gpu(StandInGpu(speeds(fastest)))
    layer = Conv2D(12, 3)
    layer.build(X.shape[1:], device="emulated")
    modeled = layer.algorithms(len(X))["fprop"]
    assert run_op()[0][-1] == layer.algorithms(len(X))["fprop"] == fastest
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    assert run_op()[0] == [layer.algorithms(len(X))["fprop"]] == [fastest]  # remembered
    monkeypatch.setattr(tuner, "model_chooses", ContextVar("model_chooses", default=True))
    assert run_op()[0] == [layer.algorithms(len(X))["fprop"]] == [modeled]
    monkeypatch.delenv("GPUCONV_AUTOTUNE")
    assert run_op()[0] == [layer.algorithms(len(X))["fprop"]] == [modeled]


@pytest.mark.kernels
def test_a_layer_reports_the_measured_choice(use_gpu):
    use_gpu(StandInGpu(speeds("simt-128x64")))
    fused = ConvReLU([Conv2D(12, 3), ReLU(), MaxPool2D(2)])
    for layer, x in ((Conv2D(12, 3), X), (Linear(6), np.ones((5, 8), np.float32)), (fused, X)):
        layer.build(x.shape[1:], device="emulated")
        modeled = layer.algorithms(len(x))
        y = layer.forward(asarray(x, "emulated"))
        assert layer.algorithms(len(x)) == modeled | {"fprop": "simt-128x64"} != modeled
        layer.backward(y)
        assert layer.algorithms(len(x)) == dict.fromkeys(modeled, "simt-128x64")


def test_a_choice_stored_under_an_old_algorithm_name_is_found(tmp_path):
    (tmp_path / "choice.json").write_text(json.dumps({"algorithm": "first-256x64"}))
    product = Product("conv2d_fprop", 1000, 64, 27, 1, np.dtype(np.float32), few_channels_smem_bytes=1000)
    assert tuner._read_choice(tmp_path, plan.candidates(product)).algorithm.name == "few_channels-256x64"


# --- the GPU, with a stand-in for CuPy ---------------------------------------------------------


def test_runs_on_cupy_are_timed_between_two_events_behind_a_gate(monkeypatch):
    """They are queued on an idle GPU; the gate opens when all are queued."""
    queue, waiting = [], []

    class Event:
        def record(self):
            queue.append(self)

        def synchronize(self):
            queue.append("waited")
            waiting[0].join(5)
            assert not waiting[0].is_alive()

    class Stream:
        def launch_host_func(self, callback, argument):
            queue.append("gate")
            waiting.append(threading.Thread(target=callback, args=[argument]))
            waiting[0].start()

        def is_capturing(self):
            return True

    class Device:
        def __init__(self, index):
            assert index == 3

        def __enter__(self):
            queue.append("on device")

        def __exit__(self, *_):
            pass

        def synchronize(self):
            queue.append("idle")

    cuda = SimpleNamespace(
        Device=Device,
        Event=Event,
        get_current_stream=Stream,
        get_elapsed_time=lambda begin, end: 7.0 * (queue.index(end) - queue.index(begin) - 1),
        runtime=SimpleNamespace(getDeviceProperties=lambda index: {"name": b"Make-Believe"}),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    gpu = tuner.Gpu(3)
    assert gpu.model == "Make-Believe"
    assert gpu.capturing() is True
    queue.clear()

    def run():
        assert waiting[0].is_alive(), "the gate is still closed"
        queue.append("run")

    assert gpu.seconds(run, 3) == pytest.approx(0.021)
    assert [entry for entry in queue if isinstance(entry, str)] == ["idle", "on device", "gate", *["run"] * 3, "waited"]

    def fails():
        raise RuntimeError("no such kernel")

    waiting.clear()
    with pytest.raises(RuntimeError, match="no such kernel"):
        gpu.seconds(fails, 1)
    waiting[0].join(0.1)
    assert not waiting[0].is_alive(), "the gate opens whatever happens"
