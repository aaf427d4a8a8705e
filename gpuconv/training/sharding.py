"""Steps computed in parts: batches cut into shards, which are distributed over the ranks, and several batches
accumulated for one update.

Each part has a forward and a backward pass of its own. If batch norm takes statistics over all parts, a rank runs each
layer on all of its parts before the next layer. A part's gradients and other results are weighted by its share of the
samples. They are added up along a binary tree over the parts, ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)), so
that the bits do not depend on which rank computes which shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import numpy as np

from gpuconv import backends, ops
from gpuconv.arguments import flag, integer
from gpuconv.dtypes import is_float
from gpuconv.layers import BatchNorm
from gpuconv.layers.base import Layer, listen
from gpuconv.layers.batch_parts import Part, PartStates, PerPart, part_of_batch, summed_over_parts
from gpuconv.layers.fused import Fused
from gpuconv.parallel import Ranks
from gpuconv.training.flat_sums import Bucket, Sums, Term
from gpuconv.training.running_metrics import Totals
from gpuconv.types import Array

Backpropagate = Callable[[Array, Array, Totals], None]


def shard_count(shards: object) -> int:
    """Check a number of shards and return it. Raises TypeError unless it is an integer, and ValueError unless it is a
    power of two."""
    count = integer("shards", shards, 1)
    if count & (count - 1):
        raise ValueError(f"shards must be a power of two, such as 1, 2, 4 or 8, received {count}")
    return count


def shard_bounds(size: int, shards: int) -> list[int]:
    """The sample at which each shard of a batch begins, then the batch's size. Raises ValueError for a batch with fewer
    samples than shards."""
    if size < shards:
        raise ValueError(f"a batch of {size} cannot be cut into {shards} shards: each needs at least one sample")
    return [size * number // shards for number in range(shards + 1)]


class Parts:
    """Adds up the results of a step's parts, of which this rank computes at most `most`. On a single rank, all of it is
    device work."""

    def __init__(self, net: Layer, most: int, loss: object = None) -> None:
        self.net, self.ranks, self.most, self.loss = net, Ranks(), most, loss
        self.fixed = True  # whether a sum over ranks has a fixed order
        self.sync_batch_norm = False  # whether batch norm takes statistics over all parts
        self.totals = Totals(net.device, loss)  # of one part; after a step, of all its parts
        self._states, self._totals = PartStates(net, 1), [self.totals]  # those of the parts that are computed together
        self._kept: list[tuple[Array, Array]] = []  # (running statistics, buffer for their values before a step)
        self._sums: list[Sums] = []  # the sums of complete subtrees that are not yet added, the largest subtree first
        self._numbers: dict[tuple[int, str], int] = {}  # (id of a layer, variable) -> the number of its gradient's term
        self._exchanges: list[Callable[[], None]] = []  # each waits for a bucket whose exchange began in backward
        self._signature: object = None

    def _add_up(
        self,
        parts: Iterable[tuple[Array, Array]],
        ranges: Sequence[tuple[int, int]],
        size: int,
        count: int,
        totals: Totals,
        work: Backpropagate,
    ) -> None:
        """Compute this rank's parts and leave the sums of all ranks' parts in the net and in `totals`.

        parts: this rank's (x, y). ranges: where each of them begins and ends among the step's `size` samples. count:
        the number of parts on all ranks. work: as in `Sharding.backpropagate`."""
        self._allocate_terms()
        self._exchanges = []
        counts = [end - first for first, end in ranges]
        own = [Part(first, size, last=(first, end) == ranges[-1]) for first, end in ranges]
        if self.sync_batch_norm:
            self._add_up_together(parts, own, counts, totals, work)
        else:
            self._add_up_in_turn(parts, own, counts, totals, work)
        for finish in self._exchanges:
            finish()
        sums = self._sums[0]
        for bucket in sums.buckets[len(self._exchanges) :]:
            for depth in range(len(ranges).bit_count() - 1, 0, -1):  # subtrees not yet added
                self._sums[depth - 1].add(self._sums[depth], bucket)
            self.ranks.sum(sums.part(bucket), self.fixed)
        if (divisor := self.totals.divisor_in(sums.views[0])) is not None:
            sums.divide(self._terms(self.totals), size, divisor)
        self._write_sums(totals, count)

    def _add_up_in_turn(
        self,
        parts: Iterable[tuple[Array, Array]],
        own: list[Part],
        counts: list[int],
        totals: Totals,
        work: Backpropagate,
    ) -> None:
        """Compute one part after another. If running statistics are summed, each part starts from their values before
        the step."""
        for running, kept in self._kept:
            _copy(running, kept)
        for number, ((x, y), part) in enumerate(zip(parts, own)):
            for running, kept in self._kept if number else ():
                _copy(kept, running)
            _start_from_zero(self.totals, totals)
            with part_of_batch(part), self._exchanging_buckets(number, counts[number], part):
                work(x, y, self.totals)
            self._push_part(number, counts[number], part.batch, self.totals)

    def _add_up_together(
        self,
        parts: Iterable[tuple[Array, Array]],
        own: list[Part],
        counts: list[int],
        totals: Totals,
        work: Backpropagate,
    ) -> None:
        """Compute all parts together, layer by layer, so that batch norm can take statistics over all of them."""
        self._states.begin(own)
        xs, ys = zip(*parts)
        for each in self._totals:
            _start_from_zero(each, totals)
        x, y, into = (PerPart(each, self._states) for each in (xs, ys, self._totals))
        with summed_over_parts(partial(self.ranks.sum, fixed=self.fixed)):
            work(x, y, into)  # type: ignore[arg-type]
        for number, part in enumerate(own):
            with self._states.part(number, self.net):
                self._push_part(number, counts[number], part.batch, self._totals[number])

    def _allocate_terms(self) -> None:
        """Allocate the arrays for the terms, unless they exist already."""
        statistics, terms = self._statistics(), self._terms(self.totals)
        signature = [(term.array.shape, term.array.dtype, backends.address(term.array)) for term in terms]
        if signature != self._signature:
            self._kept = [(array, backends.zeros(array.shape, array.dtype, self.net.device)) for array in statistics]
            count = self.most if self.sync_batch_norm else 1
            self._states = PartStates(self.net, count)
            self._totals = [Totals(self.net.device, self.loss) for _ in range(count)]
            named = [*self.net.named_variables(trained=True)]
            before = len(terms) - len(named)
            self._numbers = {(id(layer), name): before + at for at, (_, layer, name) in enumerate(named)}
            self._sums = [Sums(terms, self.net.device) for _ in range(self.most.bit_length())]
            self._signature = signature

    def _statistics(self) -> list[Array]:
        """The running statistics that are summed over the parts, as gradients are. Other running statistics are updated
        by one part after another, or by all parts together (`sync_batch_norm`)."""
        return []

    def _terms(self, totals: Totals, final: bool = True) -> list[Term]:
        """The totals, the running statistics, then the gradients in the order of `Layer.grads`. final: whether backward
        is over, so that gradients that it has not written are set to zero."""
        named = self.net.named_variables(trained=True)
        gradients = [layer.gradient(name) if final else layer.gradients[name] for _, layer, name in named]
        return [
            Term(totals.array, weighted=False),
            *map(Term, self._statistics()),
            *(Term(array, gradient=True) for array in gradients),
        ]

    @contextmanager
    def _exchanging_buckets(self, number: int, count: int, part: Part) -> Iterator[None]:
        """A context for the work of part `number`. In the last part, the exchange of a bucket with the other ranks
        begins as soon as its gradients are final, while backward continues."""
        buckets, divisor = self._sums[0].buckets, self.totals.divisor_in(self.totals.array)
        if not part.last or self.ranks.size == 1 or len(buckets) == 1:
            yield
            return
        terms = self._terms(self.totals, final=False)
        waiting = [{*bucket.terms} for bucket in buckets]

        @contextmanager
        def after(layer: Layer, direction: str) -> Iterator[None]:
            yield
            if direction == "backward" and (final := self._final_terms(layer)):
                for each in waiting:
                    each.difference_update(final)
                while len(self._exchanges) < len(buckets) and not waiting[len(self._exchanges)]:
                    bucket = buckets[len(self._exchanges)]
                    self._push_bucket(number, terms, bucket, count, part.batch, divisor)
                    finish = self.ranks.start(self._sums[0].part(bucket), self.fixed, len(self._exchanges))
                    self._exchanges.append(finish)
                self.ranks.progress()

        with listen(after):
            yield

    def _final_terms(self, layer: Layer) -> list[int]:
        """The numbers of the terms that are final after this layer's backward; none for a layer of another net."""
        found = []
        for each in layer.walk():
            for name in each.variables:
                if (number := self._numbers.get((id(each), name))) is not None:
                    each.gradient(name)  # zeros if backward wrote nothing
                    found.append(number)
        return found

    def _push_part(self, number: int, samples: int, step_samples: int, totals: Totals) -> None:
        """Add part `number` to the tree, except the buckets that are already being exchanged."""
        terms, divisor = self._terms(totals), totals.divisor_in(totals.array)
        for bucket in self._sums[0].buckets[len(self._exchanges) :]:
            self._push_bucket(number, terms, bucket, samples, step_samples, divisor)

    def _push_bucket(
        self, number: int, terms: list[Term], bucket: Bucket, samples: int, step_samples: int, divisor: Array | None
    ) -> None:
        """Add a bucket of part `number` to the tree. For n parts done, `_sums` holds the sums of complete subtrees, one
        for each bit that is set in n."""
        depth = number.bit_count()
        self._sums[depth].gather(terms, bucket, samples, step_samples, divisor)
        while number & 1:
            self._sums[depth - 1].add(self._sums[depth], bucket)
            depth, number = depth - 1, number >> 1

    def _write_sums(self, totals: Totals, count: int) -> None:
        """Write the sums of all parts to the arrays in which a step without parts leaves its results."""
        for term, view in zip(self._terms(self.totals), self._sums[0].views):
            _copy(view, term.array)
        finite = self.totals.array[3:4]  # counts parts with a finite loss; all of them together count as one step
        ops.scale(finite, factor=1 / count, out=finite)
        ops.add(totals.array, self.totals.array, out=totals.array)

    @property
    def sums(self) -> Sums:
        """The sums of the last step."""
        return self._sums[0]

    def gradient_views(self) -> range:
        """The numbers of the views of `sums` that hold gradients, in the order of `Layer.grads`."""
        terms = len(self.sums.views)
        return range(terms - len(self._numbers), terms)

    def arrays(self) -> list[Array]:
        """The arrays that a captured step expects at fixed addresses."""
        self._allocate_terms()
        kept = [*self._states.arrays(), *(before for _, before in self._kept)]
        totals = [each.array for each in (self.totals, *self._totals)]
        return [*totals, *kept, *(flat for sums in self._sums for flat in sums.flat)]


