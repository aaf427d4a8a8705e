"""The range test: rates that rise exponentially, the losses of a copy of the net, and where these fall fastest."""

import signal

import numpy as np
import pytest

from gpuconv import plots
from gpuconv.training import SGD, Adam, DivergedError, RangeTest, Trainer, lr_find
from tests import toy_run


def result_of(losses):
    """A result without smoothing at the rates 1, 10, 100 and so on."""
    return RangeTest(10.0 ** np.arange(len(losses)), np.array(losses), np.array(losses), diverged=False)


def test_rates_rise_exponentially_and_losses_are_those_of_a_trainer_at_these_rates():
    result = lr_find(toy_run.net(), toy_run.loader(), start=1e-3, end=1e-1, steps=9, momentum=0.9)
    assert result.rates == pytest.approx(np.geomspace(1e-3, 1e-1, 9))
    trainer = Trainer(toy_run.net(), SGD(lr=1.0, momentum=0.9), schedule=lambda step: float(result.rates[min(step, 8)]))
    trainer.fit(toy_run.loader(), epochs=2, metrics_every=1, progress=False)
    expected = [record["loss"] for record in trainer.records if record["event"] == "step"][:9]
    assert result.losses.tolist() == expected
    assert not result.diverged


def test_the_net_and_the_optimizer_are_left_as_they_are():
    net, optimizer = toy_run.net(), Adam(lr=0.5)
    trained = Trainer(net, optimizer)
    trained.fit(toy_run.loader(), epochs=1, progress=False)
    before = {name: value.copy() for name, value in (net.state_dict() | optimizer.state_dict()).items()}
    grads = {name: value.copy() for name, value in net.grads().items()}
    precision, config = net.precision, optimizer.config()
    lr_find(net, toy_run.loader(dtype="bfloat16"), optimizer, steps=7, precision="bfloat16")
    assert toy_run.same_arrays(net.state_dict() | optimizer.state_dict(), before)
    assert toy_run.same_arrays(net.grads(), grads)
    assert (net.precision, optimizer.config(), optimizer.steps) == (precision, config, 5)
    again, fresh = (lr_find(net, toy_run.loader(), each, steps=9) for each in (optimizer, Adam()))
    assert again.losses.tolist() == fresh.losses.tolist()


def test_the_smoothed_loss_is_a_mean_over_neighboring_steps():
    result = lr_find(toy_run.net(), toy_run.loader(), start=1e-6, end=1e-5, steps=40)
    for at, value in enumerate(result.smoothed):
        assert value == pytest.approx(result.losses[max(0, at - 2) : at + 3].mean())
    few_steps = lr_find(toy_run.net(), toy_run.loader(), start=1e-6, end=1e-5, steps=19)
    assert few_steps.smoothed == pytest.approx(few_steps.losses)


def test_lr_find_stops_when_the_loss_diverges():
    result = lr_find(toy_run.net(), toy_run.loader(), start=1e-3, end=1e20, steps=60)
    assert result.diverged
    assert len(result.rates) == len(result.losses) == len(result.smoothed) < 60
    assert np.isfinite(result.losses).all()
    assert f"stopped after step {len(result.losses)}: the loss diverged" in str(result)


def test_a_loss_near_zero_may_rise_to_the_first_loss():
    values = iter([4.0, 2.0, 0.0, 1.0, 3.9, 0.0, 4.1, 1.0])

    def next_loss(scores, labels):
        return np.float32(next(values)), np.zeros_like(scores)

    result = lr_find(toy_run.net(), toy_run.loader(), loss=next_loss, steps=8)
    assert result.losses == pytest.approx([4.0, 2.0, 0.0, 1.0, 3.9, 0.0, 4.1])
    assert result.diverged


def test_the_rates_may_span_the_range_of_floats():
    result = lr_find(toy_run.net(), toy_run.loader(), start=1e-300, end=1e300, steps=5)
    assert result.rates[:3] == pytest.approx([1e-300, 1e-150, 1])


def test_a_loss_that_is_not_finite_at_the_first_step_is_an_error():
    def infinite(scores, labels):
        return np.float32(np.inf), np.zeros_like(scores)

    with pytest.raises(DivergedError, match="the loss is not finite at step 1"):
        lr_find(toy_run.net(), toy_run.loader(), loss=infinite)


def test_the_suggestion_is_where_the_loss_falls_fastest_to_a_new_lowest_value():
    assert result_of([5, 4.9, 3, 1, 0.9, 50, 2]).suggestion == 100
    assert result_of([5.0, 4.0, 3.9]).suggestion == 1
    # The fall from 9 to 3.9 is the steepest, but reaches no new lowest value.
    assert result_of([5.0, 4.9, 4.0, 3.9, 9.0, 3.9, 3.8]).suggestion == 10
    assert result_of([1.0, 2.0, 30.0]).suggestion is None
    assert result_of([1.0]).suggestion is None
    assert "no suggestion: the loss does not fall" in str(result_of([1.0, 2.0]))


