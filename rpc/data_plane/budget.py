"""The memory that large bodies may take, which is asked before any of it is taken. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import Held, Source, yielding
from lattica.rpc.errors import ResourceExhaustedError

SLOW: Final = 2.0
"""Seconds that a part of a body has been waited for, a MiB at most, after which the memory of the
body may go to others."""


class Waiting(Protocol):
    """A body of which another part is waited for."""

    held: int
    """Bytes that it has of the budget."""
    waits_since: float

    @property
    def source(self) -> Source:
        """From whom it comes."""
        ...

    def give_up(self) -> None:
        """End it, and release what it has."""
        ...


class ReceiveBudget:
    """Bytes of the bodies that are being received and worked on, in all and for each peer.

    Where there is not enough for all, those yield that hold most and move least: of the bodies that
    have waited for :data:`SLOW` seconds, by their bytes times these seconds, first of the network
    to which that adds up to most, and there of the peer
    (:mod:`lattica.nat.base.limits.places`). Bodies that come fast, or are there, keep what they
    have. `clock` gives monotonic seconds.
    """

    def __init__(self, total: int, per_peer: int, clock: Callable[[], float]) -> None:
        self._total = total
        self._per_peer = per_peer
        self._clock = clock
        self.used = 0
        self._used_by: Counter[PeerId] = Counter()
        self.waiting: set[Waiting] = set()
        """To be added while a part is waited for."""

    def check(self, peer: PeerId, size: int) -> None:
        """Whether there would be room for `size` bytes more, which are not taken: what somebody
        says will come costs nobody anything. Raises ResourceExhaustedError, which names the budget.
        """
        used = self.used
        if used + size > self._total:
            used -= sum(item.holder.held for item in self._slow())
        self._check(used, self._total, "receive_memory", size)
        self._check(self._used_by[peer], self._per_peer, "receive_memory_per_peer", size)

    def reserve(self, peer: PeerId, size: int) -> None:
        """Take `size` bytes, from others if need be. Raises as :meth:`check` does."""
        self._check(self._used_by[peer], self._per_peer, "receive_memory_per_peer", size)
        if self.used + size > self._total:
            for item in yielding(self._slow()):
                item.holder.give_up()
                if self.used + size <= self._total:
                    break
        self._check(self.used, self._total, "receive_memory", size)
        self.used += size
        self._used_by[peer] += size

    def _slow(self) -> list[Held]:
        """Who may have to yield."""
        now = self._clock()
        found = []
        for body in self.waiting:
            seconds = now - body.waits_since
            if body.held and seconds >= SLOW:
                weight = int(body.held * seconds)
                found.append(Held(body, body.source, weight, -weight))
        return found

    def _check(self, used: int, limit: int, name: str, size: int) -> None:
        if used + size > limit:
            raise ResourceExhaustedError(
                f"a body of {size} bytes exceeds the receiver's budget: rpc.{name} is {limit} "
                f"bytes, of which {used} are in use",
                may_have_run=False,
                retry_after=None if size > limit else 0.5,
            )

    def release(self, peer: PeerId, size: int) -> None:
        """Give back what was taken."""
        self.used -= size
        self._used_by[peer] -= size
        if not self._used_by[peer]:
            del self._used_by[peer]
