"""Threads of handlers, which networks share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final, TypeVar

import trio

from lattica.rpc.server.workers import Patience, Workers

T = TypeVar("T")

_MOST: Final = 7
"""Threads that one network may have for each that is free."""


class HandlerThreads:
    """The threads of handlers, of which every network has a share.

    A handler in a thread can't be stopped, so that nobody's place can be given to somebody else.
    Instead some are always free for who has none: a network gets another while it has less than
    :data:`_MOST` times what is free, so that one has at most seven eighths of them, and two seven
    fifteenths each. Whoever waits is served by how little his network has. (Dynamic thresholds:
    Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998.)
    """

    def __init__(self, workers: Workers, limit: int) -> None:
        self.workers = workers
        self._limit = limit
        self._used: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, trio.lowlevel.ParkingLot] = {}
        self.in_use = 0

    def of(self, network: Hashable) -> NetworkThreads:
        """Those of a network."""
        return NetworkThreads(self, network)

    async def acquire(self, network: Hashable) -> None:
        """Take a thread when there is one. Cancellation: gives the place in line up."""
        if not self._waiting.get(network) and self._has_one_for(network):
            self._take(network)
            return
        lot = self._waiting.setdefault(network, trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        except trio.Cancelled:
            if not lot and self._waiting.get(network) is lot:
                del self._waiting[network]
            raise

    def release(self, network: Hashable) -> None:
        """A thread is free, for whoever waits in a network that has least."""
        self._used[network] -= 1
        if not self._used[network]:
            del self._used[network]
        self.in_use -= 1
        while self._waiting:
            following = min(self._waiting, key=self._used.__getitem__)
            if not self._has_one_for(following):
                break
            lot = self._waiting[following]
            if lot:  # nobody has been cancelled in it just now
                self._take(following)
                lot.unpark()
            if not lot:
                del self._waiting[following]

    def _has_one_for(self, network: Hashable) -> bool:
        return self._used[network] < _MOST * (self._limit - self.in_use)

    def _take(self, network: Hashable) -> None:
        self._used[network] += 1
        self.in_use += 1


class NetworkThreads:
    """What a network has of the threads."""

    __slots__ = ("_network", "_threads")

    def __init__(self, threads: HandlerThreads, network: Hashable) -> None:
        self._threads = threads
        self._network = network

    async def run(self, function: Callable[[], T], patience: Patience | None = None) -> T:
        """Run a function in a thread, when there is one for it. Raises what it does.

        Cancelled, it is left alone there, and what it returns is lost; one that has not begun never
        does. `patience`: as in :meth:`Workers.run`.
        """
        await self._threads.acquire(self._network)
        return await self._threads.workers.run(function, self._release, patience)

    def _release(self) -> None:
        self._threads.release(self._network)
