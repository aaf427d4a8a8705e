"""gpuconv's host code on the stand-in: devices, launches, graphs, user-defined loaders."""

from __future__ import annotations

import contextlib
import gc as gc_module
import re
import threading
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

import gpuconv as gc
from bench import calls, ours
from bench.record import Record
from bench.runner import run as bench_run
from bench.suite import Entry
from gpuconv import backends, checkpoint, lab, ops
from gpuconv.backends.cuda import ops as cuda_ops
from gpuconv.backends.cuda.cache import Cache
from gpuconv.backends.cuda.gemm import tuner
from gpuconv.backends.cuda.runtime import attached_tools, nvrtc
from gpuconv.cli import main
from gpuconv.data import Augmentation, Loader, Normalization
from gpuconv.inspect.profile import profile
from gpuconv.layers import (
    AvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GroupNorm,
    Input,
    LayerNorm,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Upsample,
)
from gpuconv.notices import Notice
from gpuconv.profiling import launches, peaks
from gpuconv.profiling.work import Ceilings, Work
from gpuconv.training import ShadowError, ShadowWarning, Trainer
from gpuconv.training.replay import Replay
from gpuconv.training.shadow import Shadow
from gpuconv.verify.call import Call
from tests import standin
from tests.standin import machine, made_up, modules, streams
from tests.training import toy_run
from tests.training.test_shadow import FakeWorker

X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
SCHEDULES = ("early", "late")


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return request.param


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_an_op_runs_on_the_device_of_its_arrays(schedule, device):
    with standin.installed(("90", "90"), schedule=schedule):
        y = ops.relu(gc.asarray(X, device))
        assert gc.device_of(y) == device
        np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(X, 0))


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_an_invalid_tuner_setting_is_refused_before_work_starts(monkeypatch, device):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "nonsense")
    with standin.installed(("90",)), pytest.raises(ValueError, match="unknown value of GPUCONV_AUTOTUNE 'nonsense'"):
        gc.asarray(X, device)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_asarray_converts_on_the_arrays_own_device(schedule, device):
    with standin.installed(("90", "90"), schedule=schedule):
        half = gc.asarray(gc.asarray(X, device), dtype="float16")
        assert gc.device_of(half) == device
        np.testing.assert_array_equal(gc.to_numpy(half), X.astype(np.float16))


def test_ops_do_not_query_a_gpus_properties(schedule):
    """A query takes a millisecond on a real GPU."""
    with standin.installed(("80", "90"), schedule=schedule) as machine:
        arrays = [gc.asarray(X, device) for device in ("cuda:0", "cuda:1") for _ in range(3)]
        for x in arrays:
            gc.to_numpy(ops.relu(gc.asarray(x)))
        assert machine.property_calls == 0


def test_unlike_gpus_each_load_their_own_binary(schedule):
    with standin.installed(("80", "90"), schedule=schedule):
        for device in ("cuda:0", "cuda:1"):
            x = gc.asarray(X, device)
            y = ops.relu(x, out=backends.empty(X.shape, "float32", device))
            np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(X, 0))


def test_info_lists_each_gpu(capsys):
    with standin.installed(("75", "90", "90")):
        assert main(["info"]) == 0
    output = re.findall(
        r"^  (cuda\S*) +ready: Stand-in \d+, compute capability (\S+?),?(?: .*)?$", capsys.readouterr().out, re.M
    )
    assert output == [("cuda", "7.5"), ("cuda:1", "9.0"), ("cuda:2", "9.0")]


def norm_sums_and_slices():
    """In this net convolutions compute the sums for the gradients of norms, and branches read and write slices."""
    dense_blocks = (Branches([[], [BatchNorm(), ReLU(), Conv2D(4, 3, padding=1)]]) for _ in range(2))
    branches = Branches([[Conv2D(4, 1), BatchNorm(), ReLU()], [Conv2D(3, 3, padding=1)]])
    first = [Input((6, 5, 1)), Conv2D(4, 3, padding=1), BatchNorm(), Conv2D(8, 3, padding=1)]
    return Sequential([*first, *dense_blocks, branches, Flatten(), Linear(3)], seed=0)


