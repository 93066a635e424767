"""From a relayed connection to a direct one by TCP hole punching, coordinated by DCUtR."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence

import trio

from lattica.nat.base.concurrency.exception_groups import leaves
from lattica.nat.base.errors import (
    ConnectionClosedError,
    DialAttempt,
    DialError,
    LocalProtocolError,
    ResourceLimitError,
    StreamResetError,
)
from lattica.nat.base.net.addresses import Kind
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.punch.candidates import predicted, public_ips
from lattica.nat.traversal.punch.config import PunchConfig
from lattica.nat.traversal.punch.dcutr.core import ANSWER_TIMEOUT, MAX_ROUNDS, Initiator, Responder
from lattica.nat.traversal.punch.dcutr.messages import DCUTR
from lattica.nat.traversal.punch.dcutr.tcp_punch import punch
from lattica.nat.traversal.punch.exchange import open_on
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.punch.own_side import OwnSide
from lattica.nat.traversal.punch.reverse_messages import REVERSE
from lattica.nat.traversal.punch.round_limiter import RoundLimiter

logger = logging.getLogger(__name__)

_PATIENCE_WITH_OURS = 0.3
"""Seconds, and a round trip, that a follower waits for the leader's first word. Two of ours can
both begin (see :mod:`lattica.nat.secure.upgrade`)."""
_PATIENCE_WITH_OTHERS = 2.0
"""The same with others, which cannot."""
_LATER = 1.0
"""Seconds that identify may take to tell a node where others see it."""
_A_MOMENT = 0.02


class DcutrStrategy:
    """TCP hole punching, for both sides of a relayed connection.

    What is known of a peer, as from identify, helps where that does not know how others see the
    port that it listens on.
    """

    name = "tcp-punch"

    def __init__(
        self,
        swarm: Swarm,
        config: PunchConfig | None = None,
    ) -> None:
        self._swarm = swarm
        self._config = config or PunchConfig()
        self._rng = random.Random()
        self._side = OwnSide(swarm, [Kind.TCP], allow_loopback=self._config.allow_loopback)
        self._limiter = RoundLimiter(
            self._config.rounds_per_minute,
            self._config.total_rounds_per_minute,
            trio.current_time,
        )
        self._serving = 0

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """The other end's part."""
        return {DCUTR: self._serve} if self._config.enabled else {}

    # --- the side that the relayed connection came in to ---

    async def attempt(self, relayed: Connection) -> Connection:
        """Punch up to three times; return the direct connection.

        Raises:
            NotApplicable: there is no TCP port to punch from, or no address to punch to, or
                the peer does not speak it.
            DialError: every round failed, with what the last one met at each address.
            TimeoutError, RemoteProtocolError, ConnectionClosedError: no agreement with the peer.
        """
        self._check_applicable()
        machine = Initiator(trio.current_time)
        stream: Stream | None = None
        try:
            while True:
                if stream is not None and await _has_ended(stream):
                    stream.close()
                    stream = None
                fresh = stream is None
                if stream is None:
                    stream = await open_on(relayed, DCUTR)
                advertised = self._side.advertised()
                if not advertised:
                    raise NotApplicable("no address of ours is known that a peer could dial")
                machine.begin(advertised, fresh_stream=fresh)
                addrs = await self._agree(stream, machine, relayed)
                if not addrs:
                    if machine.rounds >= MAX_ROUNDS:
                        raise NotApplicable("the peer names no address that TCP can be dialed at")
                    # It may have come to its relay just now, and not have heard yet.
                    await trio.sleep(_LATER)
                    continue
                try:
                    connection = await self._punch(
                        relayed, addrs, leads=False, round_trip=machine.round_trip
                    )
                except DialError as error:
                    logger.debug(
                        "hole punching failed: %s round=%d peer=%s",
                        error,
                        machine.rounds,
                        relayed.peer_id,
                    )
                    if machine.rounds >= MAX_ROUNDS:
                        raise
                else:
                    return connection
        finally:
            # In good order, since the peer may be about to succeed.
            if stream is not None:
                stream.close()

    async def _agree(
        self, stream: Stream, machine: Initiator, relayed: Connection
    ) -> list[Multiaddr]:
        """Exchange addresses, and wait for the moment."""
        with trio.move_on_at(machine.deadline):
            await stream.send_all(machine.data_to_send())
            while machine.punch_at is None:
                data = await stream.receive_some()
                if not data:
                    raise DialError(
                        relayed.peer_id, [DialAttempt(DCUTR, "the peer ended the exchange")]
                    )
                machine.receive(data)
            await stream.send_all(machine.data_to_send())
        if machine.punch_at is None:
            raise TimeoutError(f"{relayed.peer_id} did not answer in {DCUTR}")
        await trio.sleep_until(machine.punch_at)
        return self._dialable(relayed, machine.peer_addrs)

    # --- the side that made the relayed connection ---

    async def _serve(self, stream: Stream) -> None:
        relayed = stream.connection
        if not relayed.is_relayed or relayed.direction is not Direction.OUTBOUND:
            # Who begins is agreed: with both in the same part nothing would come of it.
            stream.reset("hole punching is for relayed connections, begun by their target")
            return
        if self._serving >= self._config.max_concurrent:
            stream.reset("too much hole punching at a time")
            return
        self._serving += 1
        try:
            await self._respond(stream, relayed)
        except* (ResourceLimitError, LocalProtocolError, NotApplicable) as group:
            # The peer has done nothing wrong, or nothing worth more than this.
            reason = str(leaves(group)[0])
            logger.debug("no hole punching: %s peer=%s", reason, relayed.peer_id)
            stream.reset(reason)
        finally:
            self._serving -= 1

    async def _respond(self, stream: Stream, relayed: Connection) -> None:
        def answer(peer_addrs: Sequence[Multiaddr]) -> Sequence[Multiaddr]:
            if not self._limiter.admit(relayed.peer_id):
                raise ResourceLimitError("the peer wants to punch holes too often")
            return self._side.advertised(peer_addrs)

        self._check_applicable()
        await self._wait_observed()
        machine = Responder(trio.current_time, answer)
        asked_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            punching: trio.CancelScope | None = None
            while True:
                data = b""
                # While this side punches, the other one does, and may say nothing for a while.
                pause = self._config.window + ANSWER_TIMEOUT if machine.is_between_rounds else 0.0
                try:
                    with trio.move_on_at(max(machine.deadline, trio.current_time() + pause)):
                        data = await stream.receive_some()
                except (StreamResetError, ConnectionClosedError):
                    if punching is None:
                        raise
                    # rust drops the stream after the SYNC.
                if not data:
                    break
                addrs = machine.receive(data)
                if reply := machine.data_to_send():
                    asked_at = trio.current_time()
                    await stream.send_all(reply)
                if addrs is not None:
                    if punching is not None:
                        punching.cancel()
                    punching = trio.CancelScope()
                    round_trip = trio.current_time() - asked_at
                    nursery.start_soon(self._punch_logged, relayed, addrs, round_trip, punching)
            if not machine.is_between_rounds:
                nursery.cancel_scope.cancel()

    async def _wait_observed(self) -> None:
        """Wait a little if nobody has told us yet where he sees us."""
        if self._config.allow_loopback:
            return  # where one machine is all there is, nobody does
        with trio.move_on_after(_LATER):
            while not public_ips(self._side.advertised()):
                await self._swarm.wait_changed()

    async def _punch_logged(
        self,
        relayed: Connection,
        claimed: Sequence[Multiaddr],
        round_trip: float,
        scope: trio.CancelScope,
    ) -> None:
        addrs = self._dialable(relayed, claimed)
        with scope:
            try:
                await self._punch(relayed, addrs, leads=True, round_trip=round_trip)
            except DialError as error:
                logger.debug("hole punching failed: %s peer=%s", error, relayed.peer_id)

    # --- both ---

    def _check_applicable(self) -> None:
        if not self._config.enabled:
            raise NotApplicable("TCP hole punching is turned off")
        if not self._swarm.config.dial_from_listen_port:
            raise NotApplicable("this node does not dial from its listening port")
        if all(self._swarm.tcp_listen_port(version) is None for version in (4, 6)):
            raise NotApplicable("this node does not listen on TCP")

    def _dialable(self, relayed: Connection, claimed: Sequence[Multiaddr]) -> list[Multiaddr]:
        peer_id = relayed.peer_id
        guesses = predicted(claimed, self._swarm.address_book.addrs(peer_id))
        return self._side.dialable([*claimed, *guesses], peer_id)

    async def _punch(
        self, relayed: Connection, addrs: Sequence[Multiaddr], *, leads: bool, round_trip: float
    ) -> Connection:
        ours = REVERSE in relayed.known_protocols
        patience = (_PATIENCE_WITH_OURS if ours else _PATIENCE_WITH_OTHERS) + round_trip
        logger.debug(
            "hole punching addrs=%s leads=%s round_trip_ms=%.0f peer=%s",
            [str(addr) for addr in addrs],
            leads,
            round_trip * 1000,
            relayed.peer_id,
        )
        return await punch(
            self._swarm,
            relayed.peer_id,
            addrs,
            self._config,
            leads=leads,
            patience=patience,
            rng=self._rng,
        )


async def _has_ended(stream: Stream) -> bool:
    """Whether the peer has ended a stream on which it has nothing to say."""
    if stream.is_dead:
        return True
    with trio.move_on_after(_A_MOMENT):
        data = await stream.receive_some()
        stream.push_back(bytes(data))
        return not data
    return False
