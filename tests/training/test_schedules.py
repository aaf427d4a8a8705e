"""The factors of schedules: at their boundaries, against PyTorch's where it is installed, and in their text form."""

import math

import numpy as np
import pytest

from gpuconv.training import schedules
from gpuconv.training.schedules import Cosine, Exponential, Linear, MultiStep, OneCycle, Polynomial, Step, Warmup
from tests import toy_run


def test_constant_is_one_everywhere():
    assert [schedules.get(None)(step, 7) for step in range(7)] == [1.0] * 7


def test_step_drops_at_every_multiple():
    schedule = Step(3, gamma=0.5)
    assert [schedule(step, 10) for step in (0, 2, 3, 5, 6, 9)] == [1, 1, 0.5, 0.5, 0.25, 0.125]


def test_a_step_of_almost_zero_length_drops_at_once():
    assert [schedules.get("step:1e-320")(step, 10) for step in (0, 1, 5)] == [1.0, 0.0, 0.0]


def test_a_step_of_a_fractional_number_of_epochs_drops_at_its_end():
    assert schedules.Step(1.1)(869, 9999, 79) == pytest.approx(1e-10)  # 10 * 1.1 epochs of 79 steps


def test_lengths_count_epochs_when_an_epoch_has_several_steps():
    assert [Step(2, gamma=0.1)(step, 100, 5) for step in (9, 10, 19, 20)] == pytest.approx([1, 0.1, 0.1, 0.01])
    multi = MultiStep((1.5, 3), gamma=0.1)
    assert [multi(step, 100, 4) for step in (5, 6, 11, 12)] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert [Warmup(2)(step, 100, 3) for step in (0, 2, 5, 6)] == pytest.approx([1 / 6, 3 / 6, 1, 1])