def many_ends():
    """A net whose branches end in layers of many kinds, all of which write slices."""
    ends = [
        [Conv2D(4, 1), MaxPool2D(3, stride=1, padding=1)],
        [Conv2D(4, 1), LayerNorm(), Dropout(0.2)],
        [Upsample(2), Conv2D(4, 3, padding=1), MaxPool2D(2), BatchNorm()],
        [MaxPool2D((6, 5)), ConvTranspose2D(4, (6, 5))],
        [AvgPool2D((6, 5)), Conv2D(4, 1), Upsample((6, 5), "bilinear")],
        [Conv2D(4, 1), Residual([Conv2D(4, 3, padding=1)]), GroupNorm(2)],
    ]
    return Sequential([Input((6, 5, 1)), Branches(ends), Flatten(), Linear(3)], seed=0)


def trained(device, *, graph, optimizer="adam", net=toy_run.net, **options):
    data = toy_run.images(22)
    normalization = Normalization.from_dataset(data)
    augmentation = Augmentation(shift=1, flip=True)
    loader = Loader(
        data,
        5,
        normalization=normalization,
        augmentation=augmentation,
        seed=3,
        device=device,
        dtype=options.get("precision", "float32"),
    )
    trainer = Trainer(net().to(device), optimizer, lr=0.01, graph=graph, fuse=True, **options)
    trainer.fit(loader, epochs=2, progress=False, metrics_every=3)
    return trainer.snapshot().tensors


@pytest.mark.kernels
@pytest.mark.parametrize("graph", [False, True], ids=["launches", "graph"])
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_training_gives_the_emulated_devices_bits(schedule, device, graph):
    expected = trained("emulated", graph=False)
    with standin.installed(("90", "90"), schedule=schedule):
        on_gpu = trained(device, graph=graph)
    assert toy_run.same_arrays(on_gpu, expected)


@pytest.mark.kernels
@pytest.mark.parametrize("graph", [False, True], ids=["launches", "graph"])
@pytest.mark.parametrize(
    "options",
    [
        {"shards": 2},
        {"clip": 0.1, "ema": 0.9, "accumulate": 2},
        {"clip": "value:0.01", "optimizer": "lion", "accumulate": 3},
        {"optimizer": "filters -> muon; * -> sgd", "precision": "bfloat16"},
        {"net": norm_sums_and_slices},
        {"net": many_ends},
    ],
    ids=lambda options: options["net"].__name__ if "net" in options else ",".join(options),
)
def test_training_with_further_options_gives_the_emulated_devices_bits(schedule, graph, options):
    expected = trained("emulated", graph=False, **options)
    with standin.installed(("90",), schedule=schedule):
        on_gpu = trained("cuda:0", graph=graph, **options)
    assert toy_run.same_arrays(on_gpu, expected)


class EveryThird(Shadow):
    """A shadow that checks all calls of every third step in this process, once it knows the sizes of the calls.

    launched: for each step that it checked, the number of kernels that were launched one by one.
    """

    instances: ClassVar[list[EveryThird]] = []

    def __init__(self, share, violation, folder, *, seed):
        super().__init__(share, violation, folder, seed=seed, make=FakeWorker)
        self.steps_asked_about, self.launched = 0, {}
        self.instances.append(self)

    def _seconds_left(self):
        return 1e9

    def due(self):
        self.steps_asked_about += 1
        return super().due() and self.steps_asked_about % 3 == 0

    def _draw_sites(self):
        return set(self._sizes)

    @contextlib.contextmanager
    def checking(self, step):
        before = len(machine.current().launches)
        with super().checking(step):
            yield
        self.launched[step] = len(machine.current().launches) - before


@pytest.fixture
def every_third(monkeypatch):
    monkeypatch.setattr("gpuconv.training.trainer.Shadow", EveryThird)
    monkeypatch.setattr(EveryThird, "instances", [])
    return EveryThird.instances