class Sharding(Parts):
    """Cuts each batch into `count` shards, assigns them to the ranks in order, and sums their results. fixed: whether
    sums over ranks have the order of the tree. sync_batch_norm: whether batch norm takes statistics over the shards of
    all ranks.

    Raises ValueError unless each rank has the same number of shards, a power of two. With `sync_batch_norm` and several
    shards on a rank, it also raises ValueError for a user's layer that contains a batch norm."""

    def __init__(
        self,
        count: int,
        net: Layer,
        ranks: Ranks | None = None,
        *,
        fixed: bool = True,
        sync_batch_norm: bool = False,
        loss: object = None,
    ) -> None:
        ranks = ranks or Ranks()
        each, rest = divmod(count, ranks.size)
        if rest:
            raise ValueError(
                f"the number of ranks must divide that of shards, received {count} shards on {ranks.size} ranks"
            )
        super().__init__(net, shard_count(each), loss)
        self.count, self.ranks, self.fixed, self.sync_batch_norm = count, ranks, fixed, sync_batch_norm
        if sync_batch_norm and each > 1:
            _expect_no_norm_inside_own(net)
        self.own = range(each * ranks.rank, each * (ranks.rank + 1))

    def range_of_rank(self, size: int) -> tuple[int, int]:
        """Where this rank's part of a batch of `size` samples begins, and where it ends."""
        bounds = shard_bounds(size, self.count)
        return bounds[self.own.start], bounds[self.own.stop]

    def backpropagate(self, x: Array, y: Array, totals: Totals, work: Backpropagate, batch: int | None = None) -> None:
        """Compute the gradients and running statistics of a batch, and add its losses to `totals`.

        work: runs forward, loss and backward of one shard; it assigns the gradients and adds to the totals that it is
        given. batch: the size of the whole batch, if x and y are only this rank's part of it.

        Raises ValueError for a batch that is too small, before anything has changed."""
        size = len(y) if batch is None else batch
        ends = shard_bounds(size, self.count)
        before = 0 if batch is None else ends[self.own.start]
        ranges = [(ends[shard], ends[shard + 1]) for shard in self.own]
        parts = (
            (aligned_copy(x[first - before : end - before]), y[first - before : end - before]) for first, end in ranges
        )
        self._add_up(parts, ranges, size, self.count, totals, work)

    def _statistics(self) -> list[Array]:
        separate = [each for each in self.net.all_variables() if not (self.sync_batch_norm and each[0].takes_parts)]
        buffers = [layer[name] for layer, name, variable in separate if variable.buffer]
        return [array for array in buffers if is_float(array.dtype)]


