"""Addresses of peers at which a connection came about that then carried nothing. Pure.

A small handshake gets through where larger packets do not, so an address that connects fastest may
be one of no use, again at every attempt. What is remembered here is tried after everything else,
with small packets where the transport can, for a time that doubles when it happens again: a path
may heal, and a peer that had gone may be back.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lattica.nat.base.errors import AddressError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, kind_of, relay_of, to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr

FIRST_TIME = 30.0
"""Seconds for which an address is doubted the first time; doubles with each further one."""
LONGEST_TIME = 3600.0
MAX_DOUBTS = 4096
"""Over all peers; beyond it the oldest are forgotten."""
SEGMENTS = (1160, 536)
"""Bytes of TCP's packets the first time that a path is used in spite of doubts, and after that:
what IPv6 has everywhere (1,280) with room for a tunnel, and what IPv4 has (RFC 9293, 3.7.1)."""

_Path = tuple[PeerId, str, str]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why an address is tried last."""

    addr: Multiaddr
    """Where it was seen; others of the same peer, host and protocol count as the same path."""
    reason: str
    times: int
    """How often in a row."""
    until: float
    """By the clock."""

    @property
    def max_segment(self) -> int:
        """Bytes that TCP may send at a time there."""
        return SEGMENTS[min(self.times, len(SEGMENTS)) - 1]


def _path_of(peer_id: PeerId, addr: Multiaddr) -> _Path:
    """What addresses with one fate have in common: the host, and TCP or UDP; or the relay."""
    if kind_of(addr) is Kind.CIRCUIT:
        return peer_id, "relay", str(relay_of(addr))
    try:
        host = to_endpoint(addr).host
    except AddressError:
        host = str(addr)
    return peer_id, "udp" if kind_of(addr) is Kind.QUIC else "tcp", host


class DoubtfulAddresses:
    """The memory of one node. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._doubts: OrderedDict[_Path, Doubt] = OrderedDict()
        self._cleared_at = -math.inf

    def add(
        self, peer_id: PeerId, addr: Multiaddr, reason: str, *, since: float = math.inf
    ) -> Doubt | None:
        """A connection to the peer at `addr`, of either direction, has carried nothing.

        None: it was made at the time `since` in another network, and says nothing of this one.
        """
        if since < self._cleared_at:
            return None
        key, now = _path_of(peer_id, addr), self._clock()
        before = self._doubts.pop(key, None)
        times = 1
        # Remembered for as long again as it was doubted, else every relapse were the first.
        if before is not None and now < before.until + _duration(before.times):
            times = before.times + (now >= before.until - _duration(before.times) + 1.0)
        doubt = Doubt(addr, reason, times, now + _duration(times))
        self._doubts[key] = doubt
        while len(self._doubts) > MAX_DOUBTS:
            self._doubts.popitem(last=False)
        return doubt

    def get(self, peer_id: PeerId, addr: Multiaddr) -> Doubt | None:
        """The doubt that stands about an address; None: it is as good as any."""
        doubt = self._doubts.get(_path_of(peer_id, addr))
        return doubt if doubt is not None and doubt.until > self._clock() else None

    def of(self, peer_id: PeerId) -> tuple[Doubt, ...]:
        """All that stand about a peer's addresses."""
        now = self._clock()
        return tuple(d for key, d in self._doubts.items() if key[0] == peer_id and d.until > now)

    def clear(self) -> None:
        """Forget everything: the network is another one."""
        self._doubts.clear()
        self._cleared_at = self._clock()


def _duration(times: int) -> float:
    return min(FIRST_TIME * 2.0 ** (times - 1), LONGEST_TIME)
