"""Launching: every argument is checked against the kernel's source before anything runs."""

import re

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.ops.block_counters import block_counters
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.new_arrays import empty, zeros
from gpuconv.backends.cuda.runtime.outputs import is_aligned
from gpuconv.backends.cuda.runtime.replaced_files import replace_files
from gpuconv.devices import address
from gpuconv.dtypes import as_dtype
from tests.fixtures.arguments import ARGUMENTS, GEOMETRY


def kernel(name, dtype="float32"):
    return load(ARGUMENTS, {"DTYPE": dtype}).kernel(name)


def fill(*, y=None, grid=1, block=4, name="fill", value=1.5, n=4):
    y = emulator.zeros(4) if y is None else y
    kernel(name)(grid, block, y, value, n)
    return np.asarray(y).tolist()


def type_name(value):
    return type(value).__name__


@pytest.mark.parametrize(
    "value", [2.5, np.float32(2.5), np.float64(2.5), np.float16(2.5), as_dtype("bfloat16").type(2.5)], ids=type_name
)
def test_a_real_number_is_converted_to_the_kernels_float_type(value):
    assert fill(value=value) == [2.5] * 4


@pytest.mark.parametrize("n", [3, np.int8(3), np.uint64(3), np.int64(3)], ids=type_name)
def test_an_integer_is_converted_to_the_kernels_int_type(n):
    assert fill(n=n, value=1) == [1, 1, 1, 0]


def test_a_scalar_of_every_type_arrives_as_its_parameters_type():
    y = emulator.empty(8, np.float64)
    sent = (-7, 3_000_000_000, -(2**40), 2**63, True, 0.1, 0.1, 200)
    kernel("scalars")(1, 1, y, *sent)
    assert np.asarray(y).tolist() == [*sent[:4], 1, float(np.float32(0.1)), 0.1, 200]


def test_a_struct_is_passed_by_value():
    y = emulator.empty(3, np.float64)
    for value in (np.array((5, 0.1, 9), GEOMETRY), np.array([(5, 0.1, 9)], GEOMETRY)[0]):
        kernel("by_struct")(1, 1, y, value)
        assert np.asarray(y).tolist() == [5, 0.1, 9]
    with pytest.raises(TypeError, match=r"by_struct: geometry is a struct of 24 bytes, received 16"):
        kernel("by_struct")(1, 1, y, np.array((5, 0.1), np.dtype([("n", np.int32), ("scale", np.float64)], align=True)))
    with pytest.raises(TypeError, match="align=True"):
        kernel("by_struct")(1, 1, y, np.array((5, 0.1, 9), np.dtype([("n", "i4"), ("scale", "f8"), ("flag", "u1")])))
    with pytest.raises(TypeError, match="structured scalar"):
        kernel("by_struct")(1, 1, y, 5)


def test_none_is_a_null_pointer():
    y = emulator.empty(1)
    kernel("is_null")(1, 1, y, None)
    assert y[0] == 1
    kernel("is_null")(1, 1, y, y)
    assert y[0] == 0


def test_tables_of_addresses_and_untyped_pointers_are_passed():
    a, b, y = emulator.asarray(np.float32([1, 2])), emulator.asarray(np.float32([3])), emulator.empty(3)
    kernel("gather")(1, 1, y, emulator.asarray(np.array([address(a), address(b)], np.uint64)), b)
    assert np.asarray(y).tolist() == [2, 3, 3]


