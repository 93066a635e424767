"""Driver of the AutoNAT v2 client: has the own addresses checked by servers that were configured.

Nothing is told to anybody else: servers are those that :class:`AutonatClient` is given, which the
user has configured, and of them those that are connected directly and speak the protocol.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import SystemRandom

import trio

from lattica.nat.base.errors import LatticaError, RemoteProtocolError, UnsupportedProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.interfaces import local_interfaces
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.autonat.client_core import (
    AddressReachability,
    AutonatClientCore,
    Check,
    DialBack,
    Outcome,
    Reachability,
)
from lattica.nat.traversal.autonat.config import AutonatClientConfig
from lattica.nat.traversal.autonat.messages import (
    DIAL_BACK,
    DIAL_REQUEST,
    MAX_CHUNK,
    MAX_DIAL_BACK,
    MAX_DIAL_DATA,
    MAX_MESSAGE,
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    decode,
    decode_dial_back,
    encode,
    encode_dial_back_response,
)

logger = logging.getLogger(__name__)

_LOOK = 5.0
"""Seconds after which addresses and servers are looked at again when nothing has happened."""
_DIAL_BACK_TIME = 5.0
"""Seconds within which a dial-back must name its nonce."""

ChangeHook = Callable[[AddressReachability], None]


class AutonatClient:
    """Has `addresses()` checked by `servers()` while :meth:`run` runs; see :attr:`results`.

    `on_change` is called for each address whose reachability has become another one.
    :attr:`handlers` are to be put into the swarm's protocol table.
    """

    def __init__(
        self,
        swarm: Swarm,
        servers: Callable[[], Sequence[PeerId]],
        addresses: Callable[[], Iterable[Multiaddr]],
        config: AutonatClientConfig | None = None,
        *,
        on_change: ChangeHook = lambda result: None,
    ) -> None:
        self.config = config or AutonatClientConfig()
        self._swarm = swarm
        self._servers = servers
        self._candidates = addresses
        self._on_change = on_change
        self._core = self._make_core()
        self._arrived: dict[int, trio.Event] = {}
        """By nonce: checks under way."""
        self._began: dict[int, float] = {}
        self._scopes: set[trio.CancelScope] = set()
        self._wake = trio.Event()

    def _make_core(self) -> AutonatClientCore:
        return AutonatClientCore(self.config, clock=trio.current_time, rng=SystemRandom())

    @property
    def results(self) -> Mapping[Multiaddr, AddressReachability]:
        """What is known of each address, in the order in which they were given."""
        return self._core.results

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """The handlers to register, by protocol."""
        return {DIAL_BACK: self.take_dial_back}

    async def run(self) -> None:
        """Check until cancelled; checks that are under way end with it.

        When it is run again after an error, nothing is left of the time before.
        """
        self._core = self._make_core()
        self._swarm.on_connected.append(self._note_connection)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._wake = trio.Event()
                    self._look()
                    while (check := self._core.next_check()) is not None:
                        self._arrived[check.nonce] = trio.Event()
                        self._began[check.nonce] = trio.current_time()
                        nursery.start_soon(self._check, check)
                    due = self._core.next_due() - trio.current_time()
                    with trio.move_on_after(min(_LOOK, max(0.0, due))):
                        await self._wake.wait()
        finally:
            self._swarm.on_connected.remove(self._note_connection)

    def look_again(self) -> None:
        """Addresses or servers have changed; there is no need to wait until that is noticed."""
        self._wake.set()

    def network_changed(self) -> None:
        """Forget all results and check anew, as after a change of network."""
        for scope in self._scopes:
            scope.cancel()
        self._publish(self._core.network_changed())
        self.look_again()

    def is_idle(self) -> bool:
        """Look at addresses and servers now; whether no check is under way or can begin."""
        self._look()
        if self._core.is_idle:
            return True
        self.look_again()
        return False

    def _look(self) -> None:
        servers = self._servers()
        connected = [peer for peer in servers if self._direct(peer) is not None]
        self._publish(self._core.update(self._candidates(), servers, connected))

    def _direct(self, peer: PeerId) -> Connection | None:
        best = self._swarm.registry.best(peer)
        return None if best is None or best.is_relayed else best

    def _publish(self, changes: Iterable[AddressReachability]) -> None:
        for result in changes:
            if result.reachability is not Reachability.UNKNOWN:
                logger.info(
                    "address is %s from outside addr=%s agreeing=%d of=%d",
                    result.reachability.value,
                    result.addr,
                    result.agreeing,
                    result.asked,
                )
            self._on_change(result)

    # --- a check ---

    async def _check(self, check: Check) -> None:
        outcome: Outcome | None = None
        scope = trio.CancelScope(deadline=trio.current_time() + self.config.request_timeout)
        self._scopes.add(scope)
        try:
            with scope:
                outcome = await self._ask(check)
            if outcome is None and trio.current_time() >= scope.deadline:
                outcome = Outcome.FAILED
        finally:
            self._scopes.discard(scope)
            del self._arrived[check.nonce], self._began[check.nonce]
            if outcome is None:  # cancelled
                self._core.abandon(check)
        if outcome is not None:
            self._finish(check, outcome)
        self.look_again()

    def _finish(self, check: Check, outcome: Outcome) -> None:
        level = logging.WARNING if outcome is Outcome.LIED else logging.DEBUG
        peer_log.log(
            logger,
            level,
            check.server,
            "autonat check: %s addr=%s server=%s",
            outcome.value,
            check.addr,
            check.server,
        )
        result = self._core.finish(check, outcome)
        self._publish([] if result is None else [result])

    async def _ask(self, check: Check) -> Outcome:
        try:
            async with await self._swarm.open_stream(check.server, DIAL_REQUEST) as stream:
                response = await self._exchange(stream, check)
            if self._core.awaits_dial_back(check, response):
                with trio.move_on_after(self.config.dial_back_grace):
                    await self._arrived[check.nonce].wait()
        except UnsupportedProtocolError:
            return Outcome.UNSUPPORTED
        except (LatticaError, TimeoutError) as error:
            logger.debug("autonat check failed: %s server=%s", error, check.server)
            return Outcome.FAILED
        return self._core.judge(check, response, self._own_ips())

    async def _exchange(self, stream: Stream, check: Check) -> DialResponse:
        await stream.send_message(encode(DialRequest((check.addr,), check.nonce)))
        message = decode(await stream.receive_message(MAX_MESSAGE))
        if isinstance(message, DialDataRequest):
            await self._send_dial_data(stream, message)
            message = decode(await stream.receive_message(MAX_MESSAGE))
        if not isinstance(message, DialResponse):
            raise RemoteProtocolError(f"{type(message).__name__} instead of an answer")
        return message

    async def _send_dial_data(self, stream: Stream, asked: DialDataRequest) -> None:
        if asked.addr_idx != 0 or asked.num_bytes > MAX_DIAL_DATA:
            raise RemoteProtocolError(
                f"the server wants {asked.num_bytes} bytes for address {asked.addr_idx}"
            )
        left = asked.num_bytes
        while left > 0:
            size = min(left, MAX_CHUNK)
            await stream.send_message(encode(DialDataResponse(bytes(size))))
            left -= size

    def _own_ips(self) -> frozenset[IpAddress]:
        return frozenset(interface.ip for interface in local_interfaces())

    # --- what comes in ---

    async def take_dial_back(self, stream: Stream) -> None:
        """Take a nonce, and say so if it was asked for; otherwise the stream is reset."""
        with trio.move_on_after(_DIAL_BACK_TIME):
            nonce = decode_dial_back(await stream.receive_message(MAX_DIAL_BACK))
            seen = self._seen(stream.connection, nonce)
            if not self._core.take_dial_back(nonce, seen):
                logger.debug("autonat nonce was not asked for peer=%s", stream.peer_id)
                stream.reset("nobody asked for this nonce")
                return
            self._arrived[nonce].set()
            await stream.send_message(encode_dial_back_response())
            await stream.send_eof()
            return
        stream.reset("the dial-back took too long")

    def _seen(self, connection: Connection, nonce: int) -> DialBack:
        """A dial-back is one that a stranger could have made: new, and from a new address.

        From where we have a connection to, it could come through the hole that this one has
        made in a NAT or firewall.
        """
        others = [other for other in self._swarm.registry if other is not connection]
        is_fresh = (
            connection.direction is Direction.INBOUND
            and not connection.is_relayed
            and connection.established_at >= self._began.get(nonce, math.inf)
            and all(other.remote_addr != connection.remote_addr for other in others)
        )
        return DialBack(connection.local_addr, is_fresh)

    async def _note_connection(self, connection: Connection) -> None:
        """A server that we ask connects to us: not the connection to go on with."""
        await trio.lowlevel.checkpoint()
        if connection.direction is Direction.INBOUND and self._core.is_asking(connection.peer_id):
            self._swarm.registry.demote(connection)
        self.look_again()