def test_the_table_names_some_steps_and_the_suggestion():
    result = result_of([10.0 - 0.1 * step - (step > 41) for step in range(60)])
    lines = str(result).splitlines()
    assert lines[0].split() == ["step", "rate", "loss", "smoothed"]
    assert lines[1].split() == ["1", "1.00e+00", "10", "10"]
    assert next(line for line in lines if "falls fastest" in line).split()[0] in ("42", "43")
    assert len(lines) <= 16
    assert lines[-1] == f"suggested learning rate {result.suggestion:.2g}"
    assert result.records()[1] == {"step": 2, "lr": 10.0, "loss": 9.9, "smoothed": 9.9}


def test_group_rates_multiply_the_rates_of_the_range_test_and_group_schedules_are_ignored():
    by_factor = lr_find(toy_run.net(), toy_run.loader(), "* -> sgd:lr=2,momentum=0.9", start=1e-3, end=1e-2, steps=6)
    scheduled = lr_find(
        toy_run.net(), toy_run.loader(), "* -> sgd:lr=2,momentum=0.9 @ linear:1", start=1e-3, end=1e-2, steps=6
    )
    plain = lr_find(toy_run.net(), toy_run.loader(), "sgd:momentum=0.9", start=2e-3, end=2e-2, steps=6)
    assert by_factor.losses.tolist() == scheduled.losses.tolist()
    assert by_factor.losses == pytest.approx(plain.losses, rel=1e-5)


def test_a_user_defined_optimizer_is_copied():
    class Plain:
        def __init__(self):
            self.lr, self.rates = 7.0, []

        def step(self, params, grads):
            self.rates.append(self.lr)
            for name, param in params.items():
                param -= np.float32(self.lr) * grads[name]

    plain = Plain()
    result = lr_find(toy_run.net(), toy_run.loader(), plain, start=1e-3, end=1e-2, steps=6)
    assert (plain.lr, plain.rates) == (7.0, [])
    assert result.losses == pytest.approx(
        lr_find(toy_run.net(), toy_run.loader(), start=1e-3, end=1e-2, steps=6).losses
    )


def test_invalid_arguments_are_refused():
    for options, message in (
        ({"start": 0}, "the rate rises from `start`, above 0, to `end`, received 0 and 10"),
        ({"start": 2, "end": 1}, "received 2 and 1"),
        ({"start": 1, "end": 1}, "received 1 and 1"),
        ({"end": float("inf")}, "end must lie in"),
        ({"start": "1"}, "start must be a number"),
        ({"steps": 1}, "steps must be at least 2, received 1"),
        ({"steps": 2.5}, "steps must be an integer"),
        ({"lr": 0.1}, "leave lr out"),
        ({"optimizer": "sgd:lr=0.1"}, "leave lr out"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"optimizer": SGD}, "received the class SGD"),
        ({"loss": "sofmax"}, "did you mean 'softmax'"),
        ({"precision": "float8"}, "unknown precision"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            lr_find(toy_run.net(), toy_run.loader(), **options)
    with pytest.raises(TypeError, match="a net must be"):
        lr_find("tiny-vgg", toy_run.loader())
    with pytest.raises(ValueError, match=r"in an epoch of train is unknown; .* or batches with a length"):
        lr_find(toy_run.net(), toy_run.loader().epoch(0))


def test_an_interrupt_ends_lr_find():
    def loss(scores, labels):
        signal.raise_signal(signal.SIGINT)
        return scores.sum(), scores * 0

    with pytest.raises(KeyboardInterrupt):
        lr_find(toy_run.net(), toy_run.loader(), loss=loss)
    before = signal.signal(signal.SIGINT, lambda *_: None)  # a handler that returns
    try:
        with pytest.raises(KeyboardInterrupt):
            lr_find(toy_run.net(), toy_run.loader(), loss=loss)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.kernels
def test_the_emulated_device_gives_the_losses_of_numpy():
    options = {"start": 1e-4, "end": 1e-2, "steps": 8, "batch_size": 5}
    expected = lr_find(toy_run.net(), toy_run.images(), **options)
    emulated = lr_find(toy_run.net().to("emulated"), toy_run.images(), **options)
    assert emulated.losses == pytest.approx(expected.losses, rel=1e-4)


def test_the_picture_shows_both_losses_and_the_suggestion():
    pytest.importorskip("matplotlib")
    result = result_of([5, 4.9, 3, 1, 0.9, 50])
    axes = plots.rates(result.rates, result.losses, result.smoothed, result.suggestion).axes[0]
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "smoothed"]
    assert [text.get_text() for text in axes.texts] == ["falls fastest: 1e+02"]
    assert axes.get_ylim()[1] < 15  # the last loss, 50, is outside the picture
    assert not plots.rates(result.rates[:1], result.losses[:1], result.smoothed[:1]).axes[0].texts
    with pytest.raises(ValueError, match="at least one step"):
        plots.rates(result.rates[:0], result.losses[:0], result.smoothed[:0])
