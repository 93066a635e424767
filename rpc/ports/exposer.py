"""The side that has the services: who may connect to which, and to where.

A peer names a port, never an address: what is connected to is what the program here has named.
"""

from __future__ import annotations

import errno
import hmac
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import Places
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host
from lattica.rpc.ports.config import PortsConfig
from lattica.rpc.ports.connections import Connections, tell
from lattica.rpc.ports.endpoints import Endpoint, connect
from lattica.rpc.ports.events import ConnectionRefused, PortCallback, Side
from lattica.rpc.ports.messages import (
    MAX_REQUEST,
    PORTS,
    Answer,
    Code,
    Request,
    Wanted,
    decode_request,
    encode_answer,
)
from lattica.rpc.ports.pump import Pump, abort_socket

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT = 10.0
"""Seconds that a peer has to say what it wants."""
_UNPROVEN_AFTER = 2.0
"""Seconds after which a stream that may connect to nothing yet yields its place to anybody."""
Source = Callable[[PeerId], str]
"""By which name, in Linux's abstract namespace, a peer's connections come to a unix socket."""


@dataclass(slots=True, eq=False)
class Exposure:
    """A port that is exposed; ends with :meth:`close`, or a `with` block."""

    name: str
    target: Endpoint
    key: str | None
    """Whoever has it may connect; None: a key opens nothing."""
    allowed: frozenset[PeerId] | None
    """Who may connect without a key; None: anyone."""
    idle_timeout: float
    on_event: PortCallback | None
    source: Source | None
    end: Callable[[Exposure], None]
    scopes: set[trio.CancelScope] = field(default_factory=set)
    """Of its connections."""

    def admits(self, peer_id: PeerId, key: bytes) -> bool:
        """Whether a peer may connect."""
        if self.allowed is None or peer_id in self.allowed:
            return True
        return self.key is not None and hmac.compare_digest(self.key.encode(), key)

    def close(self) -> None:
        """Expose it no more, and abort its connections. Idempotent."""
        self.end(self)
        for scope in self.scopes:
            scope.cancel()

    def __enter__(self) -> Exposure:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True, eq=False)
class _Guest:
    """A stream that has a place."""

    stream: Stream
    connecting: trio.CancelScope = field(default_factory=trio.CancelScope)

    def displace(self) -> None:
        """Another has its place."""
        self.stream.reset("its place was needed by somebody who had none")
        self.connecting.cancel()


