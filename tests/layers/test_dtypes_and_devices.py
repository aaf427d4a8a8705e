"""The dtype, precision and device of a net, and their changes."""

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends
from gpuconv.dtypes import as_dtype, as_numeric
from gpuconv.layers import Flatten, Input, Linear, Sequential
from tests.layers.net_with_shortcut import images, net_of
from tests.toy_run import same_arrays


def test_to_changes_float_dtypes_and_keeps_batch_norm_at_least_float32():
    net = net_of()
    values = {key: value.copy() for key, value in net.state_dict().items()}
    assert net.to(dtype="float16") is net
    dtypes = {key: value.dtype.name for key, value in net.state_dict().items()}
    assert dtypes.pop("dropout1.offset") == "int64"
    assert {dtypes.pop(key) for key in list(dtypes) if "norm" in key} == {"float32"}
    assert set(dtypes.values()) == {"float16"}
    assert net.dtype == np.float16
    assert net.device == "numpy"
    np.testing.assert_array_equal(net["fc1"]["weight"], values["fc1.weight"].astype("float16"))
    assert net.forward(images(dtype="float16"), True).dtype == np.float16
    net.to(dtype="float64")
    assert net.grads()["conv1.weight"].dtype == np.float64


def test_to_without_a_change_keeps_the_arrays():
    net = net_of()
    arrays = net.state_dict()
    net.to("numpy", "float32")
    assert all(net.state_dict()[key] is value for key, value in arrays.items())


def test_an_unknown_device_or_dtype_changes_nothing():
    net = net_of()
    with pytest.raises(ValueError, match="did you mean 'numpy'"):
        net.to("nunpy")
    with pytest.raises(TypeError, match="dtype must be one of"):
        net.to(dtype="int8")
    assert net.device == "numpy"
    assert net.dtype == np.float32


def test_the_emulated_device_gives_the_same_initial_bits():
    try:
        backends.resolve("emulated")
    except backends.DeviceError as error:
        pytest.skip(str(error))
    net = net_of(device="emulated")
    assert net.device == "emulated"
    assert {backends.device_of(value) for value in net.state_dict().values()} == {"emulated"}
    host = {key: backends.to_numpy(value) for key, value in net.state_dict().items()}
    assert same_arrays(host, net_of().state_dict())
    assert {backends.device_of(value) for value in net.to("numpy").grads().values()} == {"numpy"}


def test_dtype_takes_short_names_of_precisions():
    net = Sequential([Input((4, 4, 1)), Flatten(), Linear(2)], dtype="fp16")
    assert net.precision == "float16"
    assert net.to(dtype="bf16").precision == "bfloat16"
    with pytest.raises(TypeError, match="received 'fp8'"):
        net.to(dtype="fp8")


def test_an_array_needs_a_dtype_of_numbers():
    with pytest.raises(TypeError, match="x must have a dtype of numbers, received None"):
        as_numeric("x", None)
    for make in (backends.zeros, backends.empty):
        with pytest.raises(TypeError, match="an array must have a dtype of numbers, received None"):
            make((2,), None)


def test_precision_takes_short_names_and_device_takes_cpu():
    for short_name, name in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32"), ("fp64", "float64")):
        assert as_dtype(short_name) == gc.asarray([1.0], "numpy", dtype=short_name).dtype == as_dtype(name)
        assert gc.models.build("seed-net", (8, 8, 3), precision=short_name).precision == name
    assert gc.models.build("seed-net", (8, 8, 3), device="cpu").device == "numpy"
    with pytest.raises(ValueError, match="unknown precision 'bf61'"):
        gc.models.build("seed-net", precision="bf61")
    for given in (np.float16, np.dtype("float16"), "FP16", "Float16"):
        assert gc.models.build("seed-net", (8, 8, 3), precision=given).precision == "float16"
    assert as_dtype("FP16") == np.float16
    with pytest.raises(ValueError, match="unknown precision 'int8'"):
        gc.models.build("seed-net", precision=np.int8)
    for wrong in (3, True, float, (np.float16,)):
        with pytest.raises(TypeError, match="the precision is chosen by name, received"):
            gc.models.build("seed-net", precision=wrong)
