"""Optimizer steps over lists of parameters."""

import gc
from itertools import chain

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.ops import optim
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from gpuconv.profiling.launches import record_launches
from gpuconv.verify.rules.base import as_float64
from tests.kernels.agreement import ORACLE, random, thread_orders
from tests.tolerance import assert_within, elementwise_bound

# Each rule: the op, how many state arrays a parameter has, the options.
RULES = {
    "sgd": ("sgd_step", 0, dict(lr=0.05)),
    "momentum": ("sgd_step", 1, dict(lr=0.05, momentum=0.9)),
    "nesterov": ("sgd_step", 1, dict(lr=0.05, momentum=0.8, nesterov=True)),
    "velocity without momentum": ("sgd_step", 1, dict(lr=0.05)),
    "adagrad": ("adagrad_step", 1, dict(lr=0.05, eps=1e-6)),
    "rmsprop": ("rmsprop_step", 1, dict(lr=0.05, alpha=0.95, eps=1e-6)),
    "adam": ("adam_step", 2, dict(lr=0.05, step=3, beta1=0.8, beta2=0.99, eps=1e-6)),
    "adamw": ("adam_step", 2, dict(lr=0.05, step=1, eps=1e-6, decoupled=True)),
    "lion": ("lion_step", 1, dict(lr=0.05, beta1=0.8, beta2=0.95)),
}
SHAPES = [(5, 3, 3, 2), (1,), (20011,), (0, 3), (), (8,)]
TINY = np.finfo(np.float64).tiny
DECAYS = [0.3, 0.0, 0.1, 0.5, 0.2, 0.4]
rules = pytest.mark.parametrize("rule", RULES)


def lists_of(rng, rule, dtype, shapes=SHAPES):
    """Parameters, gradients and state. Except for SGD, the last state array has no negative numbers, because in most
    rules it is an average of squared gradients."""
    op, states, _ = RULES[rule]
    lists = [[random(rng, shape, dtype) for shape in shapes] for _ in range(2 + states)]
    if op != "sgd_step":
        lists[-1] = [np.asarray(np.abs(array)) for array in lists[-1]]
    return lists


def copied_to(device, lists):
    return [[asarray(array.copy(), device) for array in arrays] for arrays in lists]


def step(rule, lists, weight_decay=0.0, **options):
    op, _, settings = RULES[rule]
    getattr(ops, op)(*lists, weight_decay=weight_decay, **settings | options)


def bounds(rule, before, after, dtype, decay):
    """The error bound of each array: a dozen roundings of the sum of the magnitudes of its terms."""
    op, _, options = RULES[rule]
    param, grad, *state = [np.abs(as_float64(a)) for a in before]
    lr, grad = options["lr"], grad + decay * param  # an upper bound where the decay is decoupled
    if op == "sgd_step":
        velocity = grad + (options.get("momentum", 0) * state[0] if state else 0)
        update, states = 2 * lr * velocity, [velocity] * len(state)
    elif op == "adam_step":
        beta1, beta2, count = options.get("beta1", 0.9), options.get("beta2", 0.999), options["step"]
        mean = beta1 * state[0] + (1 - beta1) * grad
        square = after[3] + (1 - beta2) * grad**2
        update = lr * mean / (1 - beta1**count) / (np.sqrt(after[3] / (1 - beta2**count)) + options["eps"])
        update *= square / np.maximum(after[3], TINY)  # a division by the root amplifies the square's relative error
        states = [mean, square]
    elif op == "lion_step":
        mean = options["beta1"] * before[2] + (1 - options["beta1"]) * before[1]
        sign_may_change = np.abs(as_float64(mean)) <= elementwise_bound(dtype, np.abs(state[0]) + grad, 4)
        # Where rounding may change the sign of the mean, the bound is infinite: the parameter is not checked there.
        update, states = lr * (1 + decay * param) + np.where(sign_may_change, np.inf, 0), [state[0] + grad]
    else:
        square = state[0] + grad**2
        update = lr * grad / (np.sqrt(after[2]) + options["eps"]) * square / np.maximum(after[2], TINY)
        states = [square]
    return [elementwise_bound(dtype, magnitude, 12) for magnitude in (param + update, 0 * grad, *states)]


