"""Training on every device: the same Trainer, the same numbers."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from gpuconv import asarray, models, to_numpy
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime import outputs
from gpuconv.data import Augmentation, Dataset, Loader, Normalization
from gpuconv.training import Trainer
from tests import toy_run
from tests.devices import kernel_devices

STEPS, BATCH = 20, 4

# The rounding errors of a step are about 1e-7 of a weight. Over twenty steps at this learning rate they grow only
# slowly: two correct runs differed by 2e-7. A wrong gradient changes the first digits.
AGREEMENT = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(params=kernel_devices())
def device(request):
    return request.param


def images(count, shape, classes):
    rng = np.random.default_rng(3)
    names = [str(label) for label in range(classes)]
    return Dataset(rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % classes, names, "random")


def batches(device, steps=STEPS):
    """The same augmented batches on any device. The loader holds the data set in the memory of that device."""
    dataset = images(STEPS * BATCH, (32, 32, 3), 10)
    loader = Loader(
        dataset,
        BATCH,
        normalization=Normalization.from_dataset(dataset),
        augmentation=Augmentation(flip=True, shift=2, cutout=6),
        seed=5,
        device=device,
    )
    for batch, _ in zip(loader.epoch(0), range(steps)):
        yield batch


def trained(name, device, steps=STEPS):
    """The loss of each step, and the net's arrays after the last one."""
    net = models.build(name, seed=1).to(device)
    trainer = Trainer(net, "sgd", lr=0.01, momentum=0.9, nesterov=True)
    losses = []
    for x, y in batches(device, steps):
        trainer.optimizer.advance()
        trainer.step(x, y)
        losses.append(trainer.totals.read().loss_sum)
    return np.diff(losses, prepend=0.0) / BATCH, {key: to_numpy(value) for key, value in net.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seed-net", pytest.param("tiny-vgg", marks=pytest.mark.kernels)])
def test_twenty_steps_agree_with_numpy_step_by_step(device, name):
    losses, state = trained(name, device)
    expected_losses, expected = trained(name, "numpy")
    np.testing.assert_allclose(losses, expected_losses, **AGREEMENT)
    for key, value in expected.items():
        np.testing.assert_allclose(state[key], value, **AGREEMENT, err_msg=key)


def test_batches_have_the_same_bits(device):
    for (x, y), (x_expected, y_expected) in zip(batches(device), batches("numpy"), strict=True):
        np.testing.assert_array_equal(to_numpy(x), x_expected)
        np.testing.assert_array_equal(to_numpy(y), y_expected)


def test_initial_weights_and_dropout_offsets_are_the_same(device):
    on_device, on_numpy = (models.build("digits-net", seed=9).to(d) for d in (device, "numpy"))
    for key, value in on_numpy.state_dict().items():
        assert to_numpy(on_device.state_dict()[key]).tobytes() == value.tobytes()
    ones = np.ones((4, *on_numpy.input_shape), np.float32)
    for net in (on_device, on_numpy):
        net.forward(asarray(ones, net.device), training=True)  # dropout advances its offset in the random stream
    offsets = [key for key in on_numpy.buffers() if key.endswith("offset")]
    assert offsets
    for key in offsets:
        np.testing.assert_array_equal(to_numpy(on_device.buffers()[key]), on_numpy.buffers()[key])


def test_two_runs_give_the_same_bits_in_any_thread_order(device):
    orders = [contextlib.nullcontext(), contextlib.nullcontext()]
    if device == "emulated":
        orders.append(emulator.configure(seed=11))
    runs = []
    for order in orders:
        with order:
            runs.append(trained("seed-net", device, steps=3))
    for losses, state in runs[1:]:
        np.testing.assert_array_equal(losses, runs[0][0])
        for key, value in runs[0][1].items():
            assert state[key].tobytes() == value.tobytes()


@pytest.mark.slow
def test_a_run_moves_to_another_device_and_back(device, tmp_path):
    """It moves after each epoch, and ends like a run on NumPy alone."""
    dataset = images(16, (8, 8, 1), 4)

    def fit(where, stop_at, **options):
        trainer = Trainer(models.build("digits-net", (8, 8, 1), 4, seed=1).to(where), "sgd", lr=0.01, momentum=0.9)
        stop = toy_run.StopAt(stop_at, "moves")
        trainer.fit(dataset, epochs=3, batch_size=8, callbacks=[stop], progress=False, **options)
        return trainer

    fit(device, 2, run_dir=tmp_path / "run")
    fit("numpy", 4, run_dir=tmp_path / "run", resume=True)
    moved = fit(device, None, run_dir=tmp_path / "run", resume=True)
    unmoved = fit("numpy", None)
    assert [record["step"] for record in moved.history] == [2, 4, 6]
    for record, expected in zip(moved.history, unmoved.history, strict=True):
        assert record["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
    for key, value in unmoved.net.state_dict().items():
        np.testing.assert_allclose(to_numpy(moved.net.state_dict()[key]), value, **AGREEMENT, err_msg=key)


def test_out_of_memory_names_the_layer_and_leaves_the_net_usable(monkeypatch):
    net = models.build("seed-net").to("emulated")
    x = asarray(np.zeros((2, 32, 32, 3), np.float32), "emulated")
    expected = to_numpy(net.forward(x))

    def full(shape, dtype, *, like):
        raise MemoryError(f"out of memory: {np.prod(shape) * np.dtype(dtype).itemsize} bytes")

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "empty", full)
        with pytest.raises(MemoryError, match=f"{2 * 32 * 32 * 12 * 4} bytes") as raised:
            net.forward(x)
    assert "conv1.forward" in raised.value.__notes__[0]
    np.testing.assert_array_equal(to_numpy(net.forward(x)), expected)
