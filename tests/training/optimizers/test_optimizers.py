"""Optimizers against their formulas, written out here in float64, and against PyTorch."""

import json

import numpy as np
import pytest

from gpuconv.dtypes import as_dtype
from gpuconv.training import LossScale, Trainer, optimizers
from gpuconv.training.optimizers import SGD, Adam, AdamW
from tests import toy_run

SHAPES = {"conv1.weight": (3, 2, 5, 1), "conv1.bias": (3,), "fc1.weight": (7, 4)}
NAMES = ["sgd", "sgd:momentum=0.9", "sgd:momentum=0.9,nesterov=true", "adagrad", "rmsprop", "adam", "adamw", "lion"]


def arrays(seed, dtype=np.float64):
    draw = np.random.default_rng(seed)
    return {name: draw.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def by_formula(config, param, grads, decay):
    """The parameter after one step for each gradient, by the papers' formulas."""
    c, p = config, param.copy()
    first, second = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        if c["optimizer"] in ("adamw", "lion"):
            p = p - c["lr"] * decay * p
        else:
            g = g + decay * p
        if c["optimizer"] == "sgd":
            first = c["momentum"] * first + g
            direction = g + c["momentum"] * first if c["nesterov"] else first
        elif c["optimizer"] == "adagrad":
            second = second + g**2
            direction = g / (np.sqrt(second) + c["eps"])
        elif c["optimizer"] == "lion":
            direction = np.sign(c["beta1"] * first + (1 - c["beta1"]) * g)
            first = c["beta2"] * first + (1 - c["beta2"]) * g
        elif c["optimizer"] == "rmsprop":
            second = c["alpha"] * second + (1 - c["alpha"]) * g**2
            direction = g / (np.sqrt(second) + c["eps"])
        else:
            first = c["beta1"] * first + (1 - c["beta1"]) * g
            second = c["beta2"] * second + (1 - c["beta2"]) * g**2
            direction = first / (1 - c["beta1"] ** t) / (np.sqrt(second / (1 - c["beta2"] ** t)) + c["eps"])
        p = p - c["lr"] * direction
    return p


@pytest.mark.usefixtures("oracle_and_numpy")
@pytest.mark.parametrize("decay", ["all", "weights"])
@pytest.mark.parametrize("name", NAMES)
def test_five_steps_follow_the_formula(name, decay):
    optimizer = optimizers.get(name, lr=0.03, weight_decay=0.1, decay=decay)
    params, before, grads = arrays(0), arrays(0), [arrays(seed) for seed in range(1, 6)]
    for grad in grads:
        optimizer.step(params, grad)
    assert optimizer.steps == 5
    for key, value in before.items():
        weight_decay = 0.1 if decay == "all" or value.ndim >= 2 else 0.0
        expected = by_formula(optimizer.config(), value, [grad[key] for grad in grads], weight_decay)
        np.testing.assert_allclose(params[key], expected, rtol=1e-12, atol=1e-14, err_msg=key)


@pytest.mark.usefixtures("oracle_and_numpy")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "lion"])  # PyTorch has no Lion
def test_four_steps_agree_with_pytorch(name):
    torch = pytest.importorskip("torch")
    optimizer = optimizers.get(name, lr=0.02, weight_decay=0.05)
    settings = {key: value for key, value in optimizer.config().items() if key not in ("optimizer", "decay")}
    if "beta1" in settings:
        settings["betas"] = settings.pop("beta1"), settings.pop("beta2")
    theirs = {key: torch.tensor(value, requires_grad=True) for key, value in arrays(0).items()}
    peer = getattr(torch.optim, type(optimizer).__name__)(theirs.values(), **settings)
    params = arrays(0)
    for seed in range(1, 5):
        grads = arrays(seed)
        for key, tensor in theirs.items():
            tensor.grad = torch.tensor(grads[key])
        peer.step()
        optimizer.step(params, grads)
    for key in params:
        np.testing.assert_allclose(params[key], theirs[key].detach().numpy(), rtol=1e-12, atol=1e-14, err_msg=key)


def test_the_rate_of_one_step_can_be_given():
    params, grads = arrays(0), arrays(1)
    SGD(lr=1.0).step(params, grads, lr=0.25)
    for key, value in arrays(0).items():
        np.testing.assert_array_equal(params[key], value - 0.25 * grads[key])