@pytest.mark.kernels
def test_a_shadowed_run_with_a_graph_has_the_same_bits(schedule, every_third, monkeypatch):
    replayed = []
    run = Replay.run

    def recorded(self, work, steps, shape, same):
        replayed.append(steps)
        return run(self, work, steps, shape, same)

    monkeypatch.setattr(Replay, "run", recorded)
    with standin.installed(("90",), schedule=schedule):
        expected = trained("cuda:0", graph=True)
        assert sum(replayed) == 10
        replayed.clear()
        shadowed = trained("cuda:0", graph=True, shadow=0.5)
    assert toy_run.same_arrays(shadowed, expected)
    (shadow,) = every_third
    assert len(shadow.launched) >= 2
    assert all(count > 5 for count in shadow.launched.values())  # one by one, not as a graph
    assert sum(replayed) == 10 - len(shadow.launched) > 0  # all other steps as graphs
    rows = {row.op: row for row in shadow.report()}
    assert {"load_batch", "adam_step", "advance_step_counter"} <= rows.keys()
    assert all(row.checked and row.worst <= 1 for row in rows.values())


@pytest.mark.kernels
@pytest.mark.parametrize("violation", ["stop", "warn"])
def test_a_wrong_result_between_replays_of_a_graph_is_found(schedule, every_third, monkeypatch, tmp_path, violation):
    correct = cuda_ops.linear.linear

    def wrong(*arrays, **options):
        y = correct(*arrays, **options)
        return cuda_ops.arithmetic.add(y, y, out=y)

    monkeypatch.setattr(cuda_ops.linear, "linear", wrong)
    monkeypatch.chdir(tmp_path)
    kind = {"stop": ShadowError, "warn": ShadowWarning}[violation]
    expects = pytest.raises if violation == "stop" else pytest.warns
    with standin.installed(("90",), schedule=schedule), expects(kind, match="linear of fc1 is beyond its bound"):
        trained("cuda:0", graph=True, shadow=0.5, violation=violation)
    file = next(iter(tmp_path.glob("shadow-linear-fc1-step*.safetensors")))
    call = Call.read(file, checkpoint.load(file))
    assert call.compare().wrong
    assert not call.on("numpy").compare().wrong


# --- user-defined loaders: batches that another library, or another thread, puts on the device ----------------


class ForeignTensor:
    """A tensor of a library whose allocator gives the block of a deleted tensor to the next tensor, and whose default
    stream has no other work."""

    _free: dict = {}  # noqa: RUF012

    def __init__(self, host):
        import cupy

        self._home = (host.shape, host.dtype)
        blocks = self._free.setdefault(self._home, [])
        self._array = blocks.pop() if blocks else cupy.empty(host.shape, host.dtype)
        with cupy.cuda.Stream(null=True) as stream:
            self._array[...] = cupy.asarray(host)
            self._written = stream.record()
            stream.synchronize()

    def __dlpack_device__(self):
        return 2, 0

    def standin_dlpack(self, stream):
        stream.wait_event(self._written)
        array = self._array[:]
        array.owner = self
        return array

    def __del__(self):
        self._free[self._home].append(self._array)


ForeignTensor.__module__ = "torch"


class UserLoader:
    """Batches in order, converted by `to_device`."""

    def __init__(self, to_device):
        self._data, self._to_device = toy_run.images(20), to_device
        self._normalization = Normalization.from_dataset(self._data)

    def __len__(self):
        return 4

    def epoch(self, epoch=0, start_batch=0):
        for at in range(5 * start_batch, 20, 5):
            x = self._normalization(self._data.images[at : at + 5]).astype(np.float32)
            yield self._to_device(x), self._to_device(self._data.labels[at : at + 5].astype(np.int64))


