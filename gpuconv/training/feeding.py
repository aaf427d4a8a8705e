"""Feeds the batches of a loader to training steps, from the host or on the device."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from gpuconv import ops
from gpuconv.data import Loader
from gpuconv.data.loader import Batch, compute_ahead
from gpuconv.devices import Device
from gpuconv.training.data_checks import is_our_loader
from gpuconv.training.protocols import Epochs
from gpuconv.training.step_counter import StepCounter
from gpuconv.types import Array


class Feed:
    """The batches of a run in groups, one for each step, from an object with ``len`` and
    ``epoch(epoch, start_batch=...)``.

    batches_per_step: the number of batches in a group; the last group of an epoch may have fewer."""

    on_device = False  # whether `next` is only device work, and the same work for all groups of equal size
    in_parts = False  # whether `next` returns only this rank's part of each batch

    def __init__(self, loader: Any, batches_per_step: int = 1) -> None:  # noqa: ANN401 - any object as described
        self.loader, self.batches_per_step = loader, batches_per_step
        self._batches: Any = None
        self._given = 0

    def enter(self, epoch: int, number: int) -> None:
        """Continue with group `number` of `epoch`."""
        self.close()
        first = number * self.batches_per_step
        self._batches, self._given = iter(self.loader.epoch(epoch, start_batch=first)), first

    def close(self) -> None:
        if hasattr(self._batches, "close"):
            self._batches.close()
        self._batches = None

    def size(self, number: int) -> int:
        """The number of images in group `number` of an epoch; 0 if it is unknown before the group is loaded."""
        return 0

    def place(self, epoch: int, number: int) -> tuple[int, int]:
        """The (start, offset) of a group, for the step counter (`Loader.place`); (0, 0) if `next` does not read
        them."""
        return 0, 0

    def step(self, counter: StepCounter, size: int, step_on: Callable[..., object]) -> None:
        """Advance the step counter and call `step_on` with the next group. size: the group's number of images."""
        batches = self.next(counter, size)
        counter.advance(size)
        step_on(batches, batch=size if self.in_parts else None)

    def next(self, counter: StepCounter, size: int) -> list[Batch]:
        """The batches of the next group. Raises ValueError if the loader gives fewer batches than its length says."""
        count = 1 if self.batches_per_step == 1 else min(self.batches_per_step, len(self.loader) - self._given)
        batches = [*itertools.islice(self._batches, count)]
        self._given += len(batches)
        if len(batches) < count:
            raise ValueError(f"the loader gave only {self._given} batches, and its length is {len(self.loader)}")
        return batches


class PartFeed(Feed):
    """This rank's part of each batch of a `Loader` on the CPU. A thread prepares the parts ahead."""

    in_parts = True

    def __init__(self, loader: Loader, range_of_rank: Callable[[int], tuple[int, int]]) -> None:
        super().__init__(loader)
        self._range_of_rank = range_of_rank

    def enter(self, epoch: int, number: int) -> None:
        self.close()
        order = self.loader.order()
        self.loader.shuffle_into(order, epoch)

        def part(number: int) -> Batch:
            first, end = self._range_of_rank(self.size(number))
            start, offset = self.loader.place(epoch, number)
            return self.loader.load(order, end - first, start=start + first, offset=offset + first)

        self._batches, self._given = compute_ahead(part, self.loader.numbers(epoch, number)), number

    def size(self, number: int) -> int:
        return self.loader.size(number)


class DeviceFeed(Feed):
    """The batches of a `Loader`, which the device loads without the host, at the position in the step counter."""

    on_device = True

    def __init__(self, loader: Loader, batches_per_step: int = 1) -> None:
        super().__init__(loader, batches_per_step)
        self._order = loader.order()

    def enter(self, epoch: int, number: int) -> None:
        self.loader.shuffle_into(self._order, epoch)

    def size(self, number: int) -> int:
        first = number * self.batches_per_step
        return sum(map(self.loader.size, range(first, min(first + self.batches_per_step, len(self.loader)))))

    def place(self, epoch: int, number: int) -> tuple[int, int]:
        return self.loader.place(epoch, number * self.batches_per_step)

    def next(self, counter: StepCounter, size: int) -> list[Batch]:
        each = size if self.batches_per_step == 1 else self.loader.batch_size
        start, offset = counter.start, counter.offset
        batches = []
        for first in range(0, size, each):
            count = min(each, size - first)
            batches.append(self.loader.load(self._order, count, start=start, offset=offset))
            if first + count < size:
                start, offset = (_advanced_copy(number, count) for number in (start, offset))
        return batches


def _advanced_copy(number: Array, by: int) -> Array:
    """The sum of a number on the device and `by`, in a new array."""
    copy = ops.advance_counter(number, by=0)
    ops.advance_counter(copy, by=by)
    return copy


def feed(
    loader: Loader | Epochs, range_of_rank: Callable[[int], tuple[int, int]] | None = None, batches_per_step: int = 1
) -> Feed:
    """The feed of a loader. On NumPy a thread prepares the batches of a `Loader` ahead.

    range_of_rank: a function of a batch's size that returns where this rank's part begins and ends; None for a single
    rank. It is used if the loader is a `Loader` on NumPy that does not mix images, and a step takes one batch.
    Otherwise each rank loads whole batches.
    batches_per_step: the number of batches that a step takes."""
    if is_our_loader(loader) and Device.named(loader.device).runs_kernels:
        return DeviceFeed(loader, batches_per_step)
    whole = batches_per_step > 1 or (is_our_loader(loader) and loader.augmentation.mixing)
    if is_our_loader(loader) and range_of_rank and not whole:
        return PartFeed(loader, range_of_rank)
    return Feed(loader, batches_per_step)
