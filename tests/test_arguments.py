"""Checks of non-array arguments: their results and the messages of their errors."""

import numpy as np

from gpuconv import arguments, layers, ops
from gpuconv.data import Dataset, Loader, Normalization
from gpuconv.dtypes import as_dtype
from tests.refused import refused


def test_integers_are_taken_and_others_refused():
    assert arguments.integer("n", np.int8(3), 0) == 3
    assert type(arguments.integer("n", np.int8(3), 0)) is int
    for value in (True, np.True_, 2.0, "2", None, [2]):
        refused(TypeError, f"n must be an integer, received {value!r}", arguments.integer, "n", value, 0)
    refused(ValueError, "n must be at least 1, received 0", arguments.integer, "n", 0, 1)


def test_a_flag_given_as_text_is_refused():
    """The text "no" is true in Python, so text as a flag would be misread."""
    for value in (True, False, 1, 0, np.True_):
        assert arguments.flag("on", value) is bool(value)
    x = np.ones((1, 4, 4, 1), np.float32)
    net = layers.Sequential([layers.Input((4, 4, 1)), layers.Flatten(), layers.Linear(2)])
    data = Dataset(np.zeros((4, 4, 4, 1), np.uint8), np.zeros(4, int), ["a", "b"])
    sgd = dict(lr=0.1, momentum=0.5)
    for value in ("no", "false", 2, None, np.ones(1), 1.0):
        for name, call in {
            "on": arguments.flag,
            "bias": lambda _, v: layers.Conv2D(2, 3, bias=v),
            "count_include_pad": lambda _, v: layers.AvgPool2D(2, count_include_pad=v),
            "larger": lambda _, v: layers.Input((4, 4, 1), larger=v),
            "shuffle": lambda _, v: Loader(data, 2, normalization=Normalization([0], [1]), shuffle=v),
            "drop_last": lambda _, v: Loader(data, 2, normalization=Normalization([0], [1]), drop_last=v),
            "softmax": lambda _, v: net.predict(x, softmax=v),
            "nesterov": lambda _, v: ops.sgd_step([x.copy()], [x], velocities=[x.copy()], nesterov=v, **sgd),
            "accumulate": lambda _, v: ops.bias_grad(x, out=np.zeros(1, np.float32), accumulate=v),
        }.items():
            refused(TypeError, f"{name} must be True or False, received {value!r}", call, name, value)
        refused(TypeError, "count_include_pad must be True or False", ops.avg_pool2d, x, 2, count_include_pad=value)
    refused(TypeError, "normalize must be True or False, received 'no'", net.predict, x, normalize="no")
    for value in (None, 3, 0.5, [1], b"weight", np.ones(1)):
        refused(TypeError, "frozen must be True, False or names of variables", layers.Linear, 2, frozen=value)
    frozen = layers.Linear(2, frozen=["bias"])
    assert frozen.frozen == ("bias",)
    refused(TypeError, "frozen must be True, False or names", setattr, frozen, "frozen", 2)


def test_pairs_are_taken_and_others_refused():
    assert arguments.pair("stride", 2, 1) == (2, 2)
    assert arguments.pair("stride", [3, np.int64(4)], 1) == (3, 4)
    refused(
        ValueError,
        "stride must be an integer or (height, width), received (1, 2, 3)",
        arguments.pair,
        "stride",
        (1, 2, 3),
        1,
    )
    refused(ValueError, "stride must be at least 1, received 0", arguments.pair, "stride", 0, 1)
    refused(ValueError, "stride[1] must be at least 1, received 0", arguments.pair, "stride", (1, 0), 1)
    refused(TypeError, "stride[0] must be an integer, received True", arguments.pair, "stride", (True, 1), 1)
    refused(TypeError, "stride must be an integer, received 1.5", arguments.pair, "stride", 1.5, 1)


def test_numbers_are_taken_and_others_refused():
    assert arguments.number("p", np.float32(0.5), 0, 1) == 0.5
    assert arguments.number("p", 1, 0, 1) == 1.0
    assert type(arguments.number("p", 1, 0, 1)) is float
    assert arguments.number("p", as_dtype("bfloat16").type(0.5), 0, 1) == 0.5
    for value in (-0.1, 1.1, np.nan, np.inf):
        refused(ValueError, f"p must lie in [0, 1], received {value}", arguments.number, "p", value, 0, 1)
    refused(ValueError, "p must lie in [0, 1), received 1", arguments.number, "p", 1, 0, 1, open_high=True)
    for value in (0, 0.0, 2):
        refused(
            ValueError, f"p must lie in (0, 1], received {value}", arguments.number, "p", value, 0, 1, open_low=True
        )
    refused(ValueError, "lr must lie in [0, inf), received inf", arguments.number, "lr", np.inf, 0)
    refused(ValueError, "s must lie in (-inf, inf), received -inf", arguments.number, "s", -np.inf, -np.inf)
    for value in (True, np.True_, "1", None, [1], 1j, np.timedelta64(1, "s")):
        refused(TypeError, f"p must be a number, received {value!r}", arguments.number, "p", value, 0, 1)


def test_scalars_of_a_step_are_taken_and_others_refused():
    one = np.array([3.0])
    assert arguments.step_scalar("lr", one) is one
    assert arguments.step_scalar("lr", np.float32(0.5)) == 0.5
    refused(
        ValueError,
        "lr must be a number or hold one element, received shape (2,)",
        arguments.step_scalar,
        "lr",
        np.ones(2),
    )
    refused(TypeError, "lr must be a number, received True", arguments.step_scalar, "lr", True)


def test_integers_of_a_step_are_taken_and_others_refused():
    one = np.array([3])
    assert arguments.step_integer("offset", one) is one
    assert arguments.step_integer("offset", 2**60 + 1) == 2**60 + 1
    refused(ValueError, "step must be at least 1, received 0", arguments.step_integer, "step", 0, 1)
    refused(TypeError, "step must be an integer, received 1.5", arguments.step_integer, "step", 1.5, 1)


def test_numbers_of_any_type_are_compared_as_floats():
    for value in (2, 2.0, np.float16(2), np.float32(2), np.int8(2), np.uint64(2)):
        assert type(arguments.number("factor", value, 0, used_with=[np.ones(1, np.float32)])) is float
    assert arguments.number("factor", 1e300, 0, used_with=[np.ones(1)]) == 1e300
    huge = np.longdouble("1e4000")
    refused(ValueError, f"factor must lie in [0, inf), received {huge}", arguments.number, "factor", huge, 0)


def test_a_small_limit_is_not_written_as_a_power_of_two():
    refused(ValueError, "truth must be at most 7, received 8", arguments.class_number, "truth", 8, 7)


def test_seeds_are_taken_and_others_refused():
    assert arguments.seed_value("seed", 2**64 - 1) == 2**64 - 1
    refused(ValueError, "seed must be below 2**64, received 18446744073709551616", arguments.seed_value, "seed", 2**64)
    refused(ValueError, "seed must be at least 0, received -1", arguments.seed_value, "seed", -1)
    refused(TypeError, "seed must be an integer, received 1.0", arguments.seed_value, "seed", 1.0)
