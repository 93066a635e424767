"""What RPC counts: calls by method and outcome, and how long they took. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of the latency histogram, seconds."""
MAX_METHODS: Final = 1000
"""Methods that are counted by name: a peer chooses what it calls."""


class MethodCounters:
    """What is counted for one method on one side; to be changed by one thread."""

    __slots__ = ("active", "buckets", "codes", "seconds")

    def __init__(self) -> None:
        self.active = 0
        self.codes: Counter[int] = Counter()
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def ended(self, code: int, seconds: float) -> None:
        """A call that was counted as active has ended."""
        self.active -= 1
        self.codes[code] += 1
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1


class Traffic:
    """Bytes of messages over the data plane, of all its streams."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


@dataclass(frozen=True, slots=True)
class MethodStatistics:
    """One method on one side."""

    side: Literal["client", "server"]
    method: str
    active: int
    """Calls under way."""
    codes: dict[str, int]
    """Calls that have ended, by status code."""
    seconds: float
    """Sum of their durations."""
    buckets: tuple[int, ...]
    """Of these durations, for each of :data:`BUCKETS` and beyond, not cumulative."""


@dataclass(frozen=True, slots=True)
class SharedMemoryStatistics:
    """What :attr:`RpcStatistics.shared_memory` tells."""

    links: int
    """Pairs of mappings that are shared with peers now."""
    sent: int
    """Bytes that went through shared memory."""
    received: int
    not_shared: dict[str, int]
    """Messages with large buffers that had to take the connection, by why: "another machine",
    "switched off", "not on this system", "not agreed on" (yet, or it is for the peer to offer),
    "declined by the peer", "failed"."""


@dataclass(frozen=True, slots=True)
class LeaseStatistics:
    """What :attr:`RpcStatistics.leases` tells."""

    lent: int
    """Leases that live."""
    bytes_lent: int
    """Of the buffers that they keep."""
    ended: dict[str, int]
    """How leases have ended, by :class:`~lattica.rpc.leases.book.LeaseEnd`."""
    kept: int
    """Leases of other nodes that this one keeps alive."""


@dataclass(frozen=True, slots=True)
class RpcStatistics:
    """What :meth:`Rpc.statistics` tells. Counts are since the node's start."""

    methods: tuple[MethodStatistics, ...]
    sessions: int
    """Callers that are connected here, or may come back."""
    peers: int
    """Peers that are called from here."""
    receive_memory: int
    """Bytes of large bodies that are being received and worked on."""
    data_sent: int
    """Bytes of messages that were sent over the data plane, as they are on the wire."""
    data_received: int
    """The same of those received, counted when they begin."""
    threads: int
    """Threads that run handlers now."""
    retries: int
    """Calls that were made again."""
    shared_memory: SharedMemoryStatistics
    """What large buffers did on the way to peers on this machine."""
    leases: LeaseStatistics
    """Buffers that were lent."""