class Accumulation(Parts):
    """Adds up the gradients of at most `most` batches for one update; each batch may be cut into shards. Running
    statistics are updated batch by batch."""

    def backpropagate(self, batches: Sequence[tuple[Array, Array]], totals: Totals, work: Backpropagate) -> None:
        """Compute the gradients of the mean loss over all samples of these batches. Other arguments as in
        `Sharding`."""
        ends = np.cumsum([0, *(len(y) for _, y in batches)]).tolist()
        self._add_up(batches, [*pairwise(ends)], ends[-1], len(batches), totals, work)


def expect_synchronizable(sync_batch_norm: object, fuse: bool | None, net: Layer) -> bool:
    """Check the argument `sync_batch_norm` and return it as a bool. Raises TypeError for other values, and ValueError
    if batch norm is or will be fused."""
    sync_batch_norm = flag("sync_batch_norm", sync_batch_norm)
    if sync_batch_norm and fuse:
        raise ValueError(
            "fuse=True computes batch norm in one op with adjacent layers, without other ranks; leave fuse out"
        )
    for layer in net.walk() if sync_batch_norm else ():
        if isinstance(layer, Fused) and any(isinstance(each, BatchNorm) for each in layer.walk()):
            raise ValueError(
                f"{layer.path}, a {type(layer).__name__} of a fused net, computes batch norm without other ranks; "
                "give the net as it was before fuse()"
            )
    return sync_batch_norm


def _expect_no_norm_inside_own(net: Layer) -> None:
    """Raise ValueError, naming the layer, if a user's layer contains a batch norm, which it would run on one part after
    another."""
    for layer in net.walk():
        norms = [each.path for each in layer.walk() if each.takes_parts and not each.children()]
        if layer.is_foreign and norms:
            raise ValueError(
                f"sync_batch_norm runs {norms[0]} on all shards of a rank together, and your {type(layer).__name__} "
                f"{layer.path} runs it on one shard after another: choose as many shards as ranks"
            )


def aligned_copy(x: Array) -> Array:
    """A copy of a part of an array. It is aligned like a newly loaded array, because the choice of a kernel depends on
    alignment."""
    return ops.copy(x)


def _start_from_zero(part: Totals, run: Totals) -> None:
    """Clear a part's totals. Once the run's sum of losses is not finite, the part's begins as NaN, so that no later
    step counts as finite."""
    ops.scale(run.array, factor=0.0, out=part.array)


def _copy(source: Array, to: Array) -> None:
    ops.copy(source, out=to)
