"""The algorithms that a GPU has proved. "auto" chooses an algorithm with `proved=False` only after such a proof.

A proof is for one product on one model of GPU: the prover, a child process, runs exactly that product by the algorithm
and compares the result with a proved algorithm's (docs/prover.md). Its verdict is stored with the compiled kernels,
under a key of everything that it depends on: the machine code, the geometry of the launch, the source of the split-K
reduction, this launcher, the driver and the GPU.
"""

from __future__ import annotations

import functools
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gpuconv.backends.cuda import cache
from gpuconv.backends.cuda.gemm import prover
from gpuconv.backends.cuda.gemm.compiled import digest_of
from gpuconv.backends.cuda.gemm.gpu import Emulated, Gpu
from gpuconv.backends.cuda.gemm.plan import Plan, candidates, unproved_plans
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.backends.cuda.runtime.capability import capability_named
from gpuconv.backends.cuda.runtime.replaced_files import replacements, text_of, until_replaced
from gpuconv.notices import Notice
from gpuconv.problems import Conv2dProblem
from gpuconv.types import Record
from gpuconv.version import __version__


class UnprovedError(ValueError):
    """The named algorithm has not been proved on this GPU for this problem."""


class UnprovedWarning(Notice):
    """A GPU could not prove an algorithm for a problem; proved algorithms are used instead."""


@dataclass(frozen=True)
class Verdict:
    """What the prover found. proved: whether the algorithm may be chosen. reason: the findings, as text for people.
    seconds: the duration of the proof. lasting: whether the verdict is about the algorithm, so that it is stored for
    later processes. A verdict for another reason, such as too little memory, is not stored. when: the day."""

    proved: bool
    reason: str
    seconds: float = 0.0
    lasting: bool = False
    when: str = ""

    def __str__(self) -> str:
        how = "proved" if self.proved else "not proved"
        return f"{how} {self.when} in {self.seconds:.2f} s: {self.reason}"


_unproved_allowed = ContextVar("the prover runs algorithms that are not proved", default=False)


@contextmanager
def allow_unproved() -> Iterator[None]:
    """A context in which any named algorithm runs without a proof, for the prover itself."""
    token = _unproved_allowed.set(True)
    try:
        yield
    finally:
        _unproved_allowed.reset(token)


def proved_plans(product: Product, capability: int, gpu: Gpu | Emulated, *, ask: bool) -> tuple[Plan, ...]:
    """A product's plans by algorithms that this GPU has proved for it, each with its proof.

    ask: whether the prover may be asked; otherwise only known verdicts count.
    """
    if beyond_the_prover(product):
        return ()
    known = ((each, verdict(product, each, gpu, ask=ask)) for each in unproved_plans(product, capability))
    return tuple(_with_proof(each, str(found)) for each, found in known if found and found.proved)


def expect_proved(product: Product, named: Plan, gpu: Gpu | Emulated, *, ask: bool) -> Plan:
    """A named algorithm's plan, with its proof; within `allow_unproved` the plan as it is. Raises UnprovedError if this
    GPU has not proved it."""
    if _unproved_allowed.get():
        return named
    found = verdict(product, named, gpu, ask=ask)
    if found and found.proved:
        return _with_proof(named, str(found))
    why = found.reason if found else "no proof is made here; `gpuconv prove` makes one"
    if not found and ask:
        unproved = prover.MOST_WITHOUT_PROOF
        why = f"{unproved} questions of this process ended without a proof; `gpuconv prove` asks further ones"
    raise UnprovedError(
        f"a GPU runs algorithm {named.algorithm.name!r} only for problems for which that GPU has proved it; "
        f"{gpu.model} has not proved it for this one: {why}"
    )


@functools.lru_cache(maxsize=1024)
def _with_proof(found: Plan, proof: str) -> Plan:
    return replace(found, proof=proof)


def verdict(product: Product, candidate: Plan, gpu: Gpu | Emulated, *, ask: bool) -> Verdict | None:
    """This process's verdict, else a stored one, else the prover's if it may be asked and has not given up, else
    None. An algorithm that does not compile here is not proved. Warns of a new verdict that is not a proof."""
    ask = ask and not prover.gave_up()
    known = _verdict_holder(product, candidate.algorithm.name, gpu.device)
    if not known:
        try:
            key = _key(product, candidate, gpu, build=ask)
            found = _load(product, key) if key else None
            found = found or (_with_warning(product, candidate, prove(product, candidate, gpu)) if ask else None)
        except (RuntimeError, OSError) as error:  # e.g. it does not compile, or no process starts
            found = _with_warning(product, candidate, verdict_of_error(error))
        if found:
            known.append(found)
    return known[0] if known else None


def _with_warning(product: Product, candidate: Plan, found: Verdict) -> Verdict:
    if not found.proved:
        message = f"{candidate.algorithm.name} is not proved for {product.kernel} of {product.problem}: {found.reason}"
        message += "; this process asks for no more proofs" if prover.gave_up() else ""
        warnings.warn(message, UnprovedWarning, stacklevel=2)
    return found


@until_replaced
def _verdict_holder(product: Product, algorithm: str, device: str) -> list[Verdict]:
    """A list that holds this process's verdict once there is one: the same list in every call."""
    return []


