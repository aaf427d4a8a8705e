"""gpuconv prove, on prepared verdicts: the table, and what cannot be proved."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from gpuconv.backends.cuda.gemm import tuner, verdicts
from gpuconv.backends.cuda.gemm.verdicts import Verdict
from gpuconv.backends.cuda.ops import conv
from gpuconv.cli import main, prove
from gpuconv.problems import Conv2dProblem, Epilogue

PRODUCT = conv.product_of(
    "fprop",
    Conv2dProblem.of((2, 8, 8, 16), (24, 3, 3, 16)),
    Epilogue.of("relu", 2, True),
    np.dtype(np.float32),
    False,
    4,
    4,
)
PROVED = Verdict(True, "3 runs with the same bits", 0.125, True, "2026-11-29")
REFUTED = Verdict(False, "y has other bits in run 2 than in the first", 1.5, True, "2026-11-29")


@pytest.fixture
def run_prove(monkeypatch, capsys):
    """Runs `gpuconv prove` with prepared verdicts of its algorithms.

    Returns the status and the lines below the heading."""

    def run(prepared, *arguments):
        monkeypatch.setattr(prove, "_products", lambda *settings: [PRODUCT])
        monkeypatch.setattr(verdicts, "prove", lambda product, plan, place: prepared[plan.algorithm.name])
        status = main(["prove", "--device", "emulated", *arguments])
        device, step, *lines = capsys.readouterr().out.splitlines()
        assert device == "device     emulated (as you asked)"
        assert step == "step       tiny-vgg, 128 images, float32: 1 products"
        return status, lines

    return run


def test_prove_prints_each_verdict_and_fails_if_one_is_not_proved(run_prove):
    head = "algorithm            product                                                    seconds  verdict"
    first = (
        "simt-64x64           fprop 2x8x8x16-24x3x3 float32 relu pool mask                  0.12  proved: 3 runs with"
    )
    status, lines = run_prove({"simt-64x64": PROVED}, "--algo", "simt-64x64")
    assert status == 0
    assert lines == ["", head, f"{first} the same bits", "", "all 1 proved on emulated"]
    prepared = {"simt-64x64": PROVED, "simt-32x32": REFUTED}
    status, lines = run_prove(prepared, "--algo", "simt-32x32", "--algo", "simt-64x64")
    assert status == 1
    (refuted,) = [line for line in lines if line.startswith("simt-32x32")]
    assert refuted.endswith("1.50  NOT PROVED: y has other bits in run 2 than in the first")
    assert lines[-1] == "1 of 2 not proved"


def test_prove_says_when_there_is_nothing_to_prove(run_prove):
    assert run_prove({}) == (0, ["all algorithms that serve these products are proved"])
    assert run_prove({}, "--algo", "mma-64x64") == (1, ["mma-64x64 serves none of these products"])
    status, lines = run_prove({"simt-64x64": PROVED}, "--algo", "simt-64x64", "--algo", "mma-64x64")
    assert (status, lines[0], lines[-1]) == (1, "mma-64x64 serves none of these products", "all 1 proved on emulated")


def test_prove_refuses_the_device_numpy(capsys):
    assert main(["prove", "--device", "numpy"]) == 2
    assert capsys.readouterr().err == (
        "gpuconv: error: numpy has no algorithms to prove; --device takes emulated, cuda or cuda:1\n"
    )


@pytest.mark.parametrize("name", ["auto", "depthwise"])
def test_prove_refuses_names_that_are_no_algorithm_of_products(name, capsys):
    assert main(["prove", "--device", "emulated", "--algo", name]) == 2
    assert f"--algo {name}: only algorithms of matrix products can be proved" in capsys.readouterr().err


def test_an_algorithm_that_does_not_compile_is_not_proved(run_prove, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("simt.cu(3): error\nmore")

    monkeypatch.setattr(verdicts, "_reference", fail)
    prove_really = verdicts.prove
    monkeypatch.setattr(prove, "_products", lambda *settings: [PRODUCT])
    prepared = type("", (), {"__getitem__": lambda self, name: prove_really(PRODUCT, None, None)})()
    status, lines = run_prove(prepared, "--algo", "simt-64x64")
    assert status == 1
    assert lines[2].endswith("0.00  NOT PROVED: RuntimeError: simt.cu(3): error")
    assert lines[-1] == "1 of 1 not proved"


def test_products_that_cannot_be_proved_are_left_out(monkeypatch):
    problem = Conv2dProblem.of((2, 8, 8, 16), (24, 3, 3, 16))
    epilogue = Epilogue.of("relu", norm_sums=True)
    with_sums = conv.product_of("dgrad", problem, epilogue, np.dtype(np.float32), False, 4, 4)

    @contextlib.contextmanager
    def recorded():
        yield [PRODUCT, with_sums, PRODUCT]

    monkeypatch.setattr(tuner, "record_products", recorded)
    assert prove._products("lenet", "float32", 2, "emulated") == [PRODUCT]


def test_the_description_of_a_product_names_each_part_of_its_epilogue():
    problem = Conv2dProblem.of((2, 8, 8, 16), (24, 3, 3, 16))
    plain, with_sums = (
        prove.describe(conv.product_of("dgrad", problem, epilogue, np.dtype(np.float32), False, 4, 4))
        for epilogue in (Epilogue.of("relu"), Epilogue.of("relu", norm_sums=True))
    )
    assert plain == "dgrad 2x8x8x16-24x3x3 float32 relu"
    assert with_sums == f"{plain} norm-sums"
