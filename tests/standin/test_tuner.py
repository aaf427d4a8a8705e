"""The choice of an algorithm on a GPU: candidates, failures, and trials, which no launch count or profile shows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends, ops
from gpuconv.backends.cuda.cache import Cache
from gpuconv.backends.cuda.gemm import tuner
from gpuconv.backends.cuda.runtime import attached_tools, nvrtc
from gpuconv.cli import main
from gpuconv.inspect.profile import profile
from gpuconv.notices import Notice
from gpuconv.profiling import launches
from tests import standin, toy_run
from tests.standin import made_up_times, modules, streams

pytestmark = pytest.mark.usefixtures("untimed")
X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_an_invalid_tuner_setting_is_refused_before_work_starts(monkeypatch, device):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "nonsense")
    with (
        standin.installed(("90",)),
        pytest.raises(backends.DeviceError, match="GPUCONV_AUTOTUNE: expected 1 or 0, received 'nonsense'") as raised,
    ):
        gc.asarray(X, device)
    assert isinstance(raised.value, ValueError)


def test_info_and_the_choice_of_a_device_report_an_invalid_tuner_setting(monkeypatch, capsys):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "2")
    message = "GPUCONV_AUTOTUNE: expected 1 or 0, received '2'"
    with standin.installed(("90",)):
        for ask in (backends.resolve, backends.choose, backends.describe):
            for device in ("cuda", "auto"):
                with pytest.raises(backends.DeviceError, match=message):
                    ask(device)
        assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  cuda          not available: {message}" in lines
    assert f"  auto takes    no device: {message}" in lines


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
        assert backends.describe("auto") == (
            "Stand-in 75, compute capability 7.5, convolutions without tensor cores, for which gpuconv needs 8.0"
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


def test_the_tuners_trials_do_not_count_as_launches(timed):
    with standin.installed(("90",)) as machine:
        with launches.record_launches() as counted:
            convolution()
        assert [launch.kernel.name for launch in counted] == [machine.launches[-1][0]]
        assert len(machine.launches) > len(counted)


@pytest.mark.slow
def test_a_profile_on_a_gpu_does_not_show_the_launches_of_the_tuner(timed):
    with standin.installed(("90",)), made_up_times.installed():
        net = toy_run.net().to("cuda:0")
        while_tuning, tuned = profile(net, 4, steps=1), profile(net, 4, steps=1)

    def names(report):
        return [[(kernel["kernel"], kernel["launches"]) for kernel in row.launches] for row in report.rows]

    assert names(while_tuning) == names(tuned)


@pytest.mark.parametrize(
    ("variable", "tool"),
    [
        ("NV_NSIGHT_INJECTION_PORT_BASE", "Nsight Compute"),
        ("NV_SANITIZER_INJECTION_PORT_RANGE_BEGIN", "compute-sanitizer"),
    ],
    ids=["ncu", "sanitizer"],
)
def test_under_a_profiling_tool_nothing_is_timed_and_a_message_says_so(timed, monkeypatch, variable, tool):
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
