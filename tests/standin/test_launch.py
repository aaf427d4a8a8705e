"""A launch on a GPU refuses and converts the same arguments as one on the emulated device, with the same messages."""

import numpy as np
import pytest

from gpuconv import backends, ops
from gpuconv.backends.cuda.ops import loss
from gpuconv.backends.cuda.runtime import new_arrays
from gpuconv.backends.cuda.runtime.kernel import load
from tests import standin
from tests.fixtures.arguments import ARGUMENTS, GEOMETRY
from tests.standin.errors import CUDADriverError


def kernel(name):
    return load(ARGUMENTS, {"DTYPE": "float32"}).kernel(name)


def array(device, count=4, dtype=np.float32):
    return backends.zeros((count,) if isinstance(count, int) else count, dtype, device)


# Changes to a valid launch of the kernel `fill`, each of which makes it invalid.
WRONG = [
    lambda device: {"value": "1"},
    lambda device: {"value": None},
    lambda device: {"value": [1]},
    lambda device: {"value": 10**400},
    lambda device: {"n": 2.0},
    lambda device: {"n": None},
    lambda device: {"n": 2**31},
    lambda device: {"n": np.float32(2)},
    lambda device: {"y": 3.0},
    lambda device: {"y": None},
    lambda device: {"y": np.float32(3)},
    lambda device: {"y": np.zeros(4, np.float32)},
    lambda device: {"y": array(device, dtype=np.float64)},
    lambda device: {"y": array(device, 8)[::2]},
    lambda device: {"y": array(device, 17, np.uint8)[1:].view(np.float32)},
    lambda device: {"grid": (1, 70000)},
    lambda device: {"grid": -1},
    lambda device: {"block": 2000},
    lambda device: {"block": (32, 64)},
    lambda device: {"block": 0},
    lambda device: {"shared": 232449},
    lambda device: {"shared": -1},
]


def refusal(device, change):
    arguments = {"grid": 1, "block": 4, "y": array(device), "value": 1.5, "n": 4, "shared": 0, **change(device)}
    grid, block, shared = (arguments.pop(name) for name in ("grid", "block", "shared"))
    with pytest.raises((TypeError, ValueError, OverflowError)) as error:
        kernel("fill")(grid, block, *arguments.values(), shared=shared)
    return type(error.value), str(error.value)


def test_refusals_are_those_of_the_emulated_device():
    expected = [refusal("emulated", change) for change in WRONG]
    with standin.installed() as machine:
        for launched in range(2):  # before and after a successful launch
            assert [refusal("cuda", change) for change in WRONG] == expected, launched
            assert len(machine.launches) == launched
            kernel("fill")(1, 4, array("cuda"), 1.5, 4)


def test_a_grid_that_is_no_multiple_of_the_cluster_is_refused_before_the_driver_refuses_it():
    with standin.installed(gpus=("90",)) as machine:
        paired, y = load(ARGUMENTS.with_name("paired.cu")).kernel("paired"), array("cuda", 12)
        with pytest.raises(ValueError, match=r"x of a grid is a multiple of 2, not 3"):
            paired((3, 2), 1, y, 1.5)
        assert not machine.launches
        paired((6, 2), 1, y, 1.5)
        assert y.get().tolist() == [1.5] * 12
        with pytest.raises(CUDADriverError, match="CUDA_ERROR_INVALID_CLUSTER_SIZE"):
            paired.module._on_gpu(0).get_function("paired")((3, 2, 1), (1, 1, 1), (y, np.float32(1.5)))


def test_too_few_arguments_and_arrays_of_two_gpus_are_refused():
    with standin.installed(gpus=("90", "90")) as machine:
        with pytest.raises(TypeError, match=r"fill\(float\* y, float value, int n\) takes 3 arguments, received 2"):
            kernel("fill")(1, 4, array("cuda"), 1.0)
        with pytest.raises(TypeError, match="one device, received y on cuda:0, x on cuda:1"):
            kernel("is_null")(1, 1, array("cuda"), array("cuda:1"))
        assert not machine.launches


def test_numbers_structs_and_null_pointers_arrive_unchanged(schedule):
    with standin.installed(schedule=schedule):
        y, sent = array("cuda", 8, np.float64), (-7, 3_000_000_000, -(2**40), 2**63, True, 1, 0.1, 200)
        kernel("scalars")(1, 1, y, *sent)
        assert y.get().tolist() == list(sent)
        kernel("scalars")(1, 1, y, *sent[:6], np.float64(0.25), np.uint8(3))
        assert y.get().tolist() == [*sent[:6], 0.25, 3]
        kernel("by_struct")(1, 1, y, np.array((5, 0.1, 9), GEOMETRY))
        assert y.get().tolist()[:3] == [5, 0.1, 9]
        null = array("cuda", 1)
        kernel("is_null")(1, 1, null, None)
        assert null.get() == 1
        kernel("is_null")(1, 1, null, null)
        assert null.get() == 0
        kernel("fill")(1, 4, filled := array("cuda"), True, True)
        assert filled.get().tolist() == [1, 0, 0, 0]


def test_a_launch_on_a_gpu_that_is_not_the_current_one_runs_there():
    with standin.installed(gpus=("90", "90")) as machine:
        for device in ("cuda:1", "cuda:0", "cuda:1"):
            kernel("fill")(1, 4, y := array(device), 1.5, 4)
            assert y.get().tolist() == [1.5] * 4
        assert [index for _, index in machine.launches] == [1, 0, 1]


def test_scratch_arrays_are_reused_only_by_their_stream(monkeypatch):
    allocated = []

    def recorded(shape, dtype, *, like):
        array = new_arrays.empty(shape, dtype, like=like)
        allocated.append((tuple(shape), array.data.ptr))
        return array

    monkeypatch.setattr(loss, "empty", recorded)
    with standin.installed(schedule="late"):
        import cupy

        def scratch_address():
            allocated.clear()
            ops.softmax_cross_entropy(scores, labels, out=scores)
            return dict(allocated)[(1,)]  # the address of the partial sums

        scores, labels = array("cuda", (4, 10)), array("cuda", 4, np.int64)
        first, stream = scratch_address(), cupy.cuda.Stream(non_blocking=True)
        assert scratch_address() == first
        with stream:
            other = scratch_address()
            assert scratch_address() == other != first
        assert scratch_address() == first
