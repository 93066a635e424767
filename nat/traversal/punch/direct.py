"""The plain strategies for a direct connection: dial the peer, or have it dial us (reversal).

Either side may be reachable by now, by a public address or a mapped port, or both may be in one
network. Protocol `/lattica/reverse/1` asks the peer, over the relayed connection, to dial.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import trio

from lattica.nat.base.errors import (
    DialAttempt,
    DialError,
    LatticaError,
    RemoteProtocolError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import DIRECT_KINDS, order_addresses
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.dialing.race import race
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.punch.candidates import MAX_CLAIMED
from lattica.nat.traversal.punch.config import PunchConfig
from lattica.nat.traversal.punch.dcutr.messages import MAX_MESSAGE
from lattica.nat.traversal.punch.exchange import open_on
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.punch.own_side import OwnSide
from lattica.nat.traversal.punch.reverse_messages import (
    REVERSE,
    Answer,
    Request,
    decode_answer,
    decode_request,
    encode,
)
from lattica.nat.traversal.punch.round_limiter import RoundLimiter

logger = logging.getLogger(__name__)

_REQUEST_TIMEOUT = 10.0
_GRACE = 1.0
"""Seconds by which the peer's answer and the connection that it tells of may be apart."""
_GONE = "there was a connection, which has ended already"


class DirectStrategy:
    """Plain dials in both directions."""

    name = "direct"

    def __init__(self, swarm: Swarm, config: PunchConfig | None = None) -> None:
        self._swarm = swarm
        self._config = config or PunchConfig()
        self._side = OwnSide(swarm, DIRECT_KINDS, allow_loopback=self._config.allow_loopback)
        self._limiter = RoundLimiter(
            self._config.rounds_per_minute,
            self._config.total_rounds_per_minute,
            trio.current_time,
        )
        self._serving = 0

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """The other end's part: reversal, which is not hole punching and is always served."""
        return {REVERSE: self._serve}

    async def attempt(self, relayed: Connection) -> Connection:
        """Dial, and have the peer dial, all at once; return what comes first.

        Takes `PunchConfig.direct_timeout` seconds and a round trip at most.

        Raises:
            NotApplicable: neither side knows an address of the other that may be dialed, or
                the peer does not speak it.
            DialError: none of them answered, or the connection has ended again already.
        """
        peer_id = relayed.peer_id
        won: list[Connection] = []
        failures: list[DialAttempt] = []
        missing: list[str] = []

        async def watch(scope: trio.CancelScope) -> None:
            won.append(await self._swarm.wait_direct(peer_id))
            scope.cancel()

        async def dial() -> None:
            try:
                await self._dial(peer_id, self._swarm.address_book.addrs(peer_id))
            except NotApplicable as error:
                missing.append(str(error))
            except DialError as error:
                failures.extend(error.attempts)
            except (LatticaError, OSError) as error:
                failures.append(DialAttempt(self.name, str(error)))
            else:
                failures.append(DialAttempt(self.name, _GONE))

        async def ask() -> None:
            try:
                await self._ask(relayed)
            except NotApplicable as error:
                missing.append(str(error))
            except (LatticaError, OSError) as error:
                failures.append(DialAttempt(REVERSE, str(error)))
            else:
                failures.append(DialAttempt(REVERSE, _GONE))

        async with trio.open_nursery() as watching:
            watching.start_soon(watch, watching.cancel_scope)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial)
                nursery.start_soon(ask)
            watching.cancel_scope.cancel()
        if won:
            return won[0]
        best = self._swarm.registry.best(peer_id)
        if best is not None and not best.is_relayed:
            return best
        if failures:
            raise DialError(peer_id, failures)
        raise NotApplicable("; ".join(missing))

    async def _dial(self, peer_id: PeerId, claimed: Sequence[Multiaddr]) -> Connection:
        addrs = self._side.dialable(order_addresses(claimed, limit=MAX_CLAIMED), peer_id)
        if not addrs:
            raise NotApplicable("no address of the peer is known that may be dialed")

        async def attempt(addr: Multiaddr) -> Connection:
            return await self._swarm.dial_fresh(peer_id, addr, unless_doubtful=True)

        return await race(
            addrs,
            attempt,
            stagger=self._swarm.config.dial_stagger,
            timeout_each=self._config.direct_timeout,
            timeout_total=self._config.direct_timeout,
            discard=lambda late: late.abort("another address was faster"),
            target=peer_id,
        )

    # --- reversal ---

    async def _ask(self, relayed: Connection) -> None:
        """Have the peer dial us; return when it says that it has, and that is true."""
        advertised = self._side.advertised(self._swarm.address_book.addrs(relayed.peer_id) or None)
        if not advertised:
            raise NotApplicable("no address of ours is known that the peer could dial")
        stream = await open_on(relayed, REVERSE)
        async with stream:
            await stream.send_message(encode(Request(tuple(advertised))))
            with trio.move_on_after(_REQUEST_TIMEOUT + self._config.direct_timeout) as limit:
                answer = decode_answer(await stream.receive_message(MAX_MESSAGE))
            if limit.cancelled_caught:
                raise TimeoutError("the peer did not say whether it can dial us")
        if not answer.connected:
            raise DialError(relayed.peer_id, [DialAttempt(REVERSE, answer.error)])
        with trio.move_on_after(_GRACE):
            await self._swarm.wait_direct(relayed.peer_id)
            return
        raise RemoteProtocolError("the peer says that it has dialed us, and has not")

    async def _serve(self, stream: Stream) -> None:
        relayed = stream.connection
        if not relayed.is_relayed:
            stream.reset("reversal is for relayed connections")
            return
        if self._serving >= self._config.max_concurrent:
            stream.reset("too many reversals at a time")
            return
        self._serving += 1
        try:
            request: Request | None = None
            with trio.move_on_after(_REQUEST_TIMEOUT):
                request = decode_request(await stream.receive_message(MAX_MESSAGE))
            if request is None:
                stream.reset("no request in time")
                return
            await stream.send_message(encode(await self._reverse(relayed, request)))
        finally:
            self._serving -= 1

    async def _reverse(self, relayed: Connection, request: Request) -> Answer:
        if not self._limiter.admit(relayed.peer_id):
            return Answer(False, "too many requests, try again in a minute")
        try:
            await self._dial(relayed.peer_id, request.addrs)
        except NotApplicable:
            return Answer(False, "none of the addresses may be dialed from here")
        except (LatticaError, OSError) as error:
            logger.debug("reversal failed: %s peer=%s", error, relayed.peer_id)
            # Not how each of them failed: that would make this node a port scanner for others.
            return Answer(False, "none of the addresses answered")
        return Answer(True)