@pytest.mark.parametrize("name", ["adam", "fc1.* -> sgd:lr=0.1 @ constant; * -> sgd:lr=0.1"])
def test_a_rate_that_is_no_number_of_at_least_0_is_refused_before_the_step_is_counted(name):
    optimizer = optimizers.get(name)
    optimizer.build(arrays(0))
    optimizer.begin(10, 5)
    for lr, error in ((np.nan, ValueError), (-1, ValueError), ("x", TypeError)):
        with pytest.raises(error, match="lr must"):
            optimizer.step(arrays(0), arrays(1), lr=lr)
    assert not any(each.steps for each in optimizer.walk())


def test_steps_may_take_parameters_in_another_order_or_without_some_of_them():
    """The weight decay and the state belong to a parameter, not to its place in the order."""
    options = {"lr": 0.1, "weight_decay": 0.5, "decay": "weights", "momentum": 0.9}
    params, other = arrays(0), arrays(0)
    one, two = SGD(**options), SGD(**options)
    for number in range(1, 4):
        one.step(params, arrays(number))
        two.step(dict(reversed(other.items())) if number == 2 else other, arrays(number))
    for name, param in params.items():
        np.testing.assert_array_equal(param, other[name])
    two.step({"fc1.weight": other["fc1.weight"]}, arrays(4))
    assert (two.steps, {*two.state["velocity"]}) == (4, {"fc1.weight"})


@pytest.mark.parametrize("name", ["adam", "* -> adam:lr=0.01"])
def test_an_optimizer_of_a_second_trainer_starts_anew(name):
    optimizer = optimizers.get(name)
    toy_run.fit(Trainer(toy_run.net(), optimizer), epochs=1)
    again, fresh = Trainer(toy_run.net(), optimizer), Trainer(toy_run.net(), name)
    assert toy_run.fit(again, epochs=2) == toy_run.fit(fresh, epochs=2)
    assert toy_run.bits(again) == toy_run.bits(fresh)


def test_advance_writes_the_step_and_rate_that_update_reads():
    """A captured update replays with the step number and rate that advance wrote before it."""
    params, twin, grads = arrays(0), arrays(0), arrays(1)
    in_two_calls, in_one_call = Adam(lr=0.1), Adam(lr=0.1)
    in_two_calls.build(params)
    for lr in (0.1, 0.05, 0.2):
        in_two_calls.advance(lr)
        in_two_calls.update(params, grads)
        in_one_call.step(twin, grads, lr)
    for key in params:
        np.testing.assert_array_equal(params[key], twin[key])


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_continues_from_its_state(name):
    uninterrupted, first = optimizers.get(name), optimizers.get(name)
    params, resumed = arrays(0, np.float32), arrays(0, np.float32)
    for seed in range(1, 7):
        uninterrupted.step(params, arrays(seed, np.float32))
    for seed in range(1, 4):
        first.step(resumed, arrays(seed, np.float32))
    second = optimizers.get(**first.config())
    second.build(resumed)
    second.load_state_dict(first.state_dict())
    for seed in range(4, 7):
        second.step(resumed, arrays(seed, np.float32))
    assert second.steps == 6
    for key in params:
        np.testing.assert_array_equal(params[key], resumed[key])


