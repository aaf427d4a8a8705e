"""Ranks that are threads of this process, and sums along a tree."""

from __future__ import annotations

import contextvars
import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import gpuconv as gc
from gpuconv.parallel import NCCL, Ranks


def along_a_tree(arrays):
    """The sum of the arrays, whose number is a power of two, added in pairs."""
    while len(arrays) > 1:
        arrays = [one + other for one, other in zip(arrays[::2], arrays[1::2])]
    return arrays[0]


class ThreadRanks(Ranks):
    """Messages between threads of this process."""

    def __init__(self, rank, size, barrier, values):
        self.rank, self.size, self._barrier, self._values, self.failed = rank, size, barrier, values, None

    def gather(self, value):
        self._values[self.rank] = value
        self._barrier.wait(60)
        values = [*self._values]
        self._barrier.wait(60)
        return values

    def broadcast(self, value):
        return copy.deepcopy(self.gather(value)[0])

    def sum(self, flat, fixed=True):
        gc.backends.assign(flat, along_a_tree(self.gather(np.array(gc.to_numpy(flat)))))

    def collect(self, flat, ends):
        arrays = self.gather(np.array(gc.to_numpy(flat)))
        sections = [array[first:end] for array, first, end in zip(arrays, ends, ends[1:])]
        gc.backends.assign(flat[: ends[-1]], np.concatenate(sections))

    def fail(self, error):
        self.failed = error
        self._barrier.abort()


def messages_alone(messages):
    """An `engine` for `on_ranks` that sums with the threads' messages, without NCCL."""
    return messages


def on_ranks(size, work, engine=lambda messages: NCCL(messages=messages)):
    """The results of work(ranks) on all ranks; if one fails, its error is raised. engine: makes ranks from messages."""
    barrier, values = threading.Barrier(size), [None] * size

    def run(rank):
        messages = ThreadRanks(rank, size, barrier, values)
        try:
            ranks = engine(messages)
            with ranks.reporting_errors():
                return work(ranks)
        except BaseException as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        results = [*pool.map(lambda rank: contextvars.Context().run(run, rank), range(size))]
    errors = [result for result in results if isinstance(result, BaseException)]
    causes = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (causes or errors)[0]
    return results
