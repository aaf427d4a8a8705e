"""Copies of nets and trainers: by `net.copy`, and by pickle and copy.deepcopy, which multiprocessing, joblib and dask
use."""

import copy
import pickle

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends, losses, models
from gpuconv.data import Augmentation, Loader, Normalization, synthetic
from gpuconv.layers import Flatten, Linear, Sequential
from gpuconv.training import LossScale, Trainer, optimizers, schedules
from tests.layers.net_with_shortcut import net_of
from tests.toy_run import same_arrays

COPIERS = {"pickle": lambda original: pickle.loads(pickle.dumps(original)), "deepcopy": copy.deepcopy}


@pytest.fixture(params=COPIERS)
def copied(request):
    return COPIERS[request.param]


def scores(net):
    x = np.random.default_rng(0).normal(size=(2, *net.input_shape)).astype("f4")
    return backends.to_numpy(net.predict(gc.asarray(x, net.device, net.dtype)))


@pytest.mark.parametrize("name", ["seed-net", "lenet", "digits-net", "resnet20", "airbench94"])
def test_a_copied_net_has_the_same_values_in_separate_arrays(copied, name):
    net = models.build(name)
    twin = copied(net)
    np.testing.assert_array_equal(scores(twin), scores(net))
    assert twin.config() == net.config()
    before = scores(net)
    for array in twin.params().values():
        array[...] = 0
    np.testing.assert_array_equal(scores(net), before)
    twin.reset(seed=net.seed)  # the copy has the initializers too
    np.testing.assert_array_equal(scores(twin), before)


@pytest.mark.parametrize("precision", ["float64", "tf32", "float16", "bfloat16"])
def test_a_copied_net_keeps_its_precision(copied, precision):
    net = models.build("seed-net", (8, 8, 3), precision=precision)
    twin = copied(net)
    assert twin.precision == precision
    np.testing.assert_array_equal(scores(twin), scores(net))


def test_a_fused_net_copied_in_the_middle_of_a_step_gives_the_same_gradients(copied):
    net = models.build("digits-net").fuse()
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("f4")
    y = net.forward(x, training=True)
    twin = copied(net)
    for copy_or_original in (net, twin):
        copy_or_original.backward(np.ones_like(y), input_grad=False)
    for key, gradient in net.grads().items():
        np.testing.assert_array_equal(twin.grads()[key], gradient, err_msg=key)


def test_a_copied_emulated_net_is_in_emulated_memory(copied):
    net = models.build("seed-net", (8, 8, 3), device="emulated")
    twin = copied(net)
    for array in twin.params().values():
        assert backends.device_of(array) == "emulated"
        assert backends.address(array) % 256 == 0  # as every allocation of this device
    np.testing.assert_array_equal(scores(twin), scores(net))


@pytest.mark.parametrize(
    "optimizer",
    ["sgd:momentum=0.9", "adam", "rmsprop", "adagrad", "lion", "filters -> muon:lr=0.02; * -> sgd:lr=0.05 @ linear:3"],
    ids=lambda text: text.split(":")[0],
)
def test_a_copied_trainer_continues_with_the_same_bits(copied, optimizer):
    train, _ = synthetic.load(32, size=(8, 8, 3))
    trainer = Trainer(models.build("seed-net", (8, 8, 3)), optimizer, lr=0.01, schedule="cosine,warmup:1")
    trainer.fit(train, epochs=1, batch_size=16, progress=False)
    twin = copied(trainer)
    for copy_or_original in (trainer, twin):
        copy_or_original.fit(train, epochs=2, batch_size=16, progress=False)
    assert twin.history == trainer.history
    for key, array in trainer.snapshot().tensors.items():
        np.testing.assert_array_equal(twin.snapshot().tensors[key], array, err_msg=key)


def test_the_parts_of_a_run_can_be_copied(copied):
    train, _ = synthetic.load(16, size=(8, 8, 3))
    normalization = Normalization.from_dataset(train)
    loader = Loader(train, 8, normalization=normalization, augmentation=Augmentation.parse("flip,shift:1"))
    for (x, y), (twin_x, twin_y) in zip(loader.epoch(1), copied(loader).epoch(1), strict=True):
        np.testing.assert_array_equal(x, twin_x)
        np.testing.assert_array_equal(y, twin_y)
    for setting in (schedules.get("one-cycle,warmup:2"), losses.get("softmax", label_smoothing=0.1), losses.get("svm")):
        assert copied(setting) == setting
    assert copied(optimizers.get("adamw:lr=0.5")).config() == optimizers.get("adamw:lr=0.5").config()
    assert copied(LossScale()).config() == LossScale().config()


def test_names_in_pickles_of_earlier_versions_are_found():
    for module, name in (
        ("base", "Layer"),
        ("base", "Variable"),
        ("base", "weight_and_bias"),
        ("container", "Input"),
        ("container", "Residual"),
        ("container", "Sequential"),
    ):
        assert pickle.loads(f"cgpuconv.layers.{module}\n{name}\n.".encode()).__name__ == name


def test_a_copy_is_independent_of_the_net():
    net = net_of()
    twin = net.copy()
    assert same_arrays(net.state_dict(), twin.state_dict())
    twin["fc1"]["bias"][...] = 7
    assert not net["fc1"]["bias"].any()
    assert net.copy(dtype="float64").dtype == np.float64
    with pytest.raises(ValueError, match="nowhere"):
        net.copy(device="nowhere")


def test_a_net_without_input_that_was_built_is_copied_with_its_values():
    net = Sequential([Flatten(), Linear(3)])
    net.build((2, 2, 1))
    copy = net.copy(dtype="float64")
    assert (copy.input_shape, copy.output_shape, copy.dtype) == ((2, 2, 1), (3,), np.float64)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(copy.state_dict()[key], value.astype(np.float64))
    copy["fc1.weight"][...] = 0
    assert net["fc1.weight"].any()