def test_arguments_that_do_not_match_are_refused():
    for change, error, message in (
        ({"value": "1"}, TypeError, r"fill: value \(float\) takes a number, received '1'"),
        ({"value": None}, TypeError, "takes a number, received None"),
        ({"n": 2.0}, TypeError, r"fill: n \(int\) takes an integer, received 2\.0"),
        ({"n": 2**31}, OverflowError, r"fill: n \(int\) cannot hold 2147483648"),
        ({"n": emulator.zeros(1, np.int32)}, TypeError, "takes an integer"),
        ({"y": 3.0}, TypeError, r"fill: y \(float\*\) takes an array, received float"),
        ({"y": np.float32(3)}, TypeError, "takes an array, received float32"),
        ({"y": emulator.zeros(4, np.float64)}, TypeError, r"y \(float\*\) takes an array of float32, received float64"),
        ({"y": emulator.zeros(8)[::2]}, ValueError, r"takes a C-contiguous array, received strides \(8,\)"),
        ({"y": np.zeros(4, np.float32)}, TypeError, "runs on arrays of a CUDA or the emulated device, received NumPy"),
        ({"block": 2000}, ValueError, r"a block is .* from 0 to \(1024, 1024, 64\), .*, received 2000"),
        ({"block": (32, 64)}, ValueError, "runs with 1 to 1024 threads per block"),
        ({"block": 0}, ValueError, "runs with 1 to 1024 threads per block"),
        ({"grid": (1, 70000)}, ValueError, r"from 0 to \(2147483647, 65535, 65535\), .*, received \(1, 70000\)"),
        ({"grid": -1}, ValueError, "a grid is one to three integers from 0 to"),
        ({"grid": (1, 1, 1, 2)}, ValueError, r"a grid is one to three integers from 0 to .*, received \(1, 1, 1, 2\)"),
        ({"grid": 1.5}, ValueError, r"a grid is one to three integers from 0 to .*, received 1\.5"),
        ({"grid": (1, 1.5)}, ValueError, r"a grid is one to three integers from 0 to .*, received \(1, 1\.5\)"),
        ({"grid": [1, 2]}, ValueError, r"to .*, as an integer or a tuple, received \[1, 2\]"),
        ({"block": np.array([4])}, ValueError, r"a block is one to three integers .*, received array\(\[4\]\)"),
        ({"grid": ()}, ValueError, r"a grid is one to three integers from 0 to .*, received \(\)"),
        ({"name": "bounded", "block": 65}, ValueError, "bounded runs with 1 to 64 threads per block"),
        ({"name": "fil"}, ValueError, "unknown kernel of arguments.cu 'fil'; did you mean 'fill'"),
    ):
        with pytest.raises(error, match=message):
            fill(**change)


def test_a_grid_that_is_no_multiple_of_the_cluster_is_refused():
    paired, y = load(ARGUMENTS.with_name("paired.cu")).kernel("paired"), emulator.zeros(12)
    with pytest.raises(
        ValueError, match=r"paired runs in clusters of 2 blocks along x, so x of a grid is a multiple of 2, not 3"
    ):
        paired((3, 2), 1, y, 1.5)
    paired((6, 2), 1, y, 1.5)
    assert np.asarray(y).tolist() == [1.5] * 12


def test_a_file_without_an_extern_c_kernel_says_how_kernels_are_declared(tmp_path):
    (tmp_path / "mine.cu").write_text("__global__ void mine(float* y) { y[0] = 1; }\n")
    with pytest.raises(ValueError, match=r'mine\.cu has no kernel; kernels are declared as extern "C" __global__ void'):
        load(tmp_path / "mine.cu").kernel("mine")


def test_a_wrong_number_of_arguments_is_refused():
    with pytest.raises(TypeError, match=r"fill\(float\* y, float value, int n\) takes 3 arguments, received 2"):
        kernel("fill")(1, 4, emulator.zeros(4), 1.0)


def test_arrays_of_two_devices_are_refused():
    with pytest.raises(TypeError, match="one device, received y on emulated, x on numpy"):
        kernel("is_null")(1, 1, emulator.zeros(1), np.zeros(1, np.float32))
    with pytest.raises(TypeError, match="one device, received no array"):
        kernel("is_null")(1, 1, None, None)


