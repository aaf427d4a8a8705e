"""Verdicts about unproved algorithms: what they depend on, which are kept, and how often a proof is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.backends.cuda.cache import Cache
from gpuconv.backends.cuda.gemm import prover, tuner, verdicts
from gpuconv.backends.cuda.gemm.plan import plan, unproved_plans
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.gemm.prover import PROVED, REFUTED, UNABLE, Answer
from gpuconv.backends.cuda.gemm.verdicts import UnprovedError, UnprovedWarning
from gpuconv.backends.cuda.ops.conv import product_of
from gpuconv.backends.cuda.runtime import nvrtc, replaced_files, source
from gpuconv.problems import PLAIN, Conv2dProblem, Epilogue
from tests.standin.proving import NAME, new_family

FLOAT32 = np.dtype(np.float32)
PROBLEM = Conv2dProblem.of((2, 6, 7, 8), (12, 3, 3, 8))
MACHINE = SimpleNamespace(device="emulated", model="Make-Believe", driver="1.0")


def product(direction="fprop", epilogue=PLAIN, problem=PROBLEM):
    return product_of(direction, problem, epilogue, FLOAT32, False, 4, 4)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A stand-in for the prover that notes its questions and gives `answer`. The cache and the known verdicts are
    empty."""
    kept = Cache(tmp_path / "cache")
    monkeypatch.setattr(verdicts, "cache", SimpleNamespace(default=lambda: kept))
    prepared = SimpleNamespace(questions=[], answer=Answer(PROVED, "good", 0.1), folder=tmp_path / "cache")
    monkeypatch.setattr(prover, "ask", lambda question, subject: prepared.questions.append(question) or prepared.answer)
    verdicts._verdict_holder.cache_clear()
    with new_family():
        yield prepared
    verdicts._verdict_holder.cache_clear()


def verdict(ask=True, subject=None, gpu=MACHINE):
    """The verdict about the only unproved candidate for a product."""
    subject = subject or product()
    (candidate,) = unproved_plans(subject)
    return verdicts.verdict(subject, candidate, gpu, ask=ask)


def another_process():
    """Forgets the verdicts in memory: a new process knows only those on disk."""
    verdicts._verdict_holder.cache_clear()


def test_a_proof_is_asked_for_once_and_kept(stand_in):
    assert verdict(ask=False) is None
    assert verdict().proved
    assert verdict(ask=False) == verdict()
    another_process()
    assert verdict(ask=False).reason == "good"
    (question,) = stand_in.questions
    assert json.loads(json.dumps(question))["algorithm"] == NAME


def test_no_prover_is_started_for_the_sums_of_a_norm(stand_in):
    subject = product("dgrad", Epilogue.of("relu", norm_sums=True))
    assert verdicts.proved_plans(subject, 90, MACHINE, ask=True) == ()  # no warning: "auto" takes a proved algorithm
    (candidate,) = unproved_plans(subject)
    why = "with the sums of a batch norm cannot be proved"
    with pytest.warns(UnprovedWarning, match=why), pytest.raises(UnprovedError, match=why):
        verdicts.expect_proved(subject, candidate, MACHINE, ask=True)
    assert not stand_in.questions


@pytest.mark.parametrize(("status", "lasting"), [(REFUTED, True), (UNABLE, False)], ids=["refuted", "unable"])
def test_a_verdict_against_an_algorithm_is_kept_and_warned_about_once(stand_in, status, lasting):
    """A verdict about the algorithm is kept on disk; one about a lack of memory holds in this process only."""
    stand_in.answer = Answer(status, "no", 0.1)
    with pytest.warns(UnprovedWarning, match=f"{NAME} is not proved for conv2d_fprop of 2x6x7x8-12x3x3: no"):
        assert not verdict().proved
    assert not verdict().proved
    assert len(stand_in.questions) == 1
    assert verdicts.proved_plans(product(), 90, MACHINE, ask=True) == ()
    another_process()
    assert (verdict(ask=False) is not None) == lasting


def test_a_damaged_entry_is_ignored_and_a_new_proof_replaces_the_stored_verdict(stand_in):
    verdict()
    (entry,) = stand_in.folder.glob("proof-*")
    (entry / "verdict.json").write_text(json.dumps({"proved": True}))
    another_process()
    assert verdict(ask=False) is None
    stand_in.answer = Answer(REFUTED, "no", 0.1)
    (candidate,) = unproved_plans(product())
    assert not verdicts.prove(product(), candidate, MACHINE).proved
    another_process()
    assert verdict(ask=False).reason == "no"
    stand_in.answer = Answer(PROVED, "good again", 0.1)
    verdicts.prove(product(), candidate, MACHINE)
    assert verdict(ask=False).reason == "no"  # this process keeps its verdict
    another_process()
    assert verdict(ask=False).reason == "good again"


