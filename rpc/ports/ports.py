"""Ports of a node: services that it exposes, and services of peers that it forwards."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import trio

from lattica.nat.base.checks import check_seconds, check_several
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import AddressError, LocalProtocolError
from lattica.nat.base.keys.peer_id import PeerId, as_peer_id, parse_peer_id
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.host import Host
from lattica.rpc.ports.config import PortsConfig
from lattica.rpc.ports.connections import Connections
from lattica.rpc.ports.endpoints import listen, parse_endpoint, parse_local
from lattica.rpc.ports.events import ConnectionClosed, PortCallback
from lattica.rpc.ports.exposer import Exposer, Exposure, Source
from lattica.rpc.ports.forwarder import Forward, Remote, check_open
from lattica.rpc.ports.messages import MAX_KEY, Request, Wanted, is_name

PeerLike: TypeAlias = PeerId | str
Anyone: TypeAlias = Literal["anyone"]
RemotePeer: TypeAlias = PeerLike | Multiaddr | Sequence[Multiaddr | str]
"""A peer ID, or addresses of one peer, with `/p2p/ID`; in a text they are separated by commas."""

ANYONE: Anyone = "anyone"
_KEY_BYTES = 20
_SECRET_LABEL = b"lattica ports 1"


def secret_of(seed: bytes) -> bytes:
    """What the keys of a node's ports are made of, from its own key's seed."""
    return hmac.digest(seed, _SECRET_LABEL, hashlib.sha256)


class Ports:
    """TCP services over the mesh. For the trio thread only.

    ::

        exposure = node.ports.expose(8000, to=[other.peer_id])      # on one node
        forward = await other.ports.forward(peer, 8000, local=9000)  # on another

    and whoever connects to port 9000 of that machine is connected to port 8000 of this one.

    Made by :class:`lattica.Node`, as `node.ports`. `secret` is what keys are made of
    (:func:`secret_of`).
    """

    def __init__(
        self,
        host: Host,
        nursery: trio.Nursery,
        config: PortsConfig | None = None,
        *,
        secret: bytes,
    ) -> None:
        self.config = config or PortsConfig()
        self._host = host
        self._tasks = Tasks(nursery)
        self._secret = secret
        self._live = Connections()
        self._exposer = Exposer(host, self.config, self._live)
        self._forwards: list[Forward] = []

    # --- this node's services ---

    def expose(
        self,
        target: int | str,
        *,
        name: str | None = None,
        to: Collection[PeerLike] | Anyone | None = None,
        key: str | None = None,
        idle_timeout: float | None = None,
        on_event: PortCallback | None = None,
        source: Source | None = None,
    ) -> Exposure:
        """Let peers connect to a TCP service that this machine can reach.

        Args:
            target: where it is: a port of this machine (of 127.0.0.1), `HOST:PORT`, or
                `unix:/PATH`. Peers are connected to nothing else, whatever they ask for.
            name: what peers call it; by default the port's number.
            to: the peers that may connect, or "anyone". By default nobody but who has the
                key that :attr:`Exposure.key` is, whoever that may be.
            key: that key, if it is to be another than :meth:`key_for` the name.
            idle_timeout: seconds without a byte after which a connection is aborted; by default
                :attr:`PortsConfig.idle_timeout`.
            on_event: called, in the trio thread, with what there is to be told of connections
                (:mod:`lattica.rpc.ports.events`).
            source: for a unix socket on Linux: by which name a peer's connections come from, in the
                abstract namespace, so that the service knows whose they are.

        Raises:
            AddressError: the target is none, or a peer in `to` is no peer ID.
            LocalProtocolError: there is a port of that name already, it cannot be a name, or
                the node has ended.
        """
        check_open(self._tasks)
        endpoint = parse_endpoint(target)
        if name is None:
            if not endpoint.port:
                raise LocalProtocolError(f"{endpoint} needs a name")
            name = str(endpoint.port)
        _check_name(name)
        allowed: Collection[PeerId] | None = None
        if isinstance(to, str):
            if to != ANYONE:
                raise LocalProtocolError(f"to: a list of peer IDs or {ANYONE!r}, not {to!r:.100}")
        else:
            check_several("to", to or (), f"a list of peer IDs, or {ANYONE!r}")
            allowed = [as_peer_id(peer) for peer in to or ()]
        _check_key(key)
        if to is None and key is None:
            key = self.key_for(name)
        return self._exposer.expose(
            name,
            endpoint,
            key=key,
            allowed=allowed,
            idle_timeout=self._idle(idle_timeout),
            on_event=on_event,
            source=source,
        )

    def key_for(self, *names: str) -> str:
        """The key for ports with these names: letters and digits, from this node's own key.

        It is the same as long as that is, so a peer that was given it has it for good.
        """
        label = "\0".join(sorted(names)).encode()
        digest = hmac.digest(self._secret, label, hashlib.sha256)
        return base64.b32encode(digest[:_KEY_BYTES]).decode().lower()

    @property
    def exposed(self) -> tuple[Exposure, ...]:
        """The ports that are exposed."""
        return self._exposer.exposed

    # --- other peers' services ---

    async def forward(
        self,
        peer: RemotePeer,
        port: int | str,
        *,
        local: int | str | None = None,
        key: str | None = None,
        idle_timeout: float | None = None,
        on_event: PortCallback | None = None,
    ) -> Forward:
        """Listen on a local port, and connect its clients with a service that a peer exposes.

        Returns when it listens; the peer need not be reachable yet. It listens on when the peer
        goes away: each client waits for a path for :attr:`PortsConfig.connect_timeout`, and is
        then reset, as it is when the peer refuses.

        Args:
            peer: who exposes it: a peer ID, or addresses with `/p2p/ID`.
            port: its number or name there.
            local: where to listen: a port of 127.0.0.1 (0: any that is free), `HOST:PORT`, or
                `unix:/PATH`, for this user only. By default the same number as there, or for a
                name any that is free (:attr:`Forward.port`).
            key: what the exposing side has given out, if not this node's ID is what it knows.
            idle_timeout, on_event: as of :meth:`expose`.

        Raises:
            ListenError: it cannot be listened on there.
            AddressError: the peer is none, or where to listen is no such place.
            LocalProtocolError: that cannot be a port's name, or the node has ended.
        """
        remote = self._remote(peer, str(port), key)
        if local is None:
            local = str(port) if str(port).isdecimal() else 0
        endpoint = parse_local(local)
        idle = self._idle(idle_timeout)
        listening = await listen(endpoint)
        try:
            forward = Forward(
                remote,
                listening,
                check_open(self._tasks),
                self.config,
                self._live,
                idle_timeout=idle,
                on_event=on_event,
            )
        except BaseException:
            listening.close()
            raise
        self._forwards = [f for f in self._forwards if not f.is_closed]
        self._forwards.append(forward)
        return forward

    async def check(self, peer: RemotePeer, port: int | str, *, key: str | None = None) -> None:
        """Ask a peer whether this node may connect to a port of it.

        Raises:
            PortRefusedError: it may not; `code` says why.
            UnsupportedProtocolError: the peer exposes nothing.
            TimeoutError: it was not to be reached for :attr:`PortsConfig.connect_timeout`.
        """
        remote = self._remote(peer, str(port), key)
        remote.request = replace(remote.request, wanted=Wanted.CHECK)
        (await remote.open()).close()

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """The ports that are forwarded."""
        return tuple(forward for forward in self._forwards if not forward.is_closed)

    def connections(self) -> tuple[ConnectionClosed, ...]:
        """The open connections of both kinds, as they would be told of if they ended now."""
        return self._live.open()

    async def aclose(self) -> None:
        """Expose and forward nothing more, and abort the connections."""
        for exposure in self.exposed:
            exposure.close()
        for forward in self._forwards:
            forward.close()
        self._tasks.cancel()
        await self._tasks.wait_ended()

    # --- arguments ---

    def _remote(self, peer: RemotePeer, name: str, key: str | None) -> Remote:
        _check_name(name)
        peer_id, addrs = parse_remote(peer)
        _check_key(key)
        return Remote(self._host, self.config, peer_id, addrs, Request(name, (key or "").encode()))

    def _idle(self, given: float | None) -> float:
        idle = self.config.idle_timeout if given is None else given
        check_seconds("idle_timeout", idle)
        return idle


def parse_remote(peer: RemotePeer) -> tuple[PeerId, tuple[Multiaddr, ...]]:
    """A peer's ID and its addresses, with the ID at the end.

    Raises:
        AddressError: it is none, says none, or several.
    """
    if isinstance(peer, PeerId):
        return peer, ()
    if isinstance(peer, Multiaddr):
        peer = [peer]
    elif isinstance(peer, str):
        texts = [part.strip() for part in peer.split(",") if part.strip()]
        if len(texts) == 1 and not texts[0].startswith("/"):
            return parse_peer_id(texts[0]), ()
        peer = texts
    check_several("peer", peer, "an ID, or addresses")
    addrs = tuple(addr if isinstance(addr, Multiaddr) else parse_multiaddr(addr) for addr in peer)
    peers = {split_peer(addr)[1] for addr in addrs}
    found = peers.pop() if len(peers) == 1 else None
    if found is None:
        raise AddressError("a peer is its ID, or addresses of one peer that end in /p2p/ID")
    return found, addrs


def _check_key(key: object) -> None:
    if key is not None and not (isinstance(key, str) and key.isascii() and len(key) <= MAX_KEY):
        raise LocalProtocolError(f"a key is at most {MAX_KEY} letters and digits")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not is_name(name):
        raise LocalProtocolError(
            f"{name!r:.100} is no name of a port: letters, digits, and . _ - after the first"
        )
