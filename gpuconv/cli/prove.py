"""Prove algorithms on a device: check that each gives a proved algorithm's results for the products of a net's step.

Without --algo, the command proves the algorithms that no GPU has run yet. A GPU chooses these only for products for
which it has proved them. Algorithms to be proved run in a child process; docs/prover.md describes what is compared.
A verdict is stored with the compiled kernels and replaces an earlier one, unless it is no evidence about the algorithm
(for example if memory was lacking or somebody else killed the child). Status 1 if an algorithm is not proved, or serves
no product of the step that can be proved."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gpuconv.cli import json_output
from gpuconv.cli.device_option import choose_device
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.output_lines import print_line
from gpuconv.cli.shared_options import add_step_options
from gpuconv.devices import Device
from gpuconv.system.console import progress_bar

if TYPE_CHECKING:
    from gpuconv.backends.cuda.gemm.plan import Plan
    from gpuconv.backends.cuda.gemm.product import Product
    from gpuconv.backends.cuda.gemm.verdicts import Verdict

EXAMPLES = [
    "gpuconv prove --model resnet20 --precision bfloat16 --device cuda",
    "gpuconv prove --model lenet --batch-size 2 --device emulated --algo simt-32x32 --algo simt-64x64",
]

HEADER = f"{'algorithm':<20} {'product':<58} {'seconds':>7}  verdict"


def configure(parser: argparse.ArgumentParser) -> None:
    add_step_options(parser, "the net whose training step has the products")
    parser.add_argument(
        "--algo",
        action="append",
        metavar="NAME",
        help="prove this algorithm again, whatever was found before (may be given more than once)",
    )


def run(options: argparse.Namespace) -> int:
    from gpuconv.backends.cuda.gemm import prover, tuner
    from gpuconv.backends.cuda.gemm.verdicts import prove, verdict_of_error
    from gpuconv.cli import nets

    with user_errors():
        names = [_algorithm(algo) for algo in options.algo or ()]
        nets.build_for_step(options.model, precision=options.precision, initialize=False)
    device = choose_device(options)
    if not Device.named(device).runs_kernels:
        raise UserError(f"{device} has no algorithms to prove; --device takes emulated, cuda or cuda:1")
    products = _products(options.model, options.precision, options.batch_size, device)
    to_prove = [(product, plan) for product in products for plan in _plans(product, names, device)]
    print_line("step", f"{options.model}, {options.batch_size} images, {options.precision}: {len(products)} products")
    serving_none = [name for name in names if all(plan.algorithm.name != name for _, plan in to_prove)]
    json_output.note(device=device, products=len(products), proofs=[], serve_none=serving_none)
    for name in serving_none:
        print(f"{name} serves none of these products")
    if not to_prove:
        if not names:
            print("all algorithms that serve these products are proved")
        return 1 if names else 0
    print(f"\n{HEADER}")
    failed, gpu = 0, tuner.gpu_or_emulated(device)
    with progress_bar(total=len(to_prove), desc="prove", leave=False, disable=None) as progress:
        for product, plan in to_prove:
            try:
                found = prove(product, plan, gpu)
            except (RuntimeError, OSError) as error:  # e.g. it does not compile, or no process starts
                found = verdict_of_error(error)
            failed += not found.proved
            name, what = plan.algorithm.name, describe(product)
            json_output.add("proofs", {"algorithm": name, "product": what, "verdict": found})
            progress.write(text(name, what, found))
            progress.update()
    prover.close()
    json_output.note(proved=len(to_prove) - failed, failed=failed)
    print(f"\n{failed} of {len(to_prove)} not proved" if failed else f"\nall {len(to_prove)} proved on {device}")
    return 1 if failed or serving_none else 0


def _algorithm(name: str) -> str:
    """The full name of an algorithm. Raises ValueError for an unknown one, and for one that has no plans to prove."""
    from gpuconv.algorithms import AUTO, DEPTHWISE, full_name

    found = full_name(name)
    if found in (AUTO, DEPTHWISE):
        raise ValueError(f"--algo {found}: only algorithms of matrix products can be proved, such as mma-64x64")
    return found


def _products(model: str, precision: str, batch_size: int, device: str) -> list[Product]:
    """The distinct products of a training step that the prover can be asked about. The step is only prepared, not
    run."""
    from gpuconv import backends
    from gpuconv.backends.cuda.gemm import tuner
    from gpuconv.backends.cuda.gemm.verdicts import beyond_the_prover
    from gpuconv.cli import nets
    from gpuconv.inspect.profile import ProfiledStep, Spans
    from gpuconv.profiling import launches

    with user_errors():
        net = nets.build_for_step(model, precision=precision, device=device)
    step = ProfiledStep(net, batch_size, None)
    with backends.same_bits(device), launches.record_launches(execute=False), tuner.record_products() as products:
        step(Spans(lambda: 0))
    return [product for product in dict.fromkeys(products) if not beyond_the_prover(product)]


def _plans(product: Product, names: list[str], device: str) -> list[Plan]:
    """The plans to prove: by the named algorithms that serve the product, or by all that need a proof."""
    from gpuconv.backends.cuda.gemm.plan import candidates, unproved_plans
    from gpuconv.backends.cuda.runtime.capability import capability_named

    capability = capability_named(device)
    if not names:
        return [*unproved_plans(product, capability)]
    every = (*candidates(product, capability), *unproved_plans(product, capability))
    return [each for each in every if each.algorithm.name in names]


def describe(product: Product) -> str:
    """A product in words, such as "fprop 2x8x8x16-24x3x3 bfloat16 relu pool mask"."""
    epilogue = product.epilogue
    flags = {
        "pool": epilogue.pool > 1,
        "mask": epilogue.masked,
        "moments": epilogue.moments,
        "saves-input": epilogue.saves_input,
        "norm-sums": epilogue.norm_sums,
    }
    words = [product.kernel.removeprefix("conv2d_"), str(product.problem), product.precision, epilogue.activation]
    return " ".join(filter(None, [*words, *(name for name, on in flags.items() if on)]))


def text(algorithm: str, product: str, found: Verdict) -> str:
    verdict = f"{'proved' if found.proved else 'NOT PROVED'}: {found.reason}"
    return f"{algorithm:<20} {product:<58} {found.seconds:>7.2f}  {verdict}"