@rules
@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_a_step_agrees_with_the_oracle(device, rng, rule, dtype):
    before = lists_of(rng, rule, dtype)
    on_device, oracle = copied_to(device, before), [as_float64(arrays) for arrays in before]  # in float64
    step(rule, on_device, DECAYS)
    step(rule, oracle, DECAYS)
    for i, decay in enumerate(DECAYS):
        old, results, expected = ([arrays[i] for arrays in lists] for lists in (before, on_device, oracle))
        errors = bounds(rule, old, expected, dtype, decay)
        for name, a, b, bound in zip(("param", "grad", "state", "state 2"), results, expected, errors):
            assert_within(to_numpy(a), b, bound, f"{name} of shape {a.shape}")


@rules
def test_thread_orders_and_unaligned_arrays_give_the_same_bits(device, rng, rule):
    before = lists_of(rng, rule, "float32")
    results = []
    for order in thread_orders(device):
        with order:
            on_device = copied_to(device, before)
            step(rule, on_device, DECAYS)
        results.append([[to_numpy(array).tobytes() for array in arrays] for arrays in on_device])
    for unaligned in range(len(before)):
        on_device = copied_to(device, before)
        longer = [asarray(np.append(np.float32(7), a), device) for a in before[unaligned]]
        on_device[unaligned] = [a[1:].reshape(b.shape) for a, b in zip(longer, before[unaligned])]
        step(rule, on_device, DECAYS)
        results.append([[to_numpy(array).tobytes() for array in arrays] for arrays in on_device])
    assert all(result == results[0] for result in results[1:])


@rules
def test_averages_have_the_same_bits_in_several_thread_orders_and_if_unaligned(device, rng, rule):
    before = lists_of(rng, rule, "float32")
    averages = [random(rng, param.shape, "float32") for param in before[0]]
    results = []
    for shift in (0, 1):
        for order in thread_orders(device):
            with order:
                on_device = copied_to(device, before)
                longer = [asarray(np.append(np.zeros(shift, np.float32), a), device) for a in averages]
                moved = [a[shift:].reshape(b.shape) for a, b in zip(longer, averages)]
                step(rule, on_device, DECAYS, averages=moved, ema=0.75)
            for average, old, param in zip(moved, averages, on_device[0]):
                terms = [0.75 * as_float64(old), 0.25 * as_float64(to_numpy(param))]
                assert_within(to_numpy(average), sum(terms), elementwise_bound("float32", np.abs(terms).sum(0), 1))
            results.append([to_numpy(array).tobytes() for array in (*moved, *chain(*on_device))])
    assert all(result == results[0] for result in results[1:])


@rules
@pytest.mark.parametrize("rate", ["float32", "float64"])
def test_a_rate_and_a_step_in_device_memory_give_the_same_bits_as_numbers(device, rng, rule, rate):
    before = lists_of(rng, rule, "float32", [(5, 7), (3,)])
    lr = np.array([0.125], rate)  # the same number in both dtypes
    by_number, by_array = copied_to(device, before), copied_to(device, before)
    step_option = {"step": asarray(np.array([3]), device)} if RULES[rule][0] == "adam_step" else {}
    step(rule, by_number, lr=0.125, **({"step": 3} if step_option else {}))
    step(rule, by_array, lr=asarray(lr, device), **step_option)
    for a, b in zip(chain(*by_number), chain(*by_array)):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


def test_a_rate_or_step_of_another_type_is_refused_before_anything_changes(device, rng):
    before = lists_of(rng, "adam", "float32", [(3,)])
    on_device = copied_to(device, before)
    for wrong in (dict(lr=asarray(np.array([1]), device)), dict(step=asarray(np.array([1.0]), device))):
        with pytest.raises(TypeError, match="must be a number or an array of"):
            step("adam", on_device, **wrong)
    for array, unchanged in zip(chain(*on_device), chain(*before), strict=True):
        np.testing.assert_array_equal(to_numpy(array), unchanged)


