"""NCCL on the stand-in: each rank is a thread with its own GPU.

A call is recorded when it is made, and queued on its stream, or captured there. It ends when its transfers have found
their counterparts on the other ranks, whose streams run meanwhile. A transfer that cannot find its counterparts raises
an AssertionError, because a GPU would wait forever.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tests.standin.arrays import array_at
from tests.standin.machine import Machine, current
from tests.standin.queues import PATIENCE, Queue
from tests.standin.streams import queue_at

DTYPES = {
    name: np.dtype(name) for name in ("int8", "uint8", "int32", "int64", "uint64", "float16", "float32", "float64")
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}
CODES = {f"NCCL_{name.upper()}": code for code, name in enumerate(DTYPES)}


class Transfer(NamedTuple):
    """One part of a call. key: equal to that of its counterparts on other ranks."""

    kind: str
    key: tuple[Any, ...]
    address: int
    count: int
    dtype: np.dtype

    def memory(self) -> np.ndarray:
        return array_at(self.address, (self.count,), (self.dtype.itemsize,), self.dtype)


class Call(NamedTuple):
    """A rank's call, described in words. captured: whether it is part of a graph."""

    words: tuple[str, ...]
    captured: bool


class Group:
    """The transfers of one call, on one stream of one rank. unmatched: how many have not found their counterparts."""

    def __init__(self, queue: Queue, transfers: list[Transfer]) -> None:
        self.queue, self.transfers, self.unmatched = queue, transfers, 0


class World:
    """All ranks that joined with the same identifier, and their calls."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.changed = machine.changed
        self.size, self.failed = 0, False
        self.joined: dict[int, int] = {}  # the GPU of each rank
        self.calls: dict[int, list[Call]] = {}
        self.counts: dict[tuple[Any, ...], int] = {}
        self.posted: dict[tuple[Any, ...], dict[int, tuple[Group, Transfer]]] = {}
        self.waiting: list[Group] = []

    def run(self, rank: int, group: Group) -> None:
        """Post a group's transfers, and run the other streams until each transfer has its counterparts."""
        with self.changed:
            group.unmatched = len(group.transfers)
            try:
                for transfer in group.transfers:
                    self._post(rank, group, transfer)
                if group.unmatched:
                    self.waiting.append(group)
                    group.queue.held = True
                while group.unmatched and not self.failed:
                    if not self._others_advance(group):
                        stuck = sum(waiting.unmatched > 0 for waiting in self.waiting) >= self.size
                        self.failed = stuck or not self.changed.wait(PATIENCE)
                words = ", ".join(transfer.kind for transfer in group.transfers)
                assert not group.unmatched, f"rank {rank} waits in {words}, which no other rank answers"
            except BaseException:
                self.failed, group.queue.held, group.unmatched = True, False, 0
                self.changed.notify_all()
                raise
            finally:
                if group in self.waiting:
                    self.waiting.remove(group)

    def _others_advance(self, group: Group) -> bool:
        """Run a queued piece of another rank's work that waits for nothing. Returns whether there was one."""
        for queue in list(self.machine.queues):
            if queue.device != group.queue.device and not queue.held and queue.run_one():
                return True
        return False

    def _post(self, rank: int, group: Group, transfer: Transfer) -> None:
        number = self.counts[rank, transfer.key, transfer.kind] = (
            self.counts.get((rank, transfer.key, transfer.kind), 0) + 1
        )
        counterparts = self.posted.setdefault((*transfer.key, number), {})
        counterparts[rank] = group, transfer
        transfers = [posted for _, posted in counterparts.values()]
        if len(counterparts) < (2 if transfer.key[0] == "p2p" else self.size):
            return
        assert len({(posted.count, posted.dtype) for posted in transfers}) == 1, (
            f"ranks exchange arrays of different sizes or dtypes: {transfers}"
        )
        if transfer.key[0] == "p2p":
            by_kind = {posted.kind.split()[0]: posted for posted in transfers}
            by_kind["recv"].memory()[...] = by_kind["send"].memory()
        else:
            total = sum(posted.memory().astype(np.float64) for posted in transfers)
            for posted in transfers:
                posted.memory()[...] = total.astype(posted.dtype)
        for matched, _ in counterparts.values():
            matched.unmatched -= 1
            if matched in self.waiting and not matched.unmatched:
                matched.queue.held = False
        self.changed.notify_all()