def test_a_verdict_depends_on_machine_code_geometry_launcher_driver_and_gpu(stand_in, monkeypatch, tmp_path):
    (candidate,) = unproved_plans(product())
    keys = {"as it is": verdicts.fingerprint_of(product(), candidate, MACHINE)}
    assert verdicts.fingerprint_of(product(), candidate, MACHINE) == keys["as it is"]
    for name, changed in (("driver", dict(driver="1.1")), ("GPU", dict(model="Fancy"))):
        keys[name] = verdicts.fingerprint_of(product(), candidate, SimpleNamespace(**vars(MACHINE) | changed))
    keys["splits"] = verdicts.fingerprint_of(product(), replace(candidate, split_k=2), MACHINE)
    keys["sizes"] = verdicts.fingerprint_of(
        product(problem=Conv2dProblem.of((3, 6, 7, 8), (12, 3, 3, 8))), candidate, MACHINE
    )
    keys["epilogue"] = verdicts.fingerprint_of(product(epilogue=Epilogue.of("relu")), candidate, MACHINE)
    edited = tmp_path / "conv2d_fprop.cu"
    edited.write_text(source.resolve("conv2d_fprop.cu").read_text() + "\n// edited\n")
    with replaced_files.replace_files({"conv2d_fprop.cu": edited}):
        keys["machine code"] = verdicts.fingerprint_of(product(), candidate, MACHINE)
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "_launcher", lambda: "another version")
        keys["launcher"] = verdicts.fingerprint_of(product(), candidate, MACHINE)
    assert len(set(keys.values())) == len(keys)


def test_kernels_that_a_user_puts_in_place_of_shipped_ones_are_proved_anew(stand_in, tmp_path):
    verdict()
    edited = tmp_path / "conv2d_fprop.cu"
    edited.write_text(source.resolve("conv2d_fprop.cu").read_text() + "\n// edited\n")
    with replaced_files.replace_files({"conv2d_fprop.cu": edited}):
        assert verdict(ask=False) is None
        verdict()
    assert [question["files"] for question in stand_in.questions] == [{}, {"conv2d_fprop.cu": str(edited)}]


def test_a_product_that_is_no_convolution_or_does_not_compile_is_unproved_without_a_question(stand_in, monkeypatch):
    plain = Product("conv2d_fprop", 100, 100, 100, 1, FLOAT32)
    with pytest.warns(UnprovedWarning, match="only convolutions can be proved"):
        assert not verdict(subject=plain).proved

    def fails(*arguments, **options):
        raise nvrtc.CompileError("it does not compile\nfor a reason")

    monkeypatch.setattr(verdicts, "digest_of", fails)
    with pytest.warns(UnprovedWarning, match="CompileError: it does not compile$"):
        assert not verdict().proved
    assert not stand_in.questions


def test_a_named_algorithm_is_refused_until_it_is_proved(stand_in, monkeypatch):
    monkeypatch.setattr(tuner, "gpu_of", lambda array: SimpleNamespace(**vars(MACHINE), capturing=lambda: False))
    x, w = (gc.asarray(np.ones(shape, np.float32), "emulated") for shape in (PROBLEM.x_shape, PROBLEM.w_shape))
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    with pytest.raises(UnprovedError, match=f"{NAME}' only for problems .* Make-Believe has not proved it .*"):
        gc.ops.conv2d(x, w, algo=NAME)
    assert not stand_in.questions
    with verdicts.allow_unproved():
        assert plan(product(), NAME) is verdicts.expect_proved(product(), plan(product(), NAME), MACHINE, ask=False)
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "1")
    stand_in.answer = Answer(UNABLE, "no memory")
    with pytest.warns(UnprovedWarning), pytest.raises(UnprovedError, match=r"for this one: no memory$"):
        gc.ops.conv2d(x, w, algo=NAME)
    another_process()
    stand_in.answer = Answer(PROVED, "good", 0.1)
    assert verdicts.expect_proved(product(), plan(product(), NAME), MACHINE, ask=True).algorithm.name == NAME


def test_after_several_questions_without_a_proof_only_an_explicit_proof_asks(stand_in, monkeypatch):
    """The last warning says that this process asks for no more proofs. After this warning, nothing is compiled for a
    proof, and "auto" takes a proved algorithm without a warning."""
    stand_in.answer = Answer(UNABLE, "no memory")
    monkeypatch.setattr(prover, "gave_up", lambda: len(stand_in.questions) == 2)
    first, second, third = [product(problem=Conv2dProblem.of((n, 6, 7, 8), (12, 3, 3, 8))) for n in (3, 4, 5)]
    with pytest.warns(UnprovedWarning, match="no memory$"):
        assert not verdict(subject=first).proved
    with pytest.warns(UnprovedWarning, match="no memory; this process asks for no more proofs$"):
        assert not verdict(subject=second).proved
    (candidate,) = unproved_plans(third)
    with monkeypatch.context() as patch:
        patch.setattr(
            verdicts, "digest_of", lambda *_, build: pytest.fail("nothing must be compiled") if build else None
        )
        assert verdicts.proved_plans(third, 90, MACHINE, ask=True) == ()
        why = "8 questions of this process ended without a proof; `gpuconv prove` asks"
        with pytest.raises(UnprovedError, match=why):
            verdicts.expect_proved(third, candidate, MACHINE, ask=True)
    assert len(stand_in.questions) == 2
    stand_in.answer = Answer(PROVED, "good")
    assert verdicts.prove(third, candidate, MACHINE).proved
    another_process()
    assert verdict(ask=False, subject=third).reason == "good"


def test_candidates_are_timed_in_the_order_of_their_estimates_after_the_cost_models_choice(stand_in):
    first, *others = tuner._candidates(product(), 90, MACHINE, ask=True)
    assert first.algorithm is plan(product(), "auto", 90).algorithm
    assert [each.cost for each in others] == sorted(each.cost for each in others)
    (candidate,) = [candidate for candidate in others if candidate.algorithm.name == NAME]
    assert others[-1] is not candidate
    assert candidate.proof.endswith("good")