def test_views_and_several_dtypes_in_one_call_agree_with_the_oracle(device, rng):
    widths = {"float32": 4, "float64": 6, "bfloat16": 10}
    before = [[random(rng, (3, width), dtype) for dtype, width in widths.items()] for _ in range(3)]
    on_device = copied_to(device, before)
    step("momentum", [[a[:, ::2] for a in arrays] for arrays in on_device], [0.1, 0.2, 0.3])
    oracle = copied_to(ORACLE, before)
    step("momentum", [[a[:, ::2] for a in arrays] for arrays in oracle], [0.1, 0.2, 0.3])
    for a, b in zip(chain(*on_device), chain(*oracle)):
        rtol = 1e-2 if b.dtype.itemsize == 2 else 1e-5
        np.testing.assert_allclose(as_float64(to_numpy(a)), as_float64(b), rtol=rtol, atol=1e-6)
        np.testing.assert_array_equal(to_numpy(a)[:, 1::2], b[:, 1::2])


def test_a_step_without_parameters_is_allowed(device):
    ops.sgd_step([], [], lr=0.1)
    empty = [asarray(np.zeros((0, 3), np.float32), device)]
    ops.sgd_step(empty, empty, lr=0.1)


def test_a_repeated_step_copies_no_table(device, rng, monkeypatch):
    """A launch reads the addresses and lengths of all parameters from a table that is kept on the device."""
    copied, chunks = [], optim._chunks
    monkeypatch.setattr(optim, "_chunks", lambda *columns: copied.append(chunks(*columns)) or copied[-1])
    on_device = copied_to(device, lists_of(rng, "adam", "float32"))
    for _ in range(3):
        step("adam", on_device, DECAYS)
    assert len(copied) == 1
    step("adam", on_device, 0.5)  # the decays are part of the table
    on_device[1][0] = asarray(to_numpy(on_device[1][0]).copy(), device)  # so are the addresses
    step("adam", on_device, 0.5)
    assert len(copied) == 3


def test_a_table_lives_as_long_as_its_first_parameter(device, rng):
    gc.collect()
    tables = len(optim._tables)
    on_device = copied_to(device, lists_of(rng, "sgd", "float32"))
    step("sgd", on_device)
    first_param = on_device[0][0]
    del on_device
    gc.collect()
    assert len(optim._tables) == tables + 1
    del first_param
    gc.collect()
    assert len(optim._tables) == tables


def test_a_chunk_table_covers_each_element_once():
    arrays = [emulator.zeros(size, as_dtype("float16")) for size in (1, 8192, 8193, 40000)]
    table = optim._chunks(dict.fromkeys(("param", "grad", "state0", "copy"), arrays), [0.0, 0.1, 0.2, 0.3])
    assert table["count"].tolist() == [1, 8192, 8192, 1, 8192, 8192, 8192, 8192, 7232]
    assert table["decay"].tolist() == [0.0, 0.1, 0.2, 0.2, *[0.3] * 5]
    distances = np.diff(table["param"][4:].astype(np.int64))
    np.testing.assert_array_equal(distances, 2 * 8192)
    np.testing.assert_array_equal(table["grad"], table["param"])
    np.testing.assert_array_equal(table["state0"], table["param"])
    np.testing.assert_array_equal(table["copy"], table["param"])
    np.testing.assert_array_equal(table["state1"], 0)


def test_nan_in_a_gradient_affects_only_its_element(device, rng):
    on_device = copied_to(device, lists_of(rng, "adam", "float32", [(9,)]))
    (param,), (grad,), *_ = on_device
    grad[4] = np.nan
    step("adam", on_device)
    np.testing.assert_array_equal(np.isnan(to_numpy(param)), np.arange(9) == 4)


# --- masters and the loss scale ----------------------------------------------------------------
# The array `scaling`: the loss scale, the factor of the gradients (0 skips the step), the finite steps since the scale
# changed, and the number of skipped steps.


def with_masters(rng, rule, dtype, shapes=SHAPES):
    """Parameters and gradients in 16 bits, state and masters in float32; the last parameter is in float32 too, and is
    its own master."""
    _, states, _ = RULES[rule]
    dtypes = [dtype] * (len(shapes) - 1) + ["float32"]
    lists = [[random(rng, shape, kind) for shape, kind in zip(shapes, dtypes)] for _ in range(2)]
    lists += [[np.abs(random(rng, shape, "float32")) for shape in shapes] for _ in range(states + 1)]
    return [[np.asarray(array) for array in arrays] for arrays in lists]