_groups = threading.local()  # open: the transfers that this thread made since group_start()
_worlds: dict[bytes, World] = {}


class NcclCommunicator:
    def __init__(self, ndev: int, commId: bytes, rank: int) -> None:
        machine, world = current(), _worlds[commId]
        self._world, self._rank, self._device = world, rank, machine.device
        self._aborted = False
        with world.changed:
            world.size = ndev
            assert machine.device not in world.joined.values(), "NCCL: Duplicate GPU detected"
            world.joined[rank] = machine.device
            world.calls[rank] = []
            world.changed.notify_all()
            assert world.changed.wait_for(lambda: len(world.joined) == ndev, PATIENCE), "a rank did not join"

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        assert sendbuf == recvbuf, "the stand-in supports only sums in place"
        self._add("allReduce", ("all",), sendbuf, count, datatype, stream)

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        self._add(f"send to {peer}", ("p2p", self._rank, peer), sendbuf, count, datatype, stream)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        self._add(f"recv from {peer}", ("p2p", peer, self._rank), recvbuf, count, datatype, stream)

    def abort(self) -> None:
        self._aborted = True

    def _add(self, kind: str, key: tuple[Any, ...], address: int, count: int, datatype: int, stream: int) -> None:
        assert not self._aborted, "the communicator was aborted"
        transfer = Transfer(kind, key, address, count, [*DTYPES.values()][datatype])
        group = getattr(_groups, "open", None)
        if group is not None:
            group.append((self, transfer, stream))
        else:
            self._queue([transfer], stream)

    def _queue(self, transfers: list[Transfer], stream: int) -> None:
        queue = queue_at(stream)
        assert queue.device == self._device, (
            f"the stream is of GPU {queue.device}, the communicator of GPU {self._device}"
        )
        words = tuple(f"{transfer.kind}: {transfer.count} {transfer.dtype}" for transfer in transfers)
        self._world.calls[self._rank].append(Call(words, queue.captured is not None))
        queue.push(Exchange(self, transfers))


class Exchange:
    """A call as a piece of a stream's work. It ends at once if the communicator was aborted."""

    def __init__(self, communicator: NcclCommunicator, transfers: list[Transfer]) -> None:
        self._communicator, self._transfers = communicator, transfers

    def __call__(self) -> None:
        communicator = self._communicator
        if not communicator._aborted:
            communicator._world.run(communicator._rank, Group(current().thread.runs, self._transfers))

    def waits_for(self) -> set[int]:
        """The GPUs of all ranks; none once the communicator was aborted."""
        return set() if self._communicator._aborted else set(self._communicator._world.joined.values())


def group_start() -> None:
    _groups.open = []


def group_end() -> None:
    group, _groups.open = _groups.open, None
    for communicator in {id(caller): caller for caller, _, _ in group}.values():
        (stream,) = {stream for caller, _, stream in group if caller is communicator}
        communicator._queue([transfer for caller, transfer, _ in group if caller is communicator], stream)


def module(machine: Machine) -> types.SimpleNamespace:
    """cupy.cuda.nccl, whose calls are in `machine.nccl_worlds`."""

    def get_unique_id() -> bytes:
        identifier = f"world {len(_worlds)}".encode()
        _worlds[identifier] = World(machine)
        machine.nccl_worlds.append(_worlds[identifier])
        return identifier

    names: dict[str, int | Callable[..., Any] | bool | type] = dict(CODES)
    names |= {"available": True, "NCCL_SUM": 0, "groupStart": group_start, "groupEnd": group_end}
    return types.SimpleNamespace(**names, get_unique_id=get_unique_id, NcclCommunicator=NcclCommunicator)


def counterpart(words):
    """The words of rank 1's call that answers a call of rank 0. words: those of rank 0's call, a send and a receive."""
    send, receive = (text.split(": ")[1] for text in words)
    return f"send to 0: {receive}", f"recv from 0: {send}"
