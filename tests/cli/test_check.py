"""gpuconv check: what it passes to the checks, and what it prints."""

from __future__ import annotations

import math
import re

import numpy as np

from gpuconv import checks, losses, models, ops, to_numpy
from gpuconv.cli import main
from gpuconv.cli.check import report
from gpuconv.data import Loader, Normalization, load


def test_check_passes_its_options_on_and_prints_the_outcomes(monkeypatch, capsys):
    received = {}

    def sanity(net, x, labels, *, loss, optimizer):
        received.update(net=net, x=to_numpy(x), labels=to_numpy(labels), loss=loss, optimizer=optimizer)
        return [
            checks.SanityCheck("one", first_passes, 2.34567, "about 2", "of many"),
            checks.SanityCheck("other", True, 12345.678, "any"),
        ]

    def gradient_check(net, **options):
        received.update(checked=net, options=options)
        return [
            checks.GradientCheck("a", 3, 1e-9, True),
            checks.GradientCheck("b", 4, 2.5e-7, gradients_agree, 3.1e-7, 6e-8),
            checks.GradientCheck("c", 5, 1e-8, True),
        ]

    monkeypatch.setattr(checks, "sanity", sanity)
    monkeypatch.setattr(checks, "gradient_check", gradient_check)
    data = "synthetic:n=80,size=8x8x3"
    chosen = ["--data", data, "--model", "seed-net", "--seed", "3", "--lr", "0.5", "--loss", "svm:delta=2"]
    for first_passes, gradients_agree in ((True, True), (False, True), (True, False)):
        status = main(["check", *chosen, "--optimizer", "adam:beta1=0.5", "--device", "numpy"])
        passed = first_passes and gradients_agree
        assert status == (0 if passed else 1)
        assert capsys.readouterr().out.splitlines() == [
            "data       synthetic: 64 training images",
            "device     numpy (as you asked)",
            "model      seed-net, loss svm:delta=2, seed 3",
            "",
            f"{'PASS' if first_passes else 'FAIL'}  one: 2.346, expected about 2",
            "      of many",
            "PASS  other: 1.235e+04, expected any",
            f"{'PASS' if gradients_agree else 'FAIL'}  gradients: worst relative error 2.5e-07 beyond rounding "
            "(raw 3.1e-07, rounding noise 6.0e-08)",
            "      12 compared; the worst is in b",
            "",
            "all checks pass" if passed else "checks failed",
        ]

    train, _ = load(data)
    loader = Loader(train, 64, normalization=Normalization.from_dataset(train), seed=3)
    x, labels = next(loader.epoch(0))
    np.testing.assert_array_equal(received["x"], x)
    np.testing.assert_array_equal(received["labels"], labels)
    for name, value in models.build("seed-net", (8, 8, 3), 10, seed=3).params().items():
        np.testing.assert_array_equal(received["net"].params()[name], value)
    assert received["checked"] is received["net"]
    assert received["options"] == {"samples": 4}
    assert received["loss"] == losses.SVMHinge(delta=2)
    optimizer = received["optimizer"]
    assert (type(optimizer).__name__, optimizer.beta1) == ("Adam", 0.5)
    assert 0 < optimizer.lr < 0.5  # the one-cycle schedule starts at a fraction of the rate
    # The data has fewer images than one batch.
    assert main(["check", "--data", "synthetic:n=9,size=8x8x3", "--model", "seed-net"]) in (0, 1)
    assert "synthetic: 9 training images" in capsys.readouterr().out


def test_nan_and_failed_gradients_are_the_worst(monkeypatch, capsys):
    good, bad = checks.GradientCheck("good", 3, 1e-9, True), checks.GradientCheck("bad", 4, 0.5, False)
    nan = checks.GradientCheck("nan", 4, math.nan, False, math.nan)
    monkeypatch.setattr(checks, "sanity", lambda *arguments, **options: [])
    for gradients, worst in (([good, nan], nan), ([bad, nan, good], nan), ([good, bad], bad)):
        monkeypatch.setattr(checks, "gradient_check", lambda *arguments, found=gradients, **options: found)
        assert main(["check", "--data", "synthetic:n=9,size=8x8x3", "--model", "seed-net"]) == 1
        assert f"the worst is in {worst.name}\n" in capsys.readouterr().out


def test_a_failed_check_is_a_line_with_its_reason_below(capsys):
    assert report(True, "first loss", "2.3, expected 2.3", "")
    assert not report(False, "first loss", "9, expected 2.3", "why")
    output = capsys.readouterr().out.splitlines()
    assert output == ["PASS  first loss: 2.3, expected 2.3", "FAIL  first loss: 9, expected 2.3", "      why"]


def test_check_passes_on_the_default_net(capsys):
    assert main(["check"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^model +digits-net, loss softmax:label_smoothing=0.1, seed 0\n\nPASS  ", output, re.M)
    assert len(re.findall(r"^PASS  ", output, re.M)) == 5
    assert "FAIL" not in output


def test_check_takes_the_loss_with_its_options(capsys):
    main(["check", "--model", "seed-net", "--loss", "svm:delta=5"])
    assert re.search(r"^PASS  first loss: (45|44\.9\d*|45\.0\d*), expected 45\.0000", capsys.readouterr().out, re.M)


def test_check_fails_on_an_unsuitable_learning_rate(capsys):
    assert main(["check", "--lr", "1000"]) == 1
    assert re.search(r"^FAIL  update-to-weight ratio: ", capsys.readouterr().out, re.M)


def test_a_rate_that_the_checks_refuse_is_an_error_of_one_line(capsys):
    assert main(["check", "--lr", "1e300", "--model", "seed-net", "--data", "synthetic:n=20,size=8x8x3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpuconv: error: lr must be a number that float32 can hold, received ")
    assert error.count("\n") == 1


def test_check_measures_the_first_step_of_the_schedule(monkeypatch):
    rates = []
    monkeypatch.setattr(checks, "sanity", lambda *_, optimizer, **__: rates.append(optimizer.lr) or [])
    data = ["--data", "synthetic:n=128,size=8x8x3", "--model", "seed-net"]
    assert main(["check", *data, "--lr", "0.5", "--schedule", "constant,warmup:5"]) == 0
    assert rates == [0.5 / 10]  # 2 steps of 64 images per epoch: 10 steps of warm-up


def test_check_passes_on_images_with_plain_backgrounds(capsys):
    """Equal pixels give ties in the max pool of the seed net, and at a tie the maximum has no derivative."""
    assert main(["check", "--model", "seed-net"]) == 0
    assert "PASS  gradients" in capsys.readouterr().out


def test_check_finds_a_wrong_gradient(monkeypatch, capsys):
    correct = ops.relu_backward
    monkeypatch.setattr(ops, "relu_backward", lambda dy, y, **options: correct(1.001 * dy, y, **options))
    assert main(["check", "--model", "seed-net"]) == 1
    assert "FAIL  gradients: worst relative error 1.0e-03 beyond rounding" in capsys.readouterr().out