def prove(product: Product, candidate: Plan, gpu: Gpu | Emulated) -> Verdict:
    """Ask the prover even if a verdict is known, and store a lasting verdict. If the prover cannot be asked about the
    product, the verdict is no proof and says why. Raises RuntimeError or OSError if a kernel cannot be compiled."""
    reference, beyond = _reference(product, candidate, gpu), beyond_the_prover(product)
    if product.problem is None or reference is None or beyond:
        return Verdict(False, beyond or "no other algorithm serves it")
    question = _question(product, product.problem, candidate, reference, gpu)
    key = _key(product, candidate, gpu, build=True)
    assert key is not None
    digest_of(product, reference, gpu.device)  # compile before the child's time limit starts
    found = _verdict_of(prover.ask(question, fingerprint(key)))
    if found.lasting:
        _store(product, key, found)
    return found


def beyond_the_prover(product: Product) -> str:
    """Why the prover cannot be asked about a product, or ""."""
    if product.epilogue.norm_sums:
        return "a convolution's gradient with the sums of a batch norm cannot be proved"
    return "" if product.problem else "only convolutions can be proved"


def _reference(product: Product, candidate: Plan, gpu: Gpu | Emulated) -> Plan | None:
    """The plan to compare with: the cost model's best one by another algorithm, if there is one."""
    proved = candidates(product, capability_named(gpu.device))
    return next((each for each in proved if each.algorithm.name != candidate.algorithm.name), None)


def verdict_of_error(error: Exception) -> Verdict:
    """The verdict if `prove` raised: not proved, for the error's first line, and not to be stored."""
    return Verdict(False, f"{type(error).__name__}: {error}".splitlines()[0])


def _verdict_of(answer: prover.Answer) -> Verdict:
    return Verdict(
        answer.status == prover.PROVED,
        answer.reason,
        answer.seconds,
        answer.status != prover.UNABLE,
        time.strftime("%Y-%m-%d"),
    )


# --- the cache ---------------------------------------------------------------------------------


def _entry_name(product: Product) -> str:
    return f"proof-{product.kernel}"


def _store(product: Product, key: Sequence[str], found: Verdict) -> None:
    """Store a verdict in place of an earlier one. If storing fails, the next process asks again."""

    def fill(folder: Path) -> None:
        (folder / "verdict.json").write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")

    with suppress(OSError):
        cache.default().forget(_entry_name(product), key)
        cache.default().entry(_entry_name(product), key, fill)


def _load(product: Product, key: Sequence[str]) -> Verdict | None:
    entry = cache.default().find(_entry_name(product), key)
    if entry is None:
        return None
    return Verdict(**json.loads((entry / "verdict.json").read_text(encoding="utf-8")))


def _key(product: Product, candidate: Plan, gpu: Gpu | Emulated, *, build: bool) -> list[str] | None:
    """Everything that a verdict depends on; None if the kernel is not compiled and must not be."""
    digest = digest_of(product, candidate, gpu.device, build=build)
    if digest is None:
        return None
    geometry = (
        product.kernel,
        product.precision,
        (product.m, product.n, product.k, product.batches),
        product.struct.tobytes(),
        tuple(product.macros.items()),
        product.activation,
        candidate.algorithm,
        candidate.split_k,
        candidate.depth_per_split,
        candidate.blocks,
    )
    reduction = text_of("gemm_reduce.cu") if candidate.split_k > 1 else ""
    return ["proof", gpu.model, gpu.driver, _launcher(), digest, repr(geometry), reduction]


def fingerprint(key: Sequence[str]) -> str:
    """A key as one line, with which the prover identifies what it proved."""
    return nvrtc.digest(json.dumps(key).encode())


def fingerprint_of(product: Product, candidate: Plan, gpu: Gpu | Emulated) -> str:
    key = _key(product, candidate, gpu, build=True)
    assert key is not None
    return fingerprint(key)


@functools.cache
def _launcher() -> str:
    """The version of the launching code: its release, and the digest of its .py files, if it runs from a folder."""
    folder = Path(__file__).parents[1]
    files = sorted(path for part in ("gemm", "ops", "runtime") for path in (folder / part).glob("*.py"))
    return f"{__version__} {nvrtc.digest(b''.join(path.read_bytes() for path in files))}"


# --- the question ------------------------------------------------------------------------------


def _question(
    product: Product, problem: Conv2dProblem, candidate: Plan, reference: Plan, gpu: Gpu | Emulated
) -> Record:
    """The question for the prover, as JSON."""
    return {
        "device": gpu.device,
        "direction": product.kernel.removeprefix("conv2d_"),
        "x_shape": problem.x_shape,
        "w_shape": problem.w_shape,
        "window": problem.window,
        "epilogue": asdict(product.epilogue),
        "dtype": product.dtype.name,
        "tf32": product.tf32,
        "vectors": [product.macros["VECTOR_C"], product.macros["VECTOR_K"]],
        "algorithm": candidate.algorithm.name,
        "against": reference.algorithm.name,
        "files": {name: os.path.abspath(path) for name, path in replacements().items()},
    }
