"""What a service needs of the node that it runs on: the door for rpc, dht, crdt and content.

:class:`lattica.Node` is one. A service takes a :class:`Host` and nothing else of the node, so that
its tests have one in memory, and what it leaves open shows in its arguments. The parts that make a
node reachable (:mod:`lattica.nat.traversal`) are not services: they work on the swarm itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.events import EventStream
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.status import PathStatus, PeerStatus


class Host(Protocol):
    """A member of the mesh, as its services see it. For the trio thread only."""

    @property
    def peer_id(self) -> PeerId:
        """This node."""
        ...

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """Addresses at which others may try to reach it, each ending in its ID."""
        ...

    @property
    def announcing(self) -> tuple[str, ...]:
        """What may still add to :attr:`addrs`, in words; empty when all is known."""
        ...

    async def wait_announced(self, timeout: float, /) -> None:
        """Wait until :attr:`addrs` has what there is to be found out soon, for at most `timeout`
        seconds.
        """
        ...

    def handle(
        self,
        protocol: str,
        handler: StreamHandler,
        *,
        owner: object,
        replace: bool = False,
        cancel_when_gone: bool = False,
        limit: int | None = None,
    ) -> None:
        """Run `handler(stream)` for each stream that a peer opens for `protocol`.

        When it returns, the stream is closed; when it raises, the stream is reset and the error
        logged; when the node ends, it is cancelled. `owner` is the service, whose `str` is named
        to whoever else wants the protocol. Raises :class:`~lattica.errors.LocalProtocolError` if
        somebody else serves it, unless `replace`. With `cancel_when_gone` it is also cancelled
        when the peer has no more use for an answer (:meth:`Stream.wait_gone`). At most `limit` run
        at once; further streams wait, unread.
        """
        ...

    def unhandle(self, protocol: str, *, owner: object) -> None:
        """Serve `protocol` no more; streams that are open go on."""
        ...

    async def connect(self, target: PeerId | Sequence[Multiaddr], /) -> PeerId:
        """Make sure there is a connection to a peer, or to the one at these addresses.

        Raises :class:`~lattica.errors.DialError`, `AddressError`, `AccessDeniedError`, and
        `NotConnectedError` when no address is known.
        """
        ...

    async def open_stream(self, peer: PeerId, protocol: str | Sequence[str], /) -> Stream:
        """Open a stream on the best path to a peer, connecting first if need be.

        The first of several protocols that the peer speaks is agreed on. Raises
        :class:`~lattica.errors.UnsupportedProtocolError` (for a protocol that the peer has
        spoken before on the connection perhaps only when the stream is used), what
        :meth:`connect` raises, `ConnectionClosedError`, `ResourceLimitError`, and
        :class:`TimeoutError`.
        """
        ...

    def peers(self) -> tuple[PeerStatus, ...]:
        """The connected peers."""
        ...

    def path(self, peer: PeerId, /) -> PathStatus | None:
        """How a peer is reached now; None if it is not connected."""
        ...

    def events(self) -> AbstractContextManager[EventStream]:
        """Subscribe to :mod:`lattica.nat.swarm.events`, from the call on; they never wait for
        a subscriber, who is told of what it missed.
        """
        ...