class Exposer:
    """Answers the requests of peers, and connects them.

    Connections are places that peers share (:mod:`lattica.nat.base.limits.places`): who may
    connect, or has said nothing yet, keeps nobody else out.
    """

    def __init__(self, host: Host, config: PortsConfig, connections: Connections) -> None:
        self._host = host
        self._config = config
        self._connections = connections
        self._exposed: dict[str, Exposure] = {}
        self._by_peer: Counter[PeerId] = Counter()
        self._places = Places[_Guest](config.max_connections, unproven_after=_UNPROVEN_AFTER)

    def expose(
        self,
        name: str,
        target: Endpoint,
        *,
        key: str | None,
        allowed: Collection[PeerId] | None,
        idle_timeout: float,
        on_event: PortCallback | None,
        source: Source | None,
    ) -> Exposure:
        """Begin. Raises LocalProtocolError if there is a port of that name."""
        if name in self._exposed:
            raise LocalProtocolError(f"port {name} is exposed already; give one another name")
        peers = None if allowed is None else frozenset(allowed)
        exposure = Exposure(name, target, key, peers, idle_timeout, on_event, source, self._end)
        if not self._exposed:
            self._host.handle(PORTS, self._serve, owner="ports")
        self._exposed[name] = exposure
        return exposure

    @property
    def exposed(self) -> tuple[Exposure, ...]:
        return tuple(self._exposed.values())

    def _end(self, exposure: Exposure) -> None:
        if self._exposed.get(exposure.name) is exposure:
            del self._exposed[exposure.name]
            if not self._exposed:
                self._host.unhandle(PORTS, owner="ports")

    # --- requests ---

    async def _serve(self, stream: Stream) -> None:
        guest = _Guest(stream)
        with self._place(guest) as refusal:
            if refusal is not None:
                await _answer(stream, Code.BUSY, refusal)
                return
            request: Request | None = None
            with trio.move_on_after(REQUEST_TIMEOUT):
                request = decode_request(await stream.receive_message(MAX_REQUEST))
            if request is None:
                stream.reset("it does not say what it wants")
                return
            exposure = self._judge(request, stream.peer_id)
            if isinstance(exposure, Answer):
                await self._refuse(stream, request.name, self._exposed.get(request.name), exposure)
            elif request.wanted is Wanted.CHECK:
                await _answer(stream, Code.OK)
            else:
                self._places.progress(guest, trio.current_time())
                with trio.CancelScope() as scope:
                    exposure.scopes.add(scope)
                    try:
                        await self._connect(guest, exposure)
                    finally:
                        exposure.scopes.discard(scope)

    @contextmanager
    def _place(self, guest: _Guest) -> Iterator[str | None]:
        """A place among the connections, or why there is none."""
        peer_id = guest.stream.peer_id
        if self._by_peer[peer_id] >= self._config.max_connections_per_peer:
            yield "this peer has as many connections as it may have"
            return
        displaced = self._places.enter(guest, guest.stream.source, trio.current_time())
        if displaced is None:
            yield "there are as many connections as there may be"
            return
        for other in displaced:
            other.displace()
        self._by_peer[peer_id] += 1
        try:
            yield None
        finally:
            self._places.leave(guest)
            self._by_peer[peer_id] -= 1
            if not self._by_peer[peer_id]:
                del self._by_peer[peer_id]

    def _judge(self, request: Request, peer_id: PeerId) -> Exposure | Answer:
        exposure = self._exposed.get(request.name)
        if exposure is not None and exposure.admits(peer_id, request.key):
            return exposure
        # Strangers do not hear what there is.
        known = any(other.admits(peer_id, request.key) for other in self._exposed.values())
        if exposure is None and known:
            return Answer(Code.NOT_EXPOSED, f"no port {request.name} is exposed")
        return Answer(Code.NOT_ALLOWED, "this peer may not connect to it")

    async def _connect(self, guest: _Guest, exposure: Exposure) -> None:
        stream = guest.stream
        source = "" if exposure.source is None else exposure.source(stream.peer_id)
        found: trio.socket.SocketType | Answer | None = None
        with guest.connecting:
            found = await self._service(exposure.target, source)
        if found is None:
            return
        if isinstance(found, Answer):
            await self._refuse(stream, exposure.name, exposure, found)
            return
        try:
            await _answer(stream, Code.OK)
        except BaseException:
            abort_socket(found)
            raise
        pump = Pump(stream, found, exposure.idle_timeout)
        with self._connections.told(
            pump, Side.EXPOSE, exposure.name, stream, str(exposure.target), exposure.on_event
        ):
            await pump.run()

    async def _service(self, target: Endpoint, source: str) -> trio.socket.SocketType | Answer:
        """Connect; an answer says why that cannot be, but not where the service is."""
        try:
            with trio.fail_after(self._config.service_timeout):
                return await connect(target, source)
        except trio.TooSlowError:
            return Answer(Code.SERVICE_UNREACHABLE, "the service does not answer")
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return Answer(
                    Code.SERVICE_REFUSES, "the service refuses connections; is it running?"
                )
            peer_log.log(logger, logging.WARNING, target, "cannot connect to %s: %s", target, error)
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return Answer(Code.BUSY, "there are too many open files")
            return Answer(Code.SERVICE_UNREACHABLE, "the service cannot be reached")

    async def _refuse(
        self, stream: Stream, name: str, exposure: Exposure | None, answer: Answer
    ) -> None:
        peer = stream.peer_id
        peer_log.log(
            logger, logging.INFO, peer, "port %s refused: %s peer=%s", name, answer.text, peer
        )
        if exposure is not None:
            refused = ConnectionRefused(Side.EXPOSE, name, stream.peer_id, answer.text)
            tell(exposure.on_event, refused)
        await _answer(stream, answer.code, answer.text)


async def _answer(stream: Stream, code: Code, text: str = "") -> None:
    await stream.send_message(encode_answer(Answer(code, text)))
