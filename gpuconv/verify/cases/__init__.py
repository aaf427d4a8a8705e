"""The case tiers: the problems on which tests and ``gpuconv verify`` check each op.

tiny: one pixel, one channel, empty batches. odd: prime sizes, non-square filters, uneven padding, strides larger than
filters, dilation, groups. real: the nets' shapes with small batches. random: drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gpuconv.arguments import integer
from gpuconv.names import canonical
from gpuconv.verify.cases.batches import batch_cases
from gpuconv.verify.cases.case import TIERS, Case
from gpuconv.verify.cases.convolutions import convolution_cases
from gpuconv.verify.cases.elementwise import elementwise_cases
from gpuconv.verify.cases.linear import linear_cases
from gpuconv.verify.cases.losses import loss_cases
from gpuconv.verify.cases.norms import batch_norm_cases, group_norm_cases
from gpuconv.verify.cases.optimizers import optimizer_cases
from gpuconv.verify.cases.pools import pool_cases


def cases(tiers: Iterable[str] = TIERS, random_cases: int = 6, seed: int = 0) -> list[Case]:
    """Every case of the tiers, in the order of `TIERS`: tiny, odd, real, random.

    Args:
        tiers: Names of tiers, or the name of one.
        random_cases: The number of problems of the random tier for each op that has this tier; batches and optimizer
            steps have none.
        seed: The seed from which these problems are drawn, at least 0.

    Raises ValueError or TypeError for an unknown tier, and for a wrong `random_cases` or `seed`.
    """
    chosen = {canonical("tier", tier, TIERS) for tier in ([tiers] if isinstance(tiers, str) else tiers)}
    random_cases, seed = integer("random_cases", random_cases, 0), integer("seed", seed, 0)
    makers = (
        convolution_cases,
        pool_cases,
        linear_cases,
        loss_cases,
        batch_norm_cases,
        group_norm_cases,
        elementwise_cases,
        batch_cases,
        optimizer_cases,
    )
    found = [case for maker in makers for case in maker(random_cases, np.random.default_rng(seed))]
    return sorted((case for case in found if case.tier in chosen), key=lambda case: TIERS.index(case.tier))
