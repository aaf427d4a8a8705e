"""Ops and arrays on several GPUs, of equal or different compute capability."""

from __future__ import annotations

import re

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends, ops
from gpuconv.cli import main
from tests import standin

pytestmark = pytest.mark.usefixtures("untimed")

X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_an_op_runs_on_the_device_of_its_arrays(schedule, device):
    with standin.installed(("90", "90"), schedule=schedule):
        y = ops.relu(gc.asarray(X, device))
        assert gc.device_of(y) == device
        np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(X, 0))


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_asarray_converts_on_the_arrays_own_device(schedule, device):
    with standin.installed(("90", "90"), schedule=schedule):
        half = gc.asarray(gc.asarray(X, device), dtype="float16")
        assert gc.device_of(half) == device
        np.testing.assert_array_equal(gc.to_numpy(half), X.astype(np.float16))


def test_ops_do_not_query_a_gpus_properties(schedule):
    """On a GPU such a query is slow."""
    with standin.installed(("80", "90"), schedule=schedule) as machine:
        arrays = [gc.asarray(X, device) for device in ("cuda:0", "cuda:1") for _ in range(3)]
        for x in arrays:
            gc.to_numpy(ops.relu(gc.asarray(x)))
        assert machine.property_calls == 0


def test_gpus_of_different_compute_capability_each_load_their_own_binary(schedule):
    with standin.installed(("80", "90"), schedule=schedule):
        for device in ("cuda:0", "cuda:1"):
            x = gc.asarray(X, device)
            y = ops.relu(x, out=backends.empty(X.shape, "float32", device))
            np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(X, 0))


@pytest.mark.parametrize("op", [ops.relu, ops.max_pool2d])
def test_compare_accepts_arrays_on_a_gpu_that_a_users_function_returns(schedule, op):
    case = {"x": (2, 4, 4, 3)} | ({"kernel_size": 2} if op is ops.max_pool2d else {})
    with standin.installed(("90", "90"), schedule=schedule):
        found = gc.checks.compare(lambda x, **options: op(gc.asarray(x, "cuda:1"), **options), op, [case])
    assert found.passed
    assert found[0].details == ""


@pytest.mark.parametrize("device", ["cuda:1", "emulated"])
def test_the_oracle_is_not_asked_about_arrays_of_a_device_that_runs_kernels(device):
    with standin.installed(("90", "90")):
        x = gc.asarray(X, device)
        with pytest.raises(
            TypeError, match=f"x is given as a NumPy array or as a shape, received an array on {device}"
        ):
            gc.checks.compare(ops.relu, ops.relu, [{"x": x}])


def test_info_lists_each_gpu(capsys):
    with standin.installed(("75", "90", "90")):
        assert main(["info"]) == 0
    output = re.findall(
        r"^  (cuda\S*) +ready: Stand-in \d+, compute capability (\S+?),?(?: .*)?$", capsys.readouterr().out, re.M
    )
    assert output == [("cuda", "7.5"), ("cuda:1", "9.0"), ("cuda:2", "9.0")]


def test_the_device_of_an_array_names_its_device():
    with standin.installed(("90", "90")):
        for device in ("numpy", "emulated", "cuda:1"):
            x = gc.asarray(X, device)
            assert gc.device_of(gc.asarray(X, x.device)) == backends.choose(x.device)[0] == device
