"""The optimizer's state, split among the ranks: ZeRO-1 (Rajbhandari et al. 2020).

A rank keeps the state of some parameters (no parameter is cut) and updates only these. Then the ranks exchange the
updated parameters. The update of a parameter reads no other parameter, so the bits are the same as without the
split, for every optimizer.
"""

from __future__ import annotations

import numpy as np

from gpuconv import ops
from gpuconv.arguments import flag
from gpuconv.layers.base import Layer
from gpuconv.parallel import Ranks
from gpuconv.training.flat_sums import Sums
from gpuconv.training.optimizers import Optimizer, adapted
from gpuconv.training.optimizers.base import Arrays


def expect_shardable(shard_optimizer: object, optimizer: Optimizer) -> bool:
    """Check the argument `shard_optimizer` and return it. Raises ValueError for an optimizer of the user's own."""
    given = flag("shard_optimizer", shard_optimizer)
    if given and isinstance(optimizer, adapted.Adapted):
        raise ValueError(
            f"shard_optimizer needs one of gpuconv's optimizers, whose state it can divide among the ranks; "
            f"{type(optimizer.inner).__name__} keeps its own"
        )
    return given


class OptimizerShards:
    """Assigns a net's parameters, frozen ones included, to the ranks that keep their state: in order, with about the
    same number of bytes for each rank. Only the first k ranks keep state, where k is the largest power of two that is
    not above the number of ranks. `own` has the names of this rank's parameters."""

    def __init__(self, net: Layer, ranks: Ranks) -> None:
        self.ranks = ranks
        params = dict(net.named_parameters())
        ends = np.cumsum([param.nbytes for param in params.values()])
        keepers = 1 << (ranks.size.bit_length() - 1)
        middles = [end - param.nbytes / 2 for end, param in zip(ends, params.values())]
        self._owners = {name: int(keepers * middle / ends[-1]) for name, middle in zip(params, middles)}
        self.own = frozenset(name for name, owner in self._owners.items() if owner == ranks.rank)

    def keeps(self, name: str) -> bool:
        """Whether this rank keeps the state of a parameter; True for a name that is not a parameter's."""
        return name in self.own or name not in self._owners

    def exchange(self, params: Arrays, sums: Sums, numbers: range) -> None:
        """Give every rank the parameters that other ranks updated. Only device work, except over MPI.

        sums: the buffer for the exchange; its contents are lost. numbers: one index into `sums.views` for each
        parameter, in order; the view has the parameter's shape and dtype."""
        if self.ranks.size == 1:
            return
        views = {name: sums.views[number] for name, number in zip(params, numbers)}
        for name in self.own & params.keys():
            ops.copy(params[name], out=views[name])
        for flat in sums.flat:
            inside = {name: number for name, number in zip(params, numbers) if params[name].dtype == flat.dtype}
            sizes = np.zeros(self.ranks.size + 1, np.int64)
            for name in inside:
                sizes[self._owners[name] + 1] += params[name].size
            if inside:
                self.ranks.collect(flat[sums.starts[min(inside.values())] :], np.cumsum(sizes).tolist())
        for name in params.keys() - self.own:
            ops.copy(views[name], out=params[name])

    def gathered(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The entries of all ranks; each rank passes host arrays for its own parameters."""
        of_all: dict[str, np.ndarray] = {}
        for of_rank in self.ranks.gather(state):
            of_all |= of_rank
        return of_all