def loss_with_loader(to_device, device, **options):
    """The last training loss with batches that `to_device` puts onto the device."""
    trainer = Trainer(toy_run.net().to(device), "sgd", lr=0.01, fuse=True, **options)
    trainer.fit(UserLoader(to_device), epochs=2, progress=False, metrics_every=100)
    return trainer.records[-1]["train_loss"]


def in_another_thread(make):
    """A function that runs `make` in a thread with its own current stream."""
    import threading

    def made_in_thread(host):
        results = []
        thread = threading.Thread(target=lambda: results.append(make(host)))
        thread.start()
        thread.join()
        return results[0]

    return made_in_thread


@pytest.mark.filterwarnings("ignore::gpuconv.training.UncapturedWarning")
@pytest.mark.parametrize("graph", [None, pytest.param(False, marks=pytest.mark.slow)], ids=["default", "launches"])
@pytest.mark.parametrize("maker", ["another library", "another thread"])
def test_training_sees_exactly_the_batches_of_a_user_defined_loader(schedule, maker, graph):
    expected = loss_with_loader(lambda host: gc.asarray(host, "emulated"), "emulated", graph=False)
    makers = {
        "another library": lambda host: gc.asarray(ForeignTensor(host)),
        "another thread": in_another_thread(lambda host: gc.asarray(host, "cuda:0")),
    }
    ForeignTensor._free.clear()
    with standin.installed(("90", "90"), schedule=schedule):
        assert loss_with_loader(makers[maker], "cuda:0", graph=graph) == expected
        ForeignTensor._free.clear()


@pytest.mark.slow
def test_repeated_runs_need_no_more_memory_or_streams(schedule):
    with standin.installed(("90",), schedule=schedule) as machine:
        used = []
        for _ in range(3):
            trained("cuda:0", graph=True)
            gc_module.collect()
            used.append((len(machine.queues), machine.allocated))
        assert used[1] == used[2]


# --- GPUs without the newest instructions, and candidates that fail -------------------------------------------------


def convolution(device="cuda:0", **options):
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 8, 8, 4), (4, 3, 3, 4)))
    y = ops.conv2d(gc.asarray(x, device), gc.asarray(w, device), padding=1, **options)
    return gc.to_numpy(y), ops.conv2d(x, w, padding=1)


@pytest.fixture
def timed(monkeypatch, tmp_path):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "1")
    monkeypatch.setattr(tuner, "cache", SimpleNamespace(default=lambda: Cache(tmp_path / "choices")))
    tuner.known_choices.clear()
    yield
    tuner.known_choices.clear()


@pytest.mark.parametrize("tf32", [False, True], ids=["float32", "tf32"])
def test_simt_kernels_serve_a_gpu_without_asynchronous_copies(tf32):
    with standin.installed(("75",)) as machine:
        assert (
            backends.describe("auto")
            == "Stand-in 75, compute capability 7.5, convolutions without tensor cores (from 8.0 on)"
        )
        y, expected = convolution(tf32=tf32)
        np.testing.assert_allclose(y, expected, rtol=1e-2 if tf32 else 1e-5, atol=1e-2 if tf32 else 1e-5)
        assert machine.launches == [("conv2d_fprop_simt", 0)]
        with pytest.raises(ValueError, match=r"needs a GPU of compute capability 8\.0, received one of 7\.5"):
            convolution(algo="mma-128x64", tf32=True)


def test_a_failing_candidate_is_left_out_and_named(timed, monkeypatch):
    compiled = []

    def failing_once(name, text, defines, arch):
        compiled.append(name)
        if len(compiled) == 1:
            raise nvrtc.CompileError("planted")
        return modules.compile_cubin(name, text, defines, arch)

    with standin.installed(("90",)), monkeypatch.context() as patch:
        patch.setattr(nvrtc, "compile_cubin", failing_once)
        with pytest.warns(tuner.FailedCandidateWarning, match="is left out of the choice .*: CompileError: planted"):
            y, expected = convolution()
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_candidates_are_timed_while_other_streams_are_idle(timed, monkeypatch):
    order = []
    with standin.installed(("90",), schedule="late"):
        other, launch = streams.Stream(non_blocking=True), streams.Stream.launch_host_func

        def recorded(stream, *arguments):
            order.append("timed")
            launch(stream, *arguments)

        monkeypatch.setattr(streams.Stream, "launch_host_func", recorded)
        other.queue.push(lambda: order.append("other work"))
        convolution()
    assert order[:2] == ["other work", "timed"]


