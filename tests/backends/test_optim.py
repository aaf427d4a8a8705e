"""Optimizer steps: by hand, against the formulas in float64, over lists, in half precision, in place."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from tests.random_arrays import signed
from tests.tolerance import SMALLEST, UNIT_ROUNDOFF, assert_within

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

SHAPES = [(3, 5), (7,), (), (2, 3, 1, 4), (0, 3)]


def positive(shape, dtype="float64", seed=0):
    return np.asarray(abs(signed(shape, seed, dtype=dtype)))


# --- the formulas in the docstrings of the ops, one entry at a time: (param, grad, *state) -> (param, *state) --


def sgd(param, grad, *, decay, lr):
    return (param - lr * (grad + decay * param),)


def momentum(param, grad, v, *, decay, lr, momentum, nesterov=False):
    grad = grad + decay * param
    v = momentum * v + grad
    return param - lr * (grad + momentum * v if nesterov else v), v


def adagrad(param, grad, s, *, decay, lr, eps=1e-10):
    grad = grad + decay * param
    s = s + grad**2
    return param - lr * grad / (np.sqrt(s) + eps), s


def rmsprop(param, grad, s, *, decay, lr, alpha=0.99, eps=1e-8):
    grad = grad + decay * param
    s = alpha * s + (1 - alpha) * grad**2
    return param - lr * grad / (np.sqrt(s) + eps), s


def adam(param, grad, m, v, *, decay, lr, step, beta1=0.9, beta2=0.999, eps=1e-8, decoupled=False):
    if decoupled:
        param = param * (1 - lr * decay)
    else:
        grad = grad + decay * param
    m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return param - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


def lion(param, grad, m, *, decay, lr, beta1=0.9, beta2=0.99):
    return param - lr * (np.sign(beta1 * m + (1 - beta1) * grad) + decay * param), beta2 * m + (1 - beta2) * grad


STEPS = {
    "sgd": (ops.sgd_step, sgd, 0, {}),
    "momentum": (ops.sgd_step, momentum, 1, {"momentum": 0.9}),
    "nesterov": (ops.sgd_step, momentum, 1, {"momentum": 0.8, "nesterov": True}),
    "adagrad": (ops.adagrad_step, adagrad, 1, {}),
    "rmsprop": (ops.rmsprop_step, rmsprop, 1, {"alpha": 0.9, "eps": 1e-3}),
    "adam": (ops.adam_step, adam, 2, {"step": 3}),
    "adam, first step": (ops.adam_step, adam, 2, {"step": 1, "beta1": 0.5, "beta2": 0.75, "eps": 1e-4}),
    "adamw": (ops.adam_step, adam, 2, {"step": 7, "decoupled": True}),
    "lion": (ops.lion_step, lion, 1, {"beta1": 0.5, "beta2": 0.75}),
}
every_step = pytest.mark.parametrize("name", STEPS)


def problem(states, dtype="float64", shapes=SHAPES):
    """params, grads and the state lists. State is positive, since most of it is averaged squares."""
    params, grads = ([signed(shape, seed * 100 + i, dtype=dtype) for i, shape in enumerate(shapes)] for seed in (1, 2))
    seeds = range(3, 3 + states)
    state = [[positive(shape, dtype, seed * 100 + i) for i, shape in enumerate(shapes)] for seed in seeds]
    return params, grads, state


def test_sgd_gives_the_values_computed_by_hand():
    param, v = np.array([1.0, -2.0]), np.array([10.0, 20.0])
    ops.sgd_step([param], [np.array([0.5, 1.0])], lr=0.1, weight_decay=0.5)
    np.testing.assert_allclose(param, [1 - 0.1 * 1.0, -2 - 0.1 * 0.0])
    param[:] = 1, -2
    ops.sgd_step([param], [np.array([0.5, 1.0])], [v], lr=0.1, momentum=0.5)
    np.testing.assert_allclose(v, [5.5, 11])
    np.testing.assert_allclose(param, [1 - 0.55, -2 - 1.1])
    ops.sgd_step([param], [np.array([1.0, 0.0])], [v], lr=0.1, momentum=0.5, nesterov=True)
    np.testing.assert_allclose(v, [3.75, 5.5])
    np.testing.assert_allclose(param, [0.45 - 0.1 * (1 + 1.875), -3.1 - 0.1 * 2.75])


def test_lion_gives_the_values_computed_by_hand():
    param, m = np.array([1.0, -2.0, 3.0, 4.0]), np.array([-1.0, 1.0, 1.0, 0.0])
    with np.errstate(invalid="ignore"):
        ops.lion_step(
            [param], [np.array([2.0, 2.0, -1.0, np.nan])], [m], lr=0.5, beta1=0.5, beta2=0.75, weight_decay=0.5
        )
    np.testing.assert_array_equal(param, [0.25, -2.0, 2.25, np.nan])  # 0.75 * param - 0.5 * (1, 1, 0, nan)
    np.testing.assert_array_equal(m, [-0.25, 1.25, 0.5, np.nan])


def test_adagrad_and_rmsprop_give_the_values_computed_by_hand():
    param, s = np.array([1.0]), np.array([16.0])
    ops.adagrad_step([param], [np.array([3.0])], [s], lr=0.5, eps=1.0)
    assert (s[0], param[0]) == (25, 1 - 0.5 * 3 / 6)
    param, s = np.array([1.0]), np.array([4.0])
    ops.rmsprop_step([param], [np.array([2.0])], [s], lr=0.5, alpha=0.75, eps=1.0)
    assert (s[0], param[0]) == (4, 1 - 0.5 * 2 / 3)


def test_the_first_adam_step_has_length_lr():
    """The bias corrections cancel the zero initial state: m_hat = g and v_hat = g**2."""
    for scale in (1e-6, 1.0, 1e6):
        param, m, v = np.array([5.0, 5.0]), np.zeros(2), np.zeros(2)
        ops.adam_step([param], [np.array([3.0, -2.0]) * scale], [m], [v], lr=0.25, step=1, eps=0.0)
        np.testing.assert_allclose(param, [4.75, 5.25])


def test_adamw_decays_without_the_gradient():
    param = np.array([8.0])
    zeros = [[np.zeros(1)] for _ in range(3)]
    ops.adam_step([param], *zeros, lr=0.5, step=1, weight_decay=0.25, decoupled=True)
    assert param[0] == 8 * (1 - 0.125)


@every_step
@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1, [0.5, 0.0, 0.25, 0.0, 1.0]])
def test_a_step_follows_its_formula(name, dtype, weight_decay):
    """The expected results are computed in float64 from the same inputs, which the dtype has rounded."""
    op, formula, count, options = STEPS[name]
    params, grads, states = problem(count, dtype)
    before = [tuple(np.array(array, np.float64) for array in entry) for entry in zip(params, grads, *states)]
    unchanged_grads = [grad.copy() for grad in grads]
    assert op(params, grads, *states, lr=0.125, weight_decay=weight_decay, **options) is None
    decays = weight_decay if isinstance(weight_decay, list) else [weight_decay] * len(params)
    unit = UNIT_ROUNDOFF["float64" if dtype == "float64" else "float32"]
    for i, (entry, decay) in enumerate(zip(before, decays)):
        expected = formula(*entry, decay=decay, lr=0.125, **options)
        for result, value in zip((params[i], *(state[i] for state in states)), expected):
            magnitude = abs(value) + sum(abs(array) for array in entry)
            # Dividing by sqrt(1 - beta2**step) in float32 costs more roundings than adding: 32 cover them all.
            assert_within(result, value, UNIT_ROUNDOFF[dtype] * abs(value) + 32 * unit * magnitude + SMALLEST[dtype])
        np.testing.assert_array_equal(grads[i], unchanged_grads[i])


@every_step
def test_lr_and_step_may_be_arrays(name):
    op, _, count, options = STEPS[name]
    results = []
    for wrap in (lambda value: value, lambda value: np.array([value]), lambda value: np.array(value)):
        params, grads, states = problem(count)
        wrapped = options | ({"step": wrap(options["step"])} if "step" in options else {})
        op(params, grads, *states, lr=wrap(0.5), **wrapped)
        results.append(params)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


@every_step
def test_strided_parameters_of_many_blocks_change_like_contiguous_ones(name):
    """Views are updated in place. The fast NumPy code works block by block, on contiguous arrays and on views; these
    arrays span several blocks."""
    op, _, count, options = STEPS[name]
    params, grads, states = problem(count, "float16", [(501, 70)])
    views, *state_views = ([np.zeros((70, 1002), np.float16).T[::2]] for _ in range(1 + count))
    for lists, view_lists in zip((params, *states), (views, *state_views)):
        view_lists[0][...] = lists[0]
    op(params, grads, *states, lr=0.5, **options)
    op(views, grads, *state_views, lr=0.5, **options)
    np.testing.assert_array_equal(views[0], params[0])
    for state, state_view in zip(states, state_views):
        np.testing.assert_array_equal(state_view[0], state[0])


@pytest.mark.parametrize(("dtype", "small"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_half_precision_rounds_once(dtype, small):
    """The new parameter is param - (grad + param) = -grad = 1. If the sum in parentheses, -1 - small, were rounded to
    this dtype, the new parameter would be 1 - small."""
    param, grad = (np.array([value]).astype(as_dtype(dtype)) for value in (-small, -1.0))
    ops.sgd_step([param], [grad], lr=1.0, weight_decay=1.0)
    assert float(param[0]) == 1


@every_step
def test_a_step_without_parameters_is_allowed(name):
    op, _, count, options = STEPS[name]
    op([], [], *[[] for _ in range(count)], lr=0.5, **options)


@every_step
def test_a_refused_step_changes_nothing(name):
    op, _, count, options = STEPS[name]
    params, grads, states = problem(count)
    before = [array.copy() for arrays in (params, *states) for array in arrays]
    grads[3] = grads[3][:1]
    with pytest.raises(ValueError, match=r"grads\[3\] must have shape \(2, 3, 1, 4\)"):
        op(params, grads, *states, lr=0.5, **options)
    for array, value in zip((array for arrays in (params, *states) for array in arrays), before, strict=True):
        np.testing.assert_array_equal(array, value)


# --- masters and the loss scale ----------------------------------------------------------------


@every_step
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_masters_step_in_float32_and_parameters_are_rounded_masters(name, dtype):
    op, _, count, options = STEPS[name]
    params, grads, _ = problem(0, dtype)
    masters, _, states = problem(count, "float32")
    in_float32 = [[array.copy() for array in arrays] for arrays in (masters, *states)]
    grads_in_float32 = [np.asarray(grad.astype(np.float32)) for grad in grads]
    op(in_float32[0], grads_in_float32, *in_float32[1:], lr=0.125, weight_decay=0.1, **options)
    op(params, grads, *states, masters=masters, lr=0.125, weight_decay=0.1, **options)
    for results, expected in zip((masters, *states), in_float32):
        for a, b in zip(results, expected):
            np.testing.assert_array_equal(a, b)
    for param, master in zip(params, masters):
        np.testing.assert_array_equal(param, master.astype(param.dtype))


def test_small_steps_vanish_without_masters_and_add_up_with_them():
    """The spacing of bfloat16 below 1 is 2**-8: steps of 2**-13 vanish there; in float32 they add up."""
    dtype = as_dtype("bfloat16")
    grad, without_master, param, master = (np.full(3, value, dtype) for value in (2.0**-3, 1, 1, 1))
    master = master.astype(np.float32)
    for _ in range(20):
        ops.sgd_step([without_master], [grad], lr=2.0**-10)
        ops.sgd_step([param], [grad], masters=[master], lr=2.0**-10)
    np.testing.assert_array_equal(without_master, np.ones(3, dtype))
    np.testing.assert_array_equal(master, np.full(3, 1 - 20 * 2.0**-13, np.float32))
    np.testing.assert_array_equal(param, np.full(3, 1 - 2.0**-8, dtype))  # nearer to the master than 1 is


@every_step
def test_scaled_gradients_step_like_unscaled_ones(name):
    op, _, count, options = STEPS[name]
    (params, grads, state), (scaled_params, _, scaled_state) = problem(count, "float32"), problem(count, "float32")
    scaling = np.array([4096.0, 0, 0, 0])
    scaled_grads = [np.asarray(grad * np.float32(4096)) for grad in grads]
    ops.update_loss_scale(scaling, scaled_grads)
    op(params, grads, *state, lr=0.5, **options)
    op(scaled_params, scaled_grads, *scaled_state, scaling=scaling, lr=0.5, **options)
    for ours, expected in zip((scaled_params, *scaled_state), (params, *state)):
        for a, b in zip(ours, expected):
            np.testing.assert_array_equal(a, b)


@every_step
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_one_nonfinite_gradient_skips_the_whole_step(name, number):
    op, _, count, options = STEPS[name]
    params, grads, states = problem(count, "float32")
    copies = [[array.copy() for array in arrays] for arrays in (params, *states)]
    grads[3][1, 2, 0, 3] = number
    scaling = np.array([4096.0, 0, 9, 2])
    ops.update_loss_scale(scaling, grads)
    np.testing.assert_array_equal(scaling, [2048, 0, 0, 3])
    op(params, grads, *states, scaling=scaling, lr=0.5, weight_decay=0.1, **options)
    for after, before in zip((params, *states), copies):
        for a, b in zip(after, before):
            np.testing.assert_array_equal(a, b)


def test_adam_does_not_count_skipped_steps():
    results = []
    for step, skipped in ((5, 0), (9, 4)):
        params, grads, states = problem(2, "float32")
        ops.adam_step(params, grads, *states, lr=0.5, step=step, scaling=np.array([1.0, 1.0, 0.0, skipped]))
        results.append(params)
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(masters=[np.zeros(3, np.float16)]), r"masters\[0\] must be float32 for float16 params, received float16"),
        (dict(masters=[]), r"masters must have as many arrays as params \(1\)"),
        (dict(masters=[np.zeros(4, np.float32)]), r"masters\[0\] must have shape \(3,\)"),
        (dict(velocities=[np.zeros(3, np.float16)]), r"velocities\[0\] must be float32 as masters\[0\] is"),
        (dict(scaling=np.zeros(4, np.float32)), r"scaling must be float64 of shape \(4,\), received float32"),
    ],
)
def test_mismatched_masters_and_loss_scales_are_refused(change, message):
    lists = dict(masters=[np.ones(3, np.float32)], velocities=[np.ones(3, np.float32)]) | change
    params = [np.ones(3, np.float16)]
    with pytest.raises((TypeError, ValueError), match=message):
        ops.sgd_step(params, [np.ones(3, np.float16)], **lists, momentum=0.9, lr=0.1)
    np.testing.assert_array_equal(params[0], np.ones(3))
