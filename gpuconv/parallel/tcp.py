"""Messages between ranks. Environment variables describe the ranks, as those of torchrun do: RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT.

Rank 0 listens on the port after MASTER_PORT, because torchrun's own store may use MASTER_PORT. Messages are pickled,
and whoever sends a pickle can run code here. So only processes with the same key may connect: GPUCONV_RANKS_KEY, which
has a public default and must be set in networks that are not trusted.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, TypeVar

from gpuconv.arguments import positive
from gpuconv.parallel.ranks import ParallelError, Ranks, host, number_in_environment

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NAP = 0.05  # seconds between attempts to reach rank 0
HANDSHAKE = 10.0  # the seconds that rank 0 waits, at most, for the key of one process that has connected


class _Failed(str):
    """The last message of a rank that ends with an error."""


class _Impatient:
    """A connection during the exchange of keys and ranks. `recv_bytes` and `recv` raise TimeoutError if no answer
    begins in time."""

    def __init__(self, connection: Connection, deadline: float) -> None:
        self.connection, self.deadline = connection, deadline
        self.send_bytes = connection.send_bytes

    def recv_bytes(self, longest: int) -> bytes:
        self._await_answer()
        return self.connection.recv_bytes(longest)

    def recv(self) -> Any:  # noqa: ANN401 - what the other process sent
        self._await_answer()
        return self.connection.recv()

    def _await_answer(self) -> None:
        if not self.connection.poll(max(0.0, self.deadline - time.monotonic())):
            raise TimeoutError("no answer")


class TCP(Ranks):
    """Ranks that send messages through rank 0. They do not sum arrays; `NCCL` does.

    Args:
        time_limit: The seconds that another rank may take to answer, above 0.

    Raises ValueError that names a missing or wrong variable, and ParallelError for ranks that do not connect.
    """

    def __init__(self, time_limit: float = 300.0) -> None:
        self.time_limit = positive("time_limit", time_limit)
        self.rank, self.size, address = _rank_and_address()
        self._ended = False  # whether the other ranks have been told of a failure
        self._others: dict[int, Connection] = {}
        self._accept(address) if self.rank == 0 else self._connect(address)
        self._processes = self.gather(f"process {os.getpid()} on {host()}")

    def broadcast(self, value: T) -> T:
        return self.gather(value if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        if self.rank:
            self._send(0, value)
            # Rank 0 may be late by up to the limit, and then wait up to the limit for another rank.
            found: list[T] = self._receive(0, time.monotonic() + 2 * self.time_limit)
            return found
        deadline = time.monotonic() + self.time_limit
        values = [value, *(self._receive(rank, deadline) for rank in range(1, self.size))]
        for rank in self._others:
            self._send(rank, values)
        return values

    def fail(self, error: BaseException) -> None:
        if self._ended:
            return
        self._ended = True
        for other in self._others.values():
            try:
                other.send(_Failed(self.failure(error)))
            except OSError:
                continue  # that rank has ended

    def _send(self, rank: int, value: object) -> None:
        try:
            self._others[rank].send(value)
        except OSError as error:
            self._receive(rank, time.monotonic())  # raises with that rank's last message, if it sent one
            raise ParallelError(f"{self.name(rank)} has ended") from error

    def _receive(self, rank: int, deadline: float) -> Any:  # noqa: ANN401 - what the other rank sent
        other = self._others[rank]
        try:
            if not other.poll(max(0.0, deadline - time.monotonic())):
                raise ParallelError(f"{self.name(rank)} did not answer within {self.time_limit:g} s")
            value = other.recv()
        except (EOFError, OSError) as error:
            raise ParallelError(f"{self.name(rank)} has ended") from error
        if isinstance(value, _Failed):
            self._ended = self.rank > 0  # rank 0 informs the others
            raise ParallelError(value)
        return value

    def _accept(self, address: tuple[str, int]) -> None:
        """Accept a connection from each other rank; called on rank 0. Raises ParallelError for ranks that do not
        connect, and for a process whose rank is out of range or taken."""
        import socket
        from multiprocessing import AuthenticationError
        from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

        deadline = time.monotonic() + self.time_limit
        try:
            server = socket.create_server(address, backlog=self.size)
        except OSError as error:
            raise ParallelError(f"rank 0 cannot listen at {address[0]} port {address[1]}: {error}") from error
        with server:
            while len(self._others) < self.size - 1:
                server.settimeout(max(1e-3, deadline - time.monotonic()))
                try:
                    other = Connection(server.accept()[0].detach())
                except TimeoutError as error:
                    missing = [str(rank) for rank in range(1, self.size) if rank not in self._others]
                    message = f"rank {' and rank '.join(missing)} did not connect within {self.time_limit:g} s"
                    raise ParallelError(message) from error
                known: Any = _Impatient(other, min(deadline, time.monotonic() + HANDSHAKE))
                try:
                    deliver_challenge(known, _key())
                    answer_challenge(known, _key())
                    rank = known.recv()
                except (AuthenticationError, EOFError, OSError):
                    other.close()  # not one of our ranks
                    continue
                if rank in self._others:
                    raise ParallelError(f"two processes have RANK={rank}")
                if not 0 < rank < self.size:
                    raise ParallelError(f"a process has RANK={rank}, and WORLD_SIZE is {self.size} on rank 0")
                self._others[rank] = other

    def _connect(self, address: tuple[str, int]) -> None:
        """Connect to rank 0; called on the other ranks."""
        import socket
        from multiprocessing import AuthenticationError
        from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

        deadline = time.monotonic() + self.time_limit
        where = f"at {address[0]} port {address[1]} within {self.time_limit:g} s"
        while True:
            try:
                connected = socket.create_connection(address, timeout=max(1e-3, deadline - time.monotonic()))
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise ParallelError(f"rank {self.rank} cannot reach rank 0 {where}: {error}") from error
                time.sleep(NAP)
        connected.settimeout(None)
        self._others[0] = Connection(connected.detach())
        known: Any = _Impatient(self._others[0], deadline)
        try:
            answer_challenge(known, _key())
            deliver_challenge(known, _key())
        except TimeoutError as error:
            raise ParallelError(f"rank {self.rank} cannot reach rank 0 {where}: {error}") from error
        except (AuthenticationError, EOFError, OSError) as error:
            raise ParallelError(f"rank 0 and rank {self.rank} have different keys (GPUCONV_RANKS_KEY)") from error
        self._send(0, self.rank)


def is_launched() -> bool:
    """Whether the environment describes several ranks."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def _key() -> bytes:
    return os.environ.get("GPUCONV_RANKS_KEY", "gpuconv").encode()


def _rank_and_address() -> tuple[int, int, tuple[str, int]]:
    """The rank, the number of ranks, and the address of rank 0."""
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise ValueError(f"ranks without mpiexec need the variables {', '.join(VARIABLES)}; {missing[0]} is not set")
    rank, size, port = (number_in_environment(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if rank >= size:
        raise ValueError(f"RANK must be below WORLD_SIZE, received RANK={rank} and WORLD_SIZE={size}")
    if not 0 < port < 2**16 - 1:
        raise ValueError(f"MASTER_PORT must be between 1 and 65534, received {port}")
    return rank, size, (os.environ["MASTER_ADDR"], port + 1)