def master_step(rule, lists, scaling=None):
    params, grads, *states, masters = lists
    masters[-1] = params[-1]
    step(rule, [params, grads, *states], DECAYS, masters=masters, scaling=scaling)


@rules
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_step_with_masters_is_that_of_float32_parameters(device, rng, rule, dtype):
    """A master changes like a float32 parameter, and the parameter becomes the rounded master."""
    before = with_masters(rng, rule, dtype)
    params, *grads_and_states, masters = before
    plain = [[np.asarray(a.astype(np.float32)) for a in arrays] for arrays in (masters, *grads_and_states)]
    plain[0][-1] = params[-1].copy()  # the last parameter is its own master
    on_device, in_float32 = copied_to(device, before), copied_to(device, plain)
    master_step(rule, on_device)
    step(rule, in_float32, DECAYS)
    params, _, *states, masters = on_device
    for arrays, expected in zip((masters, *states), (in_float32[0], *in_float32[2:])):
        for a, b in zip(arrays, expected):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
    for param, master in zip(params, masters):
        np.testing.assert_array_equal(to_numpy(param), to_numpy(master).astype(param.dtype))


@rules
def test_parameters_with_and_without_a_master_share_a_launch(device, rng, rule):
    on_device = copied_to(device, with_masters(rng, rule, "bfloat16"))
    with record_launches() as launches:
        master_step(rule, on_device)
    assert [launch.kernel.name for launch in launches] == [RULES[rule][0]]


@rules
def test_masters_have_the_same_bits_in_several_thread_orders_and_if_unaligned(device, rng, rule):
    before = with_masters(rng, rule, "bfloat16")
    results = []
    for order in thread_orders(device):
        with order:
            on_device = copied_to(device, before)
            master_step(rule, on_device)
        results.append([[to_numpy(array).tobytes() for array in arrays] for arrays in on_device])
    for unaligned in range(len(before)):
        on_device = copied_to(device, before)
        longer = [asarray(np.append(np.zeros(1, a.dtype), a), device) for a in before[unaligned]]
        on_device[unaligned] = [a[1:].reshape(b.shape) for a, b in zip(longer, before[unaligned])]
        master_step(rule, on_device)
        results.append([[to_numpy(array).tobytes() for array in arrays] for arrays in on_device])
    assert all(result == results[0] for result in results[1:])


@rules
@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_a_nonfinite_gradient_skips_the_step(device, rng, rule, number):
    before = with_masters(rng, rule, "float16")
    params, grads, *_, masters = before
    grads[2][20000] = number
    on_device = copied_to(device, before)
    scaling = asarray(np.array([1024.0, 0, 5, 1]), device)
    ops.update_loss_scale(scaling, on_device[1])
    master_step(rule, on_device, scaling)
    np.testing.assert_array_equal(to_numpy(scaling), [512, 0, 0, 2])
    masters[-1] = params[-1]
    for arrays, unchanged in zip(on_device, before):
        for a, b in zip(arrays, unchanged):
            np.testing.assert_array_equal(to_numpy(a), b)


@rules
def test_a_loss_scale_that_is_a_power_of_two_changes_no_bit(device, rng, rule):
    """This holds for Adam, too, which does not count skipped steps."""
    before = lists_of(rng, rule, "float32")
    plain, scaled = copied_to(device, before), copied_to(device, before)
    scaled[1] = [asarray(np.asarray(grad * np.float32(256)), device) for grad in before[1]]
    scaling = asarray(np.array([256.0, 0, 0, 7]), device)
    ops.update_loss_scale(scaling, scaled[1])
    step_option = {"step": RULES[rule][2]["step"] + 7} if RULES[rule][0] == "adam_step" else {}
    step(rule, plain, DECAYS)
    step(rule, scaled, DECAYS, scaling=scaling, **step_option)
    for arrays, expected in zip((scaled[0], *scaled[2:]), (plain[0], *plain[2:])):
        for a, b in zip(arrays, expected):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