def test_state_is_named_after_slots_and_parameters():
    adam = Adam()
    adam.step(arrays(0), arrays(1))
    state = adam.state_dict()
    assert set(state) == {"steps", *(f"{slot}.{key}" for slot in ("exp_avg", "exp_avg_sq") for key in SHAPES)}
    np.testing.assert_allclose(state["exp_avg.fc1.weight"], 0.1 * arrays(1)["fc1.weight"])
    adam.step(arrays(0), arrays(2))  # does not change `state`, which holds copies
    np.testing.assert_allclose(state["exp_avg.fc1.weight"], 0.1 * arrays(1)["fc1.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("velocity.conv1.bias"), "'velocity.conv1.bias' is missing"),
        (lambda s: s.update({"velocity.fc9.bias": np.zeros(3)}), "'velocity.fc9.bias' is only in the given"),
        (lambda s: s.update({"velocity.conv1.bias": np.zeros(4)}), r"must be float64 \(3,\), received float64 \(4,\)"),
        (lambda s: s.update({"velocity.conv1.bias": np.zeros(3, "f4")}), "received float32"),
    ],
)
def test_a_mismatched_state_is_refused_before_anything_changes(change, message):
    optimizer = SGD(momentum=0.9)
    optimizer.step(arrays(0), arrays(1))
    before, other = optimizer.state_dict(), optimizer.state_dict()
    other["velocity.fc1.weight"] = other["velocity.fc1.weight"] + 1
    change(other)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(other)
    after = optimizer.state_dict()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.get("adm"), "did you mean 'adam'"),
        (lambda: optimizers.get("adam", momentun=0.9), "unknown setting of adam 'momentun'"),
        (lambda: optimizers.get("sgd", momentun=0.9), "did you mean 'momentum'"),
        (lambda: optimizers.get("sgd,adam"), "written like"),
        (lambda: optimizers.get(SGD(), lr=0.1), "already built"),
        (lambda: SGD(lr=-1), "lr must lie in"),
        (lambda: SGD(nesterov=True), "momentum above 0"),
        (lambda: optimizers.get("muon:tf32=maybe"), "tf32 must be true, false or auto, received 'maybe'"),
        (lambda: optimizers.get("muon:tf32=true").build({"w": np.zeros((2, 3))}), "received parameters in float64"),
        (lambda: optimizers.get("muon:matmul_precision=fp8"), "unknown matmul_precision 'fp8'"),
        (lambda: optimizers.get("muon:matmul_precision=tf32,tf32=true"), "received matmul_precision='tf32' too"),
        (lambda: optimizers.get("adam:beta1=1"), r"beta1 must lie in \[0, 1\), received 1"),
        (lambda: optimizers.get("adamw:beta2=1.5"), "beta2 must lie in"),
        (lambda: optimizers.get("adam:eps=-1"), "eps must lie in"),
        (lambda: optimizers.get("rmsprop:alpha=2"), "alpha must lie in"),
        (lambda: optimizers.get("lion:beta1=1"), "beta1 must lie in"),
        (lambda: optimizers.get("lion:beta2=-1"), "beta2 must lie in"),
        (lambda: optimizers.get("rmsprop:eps=-1"), "eps must lie in"),
        (lambda: optimizers.get("adagrad:eps=-1"), "eps must lie in"),
        (lambda: AdamW(decay="weigths"), "did you mean 'weights'"),
        (lambda: SGD().build({}), "no trained parameters"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_flag_of_another_type_is_refused_when_the_optimizer_is_made():
    for make, received in (
        (lambda: optimizers.get("sgd:momentum=0.9,nesterov=maybe"), "'maybe'"),
        (lambda: optimizers.get("muon:nesterov=maybe"), "'maybe'"),
        (lambda: SGD(momentum=0.9, nesterov=2), "2"),
        (lambda: SGD(momentum=0.9, nesterov=1.0), "1.0"),
        (lambda: optimizers.get("muon", nesterov=0.0), "0.0"),
    ):
        with pytest.raises(TypeError, match=f"nesterov must be True or False, received {received}"):
            make()


def test_an_optimizer_or_groups_of_another_type_are_refused():
    for make, message in (
        (lambda: optimizers.get(3), "an optimizer is a name, a short form or an object, received int"),
        (lambda: optimizers.get(SGD), "an optimizer is a name, a short form or an object, received type"),
        (lambda: optimizers.Groups(groups=3), "groups are text like 'filters -> muon:lr=0.02; .*', received int"),
    ):
        with pytest.raises(TypeError, match=message):
            make()


def test_settings_that_float32_cannot_hold_are_refused_before_the_first_step():
    for make in (
        lambda: SGD(lr=1e39),
        lambda: SGD(lr=10**39),
        lambda: Adam(lr=0.1, eps=1e39),
        lambda: AdamW(lr=0.1, weight_decay=1e39),
        lambda: Adam(lr=np.float64(1e300)),
        lambda: optimizers.get("* -> sgd:lr=1e20", lr=1e20),  # a factor on the rates of the groups
    ):
        for dtype in ("float32", "float16", "bfloat16"):
            with pytest.raises(ValueError, match="that float32 can hold"):
                make().build(arrays(0, as_dtype(dtype)))
        make().build(arrays(0, np.float64))


def test_a_config_with_numpys_numbers_is_written_as_json():
    for made in (SGD(lr=np.float32(0.5), nesterov=np.False_), LossScale(start=np.float32(8), interval=np.int64(3))):
        assert json.loads(json.dumps(made.config())) == made.config()


def test_the_choice_of_what_decays_is_spelled_as_in_the_documentation():
    assert SGD(decay="Weights").decay == "weights"


def test_flags_may_be_words_or_numbers():
    for words, value in ((("true", "yes", "On"), True), (("false", "No", "off"), False)):
        for word in words:
            assert optimizers.get(f"sgd:momentum=0.9,nesterov={word}").nesterov is value
    for yes in (1, np.True_):
        assert SGD(momentum=0.9, nesterov=yes).nesterov


def test_float32_parameters_have_a_float32_rate_and_state():
    adam = Adam(lr=0.1)
    params = arrays(0, np.float32)
    adam.step(params, arrays(1, np.float32))
    assert all(value.dtype == np.float32 for value in params.values())
    assert adam.state_dict()["exp_avg.fc1.weight"].dtype == np.float32
    assert adam.rate_dtype == np.float32
    adam.build(arrays(0, np.float64))
    assert adam.rate_dtype == np.float64


@pytest.mark.parametrize("name", NAMES)
def test_16_bit_parameters_have_masters_and_float32_state(name):
    """16-bit parameters step like float32 ones with the same gradients, which are exact in 16 bits."""
    bfloat16 = as_dtype("bfloat16")
    params, float32_params = arrays(0, bfloat16), arrays(0, np.float32)
    with_masters, without = optimizers.get(name, weight_decay=0.1), optimizers.get(name, weight_decay=0.1)
    with_masters.build(params, float32_params)
    for seed in range(1, 4):
        grads = arrays(seed, bfloat16)
        with_masters.step(params, grads)
        without.step(float32_params, {key: value.astype(np.float32) for key, value in grads.items()})
    state = with_masters.state_dict()
    for key, value in float32_params.items():
        np.testing.assert_array_equal(state[f"master.{key}"], value)
        np.testing.assert_array_equal(params[key], value.astype(bfloat16))
    for key, value in without.state_dict().items():
        np.testing.assert_array_equal(state[key], value)


@pytest.mark.parametrize("optimizer", [*NAMES, "* -> sgd:lr=0.1"])
def test_a_state_needs_an_optimizer_that_is_built(optimizer):
    """The error says so, also for SGD, which has no arrays that could fail to match."""
    new = optimizers.get(optimizer)
    with pytest.raises(RuntimeError, match=r"has no state yet; call build\(net.params\(\)\) first"):
        new.load_state_dict({"steps": np.array(3)})
    assert new.steps == 0


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_with_masters_continues_from_its_state(name):
    half = as_dtype("float16")
    uninterrupted, params, resumed = optimizers.get(name), arrays(0, half), arrays(0, half)
    first = optimizers.get(name)
    for seed in range(1, 5):
        uninterrupted.step(params, arrays(seed, half))
    for seed in range(1, 3):
        first.step(resumed, arrays(seed, half))
    second = optimizers.get(**first.config())
    second.build(resumed)
    second.load_state_dict(first.state_dict())
    for seed in range(3, 5):
        second.step(resumed, arrays(seed, half))
    for key in params:
        np.testing.assert_array_equal(params[key], resumed[key])
    for key, value in uninterrupted.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[key], value)