def test_exponential_drops_after_each_epoch():
    assert [schedules.get("exponential:0.5")(step, 9, 3) for step in (0, 2, 3, 5, 6, 8)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_polynomial_falls_from_one_to_its_final_factor_over_the_run():
    schedule = schedules.get("polynomial:power=2,final=0.2")
    assert [schedule(step, 4) for step in range(6)] == pytest.approx([1, 0.65, 0.4, 0.25, 0.2, 0.2])
    assert [schedules.get("polynomial,power=1")(step, 7) for step in range(9)] == pytest.approx(
        [schedules.get("linear")(step, 7) for step in range(9)]
    )


def test_a_factor_beyond_the_range_of_float64_is_infinite():
    for text in ("exponential:1e300", "step:1,gamma=1e300", "multi-step:1,2,gamma=1e300"):
        assert schedules.get(text)(2, 3) == math.inf, text


def test_cosine_runs_from_one_to_its_final_factor():
    schedule = Cosine(final=0.2)
    assert schedule(0, 8) == 1
    assert schedule(4, 8) == pytest.approx(0.6)
    assert schedule(8, 8) == pytest.approx(0.2)
    assert all(schedule(step, 8) > schedule(step + 1, 8) for step in range(8))


def test_one_cycle_peaks_at_the_given_fraction_and_ends_at_its_final_factor():
    schedule = OneCycle(peak=0.25, start=0.1, final=0.01)
    assert schedule(0, 40) == pytest.approx(0.1)
    assert schedule(9, 40) == pytest.approx(1)
    assert schedule(39, 40) == pytest.approx(0.01)
    assert max(range(40), key=lambda step: schedule(step, 40)) == 9


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("options", ["", ":peak=0", ":peak=0.1", ":start=0", ":final=0"])
def test_one_cycle_of_few_steps_starts_at_the_full_rate(options, total):
    schedule = schedules.get(f"one-cycle{options}")
    factors = [schedule(step, total) for step in range(total)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)


def test_schedules_of_one_to_three_steps_have_the_factors_computed_by_hand():
    expected = {
        "constant": ([1], [1, 1], [1, 1, 1]),
        "step:1,gamma=0.5": ([1], [1, 0.5], [1, 0.5, 0.25]),
        "step:1,2,gamma=0.5": ([1], [1, 0.5], [1, 0.5, 0.25]),
        "linear": ([1], [1, 1 / 2], [1, 2 / 3, 1 / 3]),
        "linear:2": ([1], [1, 1 / 2], [1, 1 / 2, 0]),
        "exponential:0.5": ([1], [1, 0.5], [1, 0.5, 0.25]),
        "polynomial,power=2": ([1], [1, 1 / 4], [1, 4 / 9, 1 / 9]),
        "cosine": ([1], [1, 1 / 2], [1, 3 / 4, 1 / 4]),
        "one-cycle:final=0": ([1], [1, 0], [1, 1 / 2, 0]),
        "one-cycle:peak=1,start=0": ([1], [0, 1], [0, 1 / 2, 1]),
        "warmup:2": ([1 / 2], [1 / 2, 1], [1 / 2, 1, 1]),
        "one-cycle:final=0,warmup:1": ([1], [1, 0], [1, 1 / 2, 0]),
    }
    for text, runs in expected.items():
        for total, factors in enumerate(runs, 1):
            assert [schedules.get(text)(step, total) for step in range(total)] == pytest.approx(factors), (text, total)


def test_warm_up_multiplies_any_schedule_without_shifting_it():
    schedule = Warmup(4, MultiStep((6, 8), gamma=0.1))
    assert [schedule(step, 10) for step in range(10)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("name", ["constant", "step:1", "cosine", "one-cycle", "one-cycle,warmup:2", "warmup:0"])
def test_very_short_runs_have_finite_factors(name, total):
    factors = [schedules.get(name)(step, total) for step in range(total)]
    assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)


@pytest.mark.parametrize(
    "text",
    [
        "constant",
        "step:30",
        "step:30,gamma=0.2",
        "step:30,60",
        "multi-step:30",
        "exponential:0.95",
        "exponential:0.95,warmup:2",
        "polynomial",
        "polynomial,power=2",
        "polynomial:power=0.9,final=0.01",
        "cosine",
        "cosine:final=0.01",
        "one-cycle:peak=0.4",
        "cosine,warmup:5",
        "step:30,60.5,gamma=0.3,warmup:2",
        "warmup:1",
    ],
)
def test_the_text_form_is_read_back(text):
    schedule = schedules.get(text)
    assert schedules.get(str(schedule)) == schedule


def test_numpys_numbers_and_numbers_of_many_digits_are_read_back_with_all_bits():
    part, digits = np.float32(0.1), 0.1 + 0.2
    for schedule in (
        Step(digits, gamma=part),
        Step(part),
        MultiStep((part, digits), gamma=part),
        Exponential(part),
        Exponential(digits),
        Polynomial(power=part, final=part),
        Linear(part),
        Cosine(final=part),
        OneCycle(peak=part, start=part, final=part),
        Warmup(part),
        Warmup(digits, "cosine"),
    ):
        again = schedules.get(str(schedule))
        assert again == schedule
        assert [again(step, 9) for step in range(9)] == [schedule(step, 9) for step in range(9)]


def test_several_numbers_after_step_are_milestones():
    assert schedules.get("step:30,60,gamma=0.2,warmup:5") == Warmup(5, MultiStep((30, 60), gamma=0.2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin", "did you mean 'cosine'"),
        ("cosine,one-cycle", "two schedules"),
        ("30", "before any name"),
        ("step", "milestones"),
        ("step:0", "above 0"),
        ("step:a", "neither a number nor key=value"),
        ("step:60,30", "rising"),
        ("exponential", "missing 1 required positional argument: 'gamma'"),
        ("exponential:-1", "gamma must lie in"),
        ("exponential:0.9,0.8", "exponential cannot be built"),
        ("polynomial:power=-1", "power must lie in"),
        ("polynomial:final=2", "final must lie in"),
        ("cosine:zero=1", r"unknown setting of cosine 'zero' \(known: .*final"),
        ("cosine:final=2", "must lie in"),
        ("cosine,,warmup:1", "empty part"),
        ("", "empty part"),
    ],
)
def test_invalid_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        schedules.get(text)


def test_a_number_as_a_schedule_is_refused():
    with pytest.raises(TypeError, match="received 3"):
        schedules.get(3)


def test_a_c_function_without_a_signature_as_a_schedule_is_refused():
    with pytest.raises(TypeError, match=r"takes \(step\), \(step, total\) or \(step, total, epoch\); received max"):
        schedules.get(max)


@pytest.mark.parametrize("total", [10, 37])
def test_schedules_agree_with_pytorch(total):
    torch = pytest.importorskip("torch")
    lr_scheduler = torch.optim.lr_scheduler

    def theirs(make):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = make(optimizer)
        factors = []
        for _ in range(total):
            factors.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return factors

    pairs = {
        "step:4,gamma=0.3": lambda o: lr_scheduler.StepLR(o, 4, gamma=0.3),
        "step:3,7,gamma=0.3": lambda o: lr_scheduler.MultiStepLR(o, [3, 7], gamma=0.3),
        "cosine:final=0.1": lambda o: lr_scheduler.CosineAnnealingLR(o, total, eta_min=0.1),
        "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=total),
        "exponential:0.9": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
        "polynomial:power=2": lambda o: lr_scheduler.PolynomialLR(o, total, power=2.0),
        "polynomial:power=0.5": lambda o: lr_scheduler.PolynomialLR(o, total, power=0.5),
    }
    for text, make in pairs.items():
        ours = [schedules.get(text)(step, total) for step in range(total)]
        assert ours == pytest.approx(theirs(make), rel=1e-12, abs=1e-15), text


def test_parts_of_a_schedule_have_the_right_type():
    with pytest.raises(TypeError, match="milestones are one or more rising numbers of epochs, received 3"):
        MultiStep(3)
    with pytest.raises(TypeError, match="or a function of the step; received 3"):
        Warmup(5, 3)


def test_a_warm_up_takes_a_users_function_or_the_text_of_a_schedule():
    def halved(step, total):
        return 0.5

    assert [Warmup(4, halved)(step, 10) for step in (0, 1, 3, 9)] == [0.125, 0.25, 0.5, 0.5]
    assert str(Warmup(4, halved)) == "halved,warmup:4"
    assert Warmup(4, "cosine") == schedules.get("cosine,warmup:4")


def test_milestones_must_be_numbers_of_at_least_zero():
    assert MultiStep([3, 6]).milestones == (3, 6)
    for wrong in ((-1,), (3, "x"), (3, float("nan"))):
        with pytest.raises((ValueError, TypeError), match="a milestone must"):
            MultiStep(wrong)


def test_the_linear_schedule_falls_to_zero_over_its_length():
    assert [schedules.get("linear")(step, 4) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert [schedules.get("linear:2")(step, 100, 2) for step in (0, 2, 4, 9)] == [1, 0.5, 0, 0]
    assert str(schedules.get("linear:2")) == "linear:2"
    assert str(schedules.get("linear")) == "linear"


def test_two_spellings_of_a_schedule_are_equal():
    assert schedules.get("step:3") == Step(3)
    assert schedules.get("multi-step:3") == MultiStep((3,)) != Step(3)
    assert schedules.get("linear:2,warmup:1") == Warmup(1, Linear(2))
    assert schedules.get(None) == schedules.get("constant") == schedules.Constant()


@pytest.mark.parametrize(("factor", "error"), [(-1.0, ValueError), (math.nan, ValueError), ("half", TypeError)])
def test_the_factor_of_a_users_schedule_is_checked(factor, error):
    class Own(schedules.Schedule):
        def __call__(self, step, total, epoch=1):
            return factor

        def __str__(self):
            return "own"

    trainer = toy_run.trainer(schedule=Own())
    with pytest.raises(error, match="the factor of schedule own must"):
        toy_run.fit(trainer)
    assert trainer.steps == 0


def test_a_users_schedule_may_return_numpys_numbers():
    for factor, value in ((np.array(0.5), 0.5), (np.float32(0.25), 0.25), (np.float64("inf"), math.inf)):
        assert schedules.checked_factor(schedules.Constant(), factor) == value


def test_the_length_of_a_warm_up_may_be_named():
    assert schedules.get("cosine,warmup:length=5") == schedules.get("cosine,warmup:5")
    assert schedules.get("warmup:length=5") == Warmup(5)
    with pytest.raises(ValueError, match="write the warm-up last, as in 'cosine,warmup:5'"):
        schedules.get("warmup:5,cosine")
    with pytest.raises(ValueError, match="warmup cannot be built"):
        schedules.get("cosine,warmup:5,then=linear")
