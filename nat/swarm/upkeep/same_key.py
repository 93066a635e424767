"""Two programs with one key: told of in the log, and never taken for each other.

A peer ID is one peer at one place. When a key was copied, or two programs of one account use it,
the ID leads now to the one and now to the other. Each tells its instance when a connection is made
(:mod:`lattica.nat.secure.noise_identity`), so that who is connected to both can say so, and a dial
to the address of one is not answered by a connection to the other. A program that was started anew
is another instance too; so two count only when both are seen to be alive.

Peers of other implementations tell no instance, and are believed to be one.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from weakref import WeakKeyDictionary

import trio

from lattica.nat.base.errors import DialAttempt, DialError, LatticaError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.connection import Connection
from lattica.nat.swarm.registry import Registry

logger = logging.getLogger(__name__)

_PATIENCE = 5.0
"""Seconds that an older connection has to show that its peer lives."""
_LOOK = 0.05
"""Seconds between two looks whether it has."""
_REMEMBERED = 1024
"""Peers of which it is known that the log has it."""
_MAX_TRIED = 64
"""Addresses of a connection's peer at which nobody has answered, that are remembered."""

Probe = Callable[[PeerId, Sequence[Multiaddr]], Awaitable[Connection]]


class SameKey:
    """Notices in one swarm that a peer is at two places.

    Args:
        probe: dials addresses though the peer is connected; the connection is not registered.
        register: puts such a connection into use.
    """

    def __init__(
        self, registry: Registry, probe: Probe, register: Callable[[Connection], None]
    ) -> None:
        self._registry = registry
        self._probe = probe
        self._register = register
        self._told: OrderedDict[PeerId, None] = OrderedDict()
        self._tried: WeakKeyDictionary[Connection, set[Multiaddr]] = WeakKeyDictionary()
        """Where nobody has answered who could be compared: not asked for again."""

    # --- telling ---

    def other_of(self, connection: Connection) -> Connection | None:
        """A connection to another program with the same key, as far as is known."""
        for other in self._registry.by_peer.get(connection.peer_id, ()):
            if other.closed_reason is None and _differ(other, connection):
                return other
        return None

    async def watch(self, connection: Connection) -> None:
        """See whether a new connection's peer is elsewhere too, and tell of it, once a peer."""
        other = self.other_of(connection)
        if other is None or connection.peer_id in self._told:
            await trio.lowlevel.checkpoint()
            return
        if not await is_alive(other) or connection.closed_reason is not None:
            return
        self._tell(connection, other)

    def _tell(self, one: Connection, other: Connection) -> None:
        peer_id = one.peer_id
        if peer_id in self._told:
            return
        self._told[peer_id] = None
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        peer_log.log(
            logger,
            logging.WARNING,
            peer_id,
            "one peer ID at two places: two programs run with one key, and who asks for the peer "
            "reaches now this one, now that one; give each a key of its own (--ephemeral, "
            "--identity FILE) peer=%s addrs=%s, %s",
            peer_id,
            other.remote_addr,
            one.remote_addr,
        )

    # --- keeping apart ---

    async def keep_apart(self, connection: Connection) -> None:
        """Before a dialed connection is registered: its peer may be connected already.

        Raises:
            DialError: as another program with the same key, which is alive.
        """
        other = self.other_of(connection)
        if other is not None:
            await self._refuse(connection, other)

    async def confirm(self, connection: Connection, addrs: Sequence[Multiaddr]) -> None:
        """See to it that a connection leads to who is at `addrs`, without `/p2p/ID`.

        That is so when it was dialed by one of them, or its peer says that it is there; else they
        are dialed, and whoever answers is compared. Where nobody answers, the peer counts as the
        one: behind a NAT it may be reached by none of its own addresses. A connection of which it
        turns out that its peer is gone is aborted.

        Raises:
            DialError: somebody else with the key is at `addrs`, and the connection is alive.
        """
        if not connection.instance or not addrs or _is_known_at(connection, addrs):
            return
        tried = self._tried.setdefault(connection, set())
        if tried.issuperset(addrs):
            return
        found: Connection | None = None
        with trio.move_on_after(_PATIENCE):
            try:
                found = await self._probe(connection.peer_id, addrs)
            except LatticaError as error:
                logger.debug("not confirmed: %s peer=%s", error, connection.peer_id)
        if found is None:
            if len(tried) < _MAX_TRIED:
                tried.update(addrs)
            return
        if not _differ(found, connection):
            # The peer has it already, and may have opened streams on it as it is the newer one.
            found.dialed = connection.dialed = connection.dialed | found.dialed
            self._register(found)
            return
        found.abort("it was made to see who is there")
        await self._refuse(found, connection)

    async def _refuse(self, found: Connection, connected: Connection) -> None:
        """Raise for somebody else with the key of a connected peer, if that one is alive."""
        if not await is_alive(connected):
            connected.abort("the peer was started anew")
            return
        self._tell(found, connected)
        raise DialError(
            connected.peer_id,
            [
                DialAttempt(
                    str(found.remote_addr),
                    "another program with the same key answers there, and this node is connected "
                    f"to the one at {connected.remote_addr}; give each a key of its own",
                )
            ],
        )


def _differ(one: Connection, other: Connection) -> bool:
    return bool(one.instance and other.instance and one.instance != other.instance)


def _is_known_at(connection: Connection, addrs: Iterable[Multiaddr]) -> bool:
    known = {connection.remote_addr, *connection.dialed}
    # At a relay there is one place for a peer ID: who has it now, an address does not say.
    told = (addr for addr in connection.told_addrs if kind_of(addr) is not Kind.CIRCUIT)
    return not known.union(told).isdisjoint(addrs)


async def is_alive(connection: Connection) -> bool:
    """Whether something comes from the peer from now on, within five seconds."""
    began = trio.current_time()
    await trio.sleep(_LOOK)  # what was under way when its program ended
    asked = trio.current_time()
    connection.session.ping()
    connection.wake_writer()
    while trio.current_time() < began + _PATIENCE:
        if connection.closed_reason is not None:
            return False
        if connection.session.last_received > asked:
            return True
        await trio.sleep(_LOOK)
    return False