def test_settings_change_the_second_step():
    """A setting that changes nothing has not reached the op. The tests above and those of Muon cover lr, decay and
    matmul_precision."""

    def stepped(name, **settings):
        params = {"w": np.array([[1.0, -2.0], [0.5, 3.0]])}
        optimizer = optimizers.get(name, lr=0.1, **settings)
        # Lion uses only the sign of a mean of the two gradients, so some of their elements differ in sign. Muon uses
        # only the direction of a gradient, so the two gradients differ in direction too.
        for grad in ([[0.3, -0.2], [0.1, 0.4]], [[-0.9, -0.5], [0.7, -1.2]]):
            optimizer.step(params, {"w": np.array(grad)})
        return params["w"]

    settings = {
        "sgd": {"momentum": 0.5},
        "adagrad": {"eps": 1.0},
        "rmsprop": {"alpha": 0.5, "eps": 1.0},
        "adam": {"beta1": 0.5, "beta2": 0.5, "eps": 1.0},
        "adamw": {"beta1": 0.5, "beta2": 0.5, "eps": 1.0},
        "lion": {"beta1": 0.999, "beta2": 0.5},
        "muon": {"momentum": 0.5, "nesterov": False, "newton_schulz": 1},
    }
    for name, changes in settings.items():
        weight_decay = {} if name == "muon" else {"weight_decay": 0.5}  # Muon takes none
        for setting, value in (changes | weight_decay).items():
            assert np.abs(stepped(name, **{setting: value}) - stepped(name)).max() > 1e-3, (name, setting)
    assert np.abs(stepped("sgd", momentum=0.5, nesterov=True) - stepped("sgd", momentum=0.5)).max() > 1e-3
