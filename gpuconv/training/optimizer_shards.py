"""The optimizer's state dealt out to the ranks: ZeRO-1 (Rajbhandari et al. 2020).

Each rank keeps the state of some parameters, whole ones, and updates these; then all ranks exchange what they updated.
An update of a parameter reads no other one, so the bits are those of a rank that keeps all, for every optimizer.
"""

from __future__ import annotations

import numpy as np

from gpuconv import ops
from gpuconv.layers.base import Layer
from gpuconv.parallel import Ranks
from gpuconv.training.flat_sums import Sums
from gpuconv.training.optimizers.base import Arrays


class OptimizerShards:
    """Which rank keeps the state of which parameters of a net, frozen ones included: in their order, about as many
    bytes for each. Ranks past the largest power of two keep none. `own` has the names of this rank's."""

    def __init__(self, net: Layer, ranks: Ranks) -> None:
        self.ranks = ranks
        params = dict(net.named_parameters())
        ends = np.cumsum([param.nbytes for param in params.values()])
        power = 1 << (ranks.size.bit_length() - 1)
        middles = [end - param.nbytes / 2 for end, param in zip(ends, params.values())]
        self._owners = {name: int(power * middle / ends[-1]) for name, middle in zip(params, middles)}
        self.own = frozenset(name for name, owner in self._owners.items() if owner == ranks.rank)

    def keeps(self, name: str) -> bool:
        """Whether this rank keeps the state of a parameter; True for a name that is none."""
        return name in self.own or name not in self._owners

    def exchange(self, params: Arrays, sums: Sums, places: range) -> None:
        """Give every rank the parameters that others updated. Only device work.

        sums: Has room for these parameters, in their order, at these places of its views."""
        if self.ranks.size == 1:
            return
        views = {name: sums.views[place] for name, place in zip(params, places)}
        for name in self.own & params.keys():
            ops.copy(params[name], out=views[name])
        for flat in sums.flat:
            own = {name: place for name, place in zip(params, places) if params[name].dtype == flat.dtype}
            sizes = np.zeros(self.ranks.size + 1, np.int64)
            for name in own:
                sizes[self._owners[name] + 1] += params[name].size
            if own:
                self.ranks.collect(flat[sums.starts[min(own.values())] :], np.cumsum(sizes).tolist())
        for name in params.keys() - self.own:
            ops.copy(views[name], out=params[name])

    def gathered(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every rank's entries, for host arrays of which each rank has those of its parameters."""
        whole: dict[str, np.ndarray] = {}
        for each in self.ranks.gather(state):
            whole |= each
        return whole