@pytest.mark.filterwarnings("ignore::gpuconv.backends.cuda.gemm.tuner.FailedCandidateWarning")
def test_an_op_raises_if_every_candidate_fails(timed, monkeypatch):
    def failing(name, text, defines, arch):
        raise nvrtc.CompileError("planted")

    with standin.installed(("90",)), monkeypatch.context() as patch:
        patch.setattr(nvrtc, "compile_cubin", failing)
        with pytest.raises(nvrtc.CompileError, match="planted"):
            convolution()


# --- measurements ----------------------------------------------------------------------------------------------------


def test_the_tuners_trials_do_not_count_as_launches(timed):
    with standin.installed(("90",)) as machine:
        with launches.record_launches() as counted:
            convolution()
        assert [launch.kernel.name for launch in counted] == [machine.launches[-1][0]]
        assert len(machine.launches) > len(counted)


@pytest.mark.slow
def test_a_profile_on_a_gpu_does_not_show_the_launches_of_the_tuner(timed):
    with standin.installed(("90",)), made_up.times():
        net = toy_run.net().to("cuda:0")
        while_tuning, tuned = profile(net, 4, steps=1), profile(net, 4, steps=1)

    def names(report):
        return [[(kernel["kernel"], kernel["launches"]) for kernel in row.launches] for row in report.rows]

    assert names(while_tuning) == names(tuned)


def test_the_lab_times_kernels_without_python_overhead(schedule, monkeypatch, tmp_path):
    path, relu, clock = tmp_path / "my.cu", ops.relu, machine.Clock()
    path.write_text(lab.template("relu"))
    tiny = lab.cases_of("relu", None, ("tiny",))[:1]

    def slow(*arguments, **options):
        clock.sleep(2e-3)
        return relu(*arguments, **options)

    monkeypatch.setattr(ops, "relu", slow)
    monkeypatch.setattr(lab, "cases_of", lambda *_: tiny)
    monkeypatch.setattr("gpuconv.profiling.timer._DELAY_BYTES", 1 << 16)
    with standin.installed(("90", "90"), schedule=schedule) as gpus:
        gpus.kernel_seconds, gpus.copy_rate, gpus.clock = 2e-4, 1e7, clock
        (timing,) = lab.compare(path, "relu", "cuda:1", "float32", repeats=3)
    assert timing.yours == pytest.approx(0.2)
    assert timing.shipped == pytest.approx(0.2)


def test_the_ceilings_of_the_second_gpu_are_measured_on_it(schedule, monkeypatch):
    used = []

    def on_gpu():
        import cupy

        source, target = cupy.zeros(64, cupy.uint8), cupy.zeros(64, cupy.uint8)
        used.append(source.device.id)
        yield "copy", "cuda", 128.0, lambda _: target.fill(1)

    with standin.installed(("90", "90"), schedule=schedule), made_up.times():
        monkeypatch.setattr(peaks, "_on_gpu", on_gpu)
        peaks.measure("cuda:1")
    assert used == [1]


def test_the_benchmark_times_on_the_second_gpu(schedule, tmp_path):
    entry = Entry("memory", "relu", "small", "float32", (1, 2, 2, 8), Work(0.0, 256.0))
    with standin.installed(("90", "90"), schedule=schedule) as machine, made_up.times():
        record = Record(tmp_path / "record.json", {"entries": [], "not reached": []})
        ceilings = Ceilings(1e9, {})
        (timed,) = bench_run([entry], record, "cuda:1", made_up.Timer("cuda:1"), ceilings, make_sides=sides_of_gpuconv)
    assert [(side["name"], side["status"]) for side in timed["sides"]] == [("gpuconv", "timed"), ("copy", "timed")]
    assert {device for _, device in machine.launches} == {1}