def test_more_shared_memory_than_a_block_has_or_a_size_that_is_no_integer_is_refused():
    with pytest.raises(ValueError, match="at most 232448 bytes of shared memory, not 232449"):
        kernel("fill")(1, 4, emulator.zeros(4), 1.0, 4, shared=232449)
    for wrong in (1.5, "1", None, [1]):
        message = re.escape(f"fill: shared is a number of bytes, an integer, received {wrong!r}")
        with pytest.raises(TypeError, match=message):
            kernel("fill")(1, 4, emulator.zeros(4), 1.0, 4, shared=wrong)


def test_macros_that_compare_equal_but_differ_as_text_make_different_modules():
    assert load("arithmetic.cu", {"DTYPE": "float32", "WIDTH": 1}).defines["WIDTH"] == "1"
    assert load("arithmetic.cu", {"DTYPE": "float32", "WIDTH": 1.0}).defines["WIDTH"] == "1.0"


def test_an_array_unaligned_for_a_vector_type_is_refused():
    x = emulator.zeros(12)
    kernel("by_vector")(1, 1, x[4:])
    assert np.asarray(x).tolist() == [0] * 4 + [1, 2, 3, 4] + [0] * 4
    with pytest.raises(ValueError, match=r"x \(float4\*\) takes .* 16 bytes, received one that begins 4 bytes after"):
        kernel("by_vector")(1, 1, x[1:])
    assert is_aligned(16, x[4:], None)
    assert not is_aligned(16, x, x[1:])


def test_an_empty_launch_is_checked_but_runs_nothing():
    assert fill(grid=0) == fill(grid=(3, 0)) == [0] * 4
    with pytest.raises(TypeError, match="takes an integer"):
        fill(grid=0, n=1.5)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool"])
def test_a_macro_selects_the_dtype(dtype):
    y = zeros(3, dtype, like=emulator.zeros(1))
    kernel("typed", dtype)(1, 1, y)
    with pytest.raises(TypeError, match=f"takes an array of {dtype}, received float32"):
        kernel("typed", dtype)(1, 1, emulator.zeros(3))


def test_a_16_bit_scalar_parameter_is_refused_at_lookup():
    with pytest.raises(TypeError, match="declare the parameter float"):
        kernel("by_value", "float16")


def test_the_same_file_and_macros_share_one_module():
    assert load(ARGUMENTS, {"DTYPE": "float32"}) is load(ARGUMENTS, {"DTYPE": "float32"})
    assert load(ARGUMENTS, {"DTYPE": "float32"}) is not load(ARGUMENTS, {"DTYPE": "float64"})
    assert load("activation.cu", {"DTYPE": "float32", "WIDTH": 4}).path.name == "activation.cu"


def test_scratch_is_allocated_on_the_device_of_an_array():
    like = emulator.zeros(1)
    assert isinstance(empty((2, 3), np.int32, like=like), emulator.EmulatedArray)
    zeroed = zeros(3, np.float32, like=like)
    assert isinstance(zeroed, emulator.EmulatedArray)
    assert (np.asarray(zeroed) == 0).all()


def test_a_relative_path_is_that_of_the_current_folder(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.cu").write_text(f"// {folder}\n")
    for folder in ("one", "two", "one"):
        monkeypatch.chdir(tmp_path / folder)
        assert load("./mine.cu").path == (tmp_path / folder / "mine.cu").resolve()


def test_the_counters_of_blocks_are_zero_after_a_fault_and_after_files_were_replaced():
    counters = block_counters(emulator.zeros(1))
    counters[:] = 3, 4
    with emulator.configure(sanitize="checked"), pytest.raises(emulator.EmulatorError):
        fill(n=64, block=64)
    assert block_counters(emulator.zeros(1)).tolist() == [0, 0]
    counters[:] = 3, 4  # by a faulty kernel that raises nothing
    with replace_files({"digest.cu": ARGUMENTS}):
        assert counters.tolist() == [0, 0]
