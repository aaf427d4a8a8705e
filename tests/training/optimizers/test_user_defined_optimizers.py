"""User-defined optimizers: any object with `step(params, grads)`, without a base class."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv.notices import Notice
from gpuconv.training import SGD, SettingsError, Trainer, UncapturedWarning
from tests import toy_run


def fit(optimizer, net=None, epochs=2, train=None, **options):
    run = {name: options.pop(name) for name in ("run_dir", "resume", "callbacks") if name in options}
    trainer = Trainer(net or toy_run.net(), optimizer, **options)
    trainer.fit(train or toy_run.loader(), epochs=epochs, progress=False, **run)
    return trainer


def assert_same(one, other):
    assert one.records == other.records
    assert toy_run.same_arrays(one.net.state_dict(), other.net.state_dict())


class Plain:
    """The shortest optimizer that trains."""

    def __init__(self, lr=0.01):
        self.lr = lr

    def step(self, params, grads):
        for name, param in params.items():
            param -= np.float32(self.lr) * grads[name]


class Rebinding(Plain):
    """Puts new arrays into the dictionary, and takes the rate as an argument."""

    def step(self, params, grads, lr):
        for name in params:
            params[name] = params[name] - np.float32(lr) * grads[name]


class Momentum(Plain):
    def __init__(self, lr=0.01):
        super().__init__(lr)
        self._velocity = {}

    def step(self, params, grads):
        for name, param in params.items():
            velocity = self._velocity.setdefault(name, np.zeros_like(param))
            velocity *= np.float32(0.9)
            velocity += grads[name]
            param -= np.float32(self.lr) * velocity


class Stored(Momentum):
    def state_dict(self):
        return {f"velocity.{name}": value for name, value in self._velocity.items()}

    def load_state_dict(self, state):
        self._velocity = {name.removeprefix("velocity."): np.array(value) for name, value in state.items()}


class Counting(Stored):
    """Has state before the first step."""

    def __init__(self, lr=0.01):
        super().__init__(lr)
        self._count = np.zeros(1)

    def step(self, params, grads):
        self._count += 1
        super().step(params, grads)

    def state_dict(self):
        return super().state_dict() | {"count": self._count}

    def load_state_dict(self, state):
        self._count = np.array(state["count"])
        super().load_state_dict({name: value for name, value in state.items() if name != "count"})


def assert_close(one, other):
    for param, expected in zip(one.net.params().values(), other.net.params().values(), strict=True):
        np.testing.assert_allclose(param, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", [None, "cosine", "step:1,gamma=0.5"])
def test_an_object_with_step_is_an_optimizer_under_every_schedule(schedule):
    expected = fit(SGD(lr=0.02), schedule=schedule)
    for optimizer in (Plain(0.02), Rebinding(0.02)):
        trainer = fit(optimizer, schedule=schedule)
        assert_close(trainer, expected)
        assert [record["lr"] for record in trainer.records] == [record["lr"] for record in expected.records]
    assert_close(fit(Momentum(0.02), schedule=schedule), fit(SGD(lr=0.02, momentum=0.9), schedule=schedule))


@pytest.mark.parametrize(("kind", "stores_its_state"), [(Stored, True), (Counting, True), (Momentum, False)])
def test_a_resumed_run_restores_the_optimizer_state_or_says_that_there_is_none(kind, stores_its_state, tmp_path):
    uninterrupted = fit(kind(0.02), epochs=3)
    fit(kind(0.02), epochs=3, run_dir=tmp_path / "run", callbacks=[toy_run.StopAt(7, "enough")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resumed = fit(kind(0.02), epochs=3, run_dir=tmp_path / "run", resume=True)
    notices = [str(warning.message) for warning in caught if issubclass(warning.category, Notice)]
    if stores_its_state:
        assert_same(resumed, uninterrupted)
        assert notices == []
    else:
        assert notices == ["Momentum has no state_dict and load_state_dict, so its state starts from scratch"]
    with pytest.raises(SettingsError, match=r"optimizer.lr is 0.02 there and 0.5 here"):
        fit(kind(0.5), epochs=3, run_dir=tmp_path / "run", resume=True)


def test_a_resume_that_the_users_optimizer_refuses_changes_nothing(tmp_path):
    class Refusing(Stored):
        def load_state_dict(self, state):
            if state:
                raise KeyError("moment.fc1.weight")

    Refusing.__module__, Refusing.__qualname__ = Stored.__module__, Stored.__qualname__
    run = tmp_path / "run"
    fit(Stored(0.02), epochs=3, run_dir=run, callbacks=[toy_run.StopAt(7, "enough")])
    net = toy_run.net()
    before = {name: np.array(array) for name, array in net.state_dict().items()}
    trainer = Trainer(net, Refusing(0.02))
    with pytest.raises(KeyError, match=r"moment\.fc1\.weight"):
        trainer.fit(toy_run.loader(), epochs=3, progress=False, run_dir=run, resume=True)
    assert toy_run.same_arrays(net.state_dict(), before)
    assert trainer.steps == 0


def test_fit_warns_that_a_user_defined_optimizer_steps_on_the_host_although_the_net_is_on_a_device():
    class WrappedSGD:
        """Takes device arrays and uses gpuconv's ops."""

        lr = 0.01

        def __init__(self):
            self.inner = SGD(lr=0.01)

        def step(self, params, grads):
            self.inner.step(params, grads)

    def loader():
        return toy_run.loader(batch_size=11, device="emulated")

    net = toy_run.net().to("emulated")
    with pytest.warns(UncapturedWarning, match=r"the optimizer .*WrappedSGD steps on the host"):
        trainer = fit(WrappedSGD(), net=net, epochs=1, train=loader(), graph=True)
    expected = fit(SGD(lr=0.01), net=toy_run.net().to("emulated"), epochs=1, train=loader())
    assert trainer.records == expected.records