def sides_of_gpuconv(entry, device, compiled):
    call = calls.call(entry)
    arrays = call.make(np.random.default_rng(0))
    return ours.sides(call, arrays, device), lambda results: call.compare(arrays, results)


@pytest.mark.parametrize(
    ("variable", "tool"),
    [
        ("NV_NSIGHT_INJECTION_PORT_BASE", "Nsight Compute"),
        ("NV_SANITIZER_INJECTION_PORT_RANGE_BEGIN", "compute-sanitizer"),
    ],
    ids=["ncu", "sanitizer"],
)
def test_under_a_profiling_tool_nothing_is_timed_and_a_message_says_so(timed, monkeypatch, capsys, variable, tool):
    monkeypatch.delenv("GPUCONV_AUTOTUNE")
    monkeypatch.setenv(variable, "49152")
    caches = attached_tools.tool, tuner._tool_distorts_times
    for cache in caches:
        cache.cache_clear()
    try:
        with standin.installed(("90",)) as machine:
            with pytest.warns(Notice, match=f"under {tool} .auto. takes the cost model's choice and times nothing"):
                convolution()
            convolution()  # gives no second message
            assert len(machine.launches) == 2
            monkeypatch.setenv("GPUCONV_AUTOTUNE", "1")
            assert tuner.enabled()
    finally:
        for cache in caches:
            cache.cache_clear()


# --- two threads, one of them capturing -------------------------------------------------------------------------------


def concurrently(work, other):
    """Run `work(during)`, and `other()` in another thread as soon as `work` calls `during()`. Returns the errors of
    both.

    `other` may have to wait until `work` is done."""
    begun, errors = threading.Event(), []

    def guarded(body, *arguments):
        try:
            body(*arguments)
        except Exception as error:
            errors.append(error)

    def do_other():
        begun.wait(10)
        guarded(other)

    thread = threading.Thread(target=do_other)
    thread.start()

    def during():
        begun.set()
        thread.join(0.3)

    guarded(work, during)
    thread.join(10)
    return errors


@pytest.mark.parametrize("device", ["cuda:1", "emulated"])
@pytest.mark.parametrize("action", ["synchronize", "compute", "prepare"])
def test_another_thread_does_not_disturb_a_capture(schedule, device, action):
    with standin.installed(("90", "90"), schedule=schedule):
        x, y, z = (gc.asarray(X, device) for _ in range(3))
        recorder, results = backends.recorder(device), []
        recorder.prepare(lambda: ops.relu(x, out=y) is None)

        def capture(during):
            def step():
                ops.relu(x, out=y)
                during()

            results.append(recorder.capture(step))

        others = {
            "synchronize": lambda: backends.synchronize(device),
            "compute": lambda: results.append(gc.to_numpy(ops.relu(z))),
            "prepare": lambda: backends.recorder(device).prepare(lambda: ops.relu(z, out=z) is None),
        }
        assert concurrently(capture, others[action]) == []
        replay = next(result for result in results if callable(result))
        backends.assign(y, 0)
        replay()
        np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(X, 0))
        for computed in (result for result in results if not callable(result)):
            np.testing.assert_array_equal(computed, np.maximum(X, 0))


def test_launches_of_another_thread_run_and_are_not_recorded(schedule):
    with standin.installed(("90",), schedule=schedule):
        x, recorded, results = gc.asarray(X, "cuda:0"), [], []

        def record(during):
            with launches.record_launches(execute=False) as in_this_thread:
                ops.relu(x)
                during()
            recorded.extend(in_this_thread)

        assert concurrently(record, lambda: results.append(gc.to_numpy(ops.relu(x)))) == []
        assert len(recorded) == 1
        np.testing.assert_array_equal(results[0], np.maximum(X, 0))
