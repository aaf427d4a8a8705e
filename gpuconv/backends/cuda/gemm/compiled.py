"""The kernel of a plan, and the digest of its machine code."""

from __future__ import annotations

import copy

from gpuconv.backends.cuda.gemm.plan import Plan
from gpuconv.backends.cuda.gemm.product import ACTIVATIONS, Product
from gpuconv.backends.cuda.runtime.kernel import Kernel, load
from gpuconv.backends.cuda.runtime.replaced_files import until_replaced
from gpuconv.devices import Device


@until_replaced
def kernel_of(product: Product, plan: Plan) -> Kernel:
    """The kernel that a plan launches, with the plan's proof. With split-K it applies no activation: the reduction
    does."""
    algorithm, activation = plan.algorithm, product.activation if plan.split_k == 1 else None
    macros = {"DTYPE": product.dtype, "ACTIVATION": ACTIVATIONS[activation], **product.macros}
    macros |= algorithm.defines(product.precision)
    kernel = load(algorithm.file(product.kernel), macros).kernel(f"{product.kernel}_{algorithm.family}")
    if plan.proof:
        kernel = copy.copy(kernel)  # other plans share the kernel
        kernel.proof = plan.proof
    return kernel


def digest_of(product: Product, plan: Plan, device: str, *, build: bool = True) -> str | None:
    """The digest of the machine code of a plan's kernel on a GPU; on the emulated device, of its text and macros.

    build: whether to compile the kernel if it is not in the cache yet; with False, its digest is None in that case."""
    module, where = kernel_of(product, plan).module, Device.named(device)
    return module.digest(where.index if where.on_gpu else None, build=build)