def test_objects_that_are_not_optimizers_are_refused():
    class NoStep:
        lr = 0.1

    class Torch:
        lr = 0.1

        def step(self):
            pass

    class NoRate:
        def step(self, params, grads):
            pass

    for wrong in (None, NoStep(), Torch(), 0.1):
        with pytest.raises(TypeError, match=r"an object with step\(params, grads\).*received " + type(wrong).__name__):
            Trainer(toy_run.net(), wrong)
    with pytest.raises(TypeError, match=r"received the class Plain; call it: Plain\(\)"):
        Trainer(toy_run.net(), Plain)
    with pytest.raises(ValueError, match="already built"):
        Trainer(toy_run.net(), Plain(), lr=0.1)
    with pytest.raises(ValueError, match=r"NoRate has no attribute lr.* the schedule cosine.* would have no effect"):
        Trainer(toy_run.net(), NoRate(), schedule="cosine")
    Trainer(toy_run.net(), NoRate())


def test_a_step_that_leaves_no_array_of_a_parameters_shape_is_named():
    class Wrong(Plain):
        def step(self, params, grads):
            params["fc1.bias"] = self.left

    for left, shape in ((np.float32(1), r"\(\)"), (None, "None"), (np.ones((2, 3)), r"\(2, 3\)")):
        wrong = Wrong()
        wrong.left = left
        with pytest.raises(ValueError, match=rf"Wrong.step must leave fc1.bias at shape \(3,\), left {shape}"):
            fit(wrong)


def test_a_rate_of_a_user_defined_optimizer_that_is_no_number_is_named():
    for lr in (None, "fast"):
        with pytest.raises(TypeError, match=f"the lr of Plain must be a number, received {lr!r}"):
            fit(Plain(lr=lr))


def test_the_step_of_an_optimizer_may_be_a_c_function_without_a_signature():
    assert not Trainer(toy_run.net(), SimpleNamespace(step=max)).optimizer.has_rate


class PublicCounter(Plain):
    """Counts its steps in a public attribute."""

    t = 0

    def __init__(self, lr=0.01):
        super().__init__(lr)
        self.t = 0

    def step(self, params, grads):
        self.t += 1
        super().step(params, grads)


@pytest.mark.filterwarnings("ignore:PublicCounter has no state_dict")
def test_public_state_of_a_users_optimizer_is_no_setting(tmp_path):
    run = tmp_path / "run"
    trainer = fit(PublicCounter(), epochs=3, run_dir=run, callbacks=[toy_run.StopAt(7)])
    trainer.fit(toy_run.loader(), epochs=3, progress=False, run_dir=run, resume=True)
    assert trainer.epoch == 3
    fit(PublicCounter(), epochs=3, run_dir=run, resume=True)
    with pytest.raises(SettingsError, match=r"optimizer.lr is 0.01 there and 0.5 here"):
        fit(PublicCounter(0.5), epochs=3, run_dir=run, resume=True)


def test_a_users_optimizer_has_its_base_rate_again_after_fit():
    optimizer = Plain(0.02)
    assert fit(optimizer, schedule="cosine").optimizer.lr == 0.02
    assert optimizer.lr == 0.02
    assert Trainer(toy_run.net(), optimizer).optimizer.lr == 0.02

    class Fails(Plain):
        def step(self, params, grads):
            if self.lr < 0.02:
                raise ZeroDivisionError

    optimizer = Fails(0.02)
    with pytest.raises(ZeroDivisionError):
        fit(optimizer, schedule="cosine")
    assert optimizer.lr == 0.02


def test_float16_with_a_users_optimizer_is_refused_before_anything_is_created():
    with pytest.raises(TypeError, match=r"float16 needs gpuconv's optimizers.*received Plain"):
        Trainer(toy_run.net(), Plain(), precision="float16")
    with pytest.raises(TypeError, match=r"float16 needs gpuconv's optimizers.*received Plain"):
        Trainer(toy_run.net().to(precision="float16"), Plain())
    Trainer(toy_run.net(), Plain(), precision="bfloat16")
