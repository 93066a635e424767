"""How a node gets connected to a peer: where that is known to be, and else where the DHT says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import trio

from lattica.dht.errors import DhtError
from lattica.nat.base.checks import with_type
from lattica.nat.base.errors import (
    AddressError,
    DialError,
    LatticaError,
    LocalProtocolError,
    NotConnectedError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.keys.peer_id import parse_peer_id
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection
from lattica.nat.swarm.swarm import Swarm

if TYPE_CHECKING:
    from lattica.dht.dht import Dht

_FIND_TIMEOUT = 20.0
"""Seconds that the DHT has to find a peer."""

AddrLike = Multiaddr | str


def as_addr(addr: AddrLike) -> Multiaddr:
    """An address from itself or its text. Raises AddressError for what is none."""
    if isinstance(addr, Multiaddr):
        return addr
    if isinstance(addr, str):
        return parse_multiaddr(addr)
    raise AddressError(
        f"not an address: {with_type(addr)}; pass a lattica Multiaddr or its text, as by "
        "str(addr), and for a peer a PeerId or str(peer)"
    )


def read_target(
    target: AddrLike | PeerId | Sequence[AddrLike],
) -> tuple[PeerId | None, list[Multiaddr]]:
    """Which peer is meant, and where; see :meth:`lattica.node.Node.connect`."""
    if isinstance(target, PeerId):
        return target, []
    if isinstance(target, str) and not target.lstrip().startswith("/") and ":" not in target:
        return parse_peer_id(target), []
    several = isinstance(target, Sequence) and not isinstance(target, (str, bytes, bytearray))
    given = cast("Sequence[AddrLike]", target) if several else [cast("AddrLike", target)]
    split = [split_peer(as_addr(addr)) for addr in given]
    peers = {peer for _, peer in split if peer is not None}
    if len(peers) > 1 or not split:
        raise LocalProtocolError("connect takes the addresses of one peer")
    return (peers.pop() if peers else None), [addr for addr, _ in split]


class Reaching:
    """Connects a node to peers.

    Args:
        dht_to_ask: the DHT, if it has begun, or may begin where the argument says so.
        knows_others: whether the configuration names nodes that could know where peers are.
    """

    def __init__(
        self, swarm: Swarm, dht_to_ask: Callable[[bool], Dht | None], *, knows_others: bool
    ) -> None:
        self._swarm = swarm
        self._dht_to_ask = dht_to_ask
        self._knows_others = knows_others

    async def connect(self, peer_id: PeerId | None, addrs: Sequence[Multiaddr]) -> Connection:
        """As :meth:`Swarm.connect`, but where that leads nowhere the DHT is asked."""
        try:
            return await self._swarm.connect(peer_id, addrs)
        except (NotConnectedError, DialError) as error:
            if peer_id is None or addrs:
                raise
            found = await self._find(peer_id, error)
            return await self._swarm.dial(peer_id, found)

    async def _find(self, peer_id: PeerId, error: LatticaError) -> list[Multiaddr]:
        """Where the DHT says that a peer is. Raises `error` where it does not know."""
        if peer_id == self._swarm.identity.peer_id:
            raise error
        # Where an address is known, and dead, nothing is begun for a second opinion.
        dht = self._dht_to_ask(self._knows_others and isinstance(error, NotConnectedError))
        if dht is None:
            raise error
        remembered = dht.remembered(peer_id)
        if remembered is not None:
            with suppress(DialError):
                addrs = [split_peer(addr)[0] for addr in remembered.addrs]
                return [(await self._swarm.dial(peer_id, addrs)).remote_addr]
        with trio.move_on_after(_FIND_TIMEOUT), suppress(DhtError):
            found = await dht.find_peer(peer_id)
            if found is not None:
                return [split_peer(addr)[0] for addr in found.addrs]
        raise error
